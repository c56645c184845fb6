"""The public verbs as users call them: forms of data, rules, reports, plain and custom training, saving, going on,
new processes.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from model_checks import assert_same

import graffiti
from graffiti.keras_io.read import read

layers = keras.layers
ROOT = pathlib.Path(__file__).resolve().parents[1]
RNG = np.random.RandomState(0)
IMAGES = RNG.normal(size=(24, 8, 8, 3)).astype(np.float32)


def network(name="net", seed=0):
    """Conv with batch norm, a shared conv, a residual sum, a classifier."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="r1")(
        layers.BatchNormalization(name="bn")(layers.Conv2D(6, 3, padding="same", name="c1")(inputs))
    )
    x = layers.Add(name="sum")([x, layers.Conv2D(6, 3, padding="same", activation="relu", name="block_c2")(x)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return zoo.randomize(keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x), name=name), seed)


def thresholds(q) -> dict[str, np.ndarray]:
    return {name: quantizer.log2_threshold.numpy() for name, quantizer in graffiti.callbacks.quantizers_of(q).items()}


# ---- what quantize takes ---------------------------------------------------------------------------------------------
class Pairs(keras.utils.PyDataset):
    """Four batches of six."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return IMAGES[6 * index : 6 * index + 6], np.zeros(6)


def labelled():
    return tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(24))).batch(7)


def test_every_form_of_calibration_gives_the_same_model():
    model = network()
    reference = graffiti.quantize(model, calibration=IMAGES, progress=False)
    forms = {
        "list": [IMAGES], "dict": {"image": IMAGES}, "tensor": tf.constant(IMAGES),
        "float64": IMAGES.astype(np.float64),
        "tf.data": labelled(), "unlabelled": labelled().map(lambda x, y: x),
        "named": labelled().map(lambda x, y: ({"image": x}, y)),
        "PyDataset": Pairs(), "generator": (IMAGES[i : i + 5] for i in range(0, 24, 5)),
    }
    for form, data in forms.items():
        assert_same(thresholds(graffiti.quantize(model, calibration=data, progress=False)), thresholds(reference)), form
    few = graffiti.quantize(model, calibration=labelled().repeat(), steps=2, progress=False)
    assert_same(thresholds(few), thresholds(graffiti.quantize(model, calibration=IMAGES[:14], progress=False)))


def test_uint8_inputs_through_the_whole_line(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    model = zoo.randomize(keras.Model(inputs, layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))))
    images = RNG.randint(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    q = graffiti.quantize(model, calibration=images, progress=False)
    assert q.inputs[0].dtype == "uint8"
    assert any(line.why.startswith("input u8") for line in q.quantization_report)
    ig = graffiti.to_integer(q)
    report = graffiti.verify(q, ig, images, ["python"], progress=False)
    assert report.ok, str(report)
    expected = q.predict(images, verbose=0)
    for given in (images, images.astype(np.float32), images.astype(np.int64)):
        np.testing.assert_array_equal(ig.predict(given, engine="reference"), expected)
    with pytest.raises(ValueError, match="takes uint8 values, got float32 with other ones"):
        ig.predict(images + np.float32(0.5), engine="reference")


def test_the_float_model_is_not_changed():
    model = network()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(IMAGES, np.zeros((24, 4)), verbose=0)
    before = {v.path: v.numpy() for v in model.variables}
    config, trainable = model.get_config(), [v.path for v in model.trainable_variables]
    calls = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    outputs = model.predict(IMAGES, verbose=0)
    q = graffiti.quantize(model, "int4", calibration=IMAGES, progress=False)
    q.compile(graffiti.ALT(weight_learning_rate=1e-2), "mse", run_eagerly=True)
    q.fit(IMAGES, np.zeros((24, 4)), verbose=0)
    graffiti.to_integer(q)
    assert_same({v.path: v.numpy() for v in model.variables}, before)
    assert model.get_config() == config and [v.path for v in model.trainable_variables] == trainable
    assert {layer.name: len(layer._inbound_nodes) for layer in model.layers} == calls
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), outputs)
    assert not {id(v) for v in model.variables} & {id(v) for v in q.variables}


def test_structure_of_inputs_and_outputs_is_kept():
    model = zoo.make(zoo.two_inputs_two_outputs)
    data = zoo.inputs_of(model, 16)
    q = graffiti.quantize(model, calibration={"b": data[1], "a": data[0]}, progress=False)
    ig = graffiti.to_integer(q)
    expected = q.predict({"a": data[0], "b": data[1]}, verbose=0)
    assert expected.keys() == model.predict(data, verbose=0).keys() == {"score", "code"}
    dataset = tf.data.Dataset.from_tensor_slices(({"a": data[0], "b": data[1]}, np.zeros(16))).batch(5)
    for given in (data, tuple(data), {"b": data[1], "a": data[0]}, {"a": data[0], "b": data[1], "other": 1}, dataset):
        got = ig.predict(given, engine="reference")
        assert isinstance(got, dict)
        assert_same(got, expected)
    x = keras.Input((6,))
    y = layers.Dense(3)(x)
    for outputs, kind in (
        ([y, layers.ReLU()(y)], list), ([y], np.ndarray), ({"only": y}, dict),
        ((y, {"n": [y, layers.Dense(2)(y)]}), (list, tuple)), (y, np.ndarray)
    ):
        q = graffiti.quantize(keras.Model(x, outputs), calibration=data[0], progress=False)
        expected, got = q.predict(data[0], verbose=0), graffiti.to_integer(q).predict(data[0], engine="reference")
        assert isinstance(got, kind)
        if kind is dict:
            assert got.keys() == expected.keys()
        flat, wanted = keras.tree.flatten(got), keras.tree.flatten(expected)
        assert len(flat) == len(wanted) == len(keras.tree.flatten(outputs))
        for a, b in zip(flat, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


# ---- what quantize says ----------------------------------------------------------------------------------------------
def test_report_names_every_decision():
    q = graffiti.quantize(network(), "int8_per_channel", calibration=IMAGES, progress=False)
    report = q.quantization_report
    assert (
        isinstance(report, graffiti.QuantizationReport)
        and all(isinstance(line, graffiti.ReportLine) for line in report)
    )
    weights = {line.layer for line in report.of("quantized") if "weights" in line.why}
    assert weights == {"c1", "block_c2", "head"}
    assert all("per channel" in line.why for line in report.of("quantized") if "weights" in line.why)
    assert [line.layer for line in report.of("folded")][:1] == ["c1"] and "batch norm" in report.of("folded")[0].why
    assert [line.layer for line in report.of("shared")] == ["sum"]
    assert (
        [(line.layer, line.why) for line in report.of("float")]
        == [("head", "softmax is computed on the dequantized logits")]
    )
    assert not report.of("frozen")
    text = str(report)
    assert text.count("\n") == len(report) and all(line.layer in text and line.why in text for line in report)
    assert (
        set(text.splitlines()[-1].split(", "))
        == {f"{len(report.of(kind))} {kind}" for kind in ("quantized", "folded", "shared", "float")}
    )


@pytest.mark.parametrize(
    "match", ["block_c2", r"block.*", lambda info: info.path.endswith("c2") and info.op == "conv"],
    ids=["path", "regex", "callable"]
)
def test_a_layer_can_stay_in_float(match, tmp_path):
    model = network()
    q = graffiti.quantize(model, calibration=IMAGES, rules=[graffiti.Rule(match, None)], progress=False)
    assert "block_c2" in {line.layer for line in q.quantization_report.of("float")}
    assert "block_c2" not in {line.layer for line in q.quantization_report.of("quantized") if "weights" in line.why}
    ig = graffiti.to_integer(q)
    assert (
        not ig.is_integer_only
        and any(node.op == "island" and node.name.startswith("block_c2") for node in ig.graph.nodes)
    )
    report = graffiti.verify(q, ig, IMAGES, ["python"], progress=False)
    assert report.ok, str(report)
    q.save(tmp_path / "q.keras")
    again = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), q.predict(IMAGES, verbose=0))
    assert graffiti.to_integer(again).digest() == ig.digest()


def test_rules_choose_a_scheme_and_the_first_match_holds():
    w4a4 = graffiti.schemes.get("w4a4").replace(first_layer=None, name="mine")
    rules = [
        graffiti.Rule(layers.Dense, "int8_per_channel"), graffiti.Rule("c1|r1", w4a4), graffiti.Rule(".*", "int4"),
        graffiti.Rule("c1", None)
    ]
    q = graffiti.quantize(network(), "int8", calibration=IMAGES, rules=rules, progress=False)
    nodes = {node.name: node.attrs for node in read(q).nodes if node.op == "fake_quantize"}
    assert (
        (
            nodes["c1/q_kernel"]["bits"], nodes["r1_q"]["bits"], nodes["block_c2/q_kernel"]["bits"],
            nodes["image_q"]["bits"]
        )
        == (4, 4, 4, 8)
    )
    assert (
        nodes["head/q_kernel"]["bits"] == 8 and nodes["head/q_kernel"]["channel_axis"] is not None
        and nodes["c1/q_kernel"]["channel_axis"] is None
    )
    # its softmax; the last rule came too late for c1
    assert [line.layer for line in q.quantization_report.of("float")] == ["head"]
    assert graffiti.verify(q, graffiti.to_integer(q), IMAGES, ["python"], progress=False).ok


def test_nested_and_shared_layers_by_path():
    model = zoo.make(zoo.two_inputs_two_outputs)
    data = zoo.inputs_of(model, 16)
    int4 = graffiti.schemes.get("int4").replace(last_layer=None)  # inner/dense makes an output
    q = graffiti.quantize(
        model, calibration=data, rules=[graffiti.Rule("inner/.*", int4), graffiti.Rule("shared", "int8_per_channel")],
        progress=False
    )
    nodes = {node.name: node for node in read(q).nodes}
    assert nodes["inner/dense/q_kernel"].attrs["bits"] == 4 and nodes["shared/q_kernel"].attrs["bits"] == 8
    assert nodes["shared/q_kernel"].attrs["channel_axis"] is not None
    assert graffiti.verify(q, graffiti.to_integer(q), data, ["python"], progress=False).ok


def test_calibrate_again():
    q = graffiti.quantize(network(), calibration=IMAGES, progress=False)
    first = thresholds(q)
    lines = graffiti.calibrate(q, IMAGES * 4, progress=False)
    assert isinstance(lines, graffiti.QuantizationReport) and not lines
    wider = thresholds(q)
    assert wider["image_q"] == first["image_q"] + 2 and wider["c1/kernel"] == first["c1/kernel"]
    graffiti.calibrate(q, labelled(), steps=4, progress=False)
    assert_same(thresholds(q), first)
    graffiti.calibrate(q, IMAGES, weights="max", activations="max", progress=False)
    assert thresholds(q)["image_q"] == np.float32(np.log2(np.abs(IMAGES).max()))


def test_a_constant_zero_tensor_is_frozen_and_reported():
    model = network()
    model.get_layer("bn").beta.assign(np.full(6, -1e3, np.float32))  # what leaves the first ReLU is zero
    q = graffiti.quantize(model, calibration=IMAGES, progress=False)
    (line,) = q.quantization_report.of("frozen")
    assert line.layer == "r1_q" and "constant zero in calibration; threshold frozen" in line.why
    quantizer = graffiti.callbacks.quantizers_of(q)["r1_q"]
    assert quantizer.frozen.numpy().all()
    before = quantizer.log2_threshold.numpy()
    q.compile(graffiti.ALT(threshold_learning_rate=0.5), "mse", run_eagerly=True)
    q.fit(IMAGES, np.zeros((24, 4)), verbose=0)
    np.testing.assert_array_equal(quantizer.log2_threshold.numpy(), before)
    assert graffiti.verify(q, graffiti.to_integer(q), IMAGES, ["python"], progress=False).ok


# ---- training, saving, going on --------------------------------------------------------------------------------------
def test_custom_training_loop_trains_weights_and_thresholds():
    q = graffiti.quantize(network(), "int4", calibration=IMAGES, progress=False)
    optimizer, loss_of = (
        graffiti.ALT(weight_learning_rate=1e-2, threshold_learning_rate=1e-2),
        keras.losses.SparseCategoricalCrossentropy()
    )
    labels = np.arange(24) % 4
    before, weights = thresholds(q), q.get_layer("c1").kernel.numpy()
    losses = []
    for _ in range(12):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, q(IMAGES, training=True))
        variables = q.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert (q.get_layer("c1").kernel.numpy() != weights).any()
    assert sum((thresholds(q)[name] != value).any() for name, value in before.items()) > len(before) / 2
    assert graffiti.verify(q, graffiti.to_integer(q), IMAGES, ["python"], progress=False).ok


FIT = """
labels = np.arange(24) % 4
options = dict(batch_size=8, shuffle=False, verbose=0)
def alt_callbacks():
    return graffiti.callbacks.alt(batch_norm_epochs=1, freeze_start=2, freeze_interval=2)
"""
NEW_PROCESS = """
import sys
import numpy as np
import graffiti, keras
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
q = keras.models.load_model(f"{folder}/epoch1.keras")
ig = graffiti.IntegerGraph.load(f"{folder}/epoch1.graffiti")
results = {"outputs": q.predict(images, batch_size=8, verbose=0), "integer": ig.predict(images, engine="reference")}
assert graffiti.to_integer(q).digest() == ig.digest()
""" + FIT + """
q.fit(images, labels, initial_epoch=1, epochs=2, callbacks=alt_callbacks(), **options)
state = {f"w{i}": v.numpy() for i, v in enumerate([*q.variables, *q.optimizer.variables])}
np.savez(f"{folder}/result.npz", digest=graffiti.to_integer(q).digest(), **results, **state)
"""


def test_new_process_gives_the_same_bits_and_goes_on_to_the_same_bits(tmp_path):
    """With nothing but ``import graffiti``: equal outputs; then the second epoch of ALT, equal to never having
    stopped.
    """
    q = graffiti.quantize(network(), "int4", calibration=IMAGES, progress=False)
    scope: dict = {"np": np, "graffiti": graffiti}
    exec(FIT, scope)
    q.compile(
        graffiti.ALT(weight_learning_rate=1e-2, steps_per_epoch=3), "sparse_categorical_crossentropy",
        metrics=["accuracy"]
    )
    before = [v.numpy() for v in q.variables]
    q.fit(IMAGES, scope["labels"], epochs=1, callbacks=scope["alt_callbacks"](), **scope["options"])
    q.save(tmp_path / "epoch1.keras")
    ig = graffiti.to_integer(q)
    ig.save(tmp_path / "epoch1.graffiti")
    np.save(tmp_path / "images.npy", IMAGES)
    outputs = q.predict(IMAGES, batch_size=8, verbose=0)

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NEW_PROCESS), str(tmp_path)], capture_output=True, text=True,
        env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result = np.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(result["outputs"], outputs)
    np.testing.assert_array_equal(result["integer"], ig.predict(IMAGES, engine="reference"))

    q.fit(IMAGES, scope["labels"], initial_epoch=1, epochs=2, callbacks=scope["alt_callbacks"](), **scope["options"])
    state = [v.numpy() for v in [*q.variables, *q.optimizer.variables]]
    assert any((a != b).any() for a, b in zip(before, state))
    assert any(z.frozen.numpy().any() for z in graffiti.callbacks.quantizers_of(q).values())
    assert q.get_layer("c1").batch_norm_frozen.numpy() == 1
    for index, value in enumerate(state):
        np.testing.assert_array_equal(result[f"w{index}"], value)
    assert f"w{len(state)}" not in result
    assert str(result["digest"]) == graffiti.to_integer(q).digest()


def test_clone_and_get_set_weights_keep_the_bits():
    q = graffiti.quantize(network(), calibration=IMAGES, progress=False)
    clone = keras.models.clone_model(q)
    clone.set_weights(q.get_weights())
    np.testing.assert_array_equal(clone.predict(IMAGES, verbose=0), q.predict(IMAGES, verbose=0))
    assert graffiti.to_integer(clone).digest() == graffiti.to_integer(q).digest()
