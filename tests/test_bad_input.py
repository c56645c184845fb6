"""Bad input: one clear sentence, and nothing changed or written.

Every refusal is checked through ``refuses``: the message says what was expected and what arrived, all weights of the
models at hand keep their bits, and no file appears, temporary ones included.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

import graffiti
from graffiti.graph import printer
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read
from graffiti.ops import loader
from graffiti.transforms import pipelines

layers = keras.layers
IMAGES = np.random.RandomState(0).normal(size=(16, 6, 6, 3)).astype(np.float32)


def network():
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.ReLU(name="r")(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="c")(inputs)))
    return zoo.randomize(keras.Model(inputs, layers.Dense(3, name="d")(layers.Flatten(name="f")(x)), name="net"))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def q(model):
    return graffiti.quantize(model, calibration=IMAGES, progress=False)


def contents(folder: pathlib.Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refuses(tmp_path, monkeypatch):
    """``with refuses(error, message, *models):`` the block fails with one sentence and leaves everything as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    @contextlib.contextmanager
    def check(error, message, *models):
        before = [[(v.path, v.numpy().tobytes()) for v in m.variables] for m in models]
        configs = [json.dumps(m.get_config(), default=str) for m in models if m.built]
        files = contents(tmp_path)
        with pytest.raises(error, match=message) as caught:
            yield
        sentence = str(caught.value)
        assert sentence and "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 600, sentence
        assert before == [[(v.path, v.numpy().tobytes()) for v in m.variables] for m in models]
        assert configs == [json.dumps(m.get_config(), default=str) for m in models if m.built]
        assert contents(tmp_path) == files

    return check


# ---- data ------------------------------------------------------------------------------------------------------------
def spoiled(value):
    images = IMAGES.copy()
    images[3, 2, 1, 0] = value
    return images


BAD_DATA = [
    ("none", lambda: None, "needs calibration data: pass calibration="),
    ("empty array", lambda: IMAGES[:0], "holds no examples; pass 50 to 500"),
    (
        "empty dataset", lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(4).take(0),
        "dataset is empty; pass one with at least one batch"
    ),
    ("used-up generator", lambda: iter(()), "dataset is empty"),
    ("empty list", lambda: [], r"has shape \(batch, 6, 6, 3\), got \(0,\)"),
    (
        "endless dataset", lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(4).repeat(),
        "endless; say how many batches to use with steps="
    ),
    ("NaN", lambda: spoiled(np.nan), "calibration data of input 'image' holds 1 NaN or Inf; remove them first"),
    ("Inf", lambda: spoiled(-np.inf), "holds 1 NaN or Inf"),
    (
        "NaN in a dataset", lambda: tf.data.Dataset.from_tensor_slices((spoiled(np.nan), np.zeros(16))).batch(4),
        "holds 1 NaN or Inf"
    ),
    ("rank", lambda: IMAGES[0], r"has shape \(batch, 6, 6, 3\), got \(6, 6, 3\); add the batch axis"),
    ("size", lambda: IMAGES[:, :5], r"has shape \(batch, 6, 6, 3\), got \(16, 5, 6, 3\)"),
    ("strings", lambda: np.full((4, 6, 6, 3), "a"), "takes float32 numbers, got dtype <U1"),
    ("complex", lambda: IMAGES.astype(complex), "takes float32 numbers, got dtype complex128"),
    ("two inputs", lambda: [IMAGES, IMAGES[:3]], r"the network has 1 inputs \(image\), got 2 arrays"),
    ("another name", lambda: {"picture": IMAGES}, "has the inputs image, missing image; got picture"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA])
def test_calibration_data(refuses, model, q, make, message):
    with refuses(ValueError, message, model):
        graffiti.quantize(model, calibration=make(), progress=False)
    with refuses(
        ValueError, message.replace("needs calibration data: pass calibration=", "there is no calibration data"), q
    ):
        graffiti.calibrate(q, make(), progress=False)


def test_something_else_than_data(refuses, model, q):
    for call in (
        lambda: graffiti.quantize(model, calibration=7, progress=False),
        lambda: graffiti.calibrate(q, "images.npy", progress=False)
    ):
        with refuses(TypeError, "an array, a dict or list of arrays, or a dataset of batches", model):
            call()


def test_nan_inside_the_network_and_bad_options(refuses, model, q):
    inputs = keras.Input((4,))
    logs = keras.Model(inputs, layers.Dense(2)(keras.ops.log(layers.Dense(3, name="d")(inputs))), name="logs")
    logs.get_layer("d").set_weights([np.ones((4, 3), np.float32), np.zeros(3, np.float32)])
    data = np.random.RandomState(0).uniform(1, 2, (8, 4)).astype(np.float32)
    quantized = graffiti.quantize(logs, calibration=data, progress=False)
    for call in (
        lambda: graffiti.quantize(logs, calibration=-data, progress=False),
        lambda: graffiti.calibrate(quantized, -data, progress=False)
    ):
        with refuses(
            ValueError, "cannot calibrate layer 'log_q': .* sees NaN or Inf; check the calibration data", logs,
            quantized
        ):
            call()
    with refuses(ValueError, "a calibration method is one of max, 3sd, .*, got 'median'", q):
        graffiti.calibrate(q, IMAGES, activations="median", progress=False)
    with refuses(ValueError, "steps is a whole number of batches, at least 1, got 0", model):
        graffiti.quantize(model, calibration=IMAGES, steps=0, progress=False)


# ---- models ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["c/kernel", "bn/moving_variance", "d/bias"])
def test_weights_that_are_no_numbers(refuses, name, value):
    broken = network()
    layer, attribute = name.split("/")
    variable = getattr(broken.get_layer(layer), attribute)
    spoiled = variable.numpy()
    spoiled.flat[-1] = value
    variable.assign(spoiled)
    with refuses(ValueError, f"'{layer}.*(NaN|Inf)", broken):
        graffiti.quantize(broken, calibration=IMAGES, progress=False)


def test_weights_that_became_nan_in_training(refuses, q):
    broken = keras.models.clone_model(q)
    broken.set_weights(q.get_weights())
    kernel = broken.get_layer("c").kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with refuses(ValueError, "'c.*(NaN|Inf)", broken):
        graffiti.to_integer(broken)


def test_models_that_are_not_built(refuses):
    for make in (
        lambda: keras.Sequential([layers.Dense(3)], name="open"), lambda: type("Own", (keras.Model,), {})(name="open")
    ):
        model = make()
        for call in (
            lambda m: graffiti.quantize(m, calibration=IMAGES), lambda m: graffiti.calibrate(m, IMAGES),
            graffiti.to_integer
        ):
            with refuses(ValueError, "model 'open' is not built: give it a keras.Input first"):
                call(model)
        assert not model.built


def test_something_else_than_a_model(refuses, q):
    for call in (
        lambda m: graffiti.quantize(m, calibration=IMAGES), lambda m: graffiti.calibrate(m, IMAGES),
        graffiti.to_integer, lambda m: graffiti.verify(m, graffiti.to_integer(q), IMAGES)
    ):
        with refuses(TypeError, r"expected a keras.Model \(Keras 3\), got builtins.str", q):
            call("model.keras")


def test_a_keras_2_model(refuses):
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(2)])
    with refuses(TypeError, "Keras 3.*; convert it with graffiti.tfmot.convert first"):
        graffiti.quantize(old, calibration=np.zeros((4, 3)))


def test_models_at_the_wrong_stage(refuses, model, q):
    with refuses(ValueError, "model 'net' is quantized already; quantize the float model it came from", q):
        graffiti.quantize(q, calibration=IMAGES, progress=False)
    with refuses(ValueError, "model 'net' is not quantized; call graffiti.quantize", model):
        graffiti.to_integer(model)
    with refuses(
        ValueError, "has no quantizers to calibrate; make a quantized model with graffiti.quantize first", model
    ):
        graffiti.calibrate(model, IMAGES, progress=False)
    placed, _ = pipelines.place(pipelines.prepare(read(model)), "int8")
    uncalibrated = build(placed)
    with refuses(ValueError, "threshold|calibrat", uncalibrated):
        graffiti.to_integer(uncalibrated)


# ---- schemes and rules -----------------------------------------------------------------------------------------------
def test_rules_and_schemes(refuses, model):
    cases = [
        (
            "int8", [graffiti.Rule("conv.*", None)],
            "the rule 'conv.*' → float matches no layer; correct it or take it out. The layers are: c, r, f, d"
        ),
        ("int8", [graffiti.Rule(layers.Conv1D, "int4")], "the rule 'Conv1D' → int4 matches no layer"),
        ("int8", [graffiti.Rule(lambda info: False, "int4")], "matches no layer"),
        ("int8", [graffiti.Rule("c", "int5")], "int5"),
        ("int9", None, "int9"),
    ]
    for scheme, rules, message in cases:
        with refuses(ValueError, message.replace("*", r"\*").replace(".", r"\."), model):
            graffiti.quantize(model, scheme, calibration=IMAGES, rules=rules, progress=False)
    with refuses(ValueError, r"the rule '\[' is not a valid regular expression"):
        graffiti.Rule("[", None)
    with refuses(TypeError, "a rule matches by a regular expression, a class or a function, got 3"):
        graffiti.Rule(3, None)


# ---- accumulators ----------------------------------------------------------------------------------------------------
def wide_scheme():
    spec = graffiti.QuantizerSpec(16, signed=True, calibration="max")
    return graffiti.Scheme(weights=spec, activations=spec, name="wide")


def test_an_accumulator_that_could_overflow(refuses):
    """16 bits times 16 bits: three products at full scale leave int32, whatever the data at hand does."""
    keras.utils.set_random_seed(0)
    wide = keras.Sequential(
        [keras.Input((8,)), layers.Dense(5, name="small"), layers.Dense(2, name="too_wide")], name="wide"
    )
    wide.get_layer("small").set_weights([np.eye(8, 5, dtype=np.float32), np.zeros(5, np.float32)])
    wide.get_layer("too_wide").set_weights([np.full((5, 2), 0.9, np.float32) * [1, -1], np.zeros(2, np.float32)])
    data = np.random.RandomState(0).uniform(-1, 1, (20, 8)).astype(np.float32)
    q = graffiti.quantize(wide, wide_scheme(), calibration=data, progress=False)
    with refuses(
        graffiti.AccumulatorOverflow,
        r"layer 'too_wide' \(dense\): its accumulator may reach \d+, more than the 2147483647 that 32 bits hold; use "
        r"fewer bits",
        q, wide
    ):
        graffiti.to_integer(q)
    assert issubclass(graffiti.AccumulatorOverflow, ValueError)
    kernel = q.get_layer("too_wide").kernel
    # two products at 0.9 of full scale: 1.8 * 2**30
    kernel.assign(np.where(np.arange(5)[:, None] < 2, kernel.numpy(), 0))
    assert graffiti.verify(q, graffiti.to_integer(q), data * 100, ["python"], progress=False).ok


def test_a_bias_that_could_overflow(refuses):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="offset")])
    model.layers[0].set_weights([np.full((4, 2), 1e-6, np.float32), np.full(2, 1e6, np.float32)])
    data = np.random.RandomState(0).uniform(-1, 1, (20, 4)).astype(np.float32) * 1e-3
    q = graffiti.quantize(model, calibration=data, progress=False)  # which holds the input's threshold for that bias
    next(iter(graffiti.callbacks.quantizers_of(q).values())).assign_log2(-20.0)
    with refuses(
        ValueError,
        "the bias of 'offset' is .* steps of its accumulator, more than 32 bits hold; .* calibrate again, or keep the "
        "layer in float",
        q
    ):
        graffiti.to_integer(q)


# ---- files -----------------------------------------------------------------------------------------------------------
def test_output_paths_that_exist(refuses, tmp_path, q):
    ig = graffiti.to_integer(q)
    (tmp_path / "net.graffiti").write_text("precious")
    (tmp_path / "net_c").mkdir()
    (tmp_path / "net_c" / "notes.txt").write_text("precious")
    with refuses(FileExistsError, "net.graffiti exists already; choose another path or pass overwrite=True"):
        ig.save(tmp_path / "net.graffiti")
    with refuses(FileExistsError, "net_c exists already; choose another path or pass overwrite=True"):
        ig.export(tmp_path / "net_c", format="c")
    with refuses(FileExistsError, "net.graffiti exists already"):
        graffiti.verify(q, ig, IMAGES, ["reference"], progress=False).save(tmp_path / "net.graffiti")
    with refuses(FileNotFoundError, "the folder .*absent does not exist; create it first"):
        ig.save(tmp_path / "absent" / "net.graffiti")
    with refuses(FileNotFoundError, "the folder .*absent does not exist; create it first"):
        ig.export(tmp_path / "absent" / "net_c", format="c")
    with refuses(ValueError, "there is no export format 'fortran'; the formats are c"):
        ig.export(tmp_path / "new", format="fortran")
    with refuses(ValueError, "test_inputs|input 'image' has shape"):
        ig.export(tmp_path / "new", format="c", test_inputs=IMAGES[:, :2])


def test_a_disk_that_fails_leaves_nothing(refuses, tmp_path, q, monkeypatch):
    ig = graffiti.to_integer(q)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", full)
        with refuses(OSError, "No space left"):
            ig.save(tmp_path / "net.graffiti")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        with refuses(OSError, "No space left"):
            ig.export(tmp_path / "net_c", format="c")


def rewritten(source: pathlib.Path, target: pathlib.Path, **changes) -> pathlib.Path:
    """A copy of a zip with some members' bytes changed by functions, or left out by ``None``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change = changes.get(name.split(".")[0], lambda data: data)
            if change is not None:
                new.writestr(name, change(old.read(name)))
    return target


def test_graffiti_files_that_are_damaged_foreign_or_tampered_with(refuses, tmp_path, q):
    ig = graffiti.to_integer(q)
    good = tmp_path / "good.graffiti"
    ig.save(good)
    whole = good.read_bytes()

    def manifest(**changes):
        def change(data):
            content = {**json.loads(data), **changes}
            return json.dumps({k: v for k, v in content.items() if v is not None})
        return change

    def arrays(data):
        import io
        content = dict(np.load(io.BytesIO(data)))
        content["c0"] = content["c0"] + np.array(1, content["c0"].dtype)
        out = io.BytesIO()
        np.savez(out, **content)
        return out.getvalue()

    not_whole, changed = (
        "is not a whole .graffiti file .*; write it again with IntegerGraph.save",
        "does not match its own checksum; it was changed or damaged"
    )
    bad: list[tuple[pathlib.Path, str]] = []
    for index, part in enumerate(
        (
            b"", whole[:1], whole[:50], whole[: len(whole) // 2], whole[:-1], b"PK\x03\x04" + os.urandom(300),
            b"something else\n" * 9
        )
    ):
        path = tmp_path / f"cut{index}.graffiti"
        path.write_bytes(part)
        bad.append((path, not_whole))
    zipfile.ZipFile(tmp_path / "foreign.zip", "w").close()
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    q.save(tmp_path / "foreign.keras")
    bad += [(tmp_path / name, not_whole) for name in ("foreign.zip", "foreign.npz", "foreign.keras")]
    for name, message, changes in (
        ("no_graph", not_whole, {"graph": None}), ("no_arrays", not_whole, {"constants": None}),
        ("no_manifest", not_whole, {"manifest": None}),
        ("json", not_whole, {"manifest": lambda data: data[:-9]}),
        ("format", not_whole, {"manifest": manifest(format="onnx")}),
        ("no_checksum", not_whole, {"manifest": manifest(sha256=None)}),
        ("version_word", not_whole, {"manifest": manifest(version="new")}),
        ("one_weight", changed, {"constants": arrays}),
        ("rounding", changed, {"graph": lambda data: data.replace(b"half_even", b"half_up", 1)}),
        ("exponent", changed, {"graph": lambda data: data.replace(b"@-", b"@-1", 1)}),
        ("garbage", changed, {"graph": lambda data: b"hello"}),
        ("checksum", changed, {"manifest": manifest(sha256="0" * 64)}),
        (
            "future", "has file version 99, this graffiti reads up to 1; update graffiti",
            {"manifest": manifest(version=99)}
        ),
    ):
        bad.append((rewritten(good, tmp_path / f"{name}.graffiti", **changes), message))
    for path, message in bad:
        with refuses(ValueError, message):
            graffiti.IntegerGraph.load(path)
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):  # the sentence names the file
            graffiti.IntegerGraph.load(path)
    for path in (tmp_path / "absent.graffiti", tmp_path):
        with refuses(FileNotFoundError, "there is no file .*; expected one written by IntegerGraph.save"):
            graffiti.IntegerGraph.load(path)
    assert graffiti.IntegerGraph.load(good).digest() == ig.digest()


def test_every_flipped_byte_is_noticed(tmp_path, q):
    """Nowhere in the file does a changed bit give another network without an error."""
    ig = graffiti.to_integer(q)
    ig.save(tmp_path / "good.graffiti")
    whole, digest = (tmp_path / "good.graffiti").read_bytes(), ig.digest()
    path = tmp_path / "flipped.graffiti"
    for position in np.random.RandomState(0).choice(len(whole), 150, replace=False):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            assert graffiti.IntegerGraph.load(path).digest() == digest  # bytes of the zip that mean nothing
        except ValueError as error:
            assert "flipped.graffiti" in str(error)


def test_a_graph_of_another_stage_is_no_integer_graph(refuses):
    with refuses(
        ValueError, "an IntegerGraph holds a graph of stage 'integer', got 'fakequant'; use graffiti.to_integer"
    ):
        graffiti.IntegerGraph(printer.parse("fakequant graph g\ninput %x:f32[_,2]\noutput %x"))


# ---- the op library --------------------------------------------------------------------------------------------------
def test_a_library_for_another_tensorflow(refuses, tmp_path):
    path = loader.library_path(tmp_path)
    path.write_bytes(b"\x7fELF" + bytes(64) + b"graffiti_ops built for tensorflow 2.9.1;" + bytes(64))
    with refuses(
        loader.OpsNotAvailable,
        rf"{path.name} was built for TensorFlow 2\.9\.1, but TensorFlow {tf.__version__} is installed; build it again "
        r"with: pip install"
    ):
        loader.load_library(path)
    path.unlink()
    (tmp_path / "graffiti_ops_tf2_9.so").write_bytes(b"\x7fELF")
    with refuses(
        loader.OpsNotAvailable,
        r"there is no op library .* \(found graffiti_ops_tf2_9.so, built for another TensorFlow\); build it with: "
        r"pip install"
    ):
        loader.load_library(path)
