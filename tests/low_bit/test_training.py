"""Training with low-bit products: in fit, in own loops, saved and resumed, distributed, watched, with bad numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from low_bit.models import compiled, convnet, examples, mlp

import graffiti

SCHEMES = [
    "adaptive_precision", "large_gradients_int4", "dynamic_fixed_point", "multi_level_scaling", "unified_int8",
    "per_sample", "dorefa"
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_resumed_run_goes_on_to_the_same_bits(scheme, tmp_path):
    # these leave first and last layers in float
    build = convnet if scheme in ("multi_level_scaling", "large_gradients_int4", "dorefa") else mlp
    keras.utils.set_random_seed(0)
    plain = build()
    x, y = examples(plain, 48)
    model = compiled(graffiti.quantize_training(plain, scheme, seed=3))
    steps = graffiti.callbacks.LowBitSteps()
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[steps])
    model.save(tmp_path / "net.keras")
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[steps])
    again = keras.models.load_model(tmp_path / "net.keras")
    again.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[steps])
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_learning_and_evaluation():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(512, 6)).astype(np.float32)
    y = (x[:, :3].argmax(1)).astype(int)
    for scheme in ("adaptive_precision", "dynamic_fixed_point", "min_max_int8"):
        model = compiled(graffiti.quantize_training(mlp(), scheme), metrics=["accuracy"])
        model.fit(x, y, epochs=12, verbose=0)
        state = [v.numpy() for v in model.variables]
        assert model.evaluate(x, y, verbose=0)[1] > 0.85
        assert [n for n, (a, b) in enumerate(zip(state, model.variables)) if not np.array_equal(a, b)] == []


def test_own_loop_equals_fit():
    plain = mlp()
    x, y = examples(plain)
    first, second = (compiled(graffiti.quantize_training(plain, "dynamic_fixed_point")) for _ in range(2))
    first.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
    optimizer, loss = (
        keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, second(x, training=True))
        gradients = tape.gradient(value, second.trainable_variables)
        optimizer.apply_gradients(zip(gradients, second.trainable_variables))

    for _ in range(3):
        step(tf.constant(x), tf.constant(y))
    for a, b in zip(first.trainable_variables, second.trainable_variables):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_learned_scales_have_their_own_optimizer(tmp_path):
    plain = convnet()
    x, y = examples(plain)
    model = graffiti.quantize_training(plain, "large_gradients_int4")
    optimizer = graffiti.LowBitOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), scale_learning_rate=1e-3)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=1, verbose=0)
    assert len(optimizer.scales_optimizer._trainable_variables) == 2 * 5  # the separable layer has two products
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert (
        type(again.optimizer) is graffiti.LowBitOptimizer
        and float(again.optimizer.scales_optimizer.learning_rate) == pytest.approx(1e-3)
    )


def test_nan_gradients_are_reported_and_not_hidden(capfd):
    plain = mlp()
    model = graffiti.quantize_training(plain, "min_max_int8")
    x, _ = examples(plain, 4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True)) * np.nan
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(np.all(np.isnan(g)) for g in gradients if len(g.shape) == 2)
    assert "NaN or Inf in the gradients of layer 'last'" in capfd.readouterr().err


def test_insight(tmp_path):
    plain = convnet()
    x, y = examples(plain)
    model = compiled(graffiti.quantize_training(plain, "large_gradients_int4"))
    insight = graffiti.callbacks.LowBitInsight(x[:16], y[:16], path=tmp_path / "insight.json")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[insight])
    watched = compiled(graffiti.quantize_training(plain, "large_gradients_int4"))
    watched.fit(x, y, epochs=2, verbose=0, shuffle=False)
    unwatched = compiled(graffiti.quantize_training(plain, "large_gradients_int4"))
    looking = graffiti.callbacks.LowBitInsight(x[:16], y[:16])
    unwatched.fit(x, y, epochs=2, verbose=0, shuffle=False, callbacks=[looking])
    for a, b in zip(watched.variables, unwatched.variables):
        np.testing.assert_array_equal(a, b, err_msg=f"{a.path}: looking changed the run")
    rows = json.loads((tmp_path / "insight.json").read_text())
    assert rows == insight.rows and {row["epoch"] for row in rows} == {0, 1, 2}
    assert (
        {(row["layer"], row["tensor"]) for row in rows}
        == {
            (layer, tensor)
            for layer in ("conv", "depthwise", "transposed", "separable/depthwise", "separable/pointwise")
            for tensor in ("activations", "weights", "gradients")
        }
    )
    assert all(
        0 <= row["clipped"] <= 1 and row["error"] > 0 and 0 < row["cosine"] <= 1 and row["bits"] == 4 for row in rows
    )
    assert insight.table("gradients").count("\n") == 6
    pytest.importorskip("matplotlib", reason="needs matplotlib (pip install matplotlib)")
    insight.plot(tmp_path / "insight.svg")
    assert (tmp_path / "insight.svg").read_text().count("<path") > 20
    with pytest.raises(FileExistsError):
        insight.plot(tmp_path / "insight.svg")


DISTRIBUTED = ("""
    import sys
    import keras, numpy as np, tensorflow as tf
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    import graffiti
    from low_bit.models import compiled, examples, mlp

    def states(model):
        kept = [v for v in model.variables if "quantizer" in v.path and not v.path.endswith("noise")]
        return {v.path.split("/", 1)[1]: np.asarray(v).tolist() for v in kept}

    keras.utils.set_random_seed(0)
    # one for all: TensorFlow's collectives number their calls per process
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    plain = mlp()
    sequences = keras.Sequential([keras.Input((5, 6)), keras.layers.LSTM(7), keras.layers.Dense(3)], name="sequences")
    cases = [(plain, "adaptive_precision"), (plain, "large_gradients_int4"), (sequences, "dynamic_fixed_point")]
    if "every" in sys.argv:
        cases += [(plain, "dynamic_fixed_point"), (plain, "unified_int8"), (sequences, "min_max_int8")]
    for plain, scheme in cases:
        x, y = examples(plain, 64)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
        def make():
            scheme_ = graffiti.schemes.get(scheme).replace(first_layer=True, last_layer=True)
            return compiled(graffiti.quantize_training(plain, scheme_), rate=0.0)
        one = make()
        one.fit(data, epochs=3, verbose=0)
        with strategy.scope():
            two = make()
        two.fit(data, epochs=3, verbose=0)
        a, b = states(one), states(two)
        for name in a:
            if "gradients" in name and plain is not sequences and scheme != "adaptive_precision":
                continue  # batch norm normalizes each replica on its own, so gradients differ a little
            near = np.allclose(a[name], b[name], rtol=1e-4, atol=1e-6)
            assert near or "learned" in name, (scheme, name, a[name], b[name])
        for variable in two.variables:
            values = getattr(variable.value, "values", None)
            if values and "quantizer" in variable.path:
                assert np.array_equal(values[0].numpy(), values[1].numpy()), (scheme, variable.path, "replicas differ")

    # retraining with every callback of ALT: batch norm frozen after an epoch, thresholds one by one
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 8, 8, 3)).astype("float32"), rng.standard_normal((64, 2)).astype("float32")
    image = keras.Input((8, 8, 3))
    t = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image))
    t = keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.ReLU()(t)))
    with strategy.scope():
        q = graffiti.quantize(keras.Model(image, t), "int8", calibration=x, progress=False)
        q.compile(graffiti.ALT(steps_per_epoch=4, freeze_start=2, freeze_interval=1), "mse")
    history = graffiti.callbacks.ThresholdHistory(interval=1)
    q.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=graffiti.callbacks.alt(history=history))
    quantizers = graffiti.callbacks.quantizers_of(q)
    frozen = [name for name, layer in quantizers.items() if keras.ops.convert_to_numpy(layer.frozen).any()]
    assert frozen, "no threshold was frozen"
    norms = [getattr(layer, "batch_norm_frozen", None) for layer in q.layers]
    assert all(keras.ops.convert_to_numpy(norm) for norm in norms if norm is not None)
    assert history.steps == list(range(13)) and all(len(v) == 13 for v in history.values.values())
    print("equal")
""")


@pytest.mark.parametrize("cases", ["few", pytest.param("every", marks=pytest.mark.slow)])
def test_two_replicas_take_the_same_decisions(cases):
    """States over two replicas equal those of one device on the same batch (weights held still), and never differ
    between replicas.
    """
    root = __file__.rsplit("/low_bit/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DISTRIBUTED), cases], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]
