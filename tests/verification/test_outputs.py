"""Every output of the network is compared on every target, those behind softmax and layers left in float too."""

from __future__ import annotations

import dataclasses
import types

import keras
import numpy as np
import pytest

import graffiti
from graffiti import executors
from graffiti.executors import rows
from graffiti.verification import Values
from graffiti.verification.certificate import FloatResult, VerificationReport

L = keras.layers


def lowered(model, data):
    q = graffiti.quantize(model, "int8", calibration=data, progress=False)
    return q, graffiti.to_integer(q)


@pytest.fixture(scope="module")
def island():
    """One sign of 1/x: it tells the two zeros apart."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.ops.sign(1.0 / L.Dense(4)(inputs)), name="signs")
    data = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    return *lowered(model, data), data


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(4, activation="softmax")(inputs), name="classes")
    data = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    return *lowered(model, data), data


def changed(monkeypatch, change):
    """The executor ``python`` with changed tensors."""
    def start(graph, island, option, threads):
        reference = rows.Reference(graph, island)
        return types.SimpleNamespace(run_all=lambda batch: change(dict(reference.run_all(batch))))

    monkeypatch.setitem(executors.EXECUTORS, "python", dataclasses.replace(executors.EXECUTORS["python"], start=start))


def test_layers_left_in_float_get_the_same_bits_everywhere(island):
    q, ig, data = island
    (codes,) = ig.graph.nodes[-3].inputs
    values = executors.EXECUTORS["reference"].run(ig.graph, ig.island()).run_all([data])
    assert (values[codes] == 0).sum() > 10, "no zero is tested"
    np.testing.assert_array_equal(q.predict(data, verbose=0), ig.predict(data))
    report = graffiti.verify(q, ig, data, ["native", "python"], progress=False)
    assert report.verdict == "equal", str(report)
    (output,) = ig.graph.outputs
    assert (
        {(r.target, r.output) for r in report.floats} == {(target, output) for target in report.targets}
        and "keras" in report.targets
    )
    assert all(r.compared == 1600 and r.worst == 0 and r.limit == 0 for r in report.floats)
    assert (
        f"  {output}: computed by layers left in float, 1600 values on {len(report.targets)} targets, equal"
        in str(report)
    )


def test_no_difference_hides_behind_a_layer_left_in_float(island, monkeypatch):
    q, ig, data = island
    (output,) = ig.graph.outputs

    def change(values):
        values[output] = values[output].copy()
        values[output][3, 1] *= -1
        return values

    changed(monkeypatch, change)
    report = graffiti.verify(q, ig, data, ["python"], progress=False)
    (wrong,) = [r for r in report.floats if r.unequal]
    # one in each of four batches
    assert (wrong.target, wrong.unequal, wrong.worst) == ("python", 4, 2.0) and wrong.offenders[0][0] == (3, 1)
    assert report.verdict == "failed" and not report.ok and report.mismatches == 4 and 3 in report.inputs
    assert "4 of 1600 values differ, at most by 2" in str(report) and "NOT proven: 0 unequal integers" in str(report)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_differs(value):
    result = FloatResult("keras", "y", 1e-5)
    result.add(np.float32([[1.0, np.nan, np.inf]]), np.float32([[value, np.nan, np.inf]]), 0)
    assert (result.unequal, result.worst, result.compared) == (1, np.inf, 3)
    str(VerificationReport("m", "d", 1, [], floats=[result]))
    whole = FloatResult("keras", "y")
    whole.add(np.int64([[2**40, 1]]), np.int64([[2**40, 2]]), 0)
    assert (whole.unequal, whole.worst) == (1, 1.0)


def test_the_softmax_itself_is_compared(classifier, monkeypatch):
    q, ig, data = classifier
    (output,) = ig.graph.outputs
    report = graffiti.verify(q, ig, data, ["python", "native"], progress=False)
    assert report.verdict == "equal" and {r.target for r in report.floats} == {"keras", *report.targets}
    assert all(r.output == output and r.compared == 64 and r.worst <= r.limit == 1e-5 for r in report.floats)
    assert f"  {output}: a softmax in float, 64 values on {len(report.targets)} targets, " in str(report)
    changed(monkeypatch, lambda values: {**values, output: values[output][:, ::-1]})
    assert graffiti.verify(None, ig, data, ["python"], progress=False).verdict == "failed"


def test_what_a_file_leaves_out_is_named(classifier):
    _, ig, data = classifier
    report = graffiti.verify(None, ig, data, ["c"], progress=False)
    assert report.ok and report.by_codes == {target: ig.graph.outputs for target in ("c:fused", "c:unfused")}
    assert (
        f"  {ig.graph.outputs[0]}: not computed by c:fused, c:unfused; all codes that it is made of were compared"
        in str(report)
    )
    assert VerificationReport.from_config(report.to_config()) == report


def test_outputs_of_several_kinds(monkeypatch):
    """A real output, one of two joined codes, a softmax, a layer in float, and the input itself."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="x")
    a, b = L.Dense(3, name="a")(inputs), L.Dense(3, activation="sigmoid", name="b")(inputs)
    outputs = [a, L.Concatenate(name="both")([a, b]), L.Softmax(name="soft")(a), keras.ops.sin(b)]
    data = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    q, ig = lowered(keras.Model(inputs, outputs, name="kinds"), data)
    report = graffiti.verify(q, ig, data, ["native", "python"], progress=False)
    assert report.ok, str(report)
    for target in report.targets:
        found = (
            {r.tensor for r in report.results if r.target == target}
            | {r.output for r in report.floats if r.target == target}
        )
        assert set(ig.graph.outputs) <= found
    kinds = Values.of(ig.graph).kinds
    assert [kinds[output] for output in ig.graph.outputs] == ["exact", "exact", "softmax", "float"]
    first = ig.graph.outputs[0]

    def change(values):
        values[first] = np.nextafter(values[first], np.float32(np.inf))
        return values

    changed(monkeypatch, change)
    assert graffiti.verify(None, ig, data, ["python"], progress=False).mismatches == 60


def test_a_fault_is_no_reason_to_skip(classifier, monkeypatch):
    _, ig, data = classifier

    def broken(graph, island, option, threads):
        raise RuntimeError("a fault of graffiti's")

    monkeypatch.setitem(executors.EXECUTORS, "python", dataclasses.replace(executors.EXECUTORS["python"], start=broken))
    with pytest.raises(RuntimeError, match="a fault of graffiti's"):
        graffiti.verify(None, ig, data, ["python"], progress=False)

    def absent(graph, island, option, threads):
        raise executors.Unavailable("no such chip")

    monkeypatch.setitem(executors.EXECUTORS, "python", dataclasses.replace(executors.EXECUTORS["python"], start=absent))
    report = graffiti.verify(None, ig, data, ["python", "native"], progress=False)
    assert report.skipped == {"python": "no such chip"} and not report.ok


def test_certificates_of_before_load(classifier):
    _, ig, data = classifier
    config = graffiti.verify(None, ig, data, ["python"], progress=False).to_config()
    floats = config.pop("floats")
    config.pop("by_codes")
    config["compared"] -= sum(r["compared"] for r in floats)
    assert VerificationReport.from_config(config).verdict == "equal"
