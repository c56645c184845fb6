"""Checks M1-M10 of multi-level scaling."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from graffiti.low_bit.quantizers import MultiLevelScaling
from graffiti.low_bit.quantizers import multi_level_scaling as method

X = tf.constant([[0.9, -0.3, 0.05, 0.6], [0.11, -0.02, 0, 0.07]])  # two groups of four


def levels(element) -> np.ndarray:
    return np.unique(method.quantize_element(tf.linspace(0.0, 1.0, 200_001), *element).numpy())


def codes(values, element) -> np.ndarray:
    """As integers K."""
    scale = 2.0 ** (2 ** element[0] - 1 + element[1])
    return np.asarray(values, np.float64) * scale


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ((2, 1), [0, 1, 2, 3, 4, 6, 8, 12]), ((2, 2), [*range(9), 10, 12, 14, 16, 20, 24, 28]),
        ((0, 3), list(range(8))), ((1, 2), list(range(8)))
    ]
)
def test_m1_tables(element, expected):
    np.testing.assert_array_equal(codes(levels(element), element), expected)


@pytest.mark.parametrize(
    ("element", "largest", "smallest"), [((2, 4), 0.96875, 0.0078125), ((3, 3), 0.9375, 0.0009765625)]
)
def test_m1_large_tables(element, largest, smallest):
    found = levels(element)
    assert len(found) == 64 and found[-1] == largest and found[1] == smallest


@pytest.mark.parametrize(
    ("element", "bits", "product"), [((2, 1), 4, 8), ((2, 2), 5, 10), ((2, 4), 7, 14), ((3, 3), 10, 20), ((0, 3), 3, 6)]
)
def test_m2_widths(element, bits, product):
    largest = int(codes(levels(element), element)[-1])
    assert largest.bit_length() == bits and (largest * largest).bit_length() in (product - 1, product)
    assert 2 * element[1] + 2 ** (element[0] + 1) - 2 == product


def test_m3_group_scales():
    relative = tf.constant([1, 0.75, 0.7, 0.76, 0.51, 0.5, 0.3, 0.001])
    np.testing.assert_array_equal(
        method.group_scale(relative, 8, 0), np.float32([1, 1, 1, 1, 1, 0.5, 0.5, 0.001953125])
    )
    np.testing.assert_array_equal(
        method.group_scale(relative, 8, 1), np.float32([1, 0.75, 0.75, 1, 0.75, 0.5, 0.375, 0.00146484375])
    )


@pytest.mark.parametrize(("element", "k", "values"), [
    ((2, 1), [12, 6, 1, 12, 12, 3, 0, 8], [0.675, -0.3375, 0.05625, 0.675, 0.084375, -0.02109375, 0, 0.05625]),
    (
        (2, 4), [124, 42, 7, 84, 124, 23, 0, 80],
        [0.871875, -0.2953125, 0.04921875, 0.590625, 0.108984375, -0.020214844, 0, 0.0703125]
    ),
    ((0, 3), [7, 3, 0, 5, 7, 1, 0, 5], [0.7875, -0.3375, 0, 0.5625, 0.0984375, -0.0140625, 0, 0.0703125])])
def test_m4_quantize(element, k, values):
    elements, groups, scale = method.quantize(X, (1,), element, (8, 1))
    assert float(scale) == np.float32(0.9)
    np.testing.assert_array_equal(np.ravel(groups), [1, 0.125])
    np.testing.assert_array_equal(codes(np.ravel(np.abs(elements)), element), k)
    np.testing.assert_allclose(np.ravel(elements * groups * scale), values, rtol=1e-6)


def test_m5_given_noise():
    noise = tf.constant([[0.4, -0.4, 0.3, -0.2], [0.49, -0.49, 0.1, 0.2]])
    elements, groups, scale = method.quantize(X, (1,), (2, 1), (8, 1), noise)
    np.testing.assert_array_equal(np.ravel(np.abs(elements)), [0.75, 0.25, 0.0625, 0.5, 0.75, 0.125, 0, 0.75])
    np.testing.assert_allclose(
        np.ravel(elements * groups * scale), [0.675, -0.225, 0.05625, 0.45, 0.084375, -0.0140625, 0, 0.084375],
        rtol=1e-6
    )


@pytest.mark.parametrize("element", [(2, 1), (2, 4), (3, 3)])
def test_m5b_nearest_level(element):
    table, x = levels(element).astype(np.float64), np.linspace(0, 1, 20_001).astype(np.float32)
    distance = np.abs(method.quantize_element(tf.constant(x), *element).numpy().astype(np.float64) - x)
    np.testing.assert_array_equal(distance, np.abs(table[None] - x[:, None].astype(np.float64)).min(1))


@pytest.mark.parametrize("value", [0.3, 0.62, 0.04, 0.13])
def test_m6_unbiased(value):
    noise = tf.random.stateless_uniform([400_000], (1, 2), -0.5, 0.5)
    drawn = method.quantize_element(tf.fill([400_000], value), 2, 1, noise).numpy().astype(np.float64)
    assert abs(drawn.mean() - value) < 5e-4


def test_m7_integer_path_equals_float_path():
    w, a = tf.constant([[0.5, -0.25], [0.06, 0.02]]), tf.constant([[0.8, 0.1], [0.3, 0.9]])
    (wb, wg, ws), (ab, ag, as_) = (method.quantize(x, (1,), (2, 4), (8, 1)) for x in (w, a))
    kw, ka = codes(wb, (2, 4)), codes(ab, (2, 4))
    np.testing.assert_array_equal(kw, [[124, -64], [124, 40]])
    np.testing.assert_array_equal(ka, [[112, 14], [42, 124]])
    assert np.ravel(wg).tolist() == [1, 0.125] and np.ravel(ag).tolist() == [1, 1] and float(ws) == 0.5
    sums = (kw * ka).sum(1)
    np.testing.assert_array_equal(sums, [12992, 10168])
    z = 0.5 * 0.9 * (sums * np.ravel(wg) * np.ravel(ag)).sum() / 2**14
    assert z == pytest.approx(0.391744995, abs=1e-9)
    real = (np.asarray(wb, np.float64) * np.asarray(wg) * 0.5 * np.asarray(ab, np.float64) * np.asarray(ag) * 0.9).sum()
    assert abs(real - z) < 1e-12
    # the class on a kernel [1, 2, 2, 1]: groups over kh, kw
    quantizer = MultiLevelScaling(element=(2, 4), stochastic=False, role="weights")
    quantizer.build((1, 2, 2, 1))
    kernel = tf.reshape(tf.transpose(w), (1, 2, 2, 1))
    np.testing.assert_allclose(
        np.ravel(quantizer.encode(kernel, True).real()), np.ravel(np.transpose(wb * wg * ws)), rtol=1e-7
    )


def test_m8_zeros():
    elements, groups, scale = method.quantize(tf.constant([[0.0, 0.0], [1.0, 0.5]]), (1,), (2, 1), (8, 1))
    assert np.ravel(groups)[0] == 1 and not np.any(elements[0])
    for part in method.quantize(tf.zeros((2, 2)), (1,), (2, 1), (8, 1)):
        assert np.all(np.isfinite(part))
    quantizer = MultiLevelScaling()
    quantizer.build((1, 2, 2, 1))
    assert not np.any(quantizer.encode(tf.zeros((1, 2, 2, 1)), True).real())


@pytest.mark.parametrize("k", [1, 7, 40, 100])
def test_m9_group_independence(k):
    """Within what float32 holds (2**-100 here)."""
    scaled = tf.constant(X.numpy() * np.array([[1], [2.0**-k]], np.float32))
    elements, groups, _ = method.quantize(X, (1,), (2, 1), (8, 1))
    elements2, groups2, _ = method.quantize(scaled, (1,), (2, 1), (8, 1))
    np.testing.assert_array_equal(elements, elements2)
    np.testing.assert_array_equal(groups2, groups * np.array([[1], [2.0**-k]], np.float32))


def test_m10_not_idempotent():
    x = tf.constant([[0.9, -0.3, 0.05, 0.6]])
    for expected in ([0.675, -0.3375, 0.05625, 0.675], [0.50625, -0.3375, 0.0421875, 0.50625]):
        elements, groups, scale = method.quantize(x, (1,), (2, 1), (8, 1))
        x = elements * groups * scale
        np.testing.assert_allclose(np.ravel(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("role", "grouping", "axes"),
    [
        ("activations", "both", (1, 2)), ("activations", "first", (1, 2, 3)), ("activations", "second", (0, 1, 2)),
        ("activations", "none", (0, 1, 2, 3)), ("weights", "both", (0, 1)), ("weights", "first", (0, 1, 2)),
        ("weights", "second", (0, 1, 3)), ("gradients", "both", (1, 2))
    ]
)
def test_groups(role, grouping, axes):
    assert MultiLevelScaling(role=role, grouping=grouping).group_axes(tf.TensorShape((3, 3, 4, 5))) == axes


def test_a_kernel_of_one_tap_has_a_group_for_each_output():
    x = np.random.default_rng(0).normal(size=(1, 1, 24, 7)).astype(np.float32)
    both, first = (
        MultiLevelScaling(
            role="weights", grouping=g, stochastic=False, rescale=True
        ).encode(tf.constant(x), True).real().numpy()
        for g in ("both", "first")
    )
    assert np.array_equal(both, first)
    for channel in range(7):  # larger weights stay larger, or equal
        assert np.all(np.diff(both[0, 0, np.argsort(x[0, 0, :, channel]), channel]) >= 0)
    # groups of one element
    alone, scales, _ = method.quantize(tf.constant([[0.74], [0.76], [1.0]]), (1,), (2, 1), (8, 1), rescale=True)
    assert float(alone[0, 0] * scales[0, 0]) > float(alone[1, 0] * scales[1, 0])
    activations = MultiLevelScaling(role="activations")
    assert activations.group_axes(tf.TensorShape((1, 1, 1, 5))) == (1, 2)


def test_the_bit_of_no_sign_is_a_bit_of_mantissa():
    """Known not to be negative: <2,1> is <2,2>, four bits either way, and half the step; of other tensors nothing
    changes.
    """
    x = tf.nn.relu(tf.random.stateless_normal((2, 6, 6, 3), (1, 2)))
    options = {"role": "activations", "stochastic": False, "rescale": True}
    used, wider, plain = (MultiLevelScaling(**options, **more).encode(x, True).real().numpy() for more in (
        {"use_sign_bit": True, "signed": False}, {"element": (2, 2)}, {"signed": False}))
    assert np.array_equal(used, wider) and not np.array_equal(used, plain)
    assert np.mean((used - x) ** 2) < np.mean((plain - x) ** 2) / 3
    both = [
        MultiLevelScaling(**options, use_sign_bit=use).encode(x - 0.5, True).real().numpy() for use in (False, True)
    ]
    assert np.array_equal(*both)
    assert (
        MultiLevelScaling.from_config(MultiLevelScaling(use_sign_bit=True, signed=False).get_config()).format == (2, 2)
    )


def test_options():
    assert float(method.quantize_element(tf.constant([1.0]), 2, 1, top_exponent=0)[0]) == 1.0
    assert float(method.quantize_element(tf.constant([0.24]), 2, 1, 0.4, carry=False)[0]) == 0.1875
    assert float(method.quantize_element(tf.constant([0.24]), 2, 1, 0.4)[0]) == 0.25
    elements, groups, scale = method.quantize(X, (1,), (2, 1), (8, 1), rescale=True)
    assert float(tf.reduce_max(elements * groups * scale)) == pytest.approx(0.9)
    x = np.random.default_rng(0).normal(size=(64, 9, 8)).astype(np.float32)

    def kept(rescale):  # of the tensor's length, along itself
        elements, groups, scale = method.quantize(tf.constant(x), (1,), (2, 1), (8, 1), rescale=rescale)
        return float(np.vdot(elements * groups * scale, x) / np.vdot(x, x))

    assert kept(False) < 0.97 and abs(kept(True) - 1.0) < 0.02
    with pytest.raises(ValueError, match="exponent of an element is a whole number of bits from 0 to 5, got 6"):
        MultiLevelScaling(element=(6, 1))
