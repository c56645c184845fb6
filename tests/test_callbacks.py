"""Freezing and history: the published rule (C14), and the same decisions when a run goes on from a checkpoint."""

from __future__ import annotations

import json
import types

import keras
import numpy as np
import pytest
from model_checks import assert_same

from graffiti import callbacks
from graffiti.callbacks import FreezeBatchNorm, FreezeThresholds, ThresholdHistory
from graffiti.layers import Quantize, QuantizedDense
from graffiti.optimizers import ALT
from graffiti.quantizers import LogThreshold

X = np.random.default_rng(0).normal(size=(320, 6)).astype(np.float32)
Y = (X @ np.random.default_rng(1).normal(size=(6, 3))).argmax(-1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(eager=True, **alt):
    """Two layers with batch norm and five quantizers; eager, because compiling takes longer than these few steps."""
    keras.utils.set_random_seed(5)
    x = keras.Input((6,))
    y, e = Quantize(LogThreshold(8), name="x_q")(x)
    y = QuantizedDense(
        12, kernel_quantizer=LogThreshold(8, role="weight", channel_axis=-1),
        batch_norm=dict(epsilon=1e-3, momentum=0.9), input_bits=8, name="first"
    )([y, e])
    y, e = Quantize(LogThreshold(4, signed=False), name="relu_q")(keras.layers.ReLU()(y))
    y = QuantizedDense(
        3, kernel_quantizer=LogThreshold(8, role="weight"), input_bits=4, input_signed=False, name="second"
    )([y, e])
    model = keras.Model(x, Quantize(LogThreshold(8), name="out_q")(y)[0])
    for q in callbacks.quantizers_of(model).values():
        q.assign_log2(0.7)
    model.compile(
        ALT(weight_learning_rate=1e-3, **{"freeze_start": 4, "freeze_interval": 3, **alt}), loss=LOSS, run_eagerly=eager
    )
    return model


def fit(model, first, last, given=()):
    """Epochs of 10 batches."""
    model.fit(
        X[:160], Y[:160], batch_size=16, shuffle=False, verbose=0, initial_epoch=first, epochs=last,
        callbacks=list(given)
    )


def frozen(model):
    return {name: q.frozen.numpy() for name, q in callbacks.quantizers_of(model).items()}


def everything(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


def fake_optimizer(gradients, current, average, steps=50, frozen=None):
    variables = []
    for index, value in enumerate(current):
        variable = keras.Variable(value, name=f"t{index}", dtype="float32")
        start = np.zeros(np.shape(value), bool) if frozen is None else np.asarray(frozen[index], bool)
        variable.frozen = keras.Variable(start, dtype="bool", trainable=False)
        variables.append(variable)
    return types.SimpleNamespace(
        thresholds=variables, gradient_sums=[keras.Variable(np.multiply(g, steps), dtype="float32") for g in gradients],
        averages=[keras.Variable(a, dtype="float32") for a in average], summed_steps=steps,
    )


def frozen_of(optimizer):
    return [v.frozen.numpy().tolist() for v in optimizer.thresholds]


def test_published_rule():
    """C14."""
    optimizer = fake_optimizer([0.5, 0.1, 0.2], [1.3, 0.98, -0.4], [1.2, 1.01, -0.6])
    assert FreezeThresholds.decide(optimizer) == optimizer.thresholds[2].path
    assert frozen_of(optimizer) == [False, False, True]
    assert FreezeThresholds.decide(optimizer) == optimizer.thresholds[0].path
    assert FreezeThresholds.decide(optimizer) is None  # index 1 is not in its usual bin
    assert frozen_of(optimizer) == [True, False, True]


def test_sign_of_the_gradient_does_not_matter():
    optimizer = fake_optimizer([-0.5, 0.3], [1.3, 1.3], [1.2, 1.2])
    FreezeThresholds.decide(optimizer)
    assert frozen_of(optimizer) == [False, True]


def test_channels_of_one_quantizer_count_once():
    optimizer = fake_optimizer(
        [[0.1, 0.1, 9.0], 0.2], [[0.5, 0.5, 0.5], 0.5], [[0.5, 1.5, 0.5], 0.5], frozen=[[False, False, True], False],
    )
    FreezeThresholds.decide(optimizer)  # mean over live channels is 0.1; the second channel is not in its usual bin
    assert frozen_of(optimizer) == [[True, False, True], False]
    FreezeThresholds.decide(optimizer)
    assert frozen_of(optimizer) == [[True, False, True], True]


def test_freezes_one_by_one_after_the_start():
    model, counts = network(), []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(sum(f.any() for f in frozen(self.model).values()))

    fit(model, 0, 1, [FreezeThresholds(), Count()])
    # decisions at steps 3 (before the start), 6 and 9; at most one quantizer each
    assert counts[:5] == [0] * 5 and counts[5] <= 1 and counts[-1] <= 2 and counts[-1] >= 1
    assert all(b - a in (0, 1) for a, b in zip(counts, counts[1:]))
    assert int(model.optimizer.thresholds_optimizer.summed_steps.numpy()) == 1


def test_frozen_thresholds_keep_their_value_for_good():
    model = network()
    fit(model, 0, 1, [FreezeThresholds()])
    before = {name: (q.frozen.numpy(), q.log2_threshold.numpy()) for name, q in callbacks.quantizers_of(model).items()}
    fit(model, 1, 4, [FreezeThresholds()])
    assert any(f.any() for f, _ in before.values())
    for name, q in callbacks.quantizers_of(model).items():
        was, value = before[name]
        np.testing.assert_array_equal(q.log2_threshold.numpy()[was], value[was])
        assert q.frozen.numpy()[was].all()


def test_arguments_override_the_optimizer():
    model = network()
    fit(model, 0, 1, [FreezeThresholds(start=1000, interval=2, decay=0.5)])
    assert not any(f.any() for f in frozen(model).values())
    assert int(model.optimizer.thresholds_optimizer.summed_steps.numpy()) == 0
    assert model.optimizer.thresholds_optimizer.ema_decay == 0.5


def test_another_optimizer_is_refused():
    model = network()
    model.compile("adam", loss=LOSS)
    with pytest.raises(ValueError, match="graffiti.ALT, got Adam"):
        fit(model, 0, 1, [FreezeThresholds()])


def test_batch_norm_freezes_after_one_epoch():
    model, layer, seen = network(), None, []
    layer = model.get_layer("first")

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append((float(layer.batch_norm_frozen.numpy()), layer.moving_mean.numpy()))

    fit(model, 0, 3, [FreezeBatchNorm(), Watch()])
    assert [s[0] for s in seen] == [0, 1, 1]
    assert (seen[0][1] != seen[1][1]).any()
    np.testing.assert_array_equal(seen[1][1], layer.moving_mean.numpy())


def test_batch_norm_epochs():
    model = network()
    fit(model, 0, 2, [FreezeBatchNorm(3)])
    assert model.get_layer("first").batch_norm_frozen.numpy() == 0
    fit(model, 0, 1, [FreezeBatchNorm(3)])  # the optimizer's steps make the third epoch, whatever initial_epoch says
    assert model.get_layer("first").batch_norm_frozen.numpy() == 1
    model = network()
    fit(model, 0, 1, [FreezeBatchNorm(0)])
    np.testing.assert_array_equal(model.get_layer("first").moving_mean.numpy(), 0)


@pytest.mark.parametrize(("epochs_before", "eager"), [(1, True), pytest.param(2, False, marks=pytest.mark.slow)])
def test_going_on_gives_the_same_bits(tmp_path, epochs_before, eager):
    """A run that was never stopped, and one that goes on from its checkpoint of an epoch's end."""
    whole, history = network(eager), ThresholdHistory(4, tmp_path / "whole.json")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    copy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: history.save(tmp_path / f"{epoch + 1}.json"))
    fit(whole, 0, 3, [*callbacks.alt(history=history), checkpoint, copy])
    loaded, again = (
        keras.models.load_model(tmp_path / f"{epochs_before}.keras"),
        ThresholdHistory(4, tmp_path / f"{epochs_before}.json")
    )
    loaded.run_eagerly = eager
    assert any((a != b).any() for a, b in zip(everything(loaded), everything(whole), strict=True))
    fit(loaded, epochs_before, 3, callbacks.alt(history=again))
    assert_same(everything(loaded), everything(whole))
    assert list(frozen(loaded)) == list(frozen(whole)) == ["x_q", "first/kernel", "relu_q", "second/kernel", "out_q"]
    assert any(f.any() for f in frozen(whole).values())
    assert again.to_dict() == history.to_dict() and history.steps == list(range(0, 30, 4))


def test_history(tmp_path):
    model, history = network(), ThresholdHistory(4)
    fit(model, 0, 1, [history])
    assert history.steps == [0, 4, 8]
    assert len(history.values) == 5
    assert all(len(v) == 3 for v in history.values.values())
    (scalar,) = [v for k, v in history.values.items() if "relu_q" in k]
    assert scalar[0] == pytest.approx(0.7) and scalar[1] != scalar[0]
    (vector,) = [v for k, v in history.values.items() if "first" in k]
    assert len(vector[0]) == 12
    history.save(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text()) == history.to_dict()
    again = ThresholdHistory(4)
    again.load(tmp_path / "h.json")
    assert again.to_dict() == history.to_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["h.json"]


def test_history_drops_what_lies_after_the_checkpoint(tmp_path):
    model = network()
    fit(model, 0, 1, [ThresholdHistory(3, tmp_path / "h.json")])
    model.save(tmp_path / "m.keras")
    fit(model, 1, 2, [ThresholdHistory(3, tmp_path / "h.json")])
    assert json.loads((tmp_path / "h.json").read_text())["steps"] == [0, 3, 6, 9, 12, 15, 18]
    loaded, history = keras.models.load_model(tmp_path / "m.keras"), ThresholdHistory(3, tmp_path / "h.json")
    loaded.run_eagerly = True
    fit(loaded, 1, 2, [history])
    assert history.steps == [0, 3, 6, 9, 12, 15, 18]


def test_foreign_history_file(tmp_path):
    (tmp_path / "h.json").write_text('{"steps": [1, 2], "log2_threshold": {"a": [1]}}')
    with pytest.raises(ValueError, match="not a threshold history"):
        ThresholdHistory(path=tmp_path / "h.json").load(tmp_path / "h.json")


def test_bad_arguments():
    for make in (lambda: FreezeBatchNorm(-1), lambda: FreezeThresholds(interval=0), lambda: ThresholdHistory(0)):
        with pytest.raises(ValueError, match="at least"):
            make()


def test_alt_list():
    listed = callbacks.alt(batch_norm_epochs=2, freeze_start=5, freeze_interval=6, history=ThresholdHistory())
    assert [type(c) for c in listed] == [FreezeBatchNorm, FreezeThresholds, ThresholdHistory]
    assert (listed[0].epochs, listed[1].start, listed[1].interval) == (2, 5, 6)
