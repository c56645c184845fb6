"""verify: it must find what is wrong, say where, and never call something proven that was not compared."""

from __future__ import annotations

import dataclasses
import json
import types

import keras
import numpy as np
import pytest
import zoo

import graffiti
from graffiti import executors
from graffiti.graph import interpreter
from graffiti.numerics.formats import QFormat
from graffiti.runtime import library
from graffiti.verification import certificate, provenance, values
from graffiti.verification.certificate import Bound, TensorResult, VerificationReport


@pytest.fixture(scope="module")
def net():
    model = zoo.make(zoo.resnet)
    q = graffiti.quantize(model, calibration=zoo.inputs_of(model, 16), progress=False)
    return q, graffiti.to_integer(q), zoo.inputs_of(model, 12, seed=1)


def tampered(ig, name, change):
    graph = ig.graph.copy()
    graph.constants[name] = change(graph.constants[name].copy())
    return graffiti.IntegerGraph(graph)


def replace(monkeypatch, make):
    """``make(graph)`` in the place of the executor ``python``: a function from a batch to tensors by name."""
    def start(graph, island, option, threads):
        return types.SimpleNamespace(run_all=make(graph))

    monkeypatch.setitem(executors.EXECUTORS, "python", dataclasses.replace(executors.EXECUTORS["python"], start=start))


# ---- what is right ---------------------------------------------------------------------------------------------------
def test_equal_models_are_proven_tensor_by_tensor(net):
    q, ig, images = net
    report = graffiti.verify(q, ig, images, ["reference", "python"], batch_size=5, progress=False)
    assert report.ok and report.mismatches == 0 and not report.skipped
    assert (
        report.targets == ["keras", "python"] and report.examples == 12 and report.digest == ig.digest()
        and report.model == "resnet"
    )
    values = interpreter.run(ig.graph, images, values=True)
    of_python = {r.tensor: r.compared for r in report.results if r.target == "python"}
    assert of_python == {node.name: values[node.name].size for node in ig.graph.nodes}
    of_keras = {r.tensor for r in report.results if r.target == "keras"}
    codes = {node.name for node in ig.graph.nodes if node.op in ("quantize", "requantize", "add")}
    assert codes <= of_keras <= set(ig.graph.types)
    assert report.compared == sum(r.compared for r in report.results) > 10_000
    text = str(report)
    assert (
        text.startswith(f"verify resnet: 12 examples, integer graph sha256 {ig.digest()[:16]}")
        and text.endswith("all integers agree")
    )


def test_every_form_of_data_and_one_target_as_a_word(net):
    _, ig, images = net
    for data in ([images], {ig.graph.inputs[0]: images}, (images[i : i + 5] for i in (0, 5, 10))):
        report = graffiti.verify(None, ig, data, "python", progress=False)
        assert report.ok and report.examples == 12 and report.targets == ["python"]


# ---- what is wrong ---------------------------------------------------------------------------------------------------
def test_one_changed_weight_is_found(net):
    q, ig, images = net
    product = next(node for node in ig.graph.nodes if node.op == "conv" and node.name.startswith("conv2d_1"))
    kernel = product.inputs[1]

    def change(array):
        array[1, 1, 2, 3] += 1 if array[1, 1, 2, 3] < 100 else -1
        return array

    other = tampered(ig, kernel, change)
    report = graffiti.verify(q, other, images, ["python"], batch_size=5, progress=False)
    assert not report.ok and report.mismatches > 0
    wrong = [r.tensor for r in report.results if r.unequal]
    order = [
        name for name in (node.name for node in ig.graph.nodes)
        if name in {r.tensor for r in report.results if r.target == "keras"}
    ]
    layer = kernel.split("/")[0]
    assert {r.target for r in report.results if r.unequal} == {"keras"}  # python runs the same changed graph
    assert wrong[0].startswith(layer) and not set(wrong) & set(order[: order.index(wrong[0])])
    # the offenders are what the two graphs really hold, counted from the first example
    here, there = (interpreter.run(g.graph, images, values=True)[wrong[0]] for g in (other, ig))
    result = next(r for r in report.results if r.tensor == wrong[0])
    assert result.unequal == np.count_nonzero(here != there) and result.compared == here.size
    assert result.worst == np.abs(here.astype(np.int64) - there).max()
    assert 1 <= len(result.offenders) == min(certificate.MAX_OFFENDERS, result.unequal)
    for index, expected, got in result.offenders:
        assert (expected, got) == (here[index], there[index]) and expected != got
    text = str(report)
    assert f"keras {wrong[0]}: {result.unequal} of {result.compared} differ, at most {result.worst} steps" in text
    assert (
        f"NOT proven: {report.mismatches} unequal integers" in text
        and f"expected {result.offenders[0][1]}, got {result.offenders[0][2]}" in text
    )


def test_one_changed_threshold_is_found(net):
    q, ig, images = net
    clone = keras.models.clone_model(q)
    clone.set_weights(q.get_weights())
    quantizers = graffiti.callbacks.quantizers_of(clone)
    name = next(n for n in quantizers if n.startswith("re_lu_1"))
    quantizers[name].assign_log2(quantizers[name].log2_threshold.numpy() + 1)
    report = graffiti.verify(clone, ig, images, progress=False, targets=["reference"])
    wrong = [r.tensor for r in report.results if r.unequal]
    assert not report.ok and wrong and wrong[0] == name
    assert graffiti.verify(q, ig, images, progress=False, targets=["reference"]).ok  # the original is what it was


def test_one_wrong_integer_in_one_batch_of_one_target(net, monkeypatch):
    _, ig, images = net
    name = next(node.name for node in ig.graph.nodes if node.op == "requantize")
    calls = []

    def off_by_one(graph):
        def run(batch):
            calls.append(len(batch[0]))
            values = interpreter.run(graph, batch, values=True)
            if len(calls) == 2:
                values[name] = values[name].copy()
                values[name][2, 1, 0, 3] ^= 1
            return values
        return run

    replace(monkeypatch, off_by_one)
    report = graffiti.verify(None, ig, images, ["python"], batch_size=5, progress=False)
    assert calls == [5, 5, 2] and report.mismatches == 1
    (wrong,) = [r for r in report.results if r.unequal]
    assert (wrong.tensor, wrong.worst) == (name, 1) and [o[0] for o in wrong.offenders] == [(7, 1, 0, 3)]


def test_a_changed_float_at_the_border_is_found():
    result = TensorResult("native", "y")
    format = QFormat(8, True, -3)
    expected, got = np.float32([0.5, 1.0]), np.float32([0.5, np.nextafter(np.float32(1), np.float32(2))])
    result.add(*values.comparable(None, expected, got), 0)
    assert (result.unequal, result.worst) == (1, 1)
    for value, unequal in ((0.125 * 3, 0), (0.125 * 3 + 1e-4, 1), (np.nan, 1), (np.inf, 1)):
        result = TensorResult("keras", "y")
        result.add(*values.comparable(format, np.int8([3]), np.float32([value]), keras=True), 0)
        assert result.unequal == unequal
        str(VerificationReport("m", "d", 1, [result]))  # offenders that are no integers print, too
    with pytest.raises(ValueError, match=r"tensor 'y' has shape \(2,\), the reference \(1,\)"):
        TensorResult("c", "y").add(np.zeros(1), np.zeros(2), 0)


# ---- what was not compared -------------------------------------------------------------------------------------------
def test_skipped_targets_are_not_proven(net, monkeypatch):
    q, ig, images = net
    monkeypatch.setattr(library, "load", lambda: library.Library(library.PATH.with_name("absent.so")))
    report = graffiti.verify(q, ig, images, ["native", "python"], progress=False)
    assert not report.ok and report.mismatches == 0 and list(report.skipped) == ["native"]
    assert (
        "there is no kernel library" in report.skipped["native"]
        and "native               skipped: there is no kernel library" in str(report)
    )
    assert "NOT proven: 0 unequal integers, 1 targets skipped" in str(report)


def test_a_float_island_is_no_reason_to_fail_but_c_is_skipped():
    model = zoo.make(zoo.islands)
    data = zoo.inputs_of(model, 8)
    q = graffiti.quantize(model, calibration=data, progress=False)
    report = graffiti.verify(q, graffiti.to_integer(q), data, ["python", "c"], progress=False)
    assert report.mismatches == 0 and list(report.skipped) == ["c"] and "float_norm" in report.skipped["c"]
    assert "float_norm" not in {r.tensor for r in report.results}  # floats are not counted as integers


def test_nothing_compared_is_not_proven(net):
    _, ig, images = net
    report = graffiti.verify(None, ig, images, ["reference"], progress=False)
    assert not report.ok and report.compared == 0 and str(report).endswith("NOT proven: nothing was compared")


def test_a_target_without_the_outputs_is_not_proven(net, monkeypatch):
    _, ig, images = net
    first = ig.graph.nodes[0].name
    replace(monkeypatch, lambda graph: lambda batch: {first: interpreter.run(graph, batch, values=True)[first]})
    report = graffiti.verify(None, ig, images, ["python"], progress=False)
    assert (
        report.mismatches == 0 and not report.ok
        and f"no tensor for the network's output {ig.graph.outputs[0]}" in report.skipped["python"]
    )


def test_bad_arguments_are_one_sentence(net):
    q, ig, images = net
    float_model = zoo.make(zoo.resnet)
    other = zoo.make(zoo.leaky)
    other_q = graffiti.quantize(other, calibration=zoo.inputs_of(other, 8), progress=False)
    for arguments, message in (
        ((q, ig, images, ["gpu"]), "verify knows the targets reference, native, native:scalar, .*got 'gpu'"),
        ((q, ig, images, ["native:sse9"]), "got 'native:sse9'"),
        ((q, ig, images[:0]), "no data"), ((q, ig, iter(())), "no data"), ((q, ig, images[0]), "add the batch axis"),
        ((float_model, ig, images), "'resnet' is not quantized; pass the model that was lowered"),
        ((other_q, ig, images), "model 'leaky' is not the one that the integer graph 'resnet' was lowered from"),
    ):
        with pytest.raises(ValueError, match=message):
            graffiti.verify(*arguments, progress=False)
    with pytest.raises(TypeError, match="expected a keras.Model"):
        graffiti.verify("model", ig, images, progress=False)


# ---- the report as a file --------------------------------------------------------------------------------------------
def test_json(net, tmp_path):
    q, ig, images = net
    other = tampered(
        ig, next(n.inputs[1] for n in ig.graph.nodes if n.op == "dense"),
        lambda a: np.where(a == a.flat[0], a - 1, a).astype(a.dtype)
    )
    report = graffiti.verify(q, other, images, ["python"], progress=False)
    report.skipped["c"] = "no compiler"
    report.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert (
        content["mismatches"] == report.mismatches > 0 and content["ok"] is False
        and content["skipped"] == {"c": "no compiler"}
    )
    assert content["sha256"] == other.digest() and content["examples"] == 12 and content["compared"] == report.compared
    back = [
        TensorResult(**{**r, "offenders": [(tuple(i), e, g) for i, e, g in r["offenders"]]}) for r in content["results"]
    ]
    assert back == report.results
    with pytest.raises(FileExistsError, match="exists already"):
        report.save(tmp_path / "r.json")
    report.save(tmp_path / "r.json", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    loaded = VerificationReport.load(tmp_path / "r.json")
    assert loaded == report and str(loaded) == str(report)
    # the first offenders come with the inputs that show them
    wrong = {place[0] for r in report.results for place, _, _ in r.offenders}
    assert report.inputs and set(report.inputs) <= wrong
    for example, arrays in loaded.inputs.items():
        np.testing.assert_array_equal(np.float32(arrays[ig.graph.inputs[0]]), images[example])


def test_the_certificate_says_what_was_proven_with_what(net):
    q, ig, images = net
    report = graffiti.verify(q, ig, images, ["python"], progress=False, timestamp="2026-01-01")
    assert (
        report == graffiti.verify(q, ig, images, ["python"], progress=False, timestamp="2026-01-01")
    ), "equal runs give equal certificates"
    assert (
        len(report.model_digest) == len(report.data_digest) == 64 and report.timestamp == "2026-01-01"
        and report.verdict == "equal" and not report.inputs
    )
    assert report.top1 == {"python": 12} or report.top1 == {"keras": 12, "python": 12}
    assert report.environment["numpy"] == np.__version__ and report.environment["keras"] == keras.__version__
    products = sum(node.op in ("conv", "dense", "depthwise_conv") for node in ig.graph.nodes)
    assert sum(report.formats["weights"].values()) == products and set(report.formats["accumulators"]) == {"int32"}
    changed = images.copy()
    changed.flat[0] += 1e-3
    clone = keras.models.clone_model(q)
    clone.set_weights([w * 1.5 if i == 0 else w for i, w in enumerate(q.get_weights())])
    assert graffiti.verify(None, ig, changed, ["python"], progress=False).data_digest != report.data_digest
    assert provenance.model_digest(clone) != report.model_digest
    assert graffiti.verify(None, ig, images, ["python"], progress=False).model_digest == ""


def test_verdicts():
    def report(worst, bounds, **more):
        result = TensorResult(
            "litert:builtin", "a", 1000, int(worst > 0), worst, [((0, 1), 4, 4 + worst)] if worst else []
        )
        end = TensorResult("litert:builtin", "y", 1000, int(worst > 0), 77_000 * worst)
        return VerificationReport("m", "d", 1000, [result, end], bounds=bounds, ends={"y": ["a"]}, **more)

    one = [Bound("litert:builtin", "a", 1, "ties")]
    assert report(0, one).verdict == "equal"
    assert (
        report(1, one).verdict == "bounded" and "within the stated bounds" in str(report(1, one))
        and not report(1, one).ok
    )
    assert report(2, one).verdict == "failed" and report(1, []).verdict == "failed"
    assert report(1, [Bound("litert:xnnpack", "a", 1, "another runtime")]).verdict == "failed"
    assert (
        report(1, one, top1={"litert:builtin": 999}).verdict == "bounded"
        and report(1, one, top1={"litert:builtin": 998}).verdict == "failed"
    )
    assert report(1, one, skipped={"c": "no compiler"}).verdict == "failed"


def test_a_runtime_that_rounds_otherwise_is_bounded_and_named(net):
    pytest.importorskip("ai_edge_litert")
    q, ig, images = net
    report = graffiti.verify(q, ig, images, ["litert:xnnpack", "litert:builtin"], progress=False)
    assert (
        {b.target for b in report.bounds} <= {"litert:builtin", "litert:xnnpack"}
        and any(b.target == "litert:builtin" for b in report.bounds)
    )
    assert report.verdict in ("equal", "bounded"), str(report)
    assert report.environment["ai-edge-litert"] != "unknown"


def test_files_that_are_no_certificate(tmp_path, net):
    _, ig, images = net
    path = tmp_path / "r.json"
    for content, message in (
        ("{", "r.json: "), ("{}", "no certificate of graffiti.verify"), ("[]", "no certificate of graffiti.verify")
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            VerificationReport.load(path)
    config = graffiti.verify(None, ig, images, ["python"], progress=False).to_config()
    config["mismatches"] = 3
    with pytest.raises(ValueError, match="says mismatches = 3, and its results give 0"):
        VerificationReport.from_config(config)


# ---- accumulators beyond 24 bits -------------------------------------------------------------------------------------
def round_to_odd(codes: np.ndarray) -> np.ndarray:
    """float32's own neighbours: exact where it can be, else truncated towards zero with the last bit set."""
    nearest = codes.astype(np.float64).astype(np.float32)
    exact = nearest.astype(np.float64) == codes
    truncated = np.where(
        np.abs(nearest.astype(np.float64)) > np.abs(codes), np.nextafter(nearest, np.float32(0)), nearest
    ).astype(np.float32)
    odd = (truncated.view(np.uint32) | np.uint32(1)).view(np.float32)
    return np.where(exact, nearest, odd).astype(np.float64).astype(np.int64)


def test_as_keras_holds_is_round_to_odd():
    """All codes near every power of two that 32 bits hold, and the limits."""
    centres = [0, *(1 << p for p in range(20, 32)), *(3 << p for p in range(20, 30))]
    codes = np.unique(np.concatenate([np.arange(c - 1500, c + 1500) for c in centres]))
    codes = np.unique(
        np.concatenate([codes, -codes, [-(1 << 31)], np.random.RandomState(0).randint(-(1 << 31), 1 << 31, 200_000)])
    )
    codes = codes[(codes >= -(1 << 31)) & (codes < 1 << 31)]
    held = values.as_keras_holds(codes, QFormat(32, True, 0))
    np.testing.assert_array_equal(held, round_to_odd(codes))
    small = np.abs(codes) <= 1 << 24
    np.testing.assert_array_equal(held[small], codes[small])
    assert (held[~small].astype(np.float32).astype(np.float64) == held[~small]).all()
    np.testing.assert_array_equal(
        values.as_keras_holds(np.arange(-128, 128), QFormat(8, True, 0)), np.arange(-128, 128)
    )


def test_accumulators_beyond_float32_are_compared_exactly():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4096,)), keras.layers.Dense(3, use_bias=True), keras.layers.Activation("relu")], name="wide"
    )
    rng = np.random.RandomState(0)
    model.layers[0].set_weights([rng.uniform(0.9, 1.0, (4096, 3)).astype(np.float32), np.float32([0.1, -0.3, 0.7])])
    data = rng.uniform(0.9, 1.0, (9, 4096)).astype(np.float32)
    q = graffiti.quantize(model, calibration=data, progress=False)
    ig = graffiti.to_integer(q)
    accumulator = next(node.name for node in ig.graph.nodes if node.op == "bias_add")
    values = interpreter.run(ig.graph, data, values=True)[accumulator]
    assert values.min() > 1 << 24 and (values & 1).any()  # float32 cannot hold them
    report = graffiti.verify(q, ig, data, ["python"], progress=False)
    assert report.ok, str(report)
    assert accumulator in {r.tensor for r in report.results if r.target == "keras"}


def test_real_values_before_a_softmax_are_as_good_as_their_codes():
    """The dequantized logits differ by whole steps where their codes do: a bound on the codes is one on them."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(inputs))
    data = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    ig = graffiti.to_integer(graffiti.quantize(model, calibration=data, progress=False))
    report = graffiti.verify(None, ig, data, ["python"], progress=False)
    (codes,) = {name for names in report.ends.values() for name in names}
    logits = next(node.output for node in ig.graph.nodes if node.op == "dequantize")
    assert (
        report.ends == {ig.graph.outputs[0]: [codes], logits: [codes]} and ig.graph.format(codes) is not None
        and ig.graph.format(logits) is None
    )
    report.bounds = [Bound("python", codes, 1, "made up")]
    for name, worst in ((codes, 1), (logits, 1 << 22)):
        result = next(r for r in report.results if r.tensor == name)
        result.unequal, result.worst = 1, worst
    assert report.verdict == "bounded"
    report.bounds = []
    assert report.verdict == "failed"
