"""Models in half precision: low bits take its place inside the layers that are trained in low bits, and ``strip``
gives it back.
"""

import keras
import numpy as np
import pytest

import graffiti

L = keras.layers


def convolutions() -> keras.Model:
    x = keras.Input((6, 6, 3))
    t = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(x)))
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.DepthwiseConv2D(3)(t))))


def sequences() -> keras.Model:
    x = keras.Input((4, 6))
    return keras.Model(x, L.Dense(2)(L.Dense(3, activation="relu")(L.LSTM(5)(x))))


@pytest.mark.parametrize(("scheme", "make", "policy"), [
    ("adaptive_precision", convolutions, "mixed_float16"),
    ("dynamic_fixed_point", convolutions, "mixed_bfloat16"),
    ("unified_int8", sequences, "mixed_float16"),
])
def test_a_model_in_half_precision_trains(scheme, make, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = make()
        rng = np.random.default_rng(0)
        x, y = (
            rng.standard_normal((16, *model.input_shape[1:])).astype("float32"),
            rng.standard_normal((16, 2)).astype("float32")
        )
        trained = graffiti.quantize_training(
            model, graffiti.schemes.get(scheme).replace(first_layer=True, last_layer=True)
        )
        low = [layer for layer in trained.layers if hasattr(layer, "low_bit")]
        assert low and all(layer.compute_dtype == "float32" and layer.variable_dtype == "float32" for layer in low)
        trained.compile(keras.optimizers.SGD(0.05), "mse")
        losses = trained.fit(x, y, batch_size=16, epochs=4, verbose=0).history["loss"]
        assert np.isfinite(losses).all() and losses[-1] < losses[0]
        plain = graffiti.strip(trained)
        assert {layer.dtype_policy.name for layer in plain.layers if layer.weights} == {policy}
        again = type(trained).from_config(trained.get_config())
        assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in trained.layers]
    finally:
        keras.config.set_dtype_policy(before)
