"""The quantizer's maths: published numbers (C1-C4, C7, C13), closed forms, and the numpy reference on whole domains."""

from __future__ import annotations

import math
import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES, round_real
from graffiti.quantizers import log_threshold
from graffiti.quantizers.base import power_of_two
from graffiti.quantizers.log_threshold import log_threshold_quantize

X4 = [-1.2, -1.0625, -1.0, -0.5625, -0.0625, 0.0625, 0.1875, 0.3, 0.9, 0.9375, 1.5]
C1_Q = [-1, -1, -1, -0.5, 0, 0, 0.25, 0.25, 0.875, 0.875, 0.875]
C1_DX = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
C1_DT = [
    -0.6931472, 0.0433217, 0, 0.0433217, 0.0433217, -0.0433217, 0.0433217, -0.0346574, -0.0173287, 0.6065038, 0.6065038
]
C2_Q = [-1.25, -1, -1, -0.5, 0, 0, 0.25, 0.25, 1, 1, 1.5]
C2_DT = [-0.0346574, 0.0433217, 0, 0.0433217, 0.0433217, -0.0433217, 0.0433217, -0.0346574, 0.0693147, 0.0433217, 0]
C3_X = [-0.3, 0, 0.0009765625, 0.0029296875, 0.5, 0.99804688, 1, 2]
S4, U8 = dict(bits=4, signed=True), dict(bits=8, signed=False)


@pytest.fixture(params=["fused", "plain"])
def backward(request, monkeypatch):
    """Both forms of the backward pass."""
    if request.param == "fused" and not log_threshold.fused_gradient():
        pytest.skip("the fused backward pass needs a machine without an accelerator and GRAFFITI_XLA unset")
    monkeypatch.setattr(log_threshold, "fused_gradient", lambda: request.param == "fused")
    return request.param


def gradients(x, log2_t, upstream=None, **config):
    """Output, dL/dx and dL/dlog2_t for an upstream gradient (ones by default)."""
    x, log2_t = tf.constant(x, tf.float32), tf.constant(log2_t, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, log2_t])
        y = log_threshold_quantize(x, log2_t, **config)
    dx, dt = tape.gradient(y, [x, log2_t], None if upstream is None else tf.constant(upstream, tf.float32))
    return y.numpy(), dx.numpy(), dt.numpy()


def elementwise(x, log2_t, **config):
    """The three of ``gradients`` for each element on its own."""
    rows = [gradients([v], log2_t, **config) for v in x]
    return tuple(np.array([np.ravel(row[i])[0] for row in rows]) for i in range(3))


@pytest.mark.parametrize(("x", "log2_t", "config", "q", "dx", "dt"), [
    (X4, 0.0, S4, C1_Q, C1_DX, C1_DT),                                          # C1
    (X4, -0.2, S4, C1_Q, C1_DX, C1_DT),                                         # the same bin
    (X4, 0.3, S4, C2_Q, [1] * 11, C2_DT),                                       # C2
    (X4, 1.0, S4, C2_Q, [1] * 11, C2_DT),
    (C3_X, -0.5, U8, [0, 0, 0, 0.00390625, 0.5] + [0.99609375] * 3, [0, 1, 1, 1, 1, 0, 0, 0],
     [0, 0, -0.0006769, 0.0006769, 0, 0.6904396, 0.6904396, 0.6904396]),        # C3
    # C4
    (
        [0.3, -0.3, 0.99], 0.0, dict(**S4, rounding="floor"), [0.25, -0.375, 0.875], [1, 1, 1],
        [-0.0346574, -0.0519860, -0.0797119]
    ),
])
def test_published_numbers(backward, x, log2_t, config, q, dx, dt):
    got = elementwise(x, log2_t, **config)
    np.testing.assert_array_equal(got[0], np.array(q, np.float32))
    np.testing.assert_array_equal(got[1], dx)
    np.testing.assert_allclose(got[2], dt, atol=1e-6)


@pytest.mark.parametrize(
    ("log2_t", "loss", "slope"),
    [
        (0.0, 0.22859375, -0.5398967), (-0.2, 0.22859375, -0.5398967), (0.3, 0.01921875, 0.0266428),
        (1.0, 0.01921875, 0.0266428)
    ]
)
def test_published_loss(backward, log2_t, loss, slope):
    x, t = tf.constant(X4), tf.Variable(log2_t)
    with tf.GradientTape() as tape:
        value = 0.5 * tf.reduce_sum((log_threshold_quantize(x, t, **S4) - x) ** 2)
    assert value.numpy() == pytest.approx(loss, abs=1e-6)
    assert tape.gradient(value, t).numpy() == pytest.approx(slope, abs=1e-6)


NORMAL = np.array([statistics.NormalDist().inv_cdf((k + 0.5) / 10001) for k in range(10001)])


@pytest.mark.parametrize(("bits", "log2_t", "error", "slope"), [
    (4, 0, 1.748946e-01, -1.202542e-01), (4, 1, 2.233396e-02, -2.673327e-02), (4, 2, 2.084341e-02, 1.434222e-02),
    (4, 3, 8.332925e-02, 5.775943e-02),
    (8, 0, 1.518937e-01, -1.158903e-01), (8, 1, 1.175804e-02, -2.390768e-02), (8, 2, 8.155012e-05, 5.652623e-05),
    (8, 3, 3.253734e-04, 2.255316e-04),
])
def test_range_precision_trade_off(backward, bits, log2_t, error, slope):
    """C7, first half."""
    x, t = tf.constant(NORMAL, tf.float32), tf.Variable(float(log2_t))
    with tf.GradientTape() as tape:
        loss = 0.5 * tf.reduce_sum((log_threshold_quantize(x, t, bits=bits, signed=True) - x) ** 2)
    assert 2 * loss.numpy() / 10001 == pytest.approx(error, abs=1e-6, rel=1e-4)
    assert tape.gradient(loss, t).numpy() / 10001 == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(("log2_t", "bits", "fractional_length"), [(0.3, 8, 6), (-2.7, 8, 9), (3.0, 16, 12)])
def test_fractional_length(log2_t, bits, fractional_length):
    """C13."""
    q = log_threshold.LogThreshold(bits=bits)
    q.build((3,))
    q.assign_log2(log2_t)
    assert q.qformat() == QFormat(bits, True, -fractional_length)
    assert q.exponent().numpy() == -fractional_length
    assert q.scale().numpy() == 2.0**-fractional_length


def test_powers_of_two_are_exact():
    exponents = np.arange(-126, 128)
    np.testing.assert_array_equal(
        power_of_two(tf.constant(exponents, tf.int32)).numpy(), np.ldexp(np.float32(1), exponents)
    )


def reference(x, exponent, config):
    """The quantizer and its gradients in float64 from the definition: output, inside, d/dlog2_t per element."""
    low, high = log_threshold.code_range(config["bits"], config["signed"], config.get("narrow", False))
    scale = np.ldexp(1.0, exponent)
    u = np.asarray(x, np.float64) / scale
    r = round_real(u, config.get("rounding", "half_even"))
    inside = (r >= low) & (r <= high)
    with np.errstate(invalid="ignore"):
        return (
            np.clip(r, low, high) * scale, inside,
            np.where(inside, r - u, np.where(r < low, low, high)) * scale * math.log(2)
        )


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
@pytest.mark.parametrize(
    ("bits", "signed", "narrow"),
    [
        (2, True, False), (2, True, True), (3, False, False), (4, True, True), (8, True, False), (8, True, True),
        (8, False, False), (16, True, False), (16, False, False)
    ]
)
def test_equals_the_definition_around_every_boundary(backward, bits, signed, narrow, rounding):
    """All codes, all ties and the neighbouring floats of each, inside and beyond the range, at several exponents."""
    config = dict(bits=bits, signed=signed, narrow=narrow, rounding=rounding)
    low, high = log_threshold.code_range(bits, signed, narrow)
    halves = np.arange(2 * low - 6, 2 * high + 7, max(1, (high - low) // 400) | 1, dtype=np.float64) / 2
    halves = np.unique(
        np.concatenate([halves, [low - 1, low - 0.5, low, high, high + 0.5, high + 1]])
    ).astype(np.float32)
    codes = np.concatenate(
        [halves, np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf))]
    )
    codes = codes[(codes == 0) | (np.abs(codes) > 1e-30)]  # TensorFlow takes denormal numbers for zero
    rng = np.random.default_rng(bits)
    for ceiling in (-40, -3, 0, 1, 17):
        exponent = ceiling - (bits - signed)
        x = np.ldexp(codes, exponent).astype(np.float32)
        upstream = rng.normal(size=x.shape).astype(np.float32)
        expected, inside, slope = reference(x, exponent, config)
        y, dx, dt = gradients(x, ceiling - 0.25, upstream, **config)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(dx, np.where(inside, upstream, 0))
        total = np.sum(upstream.astype(np.float64) * slope)
        assert dt == pytest.approx(total, rel=1e-4, abs=1e-5 * np.sum(np.abs(upstream * slope)))


def test_huge_values_saturate_and_nan_stays(backward):
    largest = float(np.finfo(np.float32).max)
    x = [largest, -largest, np.inf, -np.inf]
    for rounding in ROUNDING_MODES:
        y = log_threshold_quantize(tf.constant(x), -30.0, bits=8, signed=True, rounding=rounding).numpy()
        np.testing.assert_array_equal(y, np.array([127, -128, 127, -128]) * 2.0**-37)
        _, dx, dt = gradients(x[:2], -30.0, bits=8, signed=True, rounding=rounding)
        np.testing.assert_array_equal(dx, 0)
        assert dt == pytest.approx((127 - 128) * 2.0**-37 * math.log(2))
        assert np.isnan(
            log_threshold_quantize(tf.constant([np.nan]), 0.0, bits=8, signed=True, rounding=rounding).numpy()
        ).all()


@pytest.mark.parametrize(
    ("shape", "axis", "channels"),
    [((3, 3, 4, 5), -1, 5), ((3, 3, 4, 5), -2, 4), ((3, 3, 4, 5), "flat", 20), ((7, 6), 0, 7)]
)
def test_per_channel_is_each_channel_on_its_own(backward, shape, axis, channels):
    rng = np.random.default_rng(3)
    x, upstream = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    log2_t = rng.uniform(-3, 2, channels).astype(np.float32)
    y, dx, dt = gradients(x, log2_t, upstream, **S4, channel_axis=axis)

    def rows(a):
        return a.reshape(-1, channels).T if axis == "flat" else np.moveaxis(a, axis, 0).reshape(channels, -1)

    for c in range(channels):
        alone = gradients(rows(x)[c], log2_t[c], rows(upstream)[c], **S4)
        np.testing.assert_array_equal(rows(y)[c], alone[0])
        np.testing.assert_array_equal(rows(dx)[c], alone[1])
        assert dt[c] == pytest.approx(float(alone[2]), rel=1e-5, abs=1e-6)


def test_frozen_has_no_threshold_gradient_and_the_same_rest(backward):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    live = gradients(x, [0.2, -0.7, 1.0], **S4, channel_axis=-1)
    half = gradients(x, [0.2, -0.7, 1.0], **S4, channel_axis=-1, frozen=tf.constant([False, True, False]))
    np.testing.assert_array_equal(half[0], live[0])
    np.testing.assert_array_equal(half[1], live[1])
    np.testing.assert_array_equal(half[2], live[2] * [1, 0, 1])
    assert live[2].all()
    assert gradients(x, 0.2, **S4, frozen=tf.constant(True))[2] == 0
    assert gradients(x, 0.2, **S4, frozen=True)[2] == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_in_a_function_and_under_xla(compiled, monkeypatch):
    if compiled:
        monkeypatch.setattr(log_threshold, "fused_gradient", lambda: False)
    x, g = (np.random.default_rng(s).normal(size=(40, 7)).astype(np.float32) * 2 for s in (0, 1))

    @tf.function(jit_compile=compiled)
    def step(x, t, g):
        with tf.GradientTape() as tape:
            tape.watch([x, t])
            y = log_threshold_quantize(x, t, bits=4, signed=True)
        return y, *tape.gradient(y, [x, t], g)

    for got, expected in zip(
        step(tf.constant(x), tf.constant(0.3), tf.constant(g)), gradients(x, 0.3, g, **S4), strict=True
    ):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        step(tf.constant(x), tf.constant(0.3), tf.constant(g))[0].numpy(), gradients(x, 0.3, **S4)[0]
    )


def test_shared_threshold_gradients_add(backward):
    """C16: two uses of one quantizer."""
    a, b = (np.random.default_rng(s).normal(size=(30,)).astype(np.float32) for s in (5, 6))
    q = log_threshold.LogThreshold(bits=4)
    q.build((None,))
    q.assign_log2(0.0)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(q(tf.constant(a)) ** 2) + tf.reduce_sum(q(tf.constant(b)) ** 2)
    both = tape.gradient(loss, q.log2_threshold.value).numpy()
    single = []
    for x in (a, b):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(q(tf.constant(x)) ** 2)
        single.append(tape.gradient(loss, q.log2_threshold.value).numpy())
    assert both == pytest.approx(single[0] + single[1], rel=1e-6)
    assert all(s != 0 for s in single)


@pytest.mark.parametrize(("start", "bits"), [(-1.0, 8), (-1.0, 4)])
def test_adam_settles_at_the_boundary(start, bits):
    """C7, second half: 2000 Adam steps on the summed L2 loss."""
    from graffiti.optimizers import ThresholdAdam

    x, t = tf.constant(NORMAL, tf.float32), keras.Variable(start, name="log2_threshold")
    optimizer = ThresholdAdam(1e-2)
    optimizer.build([t])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = 0.5 * tf.reduce_sum((log_threshold_quantize(x, t, bits=bits, signed=True) - x) ** 2)
        optimizer.apply(tape.gradient(loss, [t.value]), [t])
        return tf.identity(t.value)

    path = np.array([step().numpy() for _ in range(2000)])
    if bits == 8:
        assert 1.0 <= path[-1] <= 1.02
        assert (np.ceil(path[-200:]) == 2).all()
    else:
        assert np.abs(path[-200:] - 1.0).max() <= 0.005
