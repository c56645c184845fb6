"""The one pass from fakequant to integer: a table of rules, one for each op, applied in topological order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.lower.activation_tables import lower_activation
from graffiti.transforms.lower.average_pools import lower_average_pool
from graffiti.transforms.lower.context import Lowering
from graffiti.transforms.lower.freeze_thresholds import check_groups, lower_fake_quantize
from graffiti.transforms.lower.fuse_relu import lower_relu
from graffiti.transforms.lower.islands import lower_float, lower_island
from graffiti.transforms.lower.lower_bias import lower_quantize_bias


def lower_product(context: Lowering, node: Node) -> None:
    """Codes times codes as it is (whether a constant was trained says nothing any more); with a float kernel or
    input the layer is an island.
    """
    _copy_or_float(context, node, without=("trained", "fixed"))


def lower_move(context: Lowering, node: Node) -> None:
    """Moves work on codes of one format as on reals, and on the border's reals as well. Parts of an output that have
    scales of their own are joined as reals, behind their dequantize.
    """
    if node.inputs and all(context.at_border(value) for value in node.inputs):
        return _at_border(context, node)
    if (
        node.name in context.joins
        and (
            len(_scales(context, node.inputs)) > 1
            or any(context.values[value] in context.joined for value in node.inputs)
        )
    ):
        inputs = tuple(context.real(value) for value in node.inputs)
        context.values[node.name] = context.emit(node.op, inputs, node.name, dict(node.attrs))
        context.joined.add(context.values[node.name])
        return None
    formats = {context.format(value) for value in node.inputs if context.has_codes(value)}
    _copy_or_float(context, node, agree=len(formats) == 1)


def _scales(context: Lowering, values: tuple[str, ...]) -> set[str]:
    """The thresholds that values are quantized by, seen through moves; a value in float counts for itself."""
    found: set[str] = set()
    for value in values:
        producer = context.producers.get(value)
        if producer is not None and (OPS[producer.op].moves_codes or OPS[producer.op].selects):
            found |= _scales(context, producer.inputs)
        else:
            found.add(
                value if producer is None or producer.op != "fake_quantize"
                else attr(producer, "group") or producer.name
            )
    return found


def lower_meeting(context: Lowering, node: Node) -> None:
    """Add, subtract, maximum, minimum on codes of one exponent; else they meet as reals."""
    formats = [context.format(value) for value in node.inputs if context.has_codes(value)]
    same = formats if OPS[node.op].keeps_format else [f.exponent for f in formats if f is not None]
    _copy_or_float(context, node, agree=len(set(same)) == 1)


def lower_rescaling(context: Lowering, node: Node) -> None:
    """An affine map of the border as it is; anywhere else an island."""
    if not context.at_border(node.inputs[0]):
        return lower_float(context, node)
    for name in node.attached:
        context.constant(name, context.source.constants[name], None)
    _at_border(context, node)


def _at_border(context: Lowering, node: Node) -> None:
    context.values[node.name] = context.emit(
        node.op, tuple(context.values[value] for value in node.inputs), node.name, dict(node.attrs)
    )
    context.border.add(context.values[node.name])


def lower_softmax(context: Lowering, node: Node) -> None:
    """Softmax stays in float, on dequantized values."""
    context.values[node.name] = context.emit("softmax", (context.real(node.inputs[0]),), node.name, dict(node.attrs))


def _copy_or_float(context: Lowering, node: Node, agree: bool = True, without: tuple[str, ...] = ()) -> None:
    if agree and all(context.has_codes(value) for value in node.inputs):
        inputs = tuple(context.values[value] for value in node.inputs)
        context.values[node.name] = context.emit(
            node.op, inputs, node.name, {key: value for key, value in node.attrs.items() if key not in without}
        )
    else:
        lower_float(context, node)


def _as_reals(graph: Graph) -> None:
    """Integers that anything but an island reads are handed over as float32, which is what quantizing takes."""
    read = {
        value for node in graph.nodes if node.op != "island" for value in node.inputs
        if graph.format(value) is None and value not in graph.constants
    }
    for value in read:
        graph.types[value] = dataclasses.replace(graph.types[value], dtype="float32")
    for node in graph.nodes:
        if node.op == "island" and node.attrs.get("output_dtypes") and not read.isdisjoint(node.outputs):
            dtypes = zip(node.outputs, node.attrs["output_dtypes"])
            node.attrs = {
                **node.attrs, "output_dtypes": tuple("float32" if out in read else dtype for out, dtype in dtypes)
            }


RULES: dict[str, Callable[[Lowering, Node], None]] = {
    "fake_quantize": lower_fake_quantize,
    "quantize_bias": lower_quantize_bias,
    **{name: lower_float for name, row in OPS.items() if row.unprepared},  # left over by preparing
    **{name: lower_product for name, row in OPS.items() if row.accumulates and not row.meets},
    **{name: lower_meeting for name, row in OPS.items() if row.binary and row.meets},
    **{name: lower_move for name, row in OPS.items() if row.moves_codes and row.integer},
    "relu": lower_relu,
    "activation": lower_activation,
    "average_pool": lower_average_pool,
    "softmax": lower_softmax,
    "rescaling": lower_rescaling,
    "island": lower_island,
}


class Convert(Pass):
    """Fakequant → integer; every node keeps its name, so that tensors are compared by name.

    1. Quantizers: ``freeze_thresholds``. 2. Biases: ``lower_bias``. 3. ReLU: ``fuse_relu``. 4. Activations:
    ``activation_tables``. Averages: ``average_pools``. 5. Products, sums and moves on codes: as they are. 6. What
    computes in float, and its borders:
    ``islands``. 7. Outputs of codes: dequantized. 8. A quantizer without a threshold, members of a group that differ,
    an op without a rule: an error that names the node.
    """

    stage = "fakequant"
    result_stage = "integer"

    def run(self, graph: Graph) -> PassResult:
        check_groups(graph)
        target = Graph("integer", list(graph.inputs), name=graph.name, interface=dict(graph.interface))
        target.types = {name: graph.types[name] for name in graph.inputs}
        context = Lowering(graph, target, {name: name for name in graph.inputs})
        for node in graph.nodes:
            if node.op not in RULES:
                raise ValueError(
                    f"node {node.name!r}: the op {node.op!r} has no integer form; prepare and place the graph first"
                )
            # an island may take two nodes
            if not all(out in context.values or out in context.pending for out in node.outputs):
                RULES[node.op](context, node)
        target.outputs = [context.real(value) for value in graph.outputs]
        _as_reals(target)
        return PassResult(target, True)
