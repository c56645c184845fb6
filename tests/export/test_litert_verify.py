"""The LiteRT target of ``verify``: zoo models from Keras to LiteRT, every tensor compared by name."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import zoo
from engines import MICRO

pytest.importorskip("ai_edge_litert")

import graffiti
from graffiti.export import EXPORTERS

EXPORTER = EXPORTERS["litert"]


def integer(factory, scheme):
    model = zoo.make(factory)
    q = graffiti.quantize(model, scheme, calibration=zoo.inputs_of(model, 16), progress=False)
    return model, q, graffiti.to_integer(q)


@functools.lru_cache
def expected_difference(ig, runtime):
    return EXPORTER.expected_difference(ig.graph, runtime=runtime)


def check_expected(ig, result):
    """Codes within their bound; reals at the border are compared by their bits and equal where nothing differs at
    all.
    """
    expected = expected_difference(ig, result.target.partition(":")[2])
    if ig.graph.format(result.tensor) is not None or not expected:
        assert result.worst <= expected.get(result.tensor, 0), str(result)


@pytest.mark.parametrize(
    "factory", [zoo.mobilenet, zoo.inception, zoo.leaky, zoo.moves, zoo.two_inputs_two_outputs],
    ids=lambda f: f.__name__
)
def test_xnnpack_equals_the_integer_graph(factory):
    model, q, ig = integer(factory, "int8_per_channel" if factory in (zoo.mobilenet, zoo.moves) else "int8")
    data = zoo.inputs_of(model, 24, seed=1)
    report = graffiti.verify(q, ig, data, ["litert", "litert:builtin"], progress=False)
    assert {"keras", "litert:xnnpack", "litert:builtin"} == set(report.targets) and not report.skipped
    for result in report.results:
        if result.target == "keras":
            assert result.unequal == 0
            continue
        check_expected(ig, result)
    if factory is not zoo.leaky:  # its named tensors may be a step off
        assert sum(result.unequal for result in report.results if result.target == "litert:xnnpack") == 0, str(report)
    stored = {node.output for node in ig.graph.nodes if node.op in ("quantize", "requantize", "lookup")}
    assert stored <= {result.tensor for result in report.results if result.target == "litert:xnnpack"}


def test_a_runtime_is_named_and_differences_are_counted():
    model, q, ig = integer(zoo.resnet, "int8")
    data = zoo.inputs_of(model, 24, seed=1)
    report = graffiti.verify(None, ig, data, "litert:xnnpack", progress=False)
    assert report.targets == ["litert:xnnpack"] and report.ok
    builtin = graffiti.verify(None, ig, data, ["litert:builtin"], progress=False)
    assert builtin.mismatches > 0 and not builtin.ok  # an expected difference is still a difference
    everywhere = graffiti.verify(None, ig, data, ["litert:float32"], progress=False)
    assert everywhere.ok and everywhere.compared > report.compared, str(everywhere)  # its accumulators are tensors too
    with pytest.raises(ValueError, match="litert:xnnpack"):
        graffiti.verify(None, ig, data, ["litert:gpu"], progress=False)


@pytest.mark.parametrize(
    "factory, scheme", [(zoo.mobilenet, "int8_half_up_per_channel"), (zoo.resnet, None)], ids=["mobilenet", "resnet"]
)
def test_half_up_networks_are_equal_without_delegates(factory, scheme):
    model = zoo.make(factory)
    q = graffiti.quantize(model, scheme, target="litert_builtin", calibration=zoo.inputs_of(model, 16), progress=False)
    ig = graffiti.to_integer(q, target="litert_builtin")
    targets = ["litert:half_up", *(f"litert:{runtime}" for runtime in MICRO)]
    report = graffiti.verify(q, ig, zoo.inputs_of(model, 24, seed=1), targets, progress=False)
    assert report.ok and report.targets == ["keras", *targets] and not report.bounds, str(report)
    assert (
        report.environment.get("tflite-micro", "none") != "unknown"
        and ("tflite-micro" in report.environment) == ("litert:micro" in targets)
    )


def test_an_island_is_skipped_with_its_reason():
    model, q, ig = integer(zoo.islands, "int8")
    report = graffiti.verify(None, ig, zoo.inputs_of(model, 3), ["litert"], progress=False)
    assert "float_norm" in report.skipped["litert"] and not report.ok


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int8_per_channel", "graffitist_int8", "int4", "w4a4"])
@pytest.mark.parametrize("factory", [f for f in zoo.ZOO if f is not zoo.islands], ids=lambda f: f.__name__)
def test_the_whole_zoo(factory, scheme):
    model, q, ig = integer(factory, scheme)
    hostile = [array * 50 for array in (lambda d: d if isinstance(d, list) else [d])(zoo.inputs_of(model, 6, seed=2))]
    for data in (zoo.inputs_of(model, 20, seed=1), hostile if len(hostile) > 1 else hostile[0]):
        report = graffiti.verify(None, ig, data, ["litert", "litert:builtin"], progress=False)
        for result in report.results:
            check_expected(ig, result)


def test_a_trained_file_size(shared_dir, tmp_path):
    """ResNet8 from the stored float weights is no larger than LiteRT's own converter made it."""
    keras = pytest.importorskip("keras")
    model = keras.models.load_model(shared_dir / "models/resnet8_cifar10.h5", compile=False)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    for scheme in ("int8", "int8_per_channel"):
        ig = graffiti.to_integer(graffiti.quantize(model, scheme, calibration=images, progress=False))
        (path,) = ig.export(tmp_path / f"{scheme}.tflite", format="litert")
        assert path.stat().st_size <= 1.05 * (shared_dir / "models/resnet8_cifar10_int8.tflite").stat().st_size
        report = graffiti.verify(None, ig, images, ["litert:xnnpack"], progress=False)
        assert report.ok, str(report)
