"""What every quantizer of the table promises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from graffiti import quantizers
from graffiti.quantizers import ALL_QUANTIZERS, Quantizer

VARIANTS = [
    dict(), dict(bits=4), dict(bits=8, narrow=True), dict(bits=8, signed=False), dict(bits=16), dict(bits=2),
    dict(bits=8, rounding="floor"), dict(bits=6, signed=False, rounding="half_up"), dict(bits=5, channel_axis=-1),
    dict(bits=4, channel_axis="flat"),
]
CASES = [
    pytest.param(name, variant, id=f"{name}-{'-'.join(f'{k}={v}' for k, v in variant.items()) or 'default'}")
    for name in ALL_QUANTIZERS for variant in VARIANTS
]
SHAPE = (6, 3, 4)


def make(name, variant, log2=None) -> Quantizer:
    q = quantizers.get(name, **variant)
    q.build((None, *SHAPE[1:]))
    if q.log2_threshold is not None:
        count = int(np.prod(q.log2_threshold.shape))
        q.assign_log2(np.linspace(-2.3, 1.4, count) if count > 1 else 0.3 if log2 is None else log2)
    return q


def sample(seed=0, size=SHAPE):
    return (np.random.default_rng(seed).normal(size=size) * 1.7).astype(np.float32)


def fine(q, like):
    """The steps of a quantizer, shaped to broadcast against ``like``."""
    scale = q.scale().numpy()
    return scale.reshape(like.shape[-2:]) if q.channel_axis == "flat" else scale


@pytest.mark.parametrize(("name", "variant"), CASES)
class TestEveryQuantizer:
    def test_output_is_codes_in_range(self, name, variant):
        q, x = make(name, variant), sample()
        y = q(x).numpy()
        assert y.shape == x.shape and y.dtype == np.float32
        if q.qformat() is None:
            np.testing.assert_array_equal(y, x)
            return
        codes = y / fine(q, y)
        np.testing.assert_array_equal(codes, np.rint(codes))
        assert codes.min() >= q.qmin and codes.max() <= q.qmax
        assert (q.qmin, q.qmax) == (q.qformat().qmin, q.qformat().qmax)
        np.testing.assert_array_equal(np.float32(q.qformat().scale), q.scale().numpy())

    def test_idempotent_and_monotone(self, name, variant):
        q, x = make(name, variant), sample(1)
        y = q(x).numpy()
        np.testing.assert_array_equal(q(y).numpy(), y)
        ordered = np.broadcast_to(np.linspace(-5, 5, 301, dtype=np.float32)[:, None, None], (301, *SHAPE[1:]))
        assert (np.diff(q(np.ascontiguousarray(ordered)).numpy(), axis=0) >= 0).all()

    def test_doubling_input_and_threshold_doubles_output(self, name, variant):
        q, x = make(name, variant), sample(2)
        y = q(x).numpy()
        if q.log2_threshold is not None:
            q.assign_log2(q.log2_threshold.numpy() + 1)
        np.testing.assert_array_equal(q(2 * x).numpy(), 2 * y)

    def test_config_round_trip(self, name, variant):
        q = make(name, {**variant, "role": "weight", "calibration": "kl_j"})
        config = quantizers.serialize(q)
        again = quantizers.get(config)
        assert type(again) is type(q) and again.get_config() == q.get_config()
        assert quantizers.serialize(again) == config
        assert all(isinstance(v, (str, int, bool, float, type(None))) for v in q.get_config().values())

    def test_save_and_load_is_bit_exact(self, name, variant, tmp_path):
        x = sample(3)
        model = keras.Sequential([keras.Input(SHAPE[1:]), make(name, variant)])
        q = model.layers[0]
        if q.log2_threshold is not None:
            q.frozen.assign(np.ones(q.frozen.shape, bool))
        model.save(tmp_path / "q.keras")
        loaded = keras.models.load_model(tmp_path / "q.keras")
        np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())
        for old, new in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(old.numpy(), new.numpy())
        assert loaded.layers[0].qformat() == q.qformat()

    def test_gradient_reaches_the_input_and_fit_runs(self, name, variant):
        model = keras.Sequential(
            [keras.Input(SHAPE[1:]), make(name, variant), keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        before = [v.numpy() for v in model.trainable_variables]
        model.compile("adam", "mse")
        history = model.fit(
            sample(4, (32, *SHAPE[1:])), np.ones((32, 1), np.float32), epochs=2, batch_size=16, verbose=0
        )
        assert np.isfinite(history.history["loss"]).all()
        trains = any("log2_threshold" in v.path for v in model.trainable_variables)
        assert trains == (name == "log_threshold")
        assert all((v.numpy() != b).any() for v, b in zip(model.trainable_variables, before, strict=True))
        x = tf.constant(sample(5))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model.layers[0](x)
        assert np.count_nonzero(tape.gradient(y, x).numpy())

    def test_float32_under_mixed_precision(self, name, variant):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            q = make(name, variant)
        finally:
            keras.config.set_dtype_policy("float32")
        y = q(sample())
        assert y.dtype == tf.float32
        assert q.log2_threshold is None or q.log2_threshold.dtype == "float32"


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.booleans(), st.floats(-20, 20, width=32), st.floats(-(2.0**60), 2.0**60, width=32))
def test_half_step_error_inside_the_range(bits, signed, log2, value):
    q = quantizers.get("log_threshold", bits=bits, signed=signed)
    q.build(())
    q.assign_log2(log2)
    y, s = float(q(np.float32(value)).numpy()), float(q.scale().numpy())
    if q.qmin * s <= value <= q.qmax * s:
        assert abs(y - value) <= s / 2
    else:
        assert y == (q.qmin if value < q.qmin * s else q.qmax) * s


class TestState:
    def test_calibrated_and_zero_threshold(self):
        q = make("log_threshold", {}, 0.0)
        fresh = quantizers.get("log_threshold")
        fresh.build((2,))
        assert q.calibrated.numpy() and not fresh.calibrated.numpy()
        q.set_threshold(3.0)
        assert q.log2_threshold.numpy() == np.float32(np.log2(3.0)) and not q.frozen.numpy()
        q.set_threshold(0.0)
        assert q.log2_threshold.numpy() == -16 and q.frozen.numpy()
        q.set_threshold(1.0)
        assert not q.frozen.numpy()

    def test_per_channel_threshold(self):
        q = make("log_threshold", dict(channel_axis=-1))
        q.set_threshold([1.0, 0.0, 4.0, 0.3])
        np.testing.assert_array_equal(q.frozen.numpy(), [False, True, False, False])
        assert q.qformat().exponent == (-7, -23, -5, -8)
        q.assign_log2(2.0)
        np.testing.assert_array_equal(q.log2_threshold.numpy(), [2, 2, 2, 2])

    @pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, [1.0, 2.0]])
    def test_bad_thresholds_change_nothing(self, bad):
        q = make("log_threshold", {}, 0.25)
        with pytest.raises(ValueError, match="threshold"):
            q.set_threshold(bad)
        assert q.log2_threshold.numpy() == np.float32(0.25)

    def test_not_trainable_on_request(self):
        q = make("log_threshold", dict(trainable=False))
        assert not q.trainable_variables and quantizers.get(quantizers.serialize(q)).trainable is False

    def test_not_built(self):
        with pytest.raises(ValueError, match="build"):
            quantizers.get("log_threshold").qformat()


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(bits=1), "2 to 16"), (dict(bits=17), "2 to 16"), (dict(bits=4.5), "2 to 16"),
    (dict(signed=False, narrow=True), "narrow"),
    (dict(rounding="nearest"), "half_even"), (dict(channel_axis="last"), "channel_axis"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantizers.get("log_threshold", **arguments)


def test_bad_identifiers():
    assert quantizers.get(None) is None
    with pytest.raises(ValueError, match="log_threshold, fixed_threshold, identity"):
        quantizers.get("nope")
    with pytest.raises(ValueError, match="Dense"):
        quantizers.deserialize(keras.saving.serialize_keras_object(keras.layers.Dense(2)))
    with pytest.raises(ValueError, match="channel_axis"):
        quantizers.get("log_threshold", channel_axis=5).build((3, 3))
    assert [quantizers.name_of(quantizers.get(name)) for name in ALL_QUANTIZERS] == list(ALL_QUANTIZERS)


@pytest.mark.parametrize("change", [{"signed": False}, {"bits": 4}, {"narrow": True}], ids=str)
def test_weights_of_another_range_are_refused(change, tmp_path):
    """A threshold means another step in another range; the weights of an unsigned network are none for a signed one."""
    def model(**options):
        x = keras.Input((3,))
        return keras.Model(x, quantizers.LogThreshold(**{"bits": 8, "signed": True, **options}, name="q")(x))

    first, other, same = model(), model(**change), model()
    first.get_layer("q").assign_log2(1.5)
    first.save_weights(tmp_path / "w.weights.h5")
    same.load_weights(tmp_path / "w.weights.h5")
    assert float(same.get_layer("q").log2_threshold) == 1.5
    with pytest.raises(ValueError, match="has codes from .* the weights are of one with codes from -128 to 127"):
        other.load_weights(tmp_path / "w.weights.h5")
    assert float(other.get_layer("q").log2_threshold) == 0.0


def test_weights_without_a_range_load_as_before():
    quantizer = quantizers.LogThreshold(8)
    quantizer.build((None, 3))
    store = {"0": np.float32(0.75), "1": np.bool_(False), "2": np.bool_(True)}  # as files of before have it
    quantizer.load_own_variables(store)
    assert float(quantizer.log2_threshold) == 0.75 and quantizer.calibrated.numpy()
