"""What every tensor quantizer promises. A new row in the table is tested by these."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti.low_bit import quantizers

ROLES = {
    "learned_scale": ("weights", "activations"), "large_gradients": ("gradients",),
    "direction_sensitive": ("gradients",), "per_sample": ("gradients",)
}
CASES = [
    (name, role) for name in quantizers.TENSOR_QUANTIZERS
    for role in ROLES.get(name, ("weights", "activations", "gradients"))
]
SHAPE = (8, 4, 4, 6)
# How far a tensor may move, as a part of its norm. Rounding to `bits` errs by 2 to 5 * 2**-bits on normal values
# (nearest to stochastic, any scale to powers of two); a quantizer that loses two bits errs four times as much.
ERROR_IN_STEPS = 6.0
ERRORS = {  # those with another law
    "multi_level_scaling": 0.18,  # elements <2,1>: half a mantissa step is an eighth of the value
}
COSINES = {("dorefa", "weights"): 0.9995, ("dorefa", "activations"): 0.995}  # it scales what it quantizes


def make(name: str, role: str, **arguments) -> quantizers.TensorQuantizer:
    quantizer = quantizers.get(name, role=role, kind="convolution", layer_name="net/conv", seed=7, **arguments)
    quantizer.build(SHAPE)
    return quantizer


def tensor(seed: int = 0, scale: float = 0.02) -> tf.Tensor:
    return tf.constant((np.random.default_rng(seed).normal(size=SHAPE) * scale).astype(np.float32))


def encode(quantizer, x, training: bool):
    quantizer.prepare(x, training)
    return quantizer.encode(x, training, tuple(tf.convert_to_tensor(p) for p in quantizer.parameters()))


@pytest.mark.parametrize(("name", "role"), CASES)
class TestEvery:
    def test_codes_are_whole_and_in_range(self, name, role):
        q = encode(make(name, role), tensor(), True)
        if q.is_integer:
            codes = np.asarray(q.codes, np.float64)
            np.testing.assert_array_equal(codes, np.round(codes))
            assert q.low <= codes.min() and codes.max() <= q.high
        assert np.all(np.isfinite(q.real()))

    def test_it_approximates_its_input(self, name, role):
        x = tf.abs(tensor()) if name == "dorefa" and role == "activations" else tensor()
        quantizer, x = make(name, role), np.ravel(x).astype(np.float64)
        q = np.ravel(encode(quantizer, tf.reshape(tf.constant(x, tf.float32), SHAPE), True).real()).astype(np.float64)
        if (name, role) in COSINES:
            assert q @ x / (np.linalg.norm(q) * np.linalg.norm(x)) > COSINES[name, role]
            return
        limit = ERRORS[name] if name in ERRORS else ERROR_IN_STEPS * 2.0 ** -int(quantizer.bits)
        assert np.linalg.norm(q - x) < limit * np.linalg.norm(x)

    def test_evaluation_changes_nothing(self, name, role):
        quantizer = make(name, role)
        encode(quantizer, tensor(), True)
        before = {v.path: v.numpy().copy() for v in quantizer.variables if not v.path.endswith("noise")}
        encode(quantizer, tensor(1, 5.0), False)
        after = {v.path: v.numpy() for v in quantizer.variables if not v.path.endswith("noise")}
        assert all(np.array_equal(before[path], after[path]) for path in before)

    def test_config_round_trip(self, name, role):
        quantizer = make(name, role)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
        assert type(again) is type(quantizer) and again.get_config() == quantizer.get_config()

    def test_same_seed_same_bits_and_the_noise_moves_on(self, name, role):
        first, second = make(name, role), make(name, role)
        a, b = encode(first, tensor(), True), encode(second, tensor(), True)
        np.testing.assert_array_equal(a.real(), b.real())
        state = [v.numpy() for v in first.variables]
        c = encode(first, tensor(), True)
        for variable, value in zip(second.variables, state):  # as after loading a checkpoint
            variable.assign(value)
        np.testing.assert_array_equal(c.real(), encode(second, tensor(), True).real())
        stochastic = any(v.path.endswith("noise") for v in first.variables)
        assert (
            np.array_equal(a.real(), c.real()) != stochastic
        ), "noise is other noise at each step, and rounding to nearest has none"

    def test_zeros_stay_zeros(self, name, role):
        if name == "dorefa" and role == "weights":
            pytest.skip("DoReFa's weight levels are odd multiples of half a step: there is no zero")
        quantizer = make(name, role)
        encode(quantizer, tensor(), True)
        q = encode(quantizer, tf.zeros(SHAPE), True)
        assert np.all(np.abs(q.real()) <= 1e-8)

    def test_a_zero_gradient_leaves_every_state(self, name, role):
        if role != "gradients":
            pytest.skip("of gradients only")
        quantizer = make(name, role)
        encode(quantizer, tensor(), True)
        before = {v.path: v.numpy().copy() for v in quantizer.variables if not v.path.endswith("noise")}
        quantizer.use(tf.zeros(SHAPE), True, lambda q: q.real())
        assert all(np.array_equal(before[v.path], v.numpy()) for v in quantizer.variables if v.path in before)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_inf_are_passed_on_and_reported(self, name, role, bad, capfd):
        quantizer = make(name, role)
        encode(quantizer, tensor(), True)
        broken = tensor().numpy()
        broken[1, 2, 3, 4] = bad
        x = tf.constant(broken)
        real = quantizer.use(
            x, True, lambda q: q.real(), tuple(tf.convert_to_tensor(p) for p in quantizer.parameters())
        )
        assert np.any(np.isnan(real))
        assert "net/conv" in capfd.readouterr().err

    def test_inside_a_function_as_outside(self, name, role):
        eager, traced = make(name, role), make(name, role)
        run = tf.function(lambda x: encode(traced, x, True).real())
        for seed in range(3):
            np.testing.assert_allclose(
                encode(eager, tensor(seed), True).real(), run(tensor(seed)), rtol=2e-5, atol=1e-7
            )

    def test_unknown_role_is_refused(self, name, role):
        with pytest.raises(ValueError, match="role of a tensor quantizer is one of"):
            quantizers.get(name, role="rubbish")


def test_unknown_quantizer_is_refused():
    with pytest.raises(ValueError, match="a tensor quantizer is one of adaptive_precision"):
        quantizers.get("ternary")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("dynamic_fixed_point", 17), ("large_gradients", 1), ("learned_scale", 9), ("min_max", 0), ("per_sample", 33),
        ("dorefa", 99)
    ]
)
def test_bits_that_a_method_cannot_hold_are_refused_with_the_range(name, bits):
    with pytest.raises(ValueError, match=rf"whole number of bits from \d+ to \d+, got {bits}"):
        quantizers.get(name, bits=bits)
