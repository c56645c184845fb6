"""The ALT optimizer: schedules (C12), normed gradient (C15), frozen thresholds, saving, going on to the same bits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_checks import assert_same

from graffiti.optimizers import ALT, ThresholdAdam, ThresholdSGD, normed_log_gradient
from graffiti.quantizers import LogThreshold

X = np.random.default_rng(0).normal(size=(320, 6)).astype(np.float32)
Y = (X @ np.random.default_rng(1).normal(size=(6, 3))).argmax(-1)


def network():
    keras.utils.set_random_seed(11)
    model = keras.Sequential([
        keras.Input((6,)), LogThreshold(8, name="in_q"),
        keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)),
        LogThreshold(4, signed=False, name="mid_q"), LogThreshold(6, channel_axis=-1, name="channel_q"),
        keras.layers.Dense(3), LogThreshold(8, name="out_q"),
    ])
    for name, value in (("in_q", 1.2), ("mid_q", -1.0), ("out_q", 0.4)):
        model.get_layer(name).assign_log2(value)
    model.get_layer("channel_q").assign_log2(np.linspace(-2, 2, 16))
    return model


def compiled(optimizer=None, eager=False):
    model = network()
    model.compile(
        ALT(weight_learning_rate=1e-3) if optimizer is None else optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=eager
    )
    return model


def fit(model, steps, start=0, **options):
    """``steps`` batches of 16 from the fixed order, beginning with batch ``start``."""
    part = slice(16 * start, 16 * (start + steps))
    return model.fit(X[part], Y[part], batch_size=16, shuffle=False, verbose=0, **options)


def everything(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


def rate(optimizer, step):
    return float(optimizer._learning_rate(step))


def test_published_schedules():
    """C12."""
    alt = ALT()
    for step, expected in zip(
        (0, 999, 1000, 2999, 3000, 10000), (1e-2, 1e-2, 5e-3, 2.5e-3, 1.25e-3, 9.765625e-6), strict=True
    ):
        assert rate(alt.thresholds_optimizer, step) == pytest.approx(expected, rel=1e-5)
    for step, expected in zip(
        (0, 999, 1000, 2999, 3000, 10000), (1e-6, 1e-6, 1e-6, 1e-6, 9.4e-7, 8.30584e-7), strict=True
    ):
        assert rate(alt.weights_optimizer, step) == pytest.approx(expected, rel=1e-5)
    assert (alt.freeze_start, alt.freeze_interval) == (1000, 50)
    for optimizer in alt.optimizers:
        assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)


def test_batch_size_scales_the_step_counts():
    alt = ALT(batch_size=96)
    assert (
        rate(alt.thresholds_optimizer, 249) == pytest.approx(1e-2)
        and rate(alt.thresholds_optimizer, 250) == pytest.approx(5e-3)
    )
    assert (
        rate(alt.weights_optimizer, 749) == pytest.approx(1e-6)
        and rate(alt.weights_optimizer, 750) == pytest.approx(9.4e-7)
    )
    assert (alt.freeze_start, alt.freeze_interval) == (250, 50)


@pytest.mark.parametrize("steps", [1, 47, 390, 5000, 53381])
def test_steps_per_epoch_fit_the_run(steps):
    alt, run = ALT(steps_per_epoch=steps), 5 * steps
    weights = [rate(alt.weights_optimizer, s) for s in range(0, run, max(1, run // 200))]
    assert weights[0] == pytest.approx(min(1e-6 * 53381 / steps, 3e-4), rel=1e-3)
    if steps >= 390:  # the same decay over five epochs as published: 0.94 to the number of intervals
        assert weights[-1] / weights[0] == pytest.approx(0.94 ** (5 * 53381 / 3000), rel=0.25)
    assert rate(alt.thresholds_optimizer, 0) == pytest.approx(1e-2)
    assert 1 <= alt.freeze_interval <= 50 and alt.freeze_start <= max(1, run / 7)
    if steps == 53381:
        assert alt.freeze_start == 1000 and alt.freeze_interval == 50 and weights[0] == pytest.approx(1e-6)


def test_rates_and_schedules_can_be_given():
    alt = ALT(weight_learning_rate=1e-4, threshold_learning_rate=keras.optimizers.schedules.CosineDecay(0.02, 10))
    assert rate(alt.weights_optimizer, 3000) == pytest.approx(0.94e-4)
    assert rate(alt.thresholds_optimizer, 10) == 0
    assert (
        rate(ALT(weight_learning_rate=keras.optimizers.schedules.PolynomialDecay(1e-3, 10)).weights_optimizer, 0)
        == pytest.approx(1e-3)
    )
    assert float(ALT(weights="sgd").weights_optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(steps_per_epoch=0), "steps_per_epoch"), (dict(batch_size=-1), "batch_size"),
    (dict(freeze_interval=0), "freeze_interval"),
    (dict(thresholds=keras.optimizers.Adam()), "ThresholdAdam or ThresholdSGD"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ALT(**arguments)


def test_normed_gradient():
    """C15."""
    moment, got = tf.constant(0.0, tf.float64), []
    for step, gradient in enumerate((4.0, -2.0, 0.5), 1):
        normed, moment = normed_log_gradient(tf.constant(gradient, tf.float64), moment, step)
        got.append(float(normed))
    np.testing.assert_allclose(got, [0.7615942, -0.5598059, 0.1901810], atol=1e-6)


def test_sgd_takes_normed_steps():
    variable = keras.Variable(1.0, name="log2_threshold")
    optimizer = ThresholdSGD(0.1)
    expected = 1.0
    for gradient, normed in ((4.0, 0.7615942), (-2.0, -0.5598059), (0.5, 0.1901810)):
        optimizer.apply([tf.constant(gradient)], [variable])
        expected -= 0.1 * normed
        assert variable.numpy() == pytest.approx(expected, abs=1e-6)
    assert optimizer.gradient_sums[0].numpy() == 2.5  # as they came


def test_each_variable_goes_to_its_optimizer():
    model = compiled(eager=True)
    fit(model, 1)
    thresholds = {v.path for v in model.optimizer.thresholds_optimizer.thresholds}
    assert (
        thresholds == {v.path for v in model.trainable_variables if v.path.endswith("log2_threshold")}
        and len(thresholds) == 4
    )
    assert (
        {v.path for v in model.optimizer.weights_optimizer._trainable_variables}
        == {v.path for v in model.trainable_variables} - thresholds
    )


def test_threshold_adam_is_adam():
    a, b = keras.Variable(0.3, name="log2_threshold"), keras.Variable(0.3, name="plain")
    ours, adam = ThresholdAdam(1e-2), keras.optimizers.Adam(1e-2, epsilon=1e-8)
    for gradient in np.random.default_rng(0).normal(size=30).astype(np.float32):
        ours.apply([tf.constant(gradient)], [a])
        adam.apply([tf.constant(gradient)], [b])
        assert a.numpy() == b.numpy()


def test_average_is_the_published_one():
    variable, optimizer, expected = keras.Variable(0.3, name="log2_threshold"), ThresholdAdam(1e-1, ema_decay=0.5), None
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=40)):
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        decay = min(0.5, (1 + step) / (10 + step))
        expected = (
            float(variable.numpy()) if expected is None else decay * expected + (1 - decay) * float(variable.numpy())
        )
        assert optimizer.averages[0].numpy() == pytest.approx(expected, abs=1e-6)
    assert int(optimizer.summed_steps.numpy()) == 40
    optimizer.reset_gradient_sums()
    assert int(optimizer.summed_steps.numpy()) == 0 and optimizer.gradient_sums[0].numpy() == 0


@pytest.mark.parametrize("thresholds", [ThresholdAdam, lambda rate: ThresholdSGD(rate, momentum=0.9)])
def test_a_frozen_threshold_does_not_drift(thresholds):
    """Momentum from before must not move it; unfrozen neighbours and channels go on."""
    model = compiled(ALT(thresholds=thresholds(1e-2)), eager=True)
    fit(model, 10)
    mid, channel = model.get_layer("mid_q"), model.get_layer("channel_q")
    mid.frozen.assign(True)
    channel.frozen.assign(np.arange(16) < 5)
    before = {q.name: q.log2_threshold.numpy().copy() for q in model.layers if isinstance(q, LogThreshold)}
    model.optimizer.thresholds_optimizer.reset_gradient_sums()
    fit(model, 10, 10)
    assert mid.log2_threshold.numpy() == before["mid_q"]
    np.testing.assert_array_equal(channel.log2_threshold.numpy()[:5], before["channel_q"][:5])
    assert (channel.log2_threshold.numpy()[5:] != before["channel_q"][5:]).any()
    assert model.get_layer("in_q").log2_threshold.numpy() != before["in_q"]
    sums = dict(
        zip(
            [v.path for v in model.optimizer.thresholds_optimizer.thresholds],
            model.optimizer.thresholds_optimizer.gradient_sums, strict=True
        )
    )
    assert sums[mid.log2_threshold.path].numpy() == 0 and sums[model.get_layer("in_q").log2_threshold.path].numpy() != 0


def test_config_round_trip():
    alt = ALT(steps_per_epoch=100, weight_learning_rate=1e-4, freeze_start=7, freeze_interval=3, ema_decay=0.99)
    config = keras.saving.serialize_keras_object(alt)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, ALT) and keras.saving.serialize_keras_object(again) == config
    assert (again.freeze_start, again.freeze_interval, again.thresholds_optimizer.ema_decay) == (7, 3, 0.99)


@pytest.mark.parametrize("make", [
    lambda: ALT(weight_learning_rate=1e-3), lambda: ALT(steps_per_epoch=10),
    lambda: ALT(weights=keras.optimizers.SGD(1e-2, momentum=0.9), thresholds=ThresholdSGD(1e-2)),
    lambda: ALT(weights=keras.optimizers.Adam(1e-3), thresholds=ThresholdAdam(1e-2)),
], ids=["alt", "scaled", "sgd", "numbers"])
def test_going_on_from_a_file_gives_the_same_bits(make, tmp_path):
    model = compiled(make())
    fit(model, 10)
    model.save(tmp_path / "half.keras")
    loaded, half = keras.models.load_model(tmp_path / "half.keras"), everything(model)
    assert isinstance(loaded.optimizer, ALT) and loaded.optimizer is not model.optimizer
    assert_same(everything(loaded), half)
    fit(model, 10, 10)
    fit(loaded, 10, 10)
    assert_same(everything(loaded), everything(model))
    assert any((a != b).any() for a, b in zip(everything(model), half, strict=True))


def test_weights_file_holds_the_optimizer_too(tmp_path):
    half, other = compiled(eager=True), compiled(eager=True)
    fit(half, 5)
    half.save_weights(tmp_path / "w.weights.h5")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "w.weights.h5")
    assert_same(everything(other), everything(half))


def test_rates_change_under_keras_callbacks():
    model = compiled(ALT(weights=keras.optimizers.Adam(1e-3), thresholds=ThresholdAdam(1e-2)))
    model.fit(
        X[:32], Y[:32], validation_data=(X[:32], Y[:32]), epochs=3, verbose=0,
        callbacks=[keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=1e9)]
    )
    assert float(model.optimizer.weights_optimizer.learning_rate) == pytest.approx(2.5e-4)
    assert float(model.optimizer.thresholds_optimizer.learning_rate) == pytest.approx(2.5e-3)


def test_trains_several_steps_in_one_execution():
    one, many = compiled(), compiled()
    fit(one, 12)
    many.compile(ALT(weight_learning_rate=1e-3), loss=many.loss, steps_per_execution=4)
    fit(many, 12)
    for a, b in zip(one.weights, many.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    assert int(many.optimizer.thresholds_optimizer.summed_steps.numpy()) == 12


def test_a_model_without_thresholds_trains():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(ALT(weight_learning_rate=1e-2), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(X, Y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and model.optimizer.thresholds_optimizer.thresholds == []


def test_alt_lowers_the_loss():
    model = compiled(ALT(weight_learning_rate=1e-2))
    losses = model.fit(X, Y, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
