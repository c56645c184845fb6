"""From an integer graph to an ONNX model in memory, and what stands against it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from graffiti.export.base import Problem
from graffiti.export.onnx.builder import Builder, Tensor
from graffiti.export.onnx.products import digit_bits
from graffiti.export.onnx.ranges import code_ranges, magnitude, weight_sums
from graffiti.export.onnx.rules import RULES, sums_exactly
from graffiti.export.onnx.styles import Style
from graffiti.export.ports import input_dtype, output_dtype
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS, attributes

# the one of opset 21, whatever newer one the installed onnx writes by itself: every runtime that has the opset reads it
IR_VERSION = 10
EXPONENTS = (-126, 126)  # of float32's normal numbers, whose reciprocals are normal too
MAX_BYTES = 2**31 - 2**20  # of one protobuf message, with room for the nodes
FORMATS_KEY = "graffiti.formats"


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """An ONNX model and where it has the values of the integer graph.

    Attributes:
        model: an ``onnx.ModelProto``, its types inferred and checked.
        tensors: value name → ``Tensor``; values that were fused away are missing.
        inputs: name → dtype, in order.
        outputs: ONNX names of the graph's outputs, in order.
        rounded: see ``Builder.rounded``.
    """

    model: Any
    tensors: dict[str, Tensor]
    inputs: dict[str, np.dtype]
    outputs: list[str]
    rounded: dict[str, int]


def build(graph: Graph, style: Style, *, batch: int | None = None, show: str = "outputs") -> OnnxGraph:
    """The ONNX model of an integer graph.

    Args:
        graph: of stage ``integer``, without problems.
        style: ``QdqStyle()`` or ``QonnxStyle()``.
        batch: size of the batch axis, ``None`` for any.
        show: which tensors become further outputs, for comparing: ``outputs`` (none), ``codes`` (those that hold
            integers) or ``all``.

    Returns:
        The model with its tensors.
    """
    from onnx import checker, helper, shape_inference

    b = Builder(graph, style, batch)
    inputs = [_input(b, name) for name in graph.inputs]
    for node in graph.nodes:
        RULES[node.op](b, node)
    outputs = _outputs(b)
    shown = [t.name for t in b.tensors.values() if show == "all" or (show == "codes" and t.codes)]
    names = list(dict.fromkeys([*outputs, *(name for name in shown if name not in graph.inputs)]))
    info = [value for name, value in b.value_info.items() if name not in names and name not in graph.inputs]
    body = helper.make_graph(
        b.nodes, graph.name, inputs, [b.value_info[name] for name in names], b.initializers, value_info=info
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": style.opset, **style.domains}.items()]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="graffiti")
    formats = {name: str(graph.format(name)) for name in b.tensors if graph.format(name) is not None}
    helper.set_model_props(model, {FORMATS_KEY: json.dumps(formats, ensure_ascii=False)})
    model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    checker.check_model(model, full_check=True)
    return OnnxGraph(
        model, b.tensors, {name: input_type(graph, name, style) for name in graph.inputs}, outputs, b.rounded
    )


def _input(b: Builder, name: str) -> Any:
    """A graph input: as Keras takes it (integers too, where the style has them), or codes where the graph takes
    codes.
    """
    from onnx import helper

    format, dtype = b.graph.format(name), input_type(b.graph, name, b.style)
    if format is None and dtype != np.float32:
        b.hold(name, b.node("Cast", [name], f"{name}/float", to=b.float_type(False)), True)
    elif format is None:
        b.hold(name, name, True)
    elif format.bits <= 16:
        b.style.take_codes(b, name)
    else:
        wide, rank = b.wide(name), b.rank(name)
        real = b.node("Cast", [name], f"{name}/float", to=b.float_type(wide))
        real = b.node(
            "Mul", [real, b.power(format.exponents, wide, rank=rank, axis=rank - 1, name=f"{name}/scale")],
            f"{name}/real"
        )
        b.hold(name, real, True, wide, codes=name)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), b.dims(name, True))


def input_type(graph: Graph, name: str, style: Style) -> np.dtype:
    """The dtype that the file takes an input in.

    Args:
        graph: of stage ``integer``.
        name: of one of its inputs.
        style: of the file; one without ``integer_inputs`` takes float32 where the graph takes no codes.
    """
    return input_dtype(graph, name) if style.integer_inputs or graph.format(name) is not None else np.dtype(np.float32)


def _outputs(b: Builder) -> list[str]:
    """Add what makes the graph's outputs out of their values; returns the ONNX names in order.

    A coded value comes out as integers, a float one in the model's dtype, both in the Keras layout. ONNX names each
    output once: where the graph returns a value twice, or an input or constant, the further ones are copies.
    """
    from onnx import helper

    first: dict[str, str] = {}
    for index, (value, name) in enumerate(zip(b.graph.outputs, b.outputs)):
        dtype = output_dtype(b.graph, index)
        if value in first and dtype == output_dtype(b.graph, b.graph.outputs.index(value)):
            b.node("Identity", [first[value]], name, exact_name=True)
        else:
            _output(b, value, name, dtype)
            first[value] = name
        b.value_info[name] = helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(dtype), b.dims(value, True)
        )
    return b.outputs


def _output(b: Builder, value: str, name: str, dtype: np.dtype) -> None:
    from onnx import helper

    format = b.graph.format(value)
    if format is None and dtype != np.float32:
        b.node("Cast", [b.get(value, True)], name, exact_name=True, to=helper.np_dtype_to_tensor_dtype(dtype))
        return
    if value in b.graph.constants:
        b.node("Identity", [b.initializer(b.graph.constants[value], f"{value}/codes")], name, exact_name=True)
    elif format is None or b.tensors[value].codes:
        # 32-bit inputs are their own codes
        source = (b.get(value, True) if format is None else b.codes(value, True)) or b.tensors[value].name
        if b.tensors[value].zero:
            assert format is not None
            b.shifted(source, -b.tensors[value].zero, format.dtype, name, exact_name=True)
        elif source != name:
            b.node("Identity", [source], name, exact_name=True)
    else:
        wide, rank = b.wide(value), b.rank(value)
        scale = b.power([-e for e in format.exponents], wide, rank=rank, axis=rank - 1)
        codes = b.node("Mul", [b.get(value, True, wide), scale], f"{name}/float_codes")
        b.node("Cast", [codes], name, exact_name=True, to=helper.np_dtype_to_tensor_dtype(format.dtype))


def problems(graph: Graph, *, fixed_sizes: bool = False) -> list[Problem]:
    """Every layer that has no exact ONNX form.

    Args:
        graph: of stage ``integer``.
        fixed_sizes: whether unknown sizes beside the batch are refused too.
    """
    found = [problem for node in graph.nodes for problem in _of_node(graph, node)]
    if found:
        return found
    found += [Problem(name, "tensor", reason, fix) for name, reason, fix in _of_values(graph, fixed_sizes)]
    ranges = code_ranges(graph)
    for node in graph.nodes:
        if node.op == "average_pool" and not sums_exactly(graph, node, magnitude(ranges[node.inputs[0]])):
            found.append(Problem(
                node.name, node.op, "the sums of its windows leave what float32 holds exactly",
                "use smaller windows or fewer bits in front of it"
            ))
        if node.op in PRODUCTS:
            sums = int(weight_sums(graph.constants[node.inputs[1]], node.op).max(initial=0))
            if digit_bits(magnitude(ranges[node.inputs[0]]), sums) == 0:
                found.append(Problem(
                    node.name, node.op, f"its weights' magnitudes add up to {sums}, more than float32 can sum exactly",
                    "use narrower weights for this layer"
                ))
    size = sum(array.nbytes for array in graph.constants.values())
    if size > MAX_BYTES:
        found.append(
            Problem(
                graph.name, "model", f"its constants take {size} bytes, one ONNX file holds 2 GiB", "split the model"
            )
        )
    return found


def _of_node(graph: Graph, node: Node) -> Iterator[Problem]:
    if node.op == "island":
        yield Problem(
            node.name, node.op, f"it is kept in float ({node.attrs.get('reason') or 'no integer form'})",
            "quantize it, replace it, or leave it out of the exported model"
        )
    elif node.op == "softmax":
        if not _reaches_only_outputs(graph, node.output):
            yield Problem(
                node.name, node.op, "a softmax inside the network is computed in float",
                "keep softmax at the output, or use a table activation instead"
            )
    elif node.op not in RULES:
        yield Problem(node.name, node.op, "it has no ONNX rule", "leave it out of the exported model")
    elif node.op in PRODUCTS and node.inputs[1] not in graph.constants:
        yield Problem(node.name, node.op, "its kernel is computed by the network", "use a layer with constant weights")
    elif node.op == "reshape" and sum(n is None for n in attributes(node)["shape"]) > 1:
        yield Problem(node.name, node.op, "two of its sizes are unknown", "give the model fixed input sizes")
    elif (
        node.op == "upsample" and None in graph.shape(node.inputs[0])[1:-1]
        and getattr(graph.format(node.output), "bits", 0) > 16
    ):
        yield Problem(node.name, node.op, "it repeats accumulators of unknown size", "give the model fixed input sizes")


def _of_values(graph: Graph, fixed_sizes: bool) -> Iterator[tuple[str, str, str]]:
    ranges = code_ranges(graph)
    for name, type in graph.types.items():
        sizes = type.shape if name in graph.constants else type.shape[1:]
        if 0 in sizes:
            yield name, f"its shape {type.shape} has a size of 0", "give the model larger inputs"
        if fixed_sizes and name not in graph.constants and None in sizes:
            yield name, f"its shape {type.shape} has unknown sizes", "give the model fixed input sizes"
        if type.format is not None:
            low, high = min(type.format.exponents), max(type.format.exponents)
            bits = max(magnitude(ranges[name]), 1).bit_length()
            if low < EXPONENTS[0] or high + bits > EXPONENTS[1]:
                yield (
                    name, f"its exponents {low} to {high} leave what float32 holds",
                    "choose thresholds nearer to 1, or scale the input"
                )


def _reaches_only_outputs(graph: Graph, value: str) -> bool:
    return all(
        node.op in OPS and OPS[node.op].moves_codes and _reaches_only_outputs(graph, node.output)
        for node in graph.consumers(value)
    )
