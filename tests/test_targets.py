"""Target profiles: the files, every limit, and that profile and exporter never contradict each other."""

from __future__ import annotations

import dataclasses
import json
import re

import c_graphs
import keras
import numpy as np
import pytest
import random_graphs
import zoo

import graffiti
from graffiti import documents, export, targets
from graffiti.export.base import ExportError
from graffiti.graph import interpreter
from graffiti.graph.ir import TensorType
from graffiti.keras_io.read import read
from graffiti.numerics.formats import QFormat
from graffiti.targets.profile import INTEGER_OPS, TargetProfile
from graffiti.transforms import pipelines

C99 = targets.get("c99")


# ---- the files -------------------------------------------------------------------------------------------------------
def test_the_profiles_that_come_with_graffiti():
    assert {"c99", "cortex_m", "litert", "onnx", "qonnx_fpga", "hls4ml", "generic_npu_16bit"} <= set(targets.names())
    for name in targets.names():
        profile = targets.get(name)
        assert profile.name == name and targets.get(profile) is profile
        assert profile.export in export.EXPORTERS and profile.scheme in graffiti.schemes.names()
        assert TargetProfile.from_config(profile.to_config()) == profile
        with pytest.raises(dataclasses.FrozenInstanceError):
            profile.name = "other"
    for exporter in export.EXPORTERS.values():
        assert targets.get(exporter.target).export == exporter.name
    assert set(INTEGER_OPS) == set(C99.ops), "the portable C has every integer op"


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_profile_of_ones_own(tmp_path, suffix):
    path = tmp_path / f"chip{suffix}"
    config = dataclasses.replace(C99, name="chip", shift=(0, 15)).to_config()
    path.write_text(json.dumps(config) if suffix == ".json" else documents.to_yaml(config))
    assert (
        targets.get(path) == targets.get(str(path)) == targets.load(path)
        == dataclasses.replace(C99, name="chip", shift=(0, 15))
    )


BAD = [
    ({"wieghts": {}}, r"has no key 'wieghts' \(did you mean 'weights'\?\); its keys are name, description"),
    (
        {"ops": ["conv", "cnov"]},
        r"every entry of ops of a target profile is one of .*, got 'cnov' \(did you mean 'conv'\?\)"
    ),
    ({"ops": "conv"}, "ops of a target profile is a list of different words"),
    ({"ops": ["conv", "conv"]}, "a list of different words"),
    ({"weights": {}}, "weights of a target profile lacks bits"),
    ({"weights": 8}, "weights of a target profile has the keys bits, .*got 8"),
    (
        {"weights": {"bits": [8, 4]}},
        r"bits of weights of a target profile is a list \[lowest, highest\] of whole numbers, got \[8, 4\]"
    ),
    ({"weights": {"bits": [0, 4]}}, "is a whole number from 1 to 32, got 0"),
    ({"weights": {"bits": [2, 8], "narow": True}}, "did you mean 'narrow'"),
    (
        {"weights": {"bits": [2, 8], "narrow": "yes"}},
        "narrow of weights of a target profile is true or false, got 'yes'"
    ),
    ({"activations": {"bits": [2, 8], "sign": "singed"}}, "did you mean 'signed'"),
    ({"accumulator_bits": 64}, "accumulator_bits of a target profile is a whole number from 2 to 32, got 64"),
    ({"accumulator_bits": True}, "is a whole number from 2 to 32, got True"),
    (
        {"accumulator_bits": 32, "sum_bits": 16},
        "accumulator_bits of a target profile is at most its sum_bits, got 32 and 16"
    ),
    ({"rounding": ["half_evne"]}, "did you mean 'half_even'"),
    ({"saturation": "wrap"}, "saturation of a target profile is one of saturate, none, got 'wrap'"),
    ({"shift": 8}, r"shift of a target profile is a list \[lowest, highest\]"),
    ({"softmax": None}, "softmax of a target profile is one of none, output, anywhere, got nothing"),
    ({"float_layers": 1}, "float_layers of a target profile is true or false, got 1"),
    ({"name": "my chip"}, "name of a target profile is made of letters, digits"),
    ({"description": ""}, "description of a target profile is a text"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(change)[:40] for change, _ in BAD])
def test_bad_profiles_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        TargetProfile.from_config({**C99.to_config(), **change})
    assert "\n" not in str(caught.value)


def test_finding_a_target(tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no target 'cortexm' \(did you mean 'cortex_m'\?\); the targets are c99, "
    ):
        targets.get("cortexm")
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.yaml"):
        targets.get(tmp_path / "absent.yaml")
    with pytest.raises(TypeError, match="a target is a name, a path or a TargetProfile, got 3"):
        targets.get(3)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="holds a list; expected keys with values"):
        targets.get(tmp_path / "list.yaml")
    (tmp_path / "lacks.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match="the target profile lacks.yaml lacks description, ops, weights, activations"):
        targets.get(tmp_path / "lacks.yaml")


# ---- every limit -----------------------------------------------------------------------------------------------------
def softmax_inside():
    b = c_graphs.Builder((6,))
    real = b.node("softmax", "s", b.node("dequantize", "real", b.input))
    return b.finish(b.node("quantize", "again", real, format=QFormat(8, False, -8)))


def island_inside():
    b = c_graphs.Builder((6,))
    real = b.node("dequantize", "real", b.input)
    island = b.graph.insert(
        "island", [real], "norm", {"layer": {}, "output_shapes": ((None, 6),), "reason": "LayerNormalization"},
        type=TensorType((None, 6))
    )
    return b.finish(b.node("quantize", "again", island.output, format=QFormat(8, True, -5)))


def unknown_size():
    graph = random_graphs.small_network()
    for name, type in graph.types.items():
        if name not in graph.constants and len(type.shape) == 4:
            graph.types[name] = TensorType((None, None, *type.shape[2:]), type.format)
    return graph


def limits(tensors, **changes):
    return dataclasses.replace(tensors, **changes)


NETWORK = random_graphs.small_network
LIMITS = [
    (
        NETWORK, {"ops": tuple(op for op in C99.ops if op != "depthwise_conv")}, "b/product",
        "c99 has no op depthwise_conv"
    ),
    (island_inside, {}, "norm", r"kept in float \(LayerNormalization\)"),
    (softmax_inside, {}, "s", "a softmax inside the network"),
    (c_graphs.resnet8, {"softmax": "none"}, "softmax", "c99 has no softmax"),
    (unknown_size, {}, "x", "needs every size but the batch"),
    (unknown_size, {"sizes": "windows"}, "b/product", "c99 needs these sizes"),
    (NETWORK, {"dense_axes": (2, 3)}, "fc/product", "it reads 1 axes beside the batch, c99 takes 2 to 3"),
    (NETWORK, {"spatial_axes": (1, 1)}, "a/product", "it has 2 spatial axes, c99 takes 1 to 1"),
    (
        NETWORK, {"weights": limits(C99.weights, bits=(2, 4))}, "a/product",
        "its weights are s8, c99 takes 2 to 4 bits signed"
    ),
    (NETWORK, {"weights": limits(C99.weights, sign="unsigned")}, "fc/product", "takes unsigned ones only"),
    (
        c_graphs.CASES["per_channel_conv"], {"weights": limits(C99.weights, per_channel=False)}, "c/product",
        "one scale for each channel"
    ),
    (NETWORK, {"activations": limits(C99.activations, bits=(2, 7))}, "x_q", "its codes are s8, c99 takes 2 to 7 bits"),
    (
        NETWORK, {"activations": limits(C99.activations, unsigned_bits=7)}, "a",
        "its codes are u8, c99 takes 2 to 7 bits unsigned"
    ),
    (NETWORK, {"activations": limits(C99.activations, sign="signed")}, "sum_q", "takes signed ones only"),
    (NETWORK, {"activations": limits(C99.activations, narrow=True)}, "b", "use the lowest code -128"),
    (c_graphs.resnet8, {"bias_bits": (2, 16)}, "conv0", "its bias has 32 bits, c99 takes 2 to 16 bits"),
    (NETWORK, {"rounding": ("floor",)}, "a", "it rounds half_even, c99 rounds floor"),
    (NETWORK, {"input_rounding": ("floor",)}, "x_q", "it rounds half_even"),
    (NETWORK, {"shift": (0, 8)}, "fc", "it shifts right by 9, c99 by 0 to 8"),
    (NETWORK, {"exponents": (-3, 126)}, "x_q", "its exponents -4 to -4 leave -3 to 126"),
    (NETWORK, {"sum_bits": 16, "accumulator_bits": 16}, "a", "may reach [0-9]+, more than the 32767 that 16 bits hold"),
    (NETWORK, {"saturation": "none"}, "a", "must be clipped to 0 to 255, which c99 cannot"),
]


@pytest.mark.parametrize(
    ("make", "change", "layer", "reason"), LIMITS, ids=[f"{layer}-{reason[:20]}" for _, _, layer, reason in LIMITS]
)
def test_every_limit(make, change, layer, reason):
    found = targets.problems(make(), dataclasses.replace(C99, **change))
    hits = [problem for problem in found if problem.layer == layer and re.search(reason, problem.reason)]
    assert hits and all(problem.fix for problem in hits), [str(problem) for problem in found]
    if change and make is not unknown_size:
        assert not targets.problems(make(), C99), "and only because of that limit"


def test_a_16_bit_accumulator():
    """A product has to be rounded to the accumulator's width before its bias; the published topology does so."""
    npu = targets.get("generic_npu_16bit")
    assert not targets.problems(c_graphs.CASES["conv_accumulator16"](), npu)
    reasons = [problem.reason for problem in targets.problems(NETWORK(), dataclasses.replace(npu, weights=C99.weights))]
    assert (
        not any("goes on in 32 bits" in reason for reason in reasons)
    ), "products without a bias go straight to 8 bits"
    reasons = [problem.reason for problem in targets.problems(c_graphs.resnet8(), npu)]
    assert any("goes on in 32 bits, accumulators of generic_npu_16bit have 16" in reason for reason in reasons)


def test_only_integer_graphs():
    graph = read(zoo.make(zoo.sequential))
    with pytest.raises(ValueError, match="a target takes integer graphs, got one of stage 'float'"):
        targets.problems(graph, C99)


# ---- profile and exporter --------------------------------------------------------------------------------------------
GRAPHS = {
    **{f"random{seed}": (lambda seed=seed: random_graphs.random_graph(seed)) for seed in range(40)},
    **{f"network{seed}": (lambda seed=seed: c_graphs.random_network(seed)) for seed in range(10)},
    **{name: make for name, make in c_graphs.CASES.items()},
    "softmax": softmax_inside, "island": island_inside, "unknown": unknown_size,
}
# beyond data: the exporter finds it, and `problems` lists it too
CHAIN = "LiteRT has no operator for this chain of formats"


@pytest.mark.parametrize("format", export.EXPORTERS)
def test_profile_and_exporter_agree(format, tmp_path):
    """Whatever the exporter refuses the profile lists, layer by layer; whatever both take is written."""
    exporter, taken, refused = export.get(format), 0, 0
    for why in filter(None, (package.missing() for package in exporter.packages)):
        pytest.skip(why)
    profile = targets.get(exporter.target)
    for name, make in GRAPHS.items():
        graph = make()
        supports, listed = exporter.supports(graph), targets.problems(graph, profile)
        if name == "unknown":
            assert bool(supports) == bool(listed) == (profile.sizes != "any")
        missing = (
            {problem.layer for problem in supports if CHAIN not in problem.reason}
            - {problem.layer for problem in listed}
        )
        assert not missing, f"{name}: {format} refuses {missing}, the profile does not"
        assert (
            {problem.layer for problem in supports} | {problem.layer for problem in listed}
            == {problem.layer for problem in exporter.problems(graph)}
        )
        if supports or listed:
            refused += 1
            with pytest.raises(ExportError) as caught:
                exporter.check(graph)
            assert {problem.layer for problem in caught.value.problems} >= {problem.layer for problem in supports}
        elif not name.startswith("random") or int(name[6:]) < 10:
            taken += 1
            exporter.write(graph, tmp_path / f"{format}{taken}")
    assert taken > 50 and refused > 1, (taken, refused)


@pytest.mark.parametrize("seed", range(6))
def test_what_profile_and_exporter_take_is_equal(seed):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    from graffiti.export.litert.runner import LiteRTModel
    from graffiti.export.onnx.harness import OnnxModel

    graph = random_graphs.random_graph(seed)
    images = random_graphs.images(graph, 3, seed)
    expected = interpreter.run(graph, [images])
    for format, model in (("onnx", OnnxModel), ("litert", LiteRTModel)):
        if not targets.problems(graph, targets.get(format)) and not export.get(format).supports(graph):
            for got, codes in zip(model(graph).run([images]), expected):
                np.testing.assert_array_equal(got, codes)


def test_c_of_what_the_profile_takes_is_equal():
    from graffiti.export.c.harness import CModel

    graph = c_graphs.random_network(3)
    assert not targets.problems(graph, C99)
    inputs = c_graphs.real_inputs(graph, 4)
    expected = interpreter.run(graph, inputs, values=True)
    for name, got in CModel(graph).run_all(inputs).items():
        if name in expected and graph.format(name) is not None:
            np.testing.assert_array_equal(got, expected[name])


def test_export_for_a_narrower_target_writes_nothing(tmp_path):
    graph = graffiti.IntegerGraph(NETWORK())
    path = tmp_path / "chip.yaml"
    path.write_text(
        documents.to_yaml(dataclasses.replace(C99, name="chip", shift=(0, 8), spatial_axes=(1, 1)).to_config())
    )
    with pytest.raises(ExportError, match="stand against it") as caught:
        graph.export(tmp_path / "out", target=path)
    assert (
        {"a", "fc", "a/product"} <= {problem.layer for problem in caught.value.problems}
        and not (tmp_path / "out").exists()
    )
    with pytest.raises(ValueError, match="the target chip is exported as c, not as onnx"):
        graph.export(tmp_path / "out.onnx", format="onnx", target=path)
    with pytest.raises(ValueError, match=r"there is no export format 'onxn' \(did you mean 'onnx'\?\)"):
        graph.export(tmp_path / "out.onnx", format="onxn")
    assert graph.export(tmp_path / "out", target="cortex_m", overwrite=True)


def test_write_itself_holds_the_graph_against_the_profile(tmp_path, monkeypatch):
    for format in export.EXPORTERS:
        exporter = export.get(format)
        monkeypatch.setitem(
            targets.CATALOG.kept, exporter.target, dataclasses.replace(targets.get(exporter.target), shift=(0, 8))
        )
        with pytest.raises(ExportError, match="it shifts right by 9"):
            exporter.write(NETWORK(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---- quantizing, lowering, inspecting --------------------------------------------------------------------------------
def model():
    keras.utils.clear_session(free_memory=False)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="r")(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, 2, name="c")(inputs)))
    x = layers.Dense(4, name="d")(layers.Flatten(name="f")(x))
    return zoo.randomize(keras.Model(inputs, x, name="net"))


IMAGES = np.random.RandomState(0).normal(size=(24, 8, 8, 3)).astype(np.float32)


def test_the_target_chooses_the_scheme():
    q = graffiti.quantize(model(), target="generic_npu_16bit", calibration=IMAGES, progress=False)
    expected = graffiti.quantize(model(), "graffitist_int8", calibration=IMAGES, progress=False)
    np.testing.assert_array_equal(q.predict(IMAGES, verbose=0), expected.predict(IMAGES, verbose=0))
    assert graffiti.to_integer(q, target="generic_npu_16bit").digest() == graffiti.to_integer(q).digest()
    assert (
        graffiti.inspect(q, "generic_npu_16bit").ok and graffiti.inspect(graffiti.to_integer(q), "generic_npu_16bit").ok
    )


def test_a_scheme_against_the_target_is_refused_before_calibration():
    def never():
        raise AssertionError("calibrated")
        yield

    source = model()
    with pytest.raises(graffiti.TargetError) as caught:
        graffiti.quantize(source, "int8_per_channel", IMAGES, target="generic_npu_16bit")
    assert {problem.layer for problem in caught.value.problems} == {"c", "c/product", "d", "d/product"}
    assert (
        "set per_channel=False" in str(caught.value) and "graffitist_int8" in str(caught.value)
        and isinstance(caught.value, ValueError)
    )
    with pytest.raises(graffiti.TargetError, match="kept in float"):
        graffiti.quantize(source, calibration=IMAGES, target="c99", rules=[graffiti.Rule("d", None)])
    with pytest.raises(ValueError, match="there is no target 'c98'"):
        graffiti.quantize(source, calibration=IMAGES, target="c98")


def test_lowering_proves_the_targets_register_and_shifts():
    q = graffiti.quantize(model(), calibration=IMAGES, progress=False)
    small = dataclasses.replace(C99, name="small", sum_bits=12, accumulator_bits=12, bias_bits=(2, 32))
    with pytest.raises(graffiti.TargetError) as caught:
        graffiti.to_integer(q, target=dataclasses.replace(small, accumulator_bits=12))
    overflowing = {problem.layer for problem in caught.value.problems if "2047 that 12 bits hold" in problem.reason}
    assert overflowing == {"c", "d"}, "every layer is listed, not the first one"
    graph = graffiti.to_integer(q).graph
    shift = {
        node.name: graph.format(node.name).exponent - graph.format(node.inputs[0]).exponent for node in graph.nodes
        if node.op == "requantize"
    }
    exact = dataclasses.replace(C99, name="exact", shift=(min(shift.values()), max(shift.values())))
    graffiti.to_integer(q, target=exact)
    with pytest.raises(graffiti.TargetError, match=f"it shifts right by {max(shift.values())}, exact by"):
        graffiti.to_integer(q, target=dataclasses.replace(exact, shift=(min(shift.values()), max(shift.values()) - 1)))


@pytest.mark.parametrize("scheme", ["int8_per_channel", "graffitist_int8"])
@pytest.mark.parametrize("factory", [zoo.resnet, zoo.leaky, zoo.tables, zoo.islands, zoo.grouped_dilated])
def test_the_sketch_has_the_formats_of_the_calibrated_graph(factory, scheme):
    """Before calibration a target sees the very ops, widths, signs and shapes that it will see after it."""
    source = zoo.make(factory)
    inputs = zoo.inputs_of(source, 4)
    q = graffiti.quantize(source, scheme, inputs, progress=False)
    real = pipelines.lower(read(q))
    blank = read(q)
    for node in blank.nodes:
        if node.op == "fake_quantize":
            node.attrs = {**node.attrs, "log2_threshold": None}
    sketch = pipelines.sketch(blank)

    def shape_of(graph):
        return {
            name: (
                type.shape,
                None if type.format is None
                else (type.format.bits, type.format.signed, type.format.narrow, len(type.format.exponents))
            )
            for name, type in graph.types.items()
            if graph.producer(name) is not None and graph.producer(name).op != "requantize" or name in graph.constants
        }

    a, b = shape_of(real), shape_of(sketch)
    assert {name: a[name] for name in a.keys() & b.keys()} == {name: b[name] for name in a.keys() & b.keys()}
    assert (
        len(a.keys() & b.keys()) >= 0.9 * len(a) and len(b) <= len(a) + 6
    ), "calibration only decides which requantize is left out"


def test_inspect_every_stage(tmp_path):
    source = model()
    inspection = graffiti.inspect(source, "generic_npu_16bit", scheme="int8_per_channel")
    assert (
        (inspection.stage, inspection.scheme, inspection.ok) == ("float", "int8_per_channel", False)
        and inspection.unchecked
    )
    assert {problem.layer for problem in inspection.problems} == {"c", "c/product", "d", "d/product"}
    assert (
        "fix: set per_channel=False" in str(inspection)
        and json.loads(json.dumps(inspection.to_config()))["problems"][0]["fix"]
    )
    assert graffiti.inspect(source, "generic_npu_16bit").ok, "its own scheme fits"
    assert graffiti.inspect(source).target is None and graffiti.inspect(source).lines
    q = graffiti.quantize(source, "int8_per_channel", IMAGES, progress=False)
    on_q, on_graph = (
        graffiti.inspect(q, "generic_npu_16bit"), graffiti.inspect(graffiti.to_integer(q), "generic_npu_16bit")
    )
    assert (
        on_q.stage == "fakequant" and on_graph.stage == "integer" and on_q.problems == on_graph.problems
        and not on_q.unchecked
    )
    assert {problem.layer for problem in on_q.problems} >= {problem.layer for problem in inspection.problems}
    with pytest.raises(TypeError):
        graffiti.inspect("net.keras", "c99")


def test_inspect_says_why_a_layer_stays_in_float():
    inspection = graffiti.inspect(zoo.make(zoo.islands), "c99")
    floats = [problem for problem in inspection.problems if problem.op == "island"]
    assert floats and all("kept in float (" in problem.reason and "replace it" in problem.fix for problem in floats)
