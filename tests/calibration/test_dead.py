"""Calibration that sees nothing, or next to nothing: the network lowers all the same, equal, and the report says
what happened.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti

L = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((16, 8, 8, 3)).astype("float32")
ROWS = RNG.standard_normal((16, 6)).astype("float32")


def constant(value: float):
    return keras.initializers.Constant(value)


def blank():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(3, bias_initializer="ones")(x)), 0 * ROWS


def rarely_on():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(3, bias_initializer=constant(-40.0))(x)), ROWS * 1e-12


def dead_relu():
    x = keras.Input((6,))
    hidden = L.Dense(5, activation="relu", bias_initializer=constant(-100.0))(x)
    return keras.Model(x, L.Dense(3, bias_initializer=constant(50.0))(hidden)), ROWS


def dead_kernel():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(3, kernel_initializer="zeros", bias_initializer=constant(7000.0))(x)), ROWS


def pruned_channel():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.Conv2D(4, 3, bias_initializer=constant(900.0), name="c")(x))
    kernel = model.get_layer("c").kernel.numpy()
    kernel[..., 2] = 0
    model.get_layer("c").kernel.assign(kernel)
    return model, IMAGES


def hard_swish_of_next_to_nothing():
    x = keras.Input((8, 8, 3))
    return keras.Model(x, L.Conv2D(4, 3)(keras.ops.relu6(x * 1e-9 + 3.0) / 6.0)), IMAGES * 1e-7


def two_branches():
    x = keras.Input((6,))
    hidden = L.ReLU()(L.Dense(5, bias_initializer=constant(-100.0))(x))
    a, b = L.Dense(3, bias_initializer=constant(50.0))(hidden), L.Dense(3, bias_initializer=constant(-9000.0))(hidden)
    return keras.Model(x, L.Add()([a, b])), ROWS


@pytest.mark.parametrize(
    "scheme",
    ["int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int8_per_channel", "w4a4", "graffitist_int8"))]
)
@pytest.mark.parametrize(
    "make", [blank, rarely_on, dead_relu, dead_kernel, pruned_channel, hard_swish_of_next_to_nothing, two_branches],
    ids=lambda f: f.__name__
)
def test_it_lowers_and_equals(make, scheme):
    keras.utils.set_random_seed(1)
    model, data = make()
    q = graffiti.quantize(model, scheme, calibration=data, progress=False)
    ig = graffiti.to_integer(q)
    for x in (data, RNG.standard_normal(data.shape).astype("float32")):
        report = graffiti.verify(q, ig, x, ["native"], progress=False)
        assert report.mismatches == 0 and report.ok, report.verdict
    said = [line for line in q.quantization_report if line.what == "frozen"]
    assert said or make in (rarely_on, hard_swish_of_next_to_nothing, pruned_channel)
    bias = np.abs(model.predict(data, verbose=0)).max()
    # the biases are still there
    assert np.abs(q.predict(data, verbose=0) - model.predict(data, verbose=0)).max() <= 0.1 * bias


def test_a_held_threshold_is_told():
    model, data = dead_relu()
    q = graffiti.quantize(model, "int8", calibration=data, progress=False)
    assert any(
        "so that the bias of" in line.why and "calibrate with data that reaches it" in line.why
        for line in q.quantization_report
    )


def test_a_negative_variance_names_the_layer():
    x = keras.Input((4,))
    model = keras.Model(x, L.BatchNormalization(name="norm")(L.Dense(3)(x)))
    model.get_layer("norm").moving_variance.assign([1.0, -0.5, 2.0])
    with pytest.raises(ValueError, match="batch norm 'norm' has the moving variance -0.5 and epsilon 0.001"):
        graffiti.quantize(model, "int8", calibration=np.zeros((4, 4)), progress=False)
