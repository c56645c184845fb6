"""Whole networks whose columns lie orders of magnitude apart, where they come in and where they leave."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.config import Rule

L = keras.layers
TARGETS = ["reference", "native", "python"]


def sqnr(expected, got) -> float:
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return float(10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()))


def columns(count: int = 400, seed: int = 0) -> np.ndarray:
    """Raw sensor columns: from 1 to 100,000, some far from zero with small changes."""
    rng = np.random.default_rng(seed)
    size = np.float32([1, 5, 40, 300, 2000, 30000, 1e5, 1e5])
    return (
        size * (1 + np.float32([1, 0.3, 1, 0.5, 1, 0.1, 0.01, 1]) * rng.standard_normal((count, 8)))
    ).astype(np.float32)


def labels(x: np.ndarray) -> np.ndarray:
    """Three classes of the standardized columns, with noise."""
    rng = np.random.default_rng(9)
    z = (x - columns().mean(0)) / columns().std(0)
    return (z @ rng.standard_normal((8, 3)) + np.tanh(z) @ rng.standard_normal((8, 3))).argmax(1)


def adapted(data, **options) -> keras.layers.Layer:
    layer = L.Normalization(**options)
    layer.adapt(data)
    return layer


def proven(model, x, targets=TARGETS, scheme="int8"):
    q = graffiti.quantize(model, scheme, calibration=x, progress=False)
    ig = graffiti.to_integer(q)
    report = graffiti.verify(q, ig, x, targets=targets, progress=False)
    assert report.verdict == "equal", report
    return q, ig


def test_raw_columns_lose_no_accuracy_behind_normalization():
    keras.utils.set_random_seed(0)
    x, test = columns(3000), columns(2000, seed=1)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(24, activation="relu")(adapted(x)(inputs))))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, labels(x), batch_size=100, epochs=6, verbose=0)
    q, ig = proven(model, x[:300])
    right = [float((np.asarray(net.predict(test)).argmax(1) == labels(test)).mean()) for net in (model, q, ig)]
    assert right[0] > 0.85 and abs(right[1] - right[0]) <= 0.005 and right[2] == right[1], right


def test_the_report_says_that_it_belongs_to_the_border():
    x = columns()
    inputs = keras.Input((8,))
    q = graffiti.quantize(keras.Model(inputs, L.Dense(3)(adapted(x)(inputs))), calibration=x, progress=False)
    (line,) = [line for line in q.quantization_report if "border" in line.why]
    assert line.layer.startswith("normalization") and line.what == "folded"


@pytest.mark.parametrize("wiring", [
    lambda i, x: L.Rescaling(2.0, 1.0)(adapted(x)(i)),
    lambda i, x: adapted(x.reshape(-1, 2, 4), axis=(1, 2))(L.Reshape((2, 4))(i)),
    lambda i, x: L.Reshape((2, 4))(adapted(x)(i)),
    lambda i, x: adapted(x, invert=True)((i - x.mean(0)) / x.std(0)),
    lambda i, x: (i - x.mean(0)) / x.std(0),
    lambda i, x: keras.ops.subtract(keras.ops.multiply(i, 1 / x.std(0)), x.mean(0) / x.std(0)),
], ids=["two in a row", "reshape in front", "reshape behind", "inverted", "operators", "keras.ops"])
def test_all_spellings(wiring):
    x = columns()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(wiring(inputs, x))))
    q, ig = proven(model, x)
    assert (
        "rescaling" in {node.op for node in ig.graph.nodes}
        and "depthwise_conv" not in {node.op for node in ig.graph.nodes}
    )
    assert sqnr(model.predict(x, verbose=0), q.predict(x, verbose=0)) > 28


def test_batch_norm_at_the_input_is_frozen_in_its_inference_form():
    x = columns()
    norm, inputs = L.BatchNormalization(epsilon=1e-3), keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(norm(inputs)))
    norm.set_weights([np.linspace(-1, 2, 8), np.ones(8), x.mean(0), x.var(0)])
    q, _ = proven(model, x)
    assert sqnr(model.predict(x, verbose=0), q.predict(x, verbose=0)) > 28
    before = q.get_layer(norm.name).get_config()
    q.compile(graffiti.ALT(steps_per_epoch=4), loss="mse")
    q.fit(x, model.predict(x, verbose=0), batch_size=100, epochs=1, verbose=0)
    assert q.get_layer(norm.name).get_config() == before
    proven_again = graffiti.verify(q, graffiti.to_integer(q), x, targets=TARGETS, progress=False)
    assert proven_again.verdict == "equal"


def test_it_survives_saving_and_files(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3)).astype("float32")
    inputs = keras.Input((6, 5, 3))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(adapted(x, axis=(1, 2, 3))(inputs))))
    q, ig = proven(model, x)
    q.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert graffiti.to_integer(again).digest() == ig.digest()
    ig.save(tmp_path / "net.graffiti")
    assert np.array_equal(graffiti.IntegerGraph.load(tmp_path / "net.graffiti").predict(x), ig.predict(x))


def test_a_float_image_behind_rescaling_keeps_its_levels():
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype("float32")
    inputs = keras.Input((8, 8, 3))
    keras.utils.set_random_seed(1)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(inputs)))))
    q, ig = proven(model, x)
    (conv,) = [node for node in ig.graph.nodes if node.op == "conv"]
    format = ig.graph.format(conv.inputs[0])
    assert str(format) == "u8@-8", "never negative, so all 256 levels"
    assert sqnr(model.predict(x, verbose=0), q.predict(x, verbose=0)) > 30


def _classifier(x):
    return L.Dense(3)(L.Flatten()(L.Conv2D(4, 3)(x)))


def _wrapped(i):
    inner = keras.Input((8, 8, 3))
    return keras.Model(inner, _classifier(L.Rescaling(1 / 255)(inner)))(i)


@pytest.mark.parametrize("wiring", [
    lambda i: _classifier(L.Rescaling(1 / 255)(i)),
    lambda i: _classifier(L.Rescaling(1 / 127.5, offset=-1.0)(i)),
    lambda i: _classifier(keras.ops.cast(i, "float32") / 255.0),
    lambda i: _classifier((keras.ops.cast(i, "float32") - 127.5) / 127.5),
    lambda i: _classifier(keras.ops.cast(i, "float32")),
    _wrapped,
], ids=["rescaling", "around zero", "cast", "cast around zero", "cast alone", "a model around"])
def test_an_input_of_bytes_takes_the_bytes(wiring):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype("uint8")
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    keras.utils.set_random_seed(1)
    model = keras.Model(inputs, wiring(inputs))
    q, ig = proven(model, x)
    (node,) = [node for node in ig.graph.nodes if node.inputs[0] == ig.graph.inputs[0]]
    assert node.op == "quantize" and str(ig.graph.format(node.output)) == "u8@0" and ig.is_integer_only
    assert sqnr(model.predict(x, verbose=0), q.predict(x, verbose=0)) > 30


def test_casts_that_are_more_than_a_name_stay_in_float():
    x = np.random.default_rng(0).integers(0, 256, (20, 6)).astype("uint8")
    inputs = keras.Input((6,), dtype="uint8")
    reals = keras.ops.cast(inputs, "float32")
    model = keras.Model(inputs, [L.Dense(2)(reals / 255.0), reals, keras.ops.cast(L.Dense(2)(reals), "int32")])
    q = graffiti.quantize(model, calibration=x, progress=False)
    ig = graffiti.to_integer(q)
    for mine, theirs, right in zip(ig.predict(x), q.predict(x, verbose=0), model.predict(x, verbose=0), strict=True):
        assert mine.dtype == theirs.dtype == right.dtype and np.array_equal(mine, theirs)
    assert np.array_equal(ig.predict(x)[1], x.astype("float32"))


def test_a_batch_norm_of_the_border_says_that_its_regularizers_are_gone():
    x = columns()
    inputs = keras.Input((8,))
    norm = L.BatchNormalization(gamma_regularizer="l2", name="norm")
    q = graffiti.quantize(keras.Model(inputs, L.Dense(3)(norm(inputs))), calibration=x, progress=False)
    assert [(line.layer, line.why) for line in q.quantization_report.of("training")] == [
        ("norm", "its regularizers are left out of the loss, since its numbers are no longer trained")]


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_inputs_with_a_number_for_each_column(dtype):
    x = np.clip(np.abs(columns()) / np.float32([1, 1, 1, 4, 20, 200, 500, 500]), 0, 255).astype(dtype)
    inputs = keras.Input((8,), dtype=dtype)
    model = keras.Model(inputs, L.Dense(3)(adapted(x.astype("float32"))(inputs)))
    q, ig = proven(model, x)
    assert [node.op for node in ig.graph.nodes][:2] == ["rescaling", "quantize"]
    assert sqnr(model.predict(x, verbose=0), q.predict(x, verbose=0)) > 28


def test_a_normalized_input_that_is_an_output_too_leaves_as_codes():
    x = columns()
    inputs = keras.Input((8,))
    y = adapted(x)(inputs)
    _, ig = proven(keras.Model(inputs, [L.Dense(3)(y), y]), x, targets=[*TARGETS, "c"])
    assert [node.op for node in ig.graph.nodes if node.output in ig.graph.outputs] == ["dequantize", "dequantize"]


def test_a_rule_for_the_layer_holds_for_its_quantizer():
    x = columns()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(adapted(x, name="norm")(inputs)))
    wide = graffiti.schemes.get("int8")
    wide = wide.replace(activations=wide.activations.replace(bits=12))
    for rule in (Rule("norm", wide), Rule(L.Normalization, wide)):
        q = graffiti.quantize(model, calibration=x, rules=[rule], progress=False)
        assert graffiti.to_integer(q).graph.format("norm_q").bits == 12


# ---- outputs ---------------------------------------------------------------------------------------------------------
def heads(inputs):
    """Boxes in pixels and scores: 640 beside 1."""
    t = L.Conv2D(8, 3, activation="relu")(inputs)
    return t, L.Rescaling(640.0)(L.Conv2D(4, 1, activation="sigmoid")(t)), L.Conv2D(3, 1, activation="sigmoid")(t)


IMAGES = np.random.default_rng(0).standard_normal((12, 12, 12, 3)).astype("float32")


@pytest.mark.parametrize("joined", [
    lambda box, score: L.Concatenate(name="join")([box, score]),
    lambda box, score: L.Reshape((-1, 7))(L.Concatenate(name="join")([box, score])),
    lambda box, score: L.Concatenate(axis=1, name="join")([L.Flatten()(box), L.Flatten()(score)]),
    lambda box, score: L.Concatenate(axis=1)(
        [
            L.Reshape((-1, 7))(L.Concatenate(name="join")([box, score])),
            L.Reshape((-1, 7))(L.Concatenate()([score, box]))
        ]
    ),
], ids=["last axis", "reshaped", "flat", "nested"])
def test_columns_of_an_output_keep_their_own_scales(joined):
    inputs = keras.Input((12, 12, 3))
    _, box, score = heads(inputs)
    model = keras.Model(inputs, joined(box, score))
    q, ig = proven(model, IMAGES, targets=[*TARGETS, "c"])
    got, expected = q.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    assert np.array_equal(ig.predict(IMAGES), got)
    small = expected < 1
    assert sqnr(expected[small], got[small]) > 30 and len(np.unique(got[small])) > 40
    assert not [line for line in q.quantization_report if line.what == "warning"]


def test_a_join_inside_the_network_says_what_it_loses():
    inputs = keras.Input((12, 12, 3))
    _, box, score = heads(inputs)
    q = graffiti.quantize(
        keras.Model(inputs, L.Conv2D(2, 1)(L.Concatenate(name="join")([box, score]))), calibration=IMAGES,
        progress=False
    )
    (line,) = q.quantization_report.of("warning")
    assert line.layer == "join" and "of 256 levels" in line.why and "bits apart" in line.why and "Rule" in line.why
    again = graffiti.calibrate(q, IMAGES)
    assert [line.layer for line in again if line.what == "warning"] == ["join"]


@pytest.mark.parametrize("factor, lost", [(1 / 500.0, True), (0.5, False)])
def test_a_sum_of_tensors_bits_apart_says_so(factor, lost):
    inputs = keras.Input((12, 12, 3))
    t = L.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, L.Conv2D(2, 1)(L.Add(name="sum")([t, L.Rescaling(factor)(L.Conv2D(4, 1)(t))])))
    report = graffiti.quantize(model, calibration=IMAGES, progress=False).quantization_report
    assert [line.layer for line in report if line.what == "warning"] == ["sum"] * lost
