"""Checks A1-A10 of adaptive precision (QEM, QPA)."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti.low_bit.callbacks import tensor_quantizers
from graffiti.low_bit.quantizers import AdaptivePrecision
from graffiti.low_bit.quantizers import adaptive_precision as method
from graffiti.training_config import TensorSpec, TrainingScheme

A2 = tf.constant([0.9, -0.31, 0.004, -0.002, 0.05, 0.127])


def a3() -> tf.Tensor:
    g = np.full(1000, -0.001, np.float32)
    g[1::2] = 0.001
    g[0] = 1
    return tf.constant(g)


def built(**arguments) -> AdaptivePrecision:
    quantizer = AdaptivePrecision(**arguments)
    quantizer.build((6,))
    return quantizer


def error_of(x, bits: int, exponent: int) -> float:
    return float(
        method.quantization_error(
            method.mean_magnitude(x), method.mean_magnitude(method.quantize(x, bits, tf.constant(exponent)))
        )
    )


@pytest.mark.parametrize(
    ("largest", "bits", "expected"),
    [
        (127 / 128, 8, -7), (1.0, 8, -6), (1.0, 16, -14), (1.0, 24, -22), (0.5, 8, -7), (128.0, 8, 1),
        (127 / 128, 16, -15), (127 / 128, 24, -23)
    ]
)
def test_a1_shift(largest, bits, expected):
    assert int(method.shift(tf.constant(largest), bits)) == expected


def test_a1_shift_is_the_smallest_that_does_not_saturate():
    """Every width, and values on, just below and just above the powers of two."""
    for bits in (8, 16, 24):
        top = 2 ** (bits - 1) - 1
        for power in (-40, -3, 0, 5, 60):
            for code in (1, top // 2, top - 1, top):
                value = np.float32(code * 2.0**power)
                for largest in (value, np.nextafter(value, np.float32(0)), np.nextafter(value, np.float32(np.inf))):
                    s = int(method.shift(tf.constant(largest), bits))
                    assert float(largest) <= top * 2.0**s and float(largest) > top * 2.0 ** (s - 1), (bits, largest, s)


def test_a2_quantize_and_qem():
    np.testing.assert_array_equal(method.quantize(A2, 8, tf.constant(-7)) * 2**7, [115, -40, 1, 0, 6, 16])
    np.testing.assert_array_equal(
        method.quantize(A2, 16, tf.constant(-15)) * 2**15, [29491, -10158, 131, -66, 1638, 4162]
    )
    assert error_of(A2, 8, -7) == pytest.approx(0.00245763, rel=1e-4)
    assert error_of(A2, 16, -15) == pytest.approx(5.562696e-06, rel=1e-2)  # of float32 values
    assert error_of(tf.zeros(4), 8, 0) == 0


def test_a3_width_grows():
    bits, shift, error = method.choose_bits(a3(), tf.constant(1.0), 8, 0.03)
    assert (int(bits), int(shift)) == (16, -14) and float(error) == pytest.approx(0.0167999, rel=1e-4)
    assert error_of(a3(), 8, -6) == pytest.approx(0.5847219, rel=1e-5)
    bits, shift, error = method.choose_bits(a3(), tf.constant(1.0), 8, 0.01)
    assert (int(bits), int(shift)) == (24, -22) and float(error) == pytest.approx(5.225563e-05, rel=1e-2)
    bits, shift, error = method.choose_bits(A2, tf.constant(0.9), 8, 0.03)
    assert (int(bits), int(shift)) == (8, -7) and float(error) == pytest.approx(0.0024576, rel=1e-4)


def test_a4_vanishing_but_harmless_tail():
    g = tf.constant(np.r_[1, np.full(999, 1e-5)].astype(np.float32))
    bits, shift, error = method.choose_bits(g, tf.constant(1.0), 8, 0.03)
    assert (int(bits), int(shift)) == (8, -6) and float(error) == pytest.approx(0.0141999, rel=1e-3)
    assert error_of(g, 16, -14) == pytest.approx(0.0141999, rel=1e-3)
    assert error_of(g, 24, -22) == pytest.approx(1.937894e-05, rel=0.02)


@pytest.mark.parametrize(("s", "before", "error", "expected"), [
    (-10, -10.0, 0.002, 248), (-10, -10.5, 0.0001, 3), (-10, -12.0, 0.01, 1), (-10, -10.02, 0.0001, 123),
    (-10, -10.0, 0.03, 1), (-10, -10.0, 0.0005, 3998),
    (-10, -10.0, 0.0, 5000)])
def test_a5_interval(s, before, error, expected):
    drift = tf.constant(0.04 * abs(s - before), tf.float32)
    assert int(method.interval(tf.constant(error), drift, tf.constant(5000))) == expected


def test_a6_moving_range():
    quantizer = built(widths=(8,), init_fraction=0.0, steps_per_epoch=10)
    seen = []
    for s in (-10, -9, -9, -9, -8):
        quantizer.next_update.assign(quantizer.step)  # an update each time
        quantizer.adjust(tf.constant([127 * 2.0**s]))
        assert int(quantizer.shift) == s
        seen.append(float(quantizer.moving_range))
    np.testing.assert_allclose(seen, [-10, -9.96, -9.9216, -9.884736, -9.80934656], rtol=1e-6)


def test_a7_a_wider_code_is_no_drift():
    quantizer = built(kind="convolution", init_fraction=0.0, steps_per_epoch=500)
    for name, value in (("shift", -6), ("moving_range", -6.0), ("ranged", True)):
        getattr(quantizer, name).assign(value)
    quantizer.adjust(a3())
    assert (int(quantizer.bits), int(quantizer.shift)) == (16, -14)
    assert float(quantizer.moving_range) == -14.0


def test_a8_stale_parameters_saturate():
    quantizer = built()
    quantizer.shift.assign(-7)
    quantizer.ranged.assign(True)
    np.testing.assert_array_equal(quantizer.encode(tf.constant([2.0, -2.0]), False).real(), [0.9921875, -1.0])


@pytest.mark.parametrize(("mode", "expected"), [(1, (8, -7)), (2, (16, -15))])
def test_a9_modes(mode, expected):
    quantizer = built(kind="convolution", mode=mode)
    quantizer.adjust(a3())
    assert int(quantizer.bits) == 16
    quantizer.adjust(A2)
    assert (int(quantizer.bits), int(quantizer.shift)) == expected


@pytest.mark.parametrize("engine", ["emulated", "auto"])
def test_a10_one_gradient_for_both_products(engine):
    keras.utils.set_random_seed(0)
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model = graffiti.quantize_training(plain, "adaptive_precision", engine=engine)
    x, c = np.random.randn(4, 5).astype(np.float32), np.random.randn(4, 3).astype(np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        y = model(inputs, training=True)
        loss = tf.reduce_sum(c * y)
    kernel = model.layers[-1].kernel
    dw, dx = tape.gradient(loss, [kernel.value, inputs])

    def quantized(value):
        value = tf.constant(value)
        return method.quantize(value, 8, method.shift(tf.reduce_max(abs(value)), 8)).numpy().astype(np.float64)

    xq, cq, wq = quantized(x), quantized(c), quantized(kernel.numpy())
    np.testing.assert_array_equal(dw, (xq.T @ cq).astype(np.float32))
    np.testing.assert_array_equal(dx, (cq @ wq.T).astype(np.float32))
    # the gradient quantizer leaves the forward product alone
    np.testing.assert_array_equal(y, (xq @ wq).astype(np.float32))


def test_phases():
    """Every step in the first part of the first epoch, by the interval until its end, then once per epoch."""
    quantizer = built(widths=(8,), init_fraction=0.1, steps_per_epoch=50)
    updates = []
    for _ in range(200):
        before = int(quantizer.updates)
        quantizer.adjust(A2)
        updates.append(int(quantizer.updates) - before)
    assert updates[:5] == [1] * 5
    assert sum(updates[50:]) == 3  # at most one per epoch of 50
    assert int(quantizer.step) == 200 and quantizer.steps_at.numpy().tolist() == [200]


def test_zeros_and_nan_leave_every_state():
    quantizer = built()
    quantizer.adjust(A2)
    before = [v.numpy().copy() for v in quantizer.variables]
    for bad in (tf.zeros(6), tf.constant([0.0, np.nan, 1, 2, 3, 4]), tf.constant([0.0, np.inf, 1, 2, 3, 4])):
        quantizer.adjust(bad)
        assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, quantizer.variables))


def test_widths_of_a_network_are_counted():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)])
    scheme = TrainingScheme(gradients=TensorSpec("adaptive_precision", {"threshold": 1e-6}), name="strict")
    model = graffiti.quantize_training(plain, scheme)
    model.compile("sgd", "mse")
    model.fit(
        np.random.randn(32, 5), np.random.randn(32, 3), batch_size=8, epochs=2, verbose=0,
        callbacks=[graffiti.callbacks.LowBitSteps()]
    )
    assert [int(q.epoch_steps) for q in tensor_quantizers(model)] == [4, 4]
    shares = graffiti.callbacks.shares(model)
    assert sum(shares.values()) == pytest.approx(1) and shares[24] > 0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"widths of adaptive precision ascend and are from \(8, 16, 24\)"):
        AdaptivePrecision(widths=(8, 12))
    with pytest.raises(ValueError, match="from 8 to 24"):
        AdaptivePrecision(widths=(4,))
    with pytest.raises(ValueError, match="mode of adaptive precision is one of 1, 2"):
        AdaptivePrecision(mode=3)


@pytest.mark.parametrize("make", [
    lambda: keras.Model(x := keras.Input((5,)), keras.layers.Dense(3)(x)),
    lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]),
], ids=["functional", "sequential"])
def test_fit_warns_where_nobody_says_how_long_an_epoch_is(make):
    x, y = np.random.randn(8, 5), np.random.randn(8, 3)

    def model(**hyper):
        made = graffiti.quantize_training(make(), graffiti.schemes.get("adaptive_precision", **hyper))
        made.compile("sgd", "mse", run_eagerly=True)
        return made

    steps = graffiti.callbacks.LowBitSteps()
    with pytest.warns(
        UserWarning, match=r"take 1000 steps for an epoch.*pass callbacks=\[graffiti.callbacks.LowBitSteps\(\)\]"
    ):
        model().fit(x, y, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for listed in ([steps], steps):
            model().fit(x, y, verbose=0, callbacks=listed)
        model(steps_per_epoch=4).fit(x, y, verbose=0)
        told = model()
        told.fit(x, y, 32, 1, 0, [steps])  # by position
        told.fit(x, y, verbose=0)          # what it was told is kept
        plain = graffiti.quantize_training(make(), "min_max_int8")
        plain.compile("sgd", "mse", run_eagerly=True)
        plain.fit(x, y, verbose=0)
    assert [int(q.epoch_steps) for q in tensor_quantizers(told)] == [1, 1, 1]
    said = model()
    said.fit(x, y, verbose=0, callbacks=[graffiti.callbacks.LowBitSteps(steps=70)])
    assert {int(q.epoch_steps) for q in tensor_quantizers(said)} == {70}
