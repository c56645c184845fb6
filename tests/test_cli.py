"""The command line: every subcommand, its exit code, its JSON, its refusals; and one run as a program."""

from __future__ import annotations

import html
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import zoo
from absl import flags

import graffiti
from graffiti import cli
from graffiti.cli import common
from graffiti.export import EXPORTERS
from graffiti.graph.passes import PassError

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMAGES = np.random.RandomState(0).normal(size=(24, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(24) % 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a float model, a quantized one, its integer graph, and data."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.clear_session(free_memory=False)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, 2, name="c")(inputs))
    x = layers.Flatten(name="f")(layers.ReLU(name="r")(x))
    model = zoo.randomize(keras.Model(inputs, layers.Dense(4, activation="softmax", name="d")(x), name="net"))
    model.save(folder / "float.keras")
    q = graffiti.quantize(model, calibration=IMAGES, progress=False)
    q.save(folder / "q.keras")
    graffiti.to_integer(q).save(folder / "net.graffiti")
    np.savez(folder / "data.npz", images=IMAGES, labels=LABELS)
    np.save(folder / "images.npy", IMAGES)
    return folder


@pytest.fixture
def call(made, tmp_path, capsys, monkeypatch):
    """Run a command in an empty folder, with ``{}`` standing for the folder of things made; exit code, output,
    errors.
    """
    monkeypatch.chdir(tmp_path)

    def run(*words):
        arguments = cli.parse_arguments(["graffiti", *(str(word).format(made) for word in words)])
        capsys.readouterr()
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def names(folder) -> list[str]:
    return sorted(p.name for p in pathlib.Path(folder).iterdir())


def test_quantize(call, made, tmp_path):
    code, out, _ = call(
        "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=q.keras", "--scheme=w4a4", "--limit=16"
    )
    assert code == 0 and out.endswith("wrote q.keras\n") and "folded     c" in out
    expected = graffiti.quantize(
        keras.models.load_model(made / "float.keras"), "w4a4", calibration=IMAGES[:16], progress=False
    )
    np.testing.assert_array_equal(
        keras.models.load_model("q.keras").predict(IMAGES, verbose=0), expected.predict(IMAGES, verbose=0)
    )
    assert names(tmp_path) == ["q.keras"]


def test_options_are_not_the_flags_of_the_program_that_imports_them():
    flags.DEFINE_string("calibration", None, "a flag of a recipe")
    try:
        assert (
            cli.parse_arguments(
                ["graffiti", "quantize", "a.keras", "--calibration=b.npy", "--output=c.keras"]
            ).calibration
            == "b.npy"
        )
        assert flags.FLAGS["calibration"].value is None
    finally:
        del flags.FLAGS.calibration


def test_quantize_keeps_layers_in_float_and_speaks_json(call, tmp_path):
    code, out, _ = call(
        "quantize", "{}/float.keras", "--calibration={}/data.npz", "--output=q.keras", "--keep_float=d",
        "--keep_float=c", "--json"
    )
    result = json.loads(out)
    assert code == 0 and (result["output"], result["scheme"]) == ("q.keras", "int8")
    assert (
        {line["layer"] for line in result["report"] if line["what"] == "float" and "rule" in line["why"]} == {"c", "d"}
    )
    assert not graffiti.to_integer(keras.models.load_model("q.keras")).is_integer_only


def test_quantize_a_keras_2_file(call, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), tf_keras.layers.Flatten(), tf_keras.layers.Dense(2)])
    old.save("old.h5")
    assert call("quantize", "old.h5", "--calibration={}/images.npy", "--output=q.keras")[0] == 0
    q = keras.models.load_model("q.keras")
    difference = q.predict(IMAGES, verbose=0) - np.asarray(old(IMAGES))
    assert np.abs(difference).max() < 0.1 * np.abs(np.asarray(old(IMAGES))).max()


def test_retrain(call, made):
    words = (
        "retrain", "{}/q.keras", "--train={}/data.npz", "--validation={}/data.npz", "--epochs=2", "--batch_size=8",
        "--weight_learning_rate=0.01", "--json"
    )
    code, out, _ = call(*words, "--output=a.keras")
    history = json.loads(out)["history"]
    assert code == 0 and all(len(history[key]) == 2 for key in ("loss", "accuracy", "val_loss", "val_accuracy"))
    assert history["loss"][1] < history["loss"][0]
    a, start = keras.models.load_model("a.keras"), keras.models.load_model(made / "q.keras")
    assert any((x != y).any() for x, y in zip(a.get_weights(), start.get_weights()))
    assert a.get_layer("c").batch_norm_frozen.numpy() == 1
    assert call(*words, "--output=b.keras")[0] == 0  # the same seed, the same bits
    for x, y in zip(a.get_weights(), keras.models.load_model("b.keras").get_weights()):
        np.testing.assert_array_equal(x, y)


def test_verify(call, made, tmp_path):
    code, out, _ = call("verify", "{}/q.keras", "--data={}/images.npy", "--targets=reference,python", "--report=r.json")
    assert code == 0 and out.rstrip().endswith("all integers agree\nwrote r.json") and names(tmp_path) == ["r.json"]
    assert (
        json.loads((tmp_path / "r.json").read_text())["sha256"]
        == graffiti.IntegerGraph.load(made / "net.graffiti").digest()
    )
    code, out, _ = call(
        "verify", "{}/q.keras", "--graph={}/net.graffiti", "--data={}/data.npz", "--targets=python", "--limit=5",
        "--json"
    )
    result = json.loads(out)
    assert (
        code == 0 and result["ok"] and result["examples"] == 5 and result["mismatches"] == 0 and result["compared"] > 0
    )
    code, _, err = call("verify", "{}/q.keras", "--data={}/images.npy", "--targets=python", "--report=r.json")
    assert code == 2 and "r.json exists already" in err


def test_verify_fails_where_integers_differ(call, made):
    graph = graffiti.IntegerGraph.load(made / "net.graffiti").graph.copy()
    name = next(node.inputs[1] for node in graph.nodes if node.op == "conv")
    graph.constants[name] = -graph.constants[name]
    graffiti.IntegerGraph(graph).save("other.graffiti")
    code, out, _ = call("verify", "{}/q.keras", "--graph=other.graffiti", "--data={}/images.npy", "--targets=python")
    assert code == 1 and "NOT proven" in out and "keras c" in out
    code, out, _ = call(
        "verify", "{}/q.keras", "--graph=other.graffiti", "--data={}/images.npy", "--targets=python", "--json"
    )
    assert code == 1 and json.loads(out)["mismatches"] > 0 and json.loads(out)["ok"] is False


def test_export(call, made, tmp_path):
    code, out, _ = call(
        "export", "{}/net.graffiti", "--output=net_c", "--test_inputs={}/images.npy", "--limit=3", "--json"
    )
    result = json.loads(out)
    assert code == 0 and result["format"] == "c" and all((tmp_path / file).is_file() for file in result["files"])
    assert {"net.c", "net.h", "main.c", "Makefile"} <= set(names(tmp_path / "net_c"))
    code, out, _ = call("export", "{}/q.keras", "--format=graffiti", "--output=again.graffiti")
    assert code == 0 and out.startswith("wrote again.graffiti (")
    assert (tmp_path / "again.graffiti").read_bytes() == (made / "net.graffiti").read_bytes()
    before = (tmp_path / "net_c" / "net.c").read_bytes()
    (tmp_path / "net_c" / "notes").write_text("mine")
    assert call("export", "{}/net.graffiti", "--output=net_c")[0] == 2 and (tmp_path / "net_c" / "notes").exists()
    assert call("export", "{}/net.graffiti", "--output=net_c", "--overwrite")[0] == 0
    assert not (tmp_path / "net_c" / "notes").exists() and (tmp_path / "net_c" / "net.c").read_bytes() == before


def test_inspect(call):
    code, out, _ = call("inspect", "{}/float.keras", "--scheme=int8_per_channel", "--json")
    result = json.loads(out)
    assert (
        code == 0 and result["stage"] == "float"
        and {"layer": "d", "what": "float", "why": "softmax is computed on the dequantized logits"} in result["would"]
    )
    assert any("per channel" in line["why"] for line in result["would"])
    assert call("inspect", "{}/float.keras")[1].startswith("a float model; under int8:\n")
    code, out, _ = call("inspect", "{}/q.keras", "--json")
    quantizers = {row["name"]: row for row in json.loads(out)["quantizers"]}
    assert code == 0 and quantizers["c/q_kernel"]["role"] == "weight" and quantizers["c/q_kernel"]["format"] == "s8"
    assert quantizers["r_q"]["format"] == "u8" and quantizers["r_q"]["threshold"].startswith("log2_threshold ")
    assert "c/q_kernel" in call("inspect", "{}/q.keras")[1]
    code, out, _ = call("inspect", "{}/net.graffiti", "--json")
    assert code == 0 and json.loads(out)["stage"] == "integer" and len(json.loads(out)["sha256"]) == 64
    assert "requantize" in call("inspect", "{}/net.graffiti")[1]


RECIPE = """
name: mine
scheme: {base: int8, weights: {bits: 6}}
rules: [{match: d, scheme: int8_per_channel}]
calibration: {examples: 8}
alt: {epochs: 1, batch_size: 12, threshold_learning_rate: 5e-2}
"""


def test_recipes(call, made, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    code, out, _ = call(
        "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=q.keras", "--recipe=mine.yaml", "--json"
    )
    result = json.loads(out)
    assert code == 0 and (result["recipe"], result["scheme"], result["target"]) == ("mine", "int8 changed", None)
    expected = graffiti.recipes.get(tmp_path / "mine.yaml").quantize(
        keras.models.load_model(made / "float.keras"), IMAGES, progress=False
    )
    np.testing.assert_array_equal(
        keras.models.load_model("q.keras").predict(IMAGES, verbose=0), expected.predict(IMAGES, verbose=0)
    )
    code, out, _ = call(
        "retrain", "q.keras", "--train={}/data.npz", "--recipe=mine.yaml", "--epochs=2", "--output=r.keras",
        "--history=h.json", "--json"
    )
    result = json.loads(out)
    assert (
        code == 0 and result["alt"]["epochs"] == 2 and result["alt"]["batch_size"] == 12
        and result["alt"]["threshold_learning_rate"] == 5e-2
    )
    history = graffiti.callbacks.ThresholdHistory()
    history.load("h.json")
    assert history.steps == [0, 1, 2, 3, 4] and "c/kernel" in history.values


def test_targets(call, tmp_path):
    code, out, _ = call(
        "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=q.keras", "--target=generic_npu_16bit",
        "--json"
    )
    assert (
        code == 0 and (json.loads(out)["scheme"], json.loads(out)["target"]) == ("graffitist_int8", "generic_npu_16bit")
    )
    code, out, _ = call("inspect", "q.keras", "--target=generic_npu_16bit", "--json")
    assert code == 0 and json.loads(out)["ok"] and json.loads(out)["problems"] == []
    assert call("export", "q.keras", "--output=net_c", "--target=generic_npu_16bit")[0] == 0
    code, out, _ = call(
        "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--target=generic_npu_16bit",
        "--scheme=int8", "--json"
    )
    result = json.loads(out)
    assert (
        code == 2
        and {problem["layer"] for problem in result["problems"]} == {"c", "c/product", "d/linear", "d/product"}
        and all(problem["fix"] for problem in result["problems"])
    )
    code, _, err = call(
        "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--target=generic_npu_16bit",
        "--scheme=int8"
    )
    assert (
        code == 2 and len(err.strip().splitlines()) == 1 + len(result["problems"])
        and names(tmp_path) == ["net_c", "q.keras"]
    )
    code, _, err = call("export", "{}/q.keras", "--output=o", "--target=generic_npu_16bit")
    assert code == 2 and "stand against it" in err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("model", ["float.keras", "q.keras", "net.graffiti"])
def test_inspect_against_a_target(call, model):
    code, out, _ = call(
        "inspect", f"{{}}/{model}", "--target=generic_npu_16bit",
        *(["--scheme=int8"] if model == "float.keras" else []), "--json"
    )
    result = json.loads(out)
    assert (
        code == 1 and result["target"] == "generic_npu_16bit" and not result["ok"]
        and bool(result["unchecked"]) == (model == "float.keras")
    )
    assert {problem["layer"] for problem in result["problems"]} == {"c", "c/product", "d/linear", "d/product"}
    code, out, _ = call(
        "inspect", f"{{}}/{model}", "--target=generic_npu_16bit", *(["--scheme=int8"] if model == "float.keras" else [])
    )
    assert code == 1 and "fix: use a scheme with accumulator_bits=16" in out
    code, out, _ = call("inspect", f"{{}}/{model}", "--target=c99")
    assert code == 0 and out.rstrip().endswith("everything maps to c99")


def test_inspect_by_a_recipe(call):
    code, out, _ = call("inspect", "{}/float.keras", "--recipe=npu_16bit", "--json")
    assert (
        code == 0 and json.loads(out)["scheme"] == "graffitist_int8"
        and json.loads(out)["target"] == "generic_npu_16bit"
    )


@pytest.mark.parametrize("format", [name for name, row in EXPORTERS.items() if row.suffix])
def test_export_formats(call, made, tmp_path, format):
    for why in filter(None, (package.missing() for package in EXPORTERS[format].packages)):
        pytest.skip(why)
    file = f"net{EXPORTERS[format].suffix}"
    code, out, _ = call("export", "{}/q.keras", f"--format={format}", f"--output={file}", "--json")
    result = json.loads(out)
    assert code == 0 and result["files"] == [file] and result["bytes"] == {file: (tmp_path / file).stat().st_size}
    assert result["sha256"] == graffiti.IntegerGraph.load(made / "net.graffiti").digest()
    again = tmp_path / f"again.{file.rpartition('.')[2]}"
    graffiti.IntegerGraph.load(made / "net.graffiti").export(again, format=format)
    assert again.read_bytes() == (tmp_path / file).read_bytes()


def test_export_forms_of_onnx(call, made, tmp_path):
    pytest.importorskip("onnx")
    for forms in ({"exact": "anywhere"}, {"weights": "int8"}):
        code, out, err = call(
            "export", "{}/net.graffiti", "--format=onnx", "--output=net.onnx", "--overwrite",
            *(f"--{k}={v}" for k, v in forms.items())
        )
        assert code == 0, err
        graffiti.IntegerGraph.load(made / "net.graffiti").export(
            tmp_path / "again.onnx", format="onnx", overwrite=True, **forms
        )
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert (
        "exact is one of runtime, anywhere"
        in call("export", "{}/net.graffiti", "--format=onnx", "--output=o.onnx", "--exact=never")[2]
    )


@pytest.mark.parametrize("source", ["q.keras", "net.graffiti"])
def test_the_tool_is_the_command(source, made, tmp_path, monkeypatch, capsys):
    """tools/export.py: a model or a graph file in, any format out, by the package's own command."""
    tool = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "tools" / "export.py"))
    for format, name in (("c", "net_c"), ("graffiti", "net.graffiti")):
        monkeypatch.setattr(
            sys, "argv", ["export.py", str(made / source), f"--format={format}", f"--output={tmp_path / name}"]
        )
        assert tool["main"]() == 0, capsys.readouterr()
        graffiti.IntegerGraph.load(made / "net.graffiti").export(
            tmp_path / "again", format="c", overwrite=True
        ) if format == "c" else None
    assert (
        graffiti.IntegerGraph.load(tmp_path / "net.graffiti").digest()
        == graffiti.IntegerGraph.load(made / "net.graffiti").digest()
    )
    assert (
        {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir() if path.is_file()}
        == {path.name: path.read_bytes() for path in (tmp_path / "net_c").iterdir() if path.is_file()}
    )
    monkeypatch.setattr(
        sys, "argv", ["export.py", str(made / source), "--format=fortran", f"--output={tmp_path / 'o'}"]
    )
    assert tool["main"]() == 2 and "there is no export format 'fortran'" in capsys.readouterr().err


def test_verify_certificate(call, tmp_path):
    code, out, _ = call("verify", "{}/net.graffiti", "--data={}/images.npy", "--targets=python, native", "--out=c.txt")
    assert code == 0 and "wrote c.txt" in out and (tmp_path / "c.txt").read_text() in out.replace("\nwrote c.txt", "")
    assert "\nkeras " not in out, "a .graffiti file has no Keras model to compare"
    assert call("verify", "{}/q.keras", "--data={}/images.npy", "--targets=python", "--out=c.json")[0] == 0
    assert call("verify", "{}/q.keras", "--data={}/images.npy", "--targets=python", "--out=c.json")[0] == 2
    assert (
        call("verify", "{}/q.keras", "--data={}/images.npy", "--targets=python", "--out=c.json", "--overwrite")[0] == 0
    )


def test_several_inputs_in_one_file(call, tmp_path):
    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="foo"), keras.Input((2,), name="bar")
    keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Concatenate()([a, b]))).save(tmp_path / "two.keras")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", foo=random.normal(size=(32, 4)), bar=random.normal(size=(32, 2)))
    assert call("quantize", "two.keras", "--calibration=two.npz", "--output=two_q.keras")[0] == 0
    code, out, _ = call("verify", "two_q.keras", "--data=two.npz", "--targets=python", "--json")
    assert code == 0 and json.loads(out)["verdict"] == "equal" and json.loads(out)["examples"] == 32
    assert call("export", "two_q.keras", "--format=c", "--output=two_c", "--test_inputs=two.npz", "--limit=2")[0] == 0
    np.savez(tmp_path / "one.npz", foo=np.zeros((3, 4)))
    code, _, err = call("quantize", "two.keras", "--calibration=one.npz", "--output=no.keras")
    assert code == 2 and "one for each input of the network, missing bar" in err


def test_report(call, tmp_path):
    history = graffiti.callbacks.ThresholdHistory()
    history.steps, history.values = [0, 1], {"conv/kernel": [0.0, 0.5]}
    history.save(tmp_path / "h.json")
    assert call("verify", "{}/q.keras", "--data={}/data.npz", "--targets=python", "--out=c.json", "--timestamp")[0] == 0
    certificate = graffiti.VerificationReport.load(tmp_path / "c.json")
    assert certificate.timestamp.endswith("+00:00") and certificate.ok
    code, out, _ = call(
        "report", "{}/q.keras", "--data={}/data.npz", "--float_model={}/float.keras", "--history=h.json",
        "--verification=c.json", "--output=r.html", "--json"
    )
    text = (tmp_path / "r.html").read_text()
    assert code == 0 and json.loads(out) == {"output": "r.html", "bytes": len(text.encode()), "examples": 24}
    assert (
        certificate.timestamp in text and "Thresholds in training" in text and "accuracy, float" in text
        and "<h2>Sensitivity</h2>" in text
    )
    assert (
        call("report", "{}/q.keras", "--data={}/images.npy", "--output=r.html")[0] == 2
        and (tmp_path / "r.html").read_text() == text
    )
    assert (
        call("report", "{}/q.keras", "--data={}/images.npy", "--output=r.html", "--overwrite", "--nosensitivity")[0]
        == 0
    )
    text = (tmp_path / "r.html").read_text()
    assert "accuracy, float" not in text and "<h2>Sensitivity</h2>" not in text


def test_bench(call):
    code, out, _ = call("bench", "{}/q.keras", "--keras={}/float.keras", "--batches=1,3", "--rounds=2", "--json")
    result = json.loads(out)
    assert code == 0 and [(row["threads"], row["batch"]) for row in result["rows"]] == [(1, 1), (1, 3)]
    engines = {"graffiti", "Keras float32"} | {"LiteRT", "ONNX Runtime"} - set(result["skipped"])
    for row in result["rows"]:
        assert {key[:-3] for key in row if key.endswith(" ms")} == engines
        assert all(row[f"{name} / graffiti"] > 0 for name in engines - {"graffiti"})


def test_busy_speaks_only_after_a_while(capsys):
    with common.busy("lowering", patience=0.05):
        time.sleep(0.3)
    assert "lowering" in capsys.readouterr().err
    with common.busy("lowering", patience=5):
        pass
    assert capsys.readouterr().err == ""


REFUSALS = [
    (
        ("quantize", "{}/absent.keras", "--calibration={}/images.npy", "--output=o.keras"),
        "there is no file .*absent.keras; expected a .keras or .h5 model"
    ),
    (
        ("quantize", "{}/net.graffiti", "--calibration={}/images.npy", "--output=o.keras"),
        "is an integer graph; expected the .keras model"
    ),
    (("quantize", "{}/data.npz", "--calibration={}/images.npy", "--output=o.keras"), "does not load as a Keras model"),
    (
        ("quantize", "cut.keras", "--calibration={}/images.npy", "--output=o.keras"),
        "cut.keras does not load as a Keras model"
    ),
    (("quantize", "{}/q.keras", "--calibration={}/images.npy", "--output=o.keras"), "is quantized already"),
    (
        ("quantize", "{}/float.keras", "--calibration={}/absent.npy", "--output=o.keras"),
        "there is no .*absent.npy; expected a .npy or .npz file or a folder"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration=cut.npz", "--output=o.keras"),
        "cut.npz is neither .npy nor .npz, or is cut off"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration=empty.npy", "--output=o.keras"),
        "empty.npy is neither .npy nor .npz, or is cut off"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration=small.npy", "--output=o.keras"),
        r"has shape \(batch, 8, 8, 3\), got \(4, 2\)"
    ),
    (("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--scheme=int9"), "int9"),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--scheme=dorefa"),
        "that one is for low-bit training"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--keep_float=conv9"),
        "matches no layer"
    ),
    (("lower", "{}/float.keras", "--output=o.graffiti"), "is not quantized"),
    (("lower", "{}/q.keras", "--output=o.keras"), "--output names a .graffiti file, got o.keras"),
    (("lower", "{}/q.keras", "--output=o.graffiti", "--target=c98"), "there is no target 'c98'"),
    (("lower", "{}/net.graffiti", "--output=o.graffiti"), "is an integer graph; expected the .keras model"),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=taken.keras"),
        "taken.keras exists already; choose another path"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.h5"),
        "--output names a .keras file, got o.h5"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=no/o.keras"),
        "folder .*no does not exist"
    ),
    (("retrain", "{}/float.keras", "--train={}/data.npz", "--output=o.keras"), "is a float model; quantize it first"),
    (("retrain", "{}/q.keras", "--train={}/images.npy", "--output=o.keras"), "--train needs labels beside the inputs"),
    (("retrain", "{}/q.keras", "--train=uneven.npz", "--output=o.keras"), "uneven.npz holds inputs .* as many labels"),
    (("retrain", "{}/q.keras", "--train={}/data.npz", "--output=taken.keras"), "taken.keras exists already"),
    (("verify", "{}/q.keras", "--data={}/images.npy", "--targets=gpu"), "verify knows the targets .*got 'gpu'"),
    (("verify", "{}/float.keras", "--data={}/images.npy"), "is not quantized"),
    (("verify", "{}/q.keras", "--graph=cut.keras", "--data={}/images.npy"), "cut.keras is not a whole .graffiti file"),
    (
        ("export", "{}/q.keras", "--output=o", "--format=fortran"),
        "there is no export format 'fortran'; the formats are c"
    ),
    (("export", "{}/q.keras", "--output=taken.keras"), "taken.keras exists already"),
    (("export", "{}/net.graffiti", "--output=taken.keras", "--format=graffiti"), "taken.keras exists already"),
    (("inspect", "absent.graffiti"), "there is no file absent.graffiti"),
    (
        (
            "quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--recipe=int8",
            "--scheme=int8"
        ),
        "give --recipe or --scheme, not both"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--recipe=int88"),
        r"there is no recipe 'int88' \(did you mean 'int8'\?\)"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--recipe=absent.yaml"),
        "there is no file absent.yaml"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--recipe=bad.yaml"),
        r"the recipe bad.yaml has no key 'schme' \(did you mean 'scheme'\?\)"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--recipe=broken.yaml"),
        "broken.yaml is not valid YAML"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--target=c98"),
        r"there is no target 'c98' \(did you mean 'c99'\?\)"
    ),
    (
        ("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=o.keras", "--target=bad.yaml"),
        "the target profile bad.yaml has no key 'schme'"
    ),
    (
        ("retrain", "{}/q.keras", "--train={}/data.npz", "--output=o.keras", "--recipe=bad.yaml"),
        "the recipe bad.yaml has no key 'schme'"
    ),
    (
        ("retrain", "{}/q.keras", "--train={}/data.npz", "--output=o.keras", "--weight_learning_rate=-1"),
        "weight_learning_rate of the options of retrain is a number above 0"
    ),
    (
        ("retrain", "{}/q.keras", "--train={}/data.npz", "--output=o.keras", "--history=taken.keras"),
        "taken.keras exists already"
    ),
    (("verify", "{}/q.keras", "--data={}/images.npy", "--out=c.pdf"), "--out names a .json or .txt file, got c.pdf"),
    (("verify", "{}/net.graffiti", "--graph={}/net.graffiti", "--data={}/images.npy"), "is an integer graph already"),
    (("verify", "{}/q.keras", "--data=small.npy"), r"small|shape"),
    (("export", "{}/q.keras", "--output=o", "--format=onxn"),
     rf"there is no export format 'onxn' \(did you mean 'onnx'\?\); the formats are {', '.join(EXPORTERS)}, graffiti"),
    (
        ("export", "{}/q.keras", "--output=o.onnx", "--format=litert"),
        "--output of the format litert names a .tflite file, got o.onnx"
    ),
    (
        ("export", "{}/q.keras", "--output=o.tflite", "--format=litert", "--batch=2"),
        "--batch is an option of the format onnx and qonnx, not of litert"
    ),
    (
        ("export", "{}/q.keras", "--output=o.tflite", "--format=litert", "--border=both"),
        "a border is one of float, codes, got 'both'"
    ),
    (
        ("export", "{}/q.keras", "--output=o.graffiti", "--format=graffiti", "--target=c99"),
        "--target is for the formats of other tools"
    ),
    (("export", "{}/q.keras", "--output=o", "--target=litert"), "the target litert is exported as litert, not as c"),
    (("export", "{}/float.keras", "--output=o"), "is not quantized"),
    (("export", "cut.keras", "--output=o"), "cut.keras does not load as a Keras model"),
    (("inspect", "{}/float.keras", "--target=c98"), "there is no target 'c98'"),
    (("inspect", "{}/float.keras", "--scheme=int9"), "int9"),
    (("inspect", "{}/float.keras", "--scheme=int8", "--recipe=int8"), "give --recipe or --scheme, not both"),
    (("inspect", "cut.keras", "--target=c99"), "cut.keras does not load as a Keras model"),
    (("report", "{}/q.keras", "--data={}/data.npz", "--output=o.pdf"), "--output names a .html file, got o.pdf"),
    (("report", "{}/q.keras", "--data={}/data.npz", "--output=taken.html"), "taken.html exists already"),
    (
        ("report", "{}/q.keras", "--data={}/data.npz", "--output=o.html", "--verification=absent.json"),
        "there is no file absent.json"
    ),
    (("bench", "{}/q.keras", "--keras=absent.keras"), "there is no file absent.keras; --keras names a model to run"),
    (("bench", "{}/q.keras", "--engines=tvm"), "--engines takes litert, onnx or none, got 'tvm'"),
    (("bench", "{}/float.keras",), "is not quantized"),
    (("bench", "cut.keras"), "cut.keras does not load as a Keras model"),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("words", "message"), REFUSALS, ids=[f"{w[0]}-{m[:24]}" for w, m in REFUSALS])
def test_refusals_are_one_sentence_and_write_nothing(call, made, tmp_path, words, message, as_json):
    (tmp_path / "taken.keras").write_text("precious")
    (tmp_path / "cut.keras").write_bytes((made / "float.keras").read_bytes()[:700])
    (tmp_path / "cut.npz").write_bytes((made / "data.npz").read_bytes()[:-30])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "bad.yaml").write_text("schme: int8\n")
    (tmp_path / "broken.yaml").write_text("scheme: [\n")
    (tmp_path / "taken.html").write_text("precious")
    np.save("small.npy", np.zeros((4, 2)))
    np.savez("uneven.npz", images=IMAGES, labels=LABELS[:5])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}, {p.name: p.read_bytes() for p in made.iterdir()}
    code, out, err = call(*words, *(["--json"] if as_json else []))
    assert code == 2
    sentence = json.loads(out)["error"] if as_json else err.strip().splitlines()[-1]
    if not as_json:
        assert out == "" and sentence.startswith(f"graffiti {words[0]}: ")
    assert re.search(message, sentence), sentence
    assert (
        before
        == ({p.name: p.read_bytes() for p in tmp_path.iterdir()}, {p.name: p.read_bytes() for p in made.iterdir()})
    )


def test_lower(call, made, tmp_path):
    code, out, _ = call("lower", "{}/q.keras", "--output=net.graffiti", "--target=cortex_m", "--json")
    result = json.loads(out)
    graph = graffiti.IntegerGraph.load("net.graffiti")
    assert (
        code == 0 and graph.digest() == graffiti.IntegerGraph.load(made / "net.graffiti").digest() == result["sha256"]
    )
    assert (result["nodes"], result["islands"], result["target"]) == (len(graph.graph.nodes), 0, "cortex_m")
    assert result["bytes"] == os.path.getsize("net.graffiti")
    code, _, err = call("lower", "{}/q.keras", "--output=net.graffiti")
    assert code == 2 and "net.graffiti exists already" in err
    code, out, _ = call("lower", "{}/q.keras", "--output=net.graffiti", "--overwrite")
    assert code == 0 and f"sha256 {result['sha256']}" in out and "wrote net.graffiti" in out
    code, out, _ = call("lower", "{}/q.keras", "--output=npu.graffiti", "--target=generic_npu_16bit", "--json")
    assert (
        code == 2 and {problem["layer"].split("/")[0] for problem in json.loads(out)["problems"]} >= {"c", "d"}
        and not os.path.exists("npu.graffiti")
    )


@pytest.mark.parametrize(
    "fault", [TypeError("unsupported operand"), AttributeError("no such thing"), PassError("a pass broke its contract")]
)
def test_a_fault_of_graffiti_is_no_sentence_for_the_user(call, monkeypatch, fault):
    def run(args):
        raise fault

    monkeypatch.setattr(cli.COMMANDS["lower"], "run", run)
    with pytest.raises(type(fault)):
        call("lower", "{}/q.keras", "--output=o.graffiti")


def test_report_of_a_file_says_why_a_layer_is_in_float(call, tmp_path):
    """The reason is in the .keras file, where the graph alone does not know it."""
    code, *_ = call("quantize", "{}/float.keras", "--calibration={}/images.npy", "--output=q.keras", "--keep_float=d")
    assert code == 0
    q = keras.models.load_model("q.keras")
    (why,) = {line.why for line in q.quantization_report.of("float") if line.layer == "d"}
    assert "rule" in why
    code, *_ = call("report", "q.keras", "--data={}/images.npy", "--output=r.html", "--nosensitivity")
    assert code == 0 and html.escape(why) in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        (), ("paint",), ("quantize",), ("quantize", "m.keras"), ("verify", "m.keras", "--data=d", "--limit=0"),
        ("retrain", "m", "--train=d", "--output=o", "--epochs=x"), ("inspect", "m", "--loud")
    ]
)
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_arguments(["graffiti", *words])
    assert caught.value.code == 2 and "usage: graffiti" in capsys.readouterr().err


def test_as_a_program(made, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def program(*words):
        return subprocess.run(
            [sys.executable, "-m", "graffiti.cli", *words], capture_output=True, text=True, cwd=tmp_path,
            env=environment
        )

    done = program("inspect", str(made / "net.graffiti"), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["stage"] == "integer", done.stderr
    done = program("inspect", "absent.graffiti")
    assert (
        done.returncode == 2 and done.stdout == ""
        and "graffiti inspect: there is no file absent.graffiti" in done.stderr and "Traceback" not in done.stderr
    )
