"""The walk: order, upstream active, shared thresholds, accumulators, errors that change nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from graffiti.calibration import methods
from graffiti.calibration.calibrate import calibrate, threshold_of
from graffiti.layers import Quantize, QuantizedConv2D, QuantizedDense
from graffiti.quantizers import Identity, LogThreshold

DATA = np.random.default_rng(0).normal(size=(150, 6, 6, 2)).astype(np.float32)  # more than two chunks


def log2(t):
    """As stored: computed in float64, rounded once."""
    return np.log2(np.asarray(t, np.float64)).astype(np.float32)


def activation(bits=4, **options):
    return LogThreshold(bits, role="activation", calibration=options.pop("calibration", "max"), **options)


def weight(bits=4, **options):
    return LogThreshold(bits, role="weight", calibration="3sd", **options)


def network(accumulator=False):
    """Input → Quantize → conv → ReLU → Quantize → flatten → dense → Quantize, with weights that make every part
    matter.
    """
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 6, 2), name="x")
    y, e = Quantize(activation(), name="x_q")(x)
    extra = dict(accumulator_quantizer=LogThreshold(16, role="accumulator", calibration="max")) if accumulator else {}
    y = QuantizedConv2D(5, 3, kernel_quantizer=weight(channel_axis=-1), input_bits=4, name="conv", **extra)([y, e])
    y = keras.layers.ReLU(name="relu")(y)
    y, e = Quantize(activation(signed=False, calibration="mse"), name="relu_q")(y)
    y = keras.layers.Flatten()(y)
    y = QuantizedDense(3, kernel_quantizer=weight(), input_bits=4, input_signed=False, name="dense")([y, e])
    y, _ = Quantize(activation(calibration="kl_j"), name="out_q")(y)
    model = keras.Model(x, y)
    model.get_layer("conv").bias.assign([0.5, -0.25, 0.1, 0.0, 2.0])
    return model


def thresholds(model):
    return {v.path: v.numpy() for v in model.weights if "log2_threshold" in v.path}


def state(model):
    return [v.numpy() for v in model.weights]


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


def through(model, layer, data=DATA):
    """What a layer's first input is at inference, with the quantizers as they are now."""
    return keras.Model(model.input, model.get_layer(layer).input)(data).numpy()


@pytest.mark.parametrize("accumulator", [False, True])
def test_thresholds_are_those_of_the_definition_with_upstream_active(accumulator):
    model = network(accumulator)
    assert calibrate(model, DATA, progress=False) == []

    conv, dense = model.get_layer("conv"), model.get_layer("dense")
    kernel = conv.kernel.numpy()
    assert model.get_layer("x_q").quantizer.log2_threshold.numpy() == log2(np.abs(DATA).max())
    np.testing.assert_array_equal(
        conv.kernel_quantizer.log2_threshold.numpy(),
        log2([methods.three_sigma(kernel[..., c].ravel()) for c in range(5)])
    )
    assert dense.kernel_quantizer.log2_threshold.numpy() == log2(methods.three_sigma(dense.kernel.numpy().ravel()))
    # the final network, upstream active: its inner tensors are what the downstream quantizers must have seen
    relu = through(model, "relu_q")
    assert (
        model.get_layer("relu_q").quantizer.log2_threshold.numpy()
        == log2(methods.mean_squared_error(relu.ravel(), bits=4, signed=False))
    )
    assert (
        model.get_layer("out_q").quantizer.log2_threshold.numpy()
        == log2(methods.kl_j(through(model, "out_q").ravel(), bits=4))
    )
    if accumulator:
        seen = list(conv.calibration_inputs(model.get_layer("x_q")(DATA)))[1][1]
        largest = max(float(np.abs(np.asarray(a)).max()) for a in seen)
        assert conv.accumulator_quantizer.log2_threshold.numpy() == log2(largest) and len(seen) == 2
    assert all(v.numpy() for v in model.weights if v.path.endswith("calibrated"))


def test_result_depends_on_data_only():
    first, second = network(), network()
    calibrate(first, DATA[:70], progress=False)
    calibrate(first, DATA, progress=False)
    calibrate(second, ((DATA[i:i + 33], None) for i in range(0, 150, 33)), progress=False)
    assert same(state(first), state(second))


def test_methods_can_be_chosen():
    model = network()
    calibrate(model, DATA, weights="max", activations="percentile", progress=False)
    assert (
        model.get_layer("dense").kernel_quantizer.log2_threshold.numpy()
        == log2(np.abs(model.get_layer("dense").kernel.numpy()).max())
    )
    assert (
        model.get_layer("x_q").quantizer.log2_threshold.numpy()
        == pytest.approx(np.log2(np.percentile(np.abs(DATA), 99.9)))
    )
    with pytest.raises(ValueError, match="kl_j"):
        calibrate(model, DATA, weights="entropy")


def test_shared_threshold_sees_all_members():
    x = keras.Input((8,), name="x")
    shared = Quantize(activation(8), name="shared", node_names=["a", "b"])
    small, _ = shared(x)
    own, _ = Quantize(activation(8), name="own")(keras.layers.Rescaling(40.0)(small))
    large, _ = shared(keras.layers.Rescaling(5.0)(own))
    model = keras.Model(x, keras.layers.Add()([small, large]))
    data = np.random.default_rng(1).uniform(-1, 1, size=(90, 8)).astype(np.float32)
    calibrate(model, data, progress=False)
    # provisional value for the first member: max |x|; final: the maximum over both members
    s = 2.0 ** (np.ceil(np.log2(np.abs(data).max())) - 7)
    first = np.clip(np.rint(data / s), -128, 127) * s
    assert model.get_layer("own").quantizer.log2_threshold.numpy() == log2(np.abs(first * 40).max())
    second = model.get_layer("own")(np.float32(first * 40))[0].numpy() * 5
    assert shared.quantizer.log2_threshold.numpy() == log2(np.abs(second).max())
    again = shared.quantizer.log2_threshold.numpy()
    calibrate(model, data, progress=False)
    assert shared.quantizer.log2_threshold.numpy() == again


def test_two_inputs_and_nested_model():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, Quantize(activation(8), name="inner_q")(inner_in)[0], name="inner")
    model = keras.Model([a, b], keras.layers.Concatenate()([inner(a * 2.0), Quantize(activation(8), name="b_q")(b)[0]]))
    rng = np.random.default_rng(2)
    xa, xb = rng.normal(size=(80, 4)).astype(np.float32), rng.normal(size=(80, 4)).astype(np.float32)
    calibrate(model, {"a": xa, "b": xb}, progress=False)
    assert inner.get_layer("inner_q").quantizer.log2_threshold.numpy() == log2(np.abs(xa * 2).max())
    assert model.get_layer("b_q").quantizer.log2_threshold.numpy() == log2(np.abs(xb).max())


def test_fixed_batch_size():
    x = keras.Input(batch_shape=(10, 4))
    model = keras.Model(x, Quantize(activation(8), name="q")(x)[0])
    data = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    calibrate(model, data, progress=False)
    assert model.get_layer("q").quantizer.log2_threshold.numpy() == log2(np.abs(data).max())
    with pytest.raises(ValueError, match="exactly 10"):
        calibrate(model, data[:25])


def test_constant_zero_is_frozen_and_reported():
    model = network()
    model.get_layer("conv").bias.assign(np.full(5, -1e3))
    lines = calibrate(model, DATA, progress=False)
    quantizer = model.get_layer("relu_q").quantizer
    assert quantizer.log2_threshold.numpy() == -16 and quantizer.frozen.numpy()
    assert [(line.layer, line.what) for line in lines] == [("relu_q", "frozen"), ("out_q", "frozen")]
    assert "constant zero" in lines[0].why
    model.get_layer("conv").bias.assign(np.ones(5))
    assert calibrate(model, DATA, progress=False) == [] and not quantizer.frozen.numpy()


def test_zero_channels_are_reported():
    model = network()
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[..., 1:3] = 0
    model.get_layer("conv").kernel.assign(kernel)
    (line,) = calibrate(model, DATA, progress=False)
    assert (line.layer, line.what) == ("conv", "frozen") and "2 of 5 channels" in line.why
    np.testing.assert_array_equal(model.get_layer("conv").kernel_quantizer.frozen.numpy(), [0, 1, 1, 0, 0])


def test_a_percentile_of_a_sparse_tensor_is_not_zero():
    values = np.zeros(10000, np.float32)
    values[7] = 3.0
    q = activation(8)
    q.build(())
    assert threshold_of(q, values, "percentile") == 3.0


@pytest.mark.parametrize(("spoil", "message"), [
    (
        lambda m: m.get_layer("dense").kernel.assign(np.full(m.get_layer("dense").kernel.shape, np.nan)),
        "dense.*NaN or Inf"
    ),
    (lambda m: m.get_layer("conv").bias.assign(np.full(5, np.inf)), "relu_q.*NaN or Inf"),
])
def test_a_failure_on_the_way_changes_nothing(spoil, message):
    model = network()
    calibrate(model, DATA[:20], progress=False)
    spoil(model)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        calibrate(model, 3 * DATA, progress=False)
    assert same(before, state(model))


@pytest.mark.parametrize("bad", [None, DATA[:0], np.where(DATA > 2, np.nan, DATA), DATA[0], DATA[:, :3]])
def test_bad_data_changes_nothing(bad):
    model = network()
    calibrate(model, DATA[:20], progress=False)
    before = state(model)
    with pytest.raises(ValueError, match="calibration data|input 'x' has shape"):
        calibrate(model, bad, progress=False)
    assert same(before, state(model))


def test_a_float_model_has_nothing_to_calibrate():
    x = keras.Input((3,))
    with pytest.raises(ValueError, match="no quantizers"):
        calibrate(keras.Model(x, keras.layers.Dense(2)(x)), np.zeros((4, 3)))


def test_identity_quantizers_are_left_alone():
    x = keras.Input((3,))
    y, _ = Quantize(Identity(), name="float")(x)
    model = keras.Model(x, Quantize(activation(8), name="q")(y)[0])
    calibrate(model, np.eye(3), progress=False)
    assert model.get_layer("q").quantizer.log2_threshold.numpy() == 0


def test_a_dead_channel_keeps_a_scale_that_its_bias_can_have():
    """Batch norm can fold a channel to almost nothing; a threshold as small would put its bias beyond 32 bits."""
    quantizer = LogThreshold(8, True, channel_axis=-1, role="weight")
    quantizer.build((3, 4))
    values = np.ones((3, 4), np.float32) * np.float32([1.0, 1e-3, 1e-30, 0.0])
    thresholds = threshold_of(quantizer, values, "max")
    np.testing.assert_array_equal(thresholds, [1.0, np.float32(1e-3), 2.0**-12, 0.0])


def test_an_accumulator_shared_by_two_calls_sees_both():
    """The larger of the two calls decides, whichever comes last."""
    layer = QuantizedDense(
        3, kernel_quantizer=LogThreshold(8, True, role="weight"),
        accumulator_quantizer=LogThreshold(16, True, role="accumulator"),
        use_bias=False, input_bits=8, node_names=["large", "small"],
    )
    large, small = keras.Input((4,)), keras.Input((4,))
    quantize = Quantize(LogThreshold(8, True))
    model = keras.Model(
        [large, small], [layer(list(quantize(large)), node="large"), layer(list(quantize(small)), node="small")]
    )
    layer.kernel.assign(np.ones((4, 3), np.float32))
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    calibrate(model, [x * 100, x], progress=False)
    assert 2.0 ** float(layer.accumulator_quantizer.log2_threshold) > 50
