"""Putting one quantizer into a graph, and asking what kind a value is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graffiti.config import QuantizerSpec
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS
from graffiti.transforms.place.plan import Plan

CODES, ACCUMULATOR, REAL, PARAMETER = "codes", "accumulator", "real", "parameter"


def attributes(spec: QuantizerSpec, *, signed: bool, rounding: str, role: str, **changes: Any) -> dict[str, Any]:
    """The attributes of a ``fake_quantize`` node made from a spec.

    Args:
        spec: as the scheme has it.
        signed: the decision on ``spec.signed``, which may be ``auto``.
        rounding: the decision on ``spec.rounding``, which may be ``None`` for the scheme's.
        role: of the quantizer; the row ``fake_quantize`` of ``graph/ops.py`` lists them.
        **changes: attributes to set otherwise.
    """
    return {
        "quantizer": spec.quantizer, "bits": spec.bits, "signed": signed, "narrow": spec.narrow and signed,
        "rounding": rounding, "channel_axis": None, "group": None, "role": role, "trainable": spec.trainable,
        "calibration": spec.calibration, "log2_threshold": None, **changes,
    }


def insert_after(
    graph: Graph, value: str, name: str, attrs: dict[str, Any], readers: Iterable[Node] | None = None
) -> Node:
    """Put a ``fake_quantize`` behind a value.

    Args:
        graph: is changed.
        value: of any node, or an input.
        name: of the new node.
        attrs: of the new node, from ``attributes``.
        readers: the nodes that read the quantized value from now on; ``None`` for all, the graph's outputs too.

    Returns:
        The new node.
    """
    producer = graph.producer(value)
    first = graph.nodes[0] if producer is None and graph.nodes else None
    inner = producer is not None and producer.of_layer != producer.name
    node = graph.insert(
        "fake_quantize", (value,), name, attrs, before=first, after=producer,
        layer=producer.of_layer if producer is not None and inner else name
    )
    if readers is None:
        graph.replace_uses(value, node.name, except_in=(node,))
    for reader in readers or ():
        reader.inputs = tuple(node.name if v == value else v for v in reader.inputs)
    return node


def kinds(graph: Graph, plan: Plan) -> dict[str, str]:
    """Every value's kind: ``codes`` (on a quantizer's grid), ``accumulator`` (computed from codes, not yet rounded),
    ``real`` (float) or ``parameter`` (depends on constants only)."""
    kind = {name: REAL for name in graph.inputs} | {name: PARAMETER for name in graph.constants}
    for node in graph.nodes:
        inputs = [kind[value] for value in node.inputs]
        if node.op == "quantize_bias" or (inputs and all(k == PARAMETER for k in inputs)):
            result = PARAMETER
        elif node.op == "training_only":
            result = inputs[0]  # nothing at inference, whatever a rule says of it
        elif plan.in_float(node):
            result = REAL
        elif node.op == "fake_quantize":
            result = CODES
        elif OPS[node.op].moves_codes or OPS[node.op].selects:
            data = [k for k in inputs if k != PARAMETER]
            result = next((k for k in data if k != CODES), CODES)
        else:
            result = ACCUMULATOR
        kind.update(dict.fromkeys(node.outputs, result))
    return kind


def wants_codes(graph: Graph, plan: Plan, reader: Node, value: str, kind: str) -> bool:
    """Whether a node must read a value of this kind through a quantizer.

    1. Codes and parameters: no. 2. A quantizer: no. 3. A layer in float reads reals as they are, anything else as the
    quantized value, so that it sees what the integer graph hands it; what only joins outputs reads an input through a
    quantizer too. 4. ReLU takes accumulators: the quantizer comes behind it (a table's output is rounded by the table
    itself). 5. A bias is added to its product before any rounding. 6. What acts in training only wants what its readers
    want. 7. Everything else: yes.

    Args:
        graph: float, with the quantizers placed so far.
        plan: says what stays in float.
        reader: a node that reads ``value``.
        value: one of its inputs.
        kind: of the value, from ``kinds``.
    """
    if kind in (CODES, PARAMETER) or reader.op == "fake_quantize":
        return False
    if reader.op == "training_only":
        behind = any(wants_codes(graph, plan, other, reader.output, kind) for other in graph.consumers(reader.output))
        return behind or (kind == ACCUMULATOR and reader.output in graph.outputs)
    if plan.in_float(reader):
        return kind == ACCUMULATOR or (reader.name in plan.joins and value in plan.border)
    producer = graph.producer(value)
    if reader.op == "relu":
        return kind == REAL or producer is None or producer.op == "activation"
    if reader.op == "bias_add" and kind == ACCUMULATOR:
        return producer is None or producer.op not in PRODUCTS
    return True
