"""What holds for every graph, checked: names, order, ops, attributes, types, formats, constants.

Run between passes in tests and under a debug flag, and on every integer graph that is made or loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from graffiti.graph import affine, border, ops
from graffiti.graph.ir import STAGES, TRAINING, Graph, Node, TensorType
from graffiti.graph.kernels import Kernel
from graffiti.graph.printer import type_text
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES

PADDINGS = ("same", "valid")


class GraphError(ValueError):
    """A graph breaks an invariant; the message lists the first few faults.

    Attributes:
        faults: all of them, one sentence each.
    """

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = list(faults)


def verify_graph(graph: Graph) -> None:
    """Raise where the graph breaks an invariant.

    Raises:
        GraphError: with one sentence for each of the first ten faults, each naming its node or value.
    """
    faults = problems(graph)
    if faults:
        more = f"\n  ... and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise GraphError(
            f"the {graph.stage} graph {graph.name!r} is not valid:\n  " + "\n  ".join(faults[:10]) + more, faults
        )


def problems(graph: Graph) -> list[str]:
    """All faults as sentences; empty for a valid graph. Later checks are left out where earlier ones make them
    meaningless.
    """
    if graph.stage not in STAGES:
        return [f"a stage is one of {', '.join(STAGES)}, got {graph.stage!r}"]
    faults = list(_names(graph))
    if not faults:
        for node in graph.nodes:
            of_node = list(_node_form(graph, node))
            faults += [f"node {node.name!r} ({node.op}): {fault}" for fault in of_node or _node_meaning(graph, node)]
        faults += _constants(graph)
        faults += _groups(graph)
        faults += _interface(graph)
    return faults


# ---- the graph as a whole --------------------------------------------------------------------------------------------
def _names(graph: Graph) -> Iterator[str]:
    """Every value is defined once, before it is read, and has a type; every type has a value."""
    defined: set[str] = set()
    for kind, names in (("input", graph.inputs), ("constant", graph.constants)):
        for name in names:
            if name in defined:
                yield f"{kind} {name!r} is defined twice; names are unique among inputs, constants and node outputs"
            defined.add(name)
    produced = {out for node in graph.nodes for out in node.outputs}
    for node in graph.nodes:
        if not node.outputs:
            yield f"a node of op {node.op!r} has no outputs; expected at least one"
            continue
        for value in node.inputs:
            if value not in defined:
                why = "which a later node makes: sort the graph" if value in produced else "which nothing defines"
                yield f"node {node.name!r} ({node.op}) reads {value!r}, {why}"
        for value in node.attached:
            if value not in graph.constants:
                yield (
                    f"node {node.name!r} ({node.op}) names {value!r} in its attributes, which is no constant of "
                    "the graph"
                )
        for out in node.outputs:
            if out in defined:
                yield f"node {node.name!r} ({node.op}) defines {out!r} a second time; names are unique"
            defined.add(out)
    for name in graph.outputs:
        if name not in defined:
            yield f"the graph returns {name!r}, which nothing defines"
    if not graph.outputs:
        yield "the graph returns nothing; expected at least one output"
    for name in sorted(defined - set(graph.types)):
        yield f"the value {name!r} has no type"
    for name, settings in graph.training.items():
        if name not in graph.constants:
            yield f"there are training settings for {name!r}, which is no constant of the graph"
        elif graph.stage == "integer":
            yield f"there are training settings for {name!r}; an integer graph is not trained"
        elif not isinstance(settings, dict) or not set(settings) <= set(TRAINING):
            yield f"the training settings of {name!r} are {settings!r}; expected some of {', '.join(TRAINING)}"
    for name in sorted(set(graph.types) - defined):
        yield f"there is a type for {name!r}, which is no value of the graph; prune the graph"


def _leaves(structure: Any) -> Iterator[Any]:
    """What a structure of lists, tuples and dicts holds."""
    if isinstance(structure, (dict, list, tuple)):
        for part in structure.values() if isinstance(structure, dict) else structure:
            yield from _leaves(part)
    else:
        yield structure


def _interface(graph: Graph) -> Iterator[str]:
    """The structures that users pass and get name each input and output that there is, and no other."""
    for key, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if graph.interface.get(key) is None:
            continue
        leaves = list(_leaves(graph.interface[key]))
        known = range(len(names))
        if not all(isinstance(leaf, int) and not isinstance(leaf, bool) and leaf in known for leaf in leaves):
            yield (
                f"its interface lists the {key} {leaves}; expected numbers from 0 to {len(names) - 1}, one of the "
                f"graph's {key} each"
            )
    dtypes = graph.interface.get("input_dtypes")
    if dtypes is not None and len(dtypes) != len(graph.inputs):
        yield f"its interface names the dtypes of {len(dtypes)} inputs, the graph has {len(graph.inputs)}"


def _constants(graph: Graph) -> Iterator[str]:
    """Arrays agree with their types: float32 before lowering, codes within their format after."""
    free = {value for node in graph.nodes for value in node.attached}
    for name, array in graph.constants.items():
        type = graph.types[name]
        if tuple(array.shape) != tuple(type.shape):
            yield f"constant {name!r} has shape {tuple(array.shape)}, its type says {tuple(type.shape)}"
        elif type.format is None:
            if graph.stage == "integer" and name not in free:
                yield f"constant {name!r} is float; an integer graph holds codes (only islands keep float weights)"
            elif array.dtype != np.float32 and name not in free:
                yield f"constant {name!r} is {array.dtype}; a constant without a format is float32"
        elif graph.stage != "integer":
            yield f"constant {name!r} has the format {type.format}; a {graph.stage} graph holds float32 constants only"
        elif array.dtype != type.format.dtype:
            yield f"constant {name!r} is {array.dtype}; its format {type.format} is stored as {type.format.dtype}"
        elif array.size and (array.min() < type.format.qmin or array.max() > type.format.qmax):
            yield (
                f"constant {name!r} holds codes from {array.min()} to {array.max()}; {type.format} has "
                f"{type.format.qmin} to {type.format.qmax}"
            )


def _groups(graph: Graph) -> Iterator[str]:
    """Quantizers that share a threshold have one width, one sign and one threshold."""
    first: dict[str, Node] = {}
    for node in graph.nodes:
        group = node.attrs.get("group")
        if node.op != "fake_quantize" or group is None:
            continue
        other = first.setdefault(group, node)
        for key in ("bits", "signed", "narrow", "log2_threshold"):
            mine, theirs = ops.attr(node, key), ops.attr(other, key)
            if mine != theirs:
                yield (
                    f"quantizers {other.name!r} and {node.name!r} share the threshold {group!r} but have {key} "
                    f"{theirs!r} and {mine!r}; expected equal ones"
                )


# ---- one node: its form ----------------------------------------------------------------------------------------------
def _node_form(graph: Graph, node: Node) -> Iterator[str]:
    """Op, stage, number of inputs and outputs, attributes."""
    if node.op not in ops.OPS:
        yield "there is no such op in graph/ops.py"
        return
    row = ops.OPS[node.op]
    if graph.stage not in row.stages:
        yield f"the op stands in {' and '.join(row.stages)} graphs only, this one is {graph.stage}"
    names = row.inputs.removesuffix("...").split()
    if len(node.inputs) != len(names) and not (row.variadic and len(node.inputs) >= len(names)):
        yield (
            f"expected {'at least ' if row.variadic else ''}{len(names)} inputs ({row.inputs}), got {len(node.inputs)}"
        )
    if node.op != "island" and len(node.outputs) != 1:
        yield f"expected one output, got {len(node.outputs)}"
    for key, default in row.attrs.items():
        if default is ops.REQUIRED and key not in node.attrs:
            yield f"the attribute {key!r} is missing"
    for key in node.attrs:
        if key not in row.attrs:
            yield f"the attribute {key!r} is unknown; expected {', '.join(row.attrs) or 'none'}"


# ---- one node: what it says ------------------------------------------------------------------------------------------
def _node_meaning(graph: Graph, node: Node) -> list[str]:
    """Attribute values, then shapes, then formats, then the inferred type; the first kind with faults is enough."""
    attrs = ops.attributes(node)
    for check in (_attributes, _shapes, _formats, _types):
        faults: list[str] = []
        try:
            faults.extend(check(graph, node, attrs))  # keeps what came before an exception
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            faults = faults or [f"its attributes or the shapes of its inputs do not fit the op ({error})"]
        if faults:
            return faults
    return []


def _positive(values: Any, count: int | None = None) -> bool:
    return (
        isinstance(values, (tuple, list)) and (count is None or len(values) == count)
        and all(isinstance(v, (int, np.integer)) and v > 0 for v in values)
    )


def _attributes(graph: Graph, node: Node, attrs: dict[str, Any]) -> Iterator[str]:
    rank = len(graph.shape(node.inputs[0])) if node.inputs else 0
    for key in ("strides", "dilation", "pool_size", "size"):
        if key in attrs and not _positive(attrs[key], rank - 2):
            yield f"{key} must be {rank - 2} positive integers, one per spatial axis, got {attrs[key]!r}"
    if ops.OPS[node.op].window and attrs["padding"] not in PADDINGS:
        yield f"padding is {' or '.join(PADDINGS)}, got {attrs['padding']!r}; put other padding in front as a pad node"
    if "rounding" in attrs and attrs["rounding"] not in ROUNDING_MODES:
        yield f"rounding is one of {', '.join(ROUNDING_MODES)}, got {attrs['rounding']!r}"
    for key in ("pads", "crops"):
        if key in attrs and (
            len(attrs[key]) != rank - 1 or any(len(pair) != 2 or min(pair) < 0 for pair in attrs[key])
        ):
            yield (
                f"{key} must be {rank - 1} pairs (before, after) of integers >= 0, one per axis but the batch, got "
                f"{attrs[key]!r}"
            )
    if "slices" in attrs and (
        len(attrs["slices"]) != rank - 1
        or any(len(s) != 3 or s[0] < 0 or s[2] < 1 or (s[1] is not None and s[1] <= s[0]) for s in attrs["slices"])
    ):
        yield (
            f"slices must be {rank - 1} triples (start, stop, step) with 0 <= start < stop and step >= 1, one per axis "
            f"but the batch, got {attrs['slices']!r}"
        )
    if "indices" in attrs:
        size = graph.shape(node.inputs[0])[attrs["axis"]]
        if not attrs["indices"] or any(i < 0 or (size is not None and i >= size) for i in attrs["indices"]):
            yield (
                f"indices must be at least one of 0 to {'the end' if size is None else size - 1} of axis "
                f"{attrs['axis']}, got {attrs['indices']!r}"
            )
    if "dims" in attrs and sorted(attrs["dims"]) != list(range(1, rank)):
        yield f"dims must be an order of the axes 1 to {rank - 1}, got {attrs['dims']!r}"
    if "axes" in attrs and (not attrs["axes"] or any(not 0 < axis < rank for axis in attrs["axes"])):
        yield f"axes must be among 1 to {rank - 1} (never the batch), got {attrs['axes']!r}"
    if "axis" in attrs and not (-rank < attrs["axis"] < rank and attrs["axis"] % rank):
        yield f"axis must be one of 1 to {rank - 1} (or negative, never the batch), got {attrs['axis']!r}"
    if node.op == "average_pool" and graph.stage != "integer":
        for key in ("format", "low", "high"):
            if attrs[key] is not None:
                yield f"{key} belongs to integer graphs, got {attrs[key]!r}"
    elif "format" in attrs:
        if not isinstance(attrs["format"], QFormat):
            yield f"format must be a QFormat, got {attrs['format']!r}"
            return
        for key in ("low", "high"):
            if attrs.get(key) is not None and not attrs["format"].qmin <= attrs[key] <= attrs["format"].qmax:
                yield f"{key} must be a code of {attrs['format']}, got {attrs[key]!r}"
        if attrs.get("low") is not None and attrs.get("high") is not None and attrs["low"] > attrs["high"]:
            yield f"low must not exceed high, got {attrs['low']} and {attrs['high']}"
    if node.op == "rescaling":
        yield from _rescaling(graph, node)
    if node.op == "relu" and graph.stage == "integer" and attrs["max_value"] is not None:
        yield "an integer ReLU is limited by max_code, a code; max_value belongs to float graphs"
    if node.op == "fake_quantize":
        yield from _quantizer(graph, node, attrs)


def _rescaling(graph: Graph, node: Node) -> Iterator[str]:
    """Finite numbers that broadcast against one example."""
    known = tuple(1 if size is None else size for size in graph.shape(node.inputs[0])[1:])
    for key, value in zip(affine.KEYS, affine.numbers(graph, node, np.float64)):
        try:
            fits = np.broadcast_shapes(value.shape, known) == known
        except ValueError:
            fits = False
        if not fits:
            yield (
                f"{key} has shape {value.shape}, which does not broadcast against one example of shape "
                f"{graph.shape(node.inputs[0])[1:]}"
            )
        if not (np.abs(value) <= np.finfo(np.float32).max).all():
            yield f"{key} holds NaN or infinity; expected finite numbers"


def _quantizer(graph: Graph, node: Node, attrs: dict[str, Any]) -> Iterator[str]:
    if not isinstance(attrs["bits"], (int, np.integer)) or not 2 <= attrs["bits"] <= 16:
        yield f"bits must be 2 to 16, got {attrs['bits']!r}"
    if attrs["narrow"] and not attrs["signed"]:
        yield "narrow leaves out the lowest signed code; an unsigned quantizer cannot be narrow"
    thresholds, shape = attrs["log2_threshold"], graph.shape(node.inputs[0])
    axis = attrs["channel_axis"]
    channels = 1 if axis is None else math.prod(n or 1 for n in shape[-2:]) if axis == "flat" else shape[axis]
    if thresholds is not None and np.size(thresholds) != channels:
        yield f"log2_threshold must hold {channels} values (channel_axis {axis!r}), got {np.size(thresholds)}"


def _shapes(graph: Graph, node: Node, attrs: dict[str, Any]) -> Iterator[str]:
    shapes = [graph.shape(value) for value in node.inputs]
    row = ops.OPS[node.op]
    form = Kernel((-2, -1)) if node.op == "separable_conv" else row.kernel
    if form is not None:
        x, kernel = shapes[:2]
        if row.window and len(x) != len(kernel):
            yield f"the kernel {kernel} has another rank than the input {x}; expected both of rank 3 or 4"
            return
        expected = kernel[form.inputs] * attrs.get("groups", 1)
        if x[-1] != expected:
            yield f"the kernel {kernel} expects {expected} input channels, got {x[-1]}"
        if "groups" in attrs and (attrs["groups"] < 1 or kernel[-1] % attrs["groups"]):
            yield f"groups must divide the {kernel[-1]} output channels, got {attrs['groups']}"
    channels = {"bias_add": 1, "batch_norm": 4}.get(node.op, 0)
    for value, shape in zip(node.inputs[1 : 1 + channels], shapes[1 : 1 + channels]):
        if shape != (shapes[0][-1],):
            yield f"{value!r} must have shape ({shapes[0][-1]},), one value per channel, got {shape}"
    if node.op == "concat":
        axis = attrs["axis"] % len(shapes[0])
        for shape in shapes[1:]:
            if (
                len(shape) != len(shapes[0])
                or any(i != axis and None not in (a, b) and a != b for i, (a, b) in enumerate(zip(shape, shapes[0])))
            ):
                yield f"the shapes {shapes[0]} and {shape} differ beside axis {axis}"
    if node.op == "reshape" and None not in shapes[0][1:] and None not in attrs["shape"]:
        elements = math.prod(size or 0 for size in shapes[0][1:])
        if elements != math.prod(attrs["shape"]):
            yield f"{elements} elements do not fill the shape {attrs['shape']}"
    for (result,) in [row.shape(node, shapes, attrs)] if node.op != "island" else []:
        if any(size is not None and size < 1 for size in result[1:]):
            yield f"the output shape {result} holds nothing; the window or crop is larger than the input"


def _formats(graph: Graph, node: Node, attrs: dict[str, Any]) -> Iterator[str]:
    """The integer stage: who takes codes and who takes floats, and equal exponents where codes meet."""
    if graph.stage != "integer":
        for value in (*node.inputs, *node.outputs):
            if graph.format(value) is not None:
                yield f"{value!r} has the format {graph.format(value)}; values of a {graph.stage} graph are float32"
        return
    given = [graph.format(value) for value in node.inputs]
    row = ops.OPS[node.op]
    if row.on_reals:
        for value, format in zip(node.inputs, given):
            if format is not None:
                yield f"{value!r} holds codes ({format}); the op takes floats, put a dequantize in front"
        if node.op == "quantize" and attrs["format"].per_channel:
            yield f"an activation has one exponent, got {attrs['format']}"
        if node.op == "rescaling" and node.inputs[0] not in border.real_values(graph):
            yield (
                f"{node.inputs[0]!r} is computed by the network; a rescaling stands between an input and its quantize, "
                "with moves at most in front"
            )
        return
    if row.moves_codes and all(format is None for format in given):
        return  # between an island and a border
    for value, format in zip(node.inputs, given):
        if format is None:
            yield f"{value!r} is float; the op takes codes, put a quantize in front"
    formats = [format for format in given if format is not None]
    if len(formats) != len(given):
        return
    first, second = formats[0], formats[-1]
    if row.multiplies:
        if first.per_channel:
            yield f"the input {node.inputs[0]!r} has an exponent per channel; requantize it to one exponent first"
        if row.kernel is None and second.per_channel:
            yield f"the factor {node.inputs[1]!r} has an exponent per channel; expected one"
        if second.per_channel:
            channels = graph.shape(node.output)[-1]
            if len(second.exponents) != channels:
                yield (
                    f"the kernel's format has {len(second.exponents)} exponents, expected {channels}, one per "
                    "output channel"
                )
    elif row.sums:
        if first.exponent != second.exponent:
            yield (
                f"{node.inputs[0]!r} is at exponent {first.exponent}, {node.inputs[1]!r} at {second.exponent}; sums "
                "need one exponent"
            )
    elif row.meets:
        for value, format in zip(node.inputs[1:], formats[1:]):
            if format != first:
                yield f"{node.inputs[0]!r} has the format {first}, {value!r} has {format}; all inputs need one format"
    elif node.op == "lookup":
        codes = first.qmax - first.qmin + 1
        if node.inputs[1] not in graph.constants:
            yield f"the table {node.inputs[1]!r} must be a constant"
        if graph.shape(node.inputs[1]) != (codes,):
            yield (
                f"the table must have {codes} entries, one per code of {first}, got shape {graph.shape(node.inputs[1])}"
            )
        if second != attrs["format"]:
            yield f"the table holds codes of {second}, the attribute format says {attrs['format']}"
    elif node.op == "average_pool":
        for what, format in ((f"the input {node.inputs[0]!r}", first), ("the output", attrs["format"])):
            if format.per_channel:
                yield f"{what} of an average has one exponent, got {format}"
    elif node.op == "requantize":
        exponents = [len(f.exponents) for f in (first, attrs["format"]) if f.per_channel]
        if any(count != graph.shape(node.inputs[0])[-1] for count in exponents):
            yield f"exponents per channel must be {graph.shape(node.inputs[0])[-1]}, got {exponents}"


def _types(graph: Graph, node: Node, attrs: dict[str, Any]) -> Iterator[str]:
    for out, inferred in zip(node.outputs, ops.infer(graph, node), strict=True):
        if not _same(graph.types[out], inferred):
            yield f"the type of {out!r} is {type_text(graph.types[out])}, from its inputs follows {type_text(inferred)}"


def _same(given: TensorType, inferred: TensorType) -> bool:
    return given.format == inferred.format and tuple(given.shape) == tuple(inferred.shape)
