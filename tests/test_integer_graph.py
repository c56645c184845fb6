"""IntegerGraph: running in every form and on every engine, looking, and the ``.graffiti`` file."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

import graffiti
from graffiti.graph import printer
from graffiti.runtime import library

LABELS = np.arange(20) % 10


def native_available() -> bool:
    try:
        library.load()
    except library.KernelsNotAvailable:
        return False
    return True


NATIVE = pytest.param(
    "native",
    marks=pytest.mark.skipif(not native_available(), reason="the kernel library is not built; build it to run this")
)
ENGINES = ["reference", "python", NATIVE]


@pytest.fixture(scope="module")
def net():
    model = zoo.make(zoo.sequential)
    q = graffiti.quantize(model, calibration=zoo.inputs_of(model, 16), progress=False)
    return q, graffiti.to_integer(q), zoo.inputs_of(model, 20, seed=1)


@pytest.fixture(scope="module")
def two():
    model = zoo.make(zoo.two_inputs_two_outputs)
    q = graffiti.quantize(model, calibration=zoo.inputs_of(model, 16), progress=False)
    return q, graffiti.to_integer(q), zoo.inputs_of(model, 20, seed=1)


# ---- running ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_and_batch_sizes_give_the_same(two, engine):
    q, ig, images = two
    expected = q.predict(images, verbose=0)
    for batch_size in (1, 7, 20, 256):
        got = ig.predict(images, batch_size, engine=engine)
        assert got.keys() == expected.keys()
        for name in expected:
            assert got[name].dtype == np.float32
            np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("engine", ENGINES)
def test_softmax_at_the_end_is_computed_in_float(net, engine):
    q, ig, images = net
    got, expected = ig.predict(images, engine=engine), q.predict(images, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.skipif(not native_available(), reason="the kernel library is not built; build it to run this")
def test_threads_and_tiers_give_the_same(net):
    _, ig, images = net
    expected = ig.predict(images, engine="native", tier="scalar", threads=1)
    for tier in library.load().tiers():
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(ig.predict(images, 6, engine="native", tier=tier, threads=threads), expected)
    with pytest.raises(ValueError, match="threads of a runner is a whole number of at least 1"):
        ig.predict(images, engine="native", threads=0)
    with pytest.raises(ValueError, match="a tier is one of auto, scalar"):
        ig.predict(images, engine="native", tier="sse9")


def test_auto_engine_is_what_the_environment_says(net, monkeypatch):
    _, ig, images = net
    monkeypatch.setenv("GRAFFITI_OPS", "python")
    assert ig._default_engine() == "python"
    monkeypatch.setenv("GRAFFITI_OPS", "auto")
    monkeypatch.setattr(library, "load", lambda: library.Library(library.PATH.with_name("absent.so")))
    with pytest.warns(RuntimeWarning, match="there is no kernel library .*absent.so; build it with"):
        assert ig._default_engine() == "python"
    monkeypatch.setenv("GRAFFITI_OPS", "fast")
    with pytest.raises(ValueError, match="GRAFFITI_OPS is one of auto, native, python, got 'fast'"):
        ig.predict(images)


class Batches(keras.utils.PyDataset):
    """Four batches of five with labels."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.images[5 * index : 5 * index + 5], LABELS[5 * index : 5 * index + 5]


def test_every_form_of_data(net):
    _, ig, images = net
    expected = ig.predict(images, engine="reference")
    pairs = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(6)
    (name,) = ig.graph.inputs
    forms = [
        [images], (images,), {name: images}, tf.constant(images), images.astype(np.float64), images.tolist(), pairs,
        pairs.map(lambda x, y: x),
        pairs.map(lambda x, y: ({name: x}, y)), Batches(images), (images[i : i + 3] for i in range(0, 20, 3)),
        iter([(images, None)]),
    ]
    for data in forms:
        np.testing.assert_array_equal(ig.predict(data, engine="reference"), expected)
    np.testing.assert_array_equal(ig(images, engine="reference"), expected)


def test_evaluate(net):
    _, ig, images = net
    share = float(np.mean(ig.predict(images, engine="reference").argmax(-1) == LABELS))
    pairs = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(6)
    one_hot = np.eye(10, dtype=np.float32)[LABELS]
    for arguments in (
        (images, LABELS), (images, LABELS[:, None]), (images, one_hot), (images, LABELS.tolist()), (pairs,),
        (Batches(images),)
    ):
        assert ig.evaluate(*arguments, engine="reference") == {"accuracy": share, "count": 20}
    right = ig.predict(images, engine="reference").argmax(-1)
    assert ig.evaluate(images, right, batch_size=3, engine="reference")["accuracy"] == 1.0


def test_evaluate_refuses_what_is_no_classification(net, two):
    _, ig, images = net
    for arguments, message in (
        ((images, LABELS[:5]), "20 examples and 5 labels"), ((images,), "needs labels"),
        ((Batches(images[:0]).images, LABELS[:0]), "no data"),
        ((tf.data.Dataset.from_tensor_slices(images).batch(4),), "needs labels"), ((iter(()),), "empty dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            ig.evaluate(*arguments, engine="reference")
    with pytest.raises(ValueError, match="one output, this one has 2; use predict"):
        two[1].evaluate(two[2], LABELS, engine="reference")
    single = graffiti.IntegerGraph(
        printer.parse(
            "integer graph g\ninput %x:f32[_,1]\n%a = quantize(%x) {format=s8@0}\n%y = dequantize(%a)\noutput %y"
        )
    )
    with pytest.raises(ValueError, match="gives one number for each example"):
        single.evaluate(np.zeros((2, 1)), [0, 0], engine="reference")


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_inputs_are_one_sentence(net, two, engine):
    _, ig, images = net
    bad = images.copy()
    bad[1, 2, 3, 0] = np.nan
    cases = [
        (images[..., :2], r"input 'input_layer' has shape \(batch, 12, 12, 3\), got \(20, 12, 12, 2\)"),
        (images[0], r"add the batch axis \(x\[None\]\)"),
        ([images, images], "has 1 inputs .*got 2 arrays"), ({"other": images}, "missing input_layer; got other"),
        (images[:0], "no data"),
        (np.full((2, 12, 12, 3), "a"), "takes float32 numbers, got dtype <U1"),
        (images.astype(complex), "got dtype complex128"), (bad, "NaN"),
        (tf.data.Dataset.from_tensor_slices(images).batch(2).repeat(), "endless; pass dataset.take"),
        (iter(()), "no data"), ([[1, 2], [3]], "different shapes"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            ig.predict(data, engine=engine)
    for data in (3, None, object()):
        with pytest.raises(TypeError, match="inputs are an array, a dict or list of arrays, or a dataset"):
            ig.predict(data, engine=engine)
    _, both, (a, b) = two
    for data, message in (
        ([a], "has 2 inputs .*got 1"), ([a, b[:3]], "same number of examples, got 20 for 'a', 3 for 'b'"),
        ({"a": a}, "missing b; got a")
    ):
        with pytest.raises(ValueError, match=message):
            both.predict(data, engine=engine)


def test_bad_options(net):
    _, ig, images = net
    for options, message in (
        ({"engine": "tpu"}, "an engine is auto or one of reference, native, ops, python, got 'tpu'"),
        ({"batch_size": 0}, "batch_size is a whole number"), ({"batch_size": -3}, "at least 1, got -3")
    ):
        with pytest.raises(ValueError, match=message):
            ig.predict(images, **{"engine": "reference", **options})
    with pytest.raises(ValueError, match="of stage 'integer', got 'float'; use graffiti.to_integer"):
        graffiti.IntegerGraph(printer.parse("float graph g\ninput %x:f32[_,1]\noutput %x"))


# ---- looking ---------------------------------------------------------------------------------------------------------
def test_summary_names_every_node_with_its_format(net):
    _, ig, _ = net
    lines: list[str] = []
    ig.summary(lines.append)
    assert lines[0].split() == ["name", "op", "format", "shape"] and len(lines) == len(ig.graph.nodes) + 3
    for node, line in zip(ig.graph.nodes, lines[2:]):
        assert line.startswith(node.name) and node.op in line and str(ig.graph.shape(node.name)) in line
        format = ig.graph.format(node.name)
        assert ("float32" if format is None else str(format)[:20]) in line
    total = sum(array.nbytes for array in ig.graph.constants.values())
    assert lines[-1] == f"{len(ig.graph.nodes)} nodes, {total} bytes of constants, sha256 {ig.digest()[:16]}"
    assert ig.digest()[:16] in repr(ig) and ig.is_integer_only


def test_digest_sees_every_constant_and_every_attribute(net):
    _, ig, _ = net
    seen = {ig.digest()}
    for name, array in ig.graph.constants.items():
        changed = ig.graph.copy()
        changed.constants[name] = array.copy()
        changed.constants[name].flat[-1] ^= 1
        seen.add(graffiti.IntegerGraph(changed).digest())
    changed = ig.graph.copy()
    node = next(node for node in changed.nodes if node.op == "requantize")
    node.attrs["rounding"] = "half_up"
    seen.add(graffiti.IntegerGraph(changed).digest())
    assert len(seen) == len(ig.graph.constants) + 2


def test_lowering_twice_gives_one_digest(net):
    q, ig, _ = net
    assert graffiti.to_integer(q).digest() == ig.digest() and graffiti.to_integer(q).to_text() == ig.to_text()


def test_a_loaded_float_model_lowers_to_the_same_graph(tmp_path):
    """Names come from layers, never from tensors, which Keras numbers anew in every process."""
    layers = keras.layers
    model = zoo.randomize(
        keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)], name="m")
    )
    data = np.random.RandomState(0).normal(size=(8, 4))
    model.save(tmp_path / "float.keras")
    loaded = keras.models.load_model(tmp_path / "float.keras")
    first, second = (
        graffiti.to_integer(graffiti.quantize(m, calibration=data, progress=False)) for m in (model, loaded)
    )
    assert first.to_text() == second.to_text() and first.digest() == second.digest()
    assert (
        first.graph.inputs
        == [model.layers[0]._inbound_nodes[0].arguments.keras_tensors[0]._keras_history.operation.name]
    )


# ---- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "factory", [zoo.two_inputs_two_outputs, zoo.islands, zoo.tables, zoo.mobilenet], ids=lambda f: f.__name__
)
def test_save_and_load(factory, tmp_path):
    model = zoo.make(factory)
    data = zoo.inputs_of(model, 16)
    ig = graffiti.to_integer(graffiti.quantize(model, "int8_per_channel", calibration=data, progress=False))
    ig.save(tmp_path / "a.graffiti")
    loaded = graffiti.IntegerGraph.load(str(tmp_path / "a.graffiti"))
    assert loaded.digest() == ig.digest() and loaded.to_text() == ig.to_text()
    assert loaded.graph.interface == ig.graph.interface and loaded.graph.types == ig.graph.types
    for name, array in ig.graph.constants.items():
        assert loaded.graph.constants[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.graph.constants[name], array)
    got, expected = loaded.predict(data, engine="reference"), ig.predict(data, engine="reference")
    assert type(got) is type(expected)
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.save(tmp_path / "b.graffiti")  # the same graph gives the same file
    assert (tmp_path / "a.graffiti").read_bytes() == (tmp_path / "b.graffiti").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.graffiti", "b.graffiti"]


def test_the_file_is_readable_text_and_arrays(net, tmp_path):
    _, ig, _ = net
    ig.save(tmp_path / "a.graffiti")
    with zipfile.ZipFile(tmp_path / "a.graffiti") as archive:
        assert archive.read("graph.txt").decode() == ig.to_text()
        manifest = json.loads(archive.read("manifest.json"))
    assert (
        manifest == {"format": "graffiti", "version": 1, "sha256": ig.digest(), "constants": sorted(ig.graph.constants)}
    )


# ---- batches of a fixed size -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fixed():
    """Two inputs of different shapes, two examples at a time."""
    keras.utils.set_random_seed(0)
    x, state = keras.Input(batch_shape=(2, 1, 10), name="x"), keras.Input(batch_shape=(2, 4, 10), name="state")
    y = keras.layers.Flatten()(keras.layers.Concatenate(axis=1)([state, x]))
    model = keras.Model([x, state], keras.layers.Dense(3)(y), name="streaming")
    random = np.random.default_rng(0)
    data = {
        "x": random.normal(size=(12, 1, 10)).astype(np.float32),
        "state": random.normal(size=(12, 4, 10)).astype(np.float32)
    }
    q = graffiti.quantize(model, calibration=data, progress=False)
    return q, graffiti.to_integer(q), data


def test_a_fixed_batch_runs_batch_by_batch(fixed):
    q, ig, data = fixed
    expected = q.predict(data, batch_size=2, verbose=0)
    for engine in ("native", "python", "reference"):
        np.testing.assert_array_equal(ig.predict(data, engine=engine), expected)
    np.testing.assert_array_equal(
        ig.predict({"x": data["x"][i : i + 4], "state": data["state"][i : i + 4]} for i in (0, 4, 8)), expected
    )
    labels = expected.argmax(-1)
    assert ig.evaluate(data, labels) == ig.evaluate((data, labels)) == {"accuracy": 1.0, "count": 12}
    report = graffiti.verify(q, ig, data, ["native", "python", "c"], progress=False)
    assert report.ok and report.examples == 12, str(report)


def test_a_fixed_batch_that_is_not_filled_is_one_sentence(fixed):
    q, ig, data = fixed
    short = {name: array[:5] for name, array in data.items()}
    for call in (ig.predict, lambda part: graffiti.verify(q, ig, part, progress=False)):
        with pytest.raises(ValueError, match="takes batches of exactly 2; pass a multiple of 2 examples, got 5"):
            call(short)


def test_test_vectors_of_a_fixed_batch(fixed, tmp_path):
    *_, ig, data = fixed
    ig.export(tmp_path / "c", format="c", test_inputs={name: array[:4] for name, array in data.items()})
    assert "4" in (tmp_path / "c" / "main.c").read_text()
