"""Recurrent layers, attention and wrappers in low bits: Keras' own numbers where nothing is quantized, equal
engines, one state for all time steps.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from engines import needs_library
from low_bit.models import compiled

import graffiti
from graffiti.low_bit.layers import computes

layers = keras.layers
STEPS, FEATURES, CLASSES = 6, 5, 3
MAKERS = {
    "lstm": lambda: layers.LSTM(8, return_sequences=True),
    "lstm_zero_masked": lambda: layers.LSTM(8, return_sequences=True, zero_output_for_mask=True),
    "lstm_without_bias": lambda: layers.LSTM(8, use_bias=False, activation="relu"),
    "gru": lambda: layers.GRU(8),
    "gru_backwards": lambda: layers.GRU(8, go_backwards=True, return_sequences=True),
    "gru_reset_before": lambda: layers.GRU(8, reset_after=False, return_sequences=True),
    "simple_unrolled": lambda: layers.SimpleRNN(8, unroll=True, return_sequences=True),
    "rnn": lambda: layers.RNN(layers.LSTMCell(8)),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(8, return_sequences=True)),
    "bidirectional_sum": lambda: layers.Bidirectional(layers.GRU(8), merge_mode="sum"),
    "time_distributed": lambda: layers.TimeDistributed(layers.Dense(8, activation="tanh")),
}
ATTENTION = {
    "attention": lambda: layers.MultiHeadAttention(2, 4),
    "grouped_attention": lambda: layers.GroupQueryAttention(4, 4, 2)
}


def some_slow(cases: list, quick: set) -> list:
    """Parameters; all but the quick ones are for the long run."""
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


def network(name: str) -> keras.Model:
    """Masked sequences, the layer of that name, a dense layer."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((STEPS, FEATURES))
    if name in ATTENTION:
        x = ATTENTION[name]()(inputs, inputs)
    else:
        x = MAKERS[name]()(layers.Masking()(inputs))
    return keras.Model(
        inputs, layers.Dense(CLASSES, name="last")(x if len(x.shape) == 2 else layers.GlobalAveragePooling1D()(x)),
        name=name
    )


def examples(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with masked ends and one masked start."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, STEPS, FEATURES)).astype(np.float32)
    x[:4, 4:], x[5, 0] = 0, 0
    return x, rng.integers(0, CLASSES, count)


def gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
        )
    return [np.asarray(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]


def assert_same_variables(first: keras.Model, second: keras.Model) -> None:
    """Equal to the bit; but Keras gives every recurrent layer a seed for its dropout and does not save it."""
    for a, b in zip(first.variables, second.variables, strict=True):
        if "seed_generator" not in a.path:
            np.testing.assert_array_equal(a, b, err_msg=a.path)


@pytest.mark.parametrize("name", [*MAKERS, *ATTENTION])
def test_with_float_products_it_is_keras(name):
    """Outputs and gradients, through masks, directions and unrolling."""
    scheme = graffiti.schemes.training_schemes.get("dynamic_fixed_point", bits=32)
    plain, (x, y) = network(name), examples()
    model = graffiti.quantize_training(plain, scheme)
    np.testing.assert_allclose(model(x), plain(x), rtol=1e-5, atol=1e-6)
    for ours, keras_own, variable in zip(
        gradients(model, x, y), gradients(plain, x, y), plain.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize(
    "name", some_slow([*MAKERS, *ATTENTION], {"rnn", "bidirectional", "time_distributed", "attention"})
)
def test_strip_and_files(name, tmp_path):
    plain, (x, y) = network(name), examples()
    model = compiled(graffiti.quantize_training(plain, "dynamic_fixed_point", seed=5))
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    for m in (model, again):
        m.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    assert_same_variables(model, again)
    stripped = graffiti.strip(model)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in plain.layers]
    assert [layer.get_config() for layer in stripped.layers] == [layer.get_config() for layer in plain.layers]
    for a, b, c in zip(stripped.trainable_variables, model.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c) or "key" in a.path, f"{a.path} was not trained"


@needs_library
@pytest.mark.parametrize(("name", "scheme"), some_slow([
    ("bidirectional", "dynamic_fixed_point"), ("gru_reset_before", "dynamic_fixed_point"),
    ("lstm", "adaptive_precision"), ("gru", "min_max_int8"), ("attention", "min_max_int8"),
], {("gru_reset_before", "dynamic_fixed_point"), ("lstm", "adaptive_precision")}))
@pytest.mark.parametrize("steps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_all_steps_are_equal_to_the_bit(name, scheme, steps):
    plain, (x, y) = network(name), examples()
    models = [compiled(graffiti.quantize_training(plain, scheme, engine=engine)) for engine in ("native", "emulated")]
    for model in models:
        model.fit(
            x, y, batch_size=16, epochs=steps // 2, shuffle=False, verbose=0,
            callbacks=[graffiti.callbacks.LowBitSteps()]
        )
    assert_same_variables(*models)
    assert not np.array_equal(models[0].trainable_variables[0], plain.trainable_variables[0])


@pytest.mark.parametrize(
    "scheme",
    some_slow(
        graffiti.schemes.training_names(),
        set(graffiti.schemes.training_names()) - {"min_max_int4", "min_max_int8", "per_sample"}
    )
)
def test_every_scheme_trains_a_recurrent_network_or_says_why_not(scheme):
    plain, (x, y) = network("lstm"), examples()
    chosen = graffiti.schemes.training_schemes.get(scheme)
    if "recurrent" not in chosen.kinds:
        with pytest.raises(ValueError, match="float"):
            graffiti.quantize_training(plain, scheme)
        return
    if not chosen.first_layer:  # one more in front, which stays in float
        inputs = keras.Input((STEPS, FEATURES))
        plain = keras.Model(inputs, plain(layers.Dense(FEATURES, name="front")(inputs)))
    model = graffiti.quantize_training(plain, scheme)
    assert any("lstm" in line.layer and line.what == "quantized" for line in model.quantization_report)
    model.compile(
        graffiti.LowBitOptimizer(keras.optimizers.Adam(0.02)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = model.fit(x, y, batch_size=16, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_one_step_size_for_all_time_steps():
    """After a training step every exponent has moved once, by the largest value of the whole sequence."""
    plain, (x, y) = network("lstm"), examples()
    model = compiled(graffiti.quantize_training(plain, "dynamic_fixed_point", engine="emulated"))
    layer = model.get_layer(plain.layers[2].name)
    model.fit(x, y, batch_size=32, epochs=12, verbose=0)
    quantizer = layer.recurrent_product.activations_quantizer
    hidden = keras.Model(model.inputs, layer.output)(x).numpy()
    exponent = int(quantizer.exponent.numpy())
    largest = np.abs(hidden).max()
    assert 2.0 ** (exponent + 5) < largest <= 2.0 ** (exponent + 8)
    before = exponent
    model.fit(x, y, batch_size=32, epochs=1, verbose=0)
    assert abs(int(quantizer.exponent.numpy()) - before) <= 1


def test_noise_differs_between_time_steps_and_follows_from_the_seed():
    plain, (x, y) = network("lstm"), examples()
    scheme = graffiti.schemes.training_schemes.get("dynamic_fixed_point", rounding="stochastic")
    runs = []
    for seed in (1, 1, 2):
        model = compiled(graffiti.quantize_training(plain, scheme, seed=seed), run_eagerly=True)
        model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
        runs.append(model.trainable_variables[1].numpy())
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_states_in_and_out():
    """``initial_state``, ``return_state`` and ``stateful`` as in Keras."""
    inputs = keras.Input((STEPS, FEATURES))
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="encoder")(inputs)
    outputs = layers.LSTM(4, name="decoder")(sequence, initial_state=[h, c])
    plain = keras.Model(inputs, outputs)
    model = graffiti.quantize_training(plain, graffiti.schemes.training_schemes.get("dynamic_fixed_point", bits=32))
    x = examples(8)[0]
    np.testing.assert_allclose(model(x), plain(x), rtol=1e-5, atol=1e-6)
    batch = keras.Input(batch_shape=(8, STEPS, FEATURES))
    plain = keras.Model(batch, layers.GRU(4, stateful=True)(batch))
    model = graffiti.quantize_training(plain, graffiti.schemes.training_schemes.get("dynamic_fixed_point", bits=32))
    for _ in range(3):
        np.testing.assert_allclose(model(x), plain(x), rtol=1e-5, atol=1e-6)


def test_dropout_is_one_mask_for_a_sequence():
    inputs = keras.Input((STEPS, FEATURES))
    plain = keras.Model(
        inputs, layers.LSTM(16, dropout=0.5, recurrent_dropout=0.5, seed=3, return_sequences=True)(inputs)
    )
    model = graffiti.quantize_training(plain, "dynamic_fixed_point")
    x = examples(8)[0]
    assert not np.array_equal(model(x, training=True), model(x, training=True))
    np.testing.assert_array_equal(model(x), model(x))


def test_insight_and_paths():
    plain, (x, y) = network("bidirectional"), examples()
    model = compiled(graffiti.quantize_training(plain, "dynamic_fixed_point"))
    insight = graffiti.callbacks.LowBitInsight(x, y)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[insight])
    seen = {(row["layer"].split("/")[-1], row["tensor"]) for row in insight.rows}
    assert (
        {
            ("input", "activations"), ("input", "gradients"), ("recurrent", "activations"), ("recurrent", "weights"),
            ("last", "weights")
        }
        <= seen
    )
    assert all(row["cosine"] > 0.98 for row in insight.rows if row["epoch"] == 1 and row["tensor"] == "weights")
    wrapper = plain.layers[2].name
    report = graffiti.quantize_training(
        plain, "dynamic_fixed_point", rules=[graffiti.Rule(f"{wrapper}/backward.*", None)]
    ).quantization_report
    assert (
        {line.layer: line.what for line in report}
        == {
            f"{wrapper}/forward_{plain.layers[2].forward_layer.name.removeprefix('forward_')}": "quantized",
            f"{wrapper}/{plain.layers[2].backward_layer.name}": "float", "last": "quantized"
        }
    )


def test_a_cell_that_is_not_covered_stays_in_float_and_is_named():
    inputs = keras.Input((STEPS, FEATURES))
    stacked = layers.RNN([layers.LSTMCell(4), layers.LSTMCell(4)], name="stacked")
    plain = keras.Model(inputs, layers.Dense(2)(stacked(inputs)))
    report = graffiti.quantize_training(plain, "dynamic_fixed_point").quantization_report
    assert [(line.what, "StackedRNNCells" in line.why) for line in report] == [("float", True), ("quantized", False)]
    assert not computes(stacked)
