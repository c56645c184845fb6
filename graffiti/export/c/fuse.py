"""From nodes to steps: each step is one call of a runtime kernel and makes one tensor.

A product, sum or product with a constant absorbs the ``bias_add``, ``relu`` and ``requantize`` nodes behind it as *stages* that are
applied while the accumulators are still in a scratch row; the tensor of accumulators never exists.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import PRODUCTS, SELECTS, attr

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
MAX_LEFT, MAX_RIGHT = 32, 62  # beyond them nothing changes: any nonzero int32 saturates, or rounds like by 2**62

BINARY = ("add", "subtract", "multiply", *SELECTS)
UNARY = ("bias_add", "relu", "requantize")
_PAD_INTO = ("conv", "depthwise_conv")


@dataclasses.dataclass
class Stage:
    """``value = clamp(round((value + bias) / 2**shift), low, high)``, bias and shift one number or one per channel."""

    bias: str | None = None                 # name of a constant
    shift: int | tuple[int, ...] = 0
    rounding: str = "half_even"
    low: int = INT32_MIN
    high: int = INT32_MAX

    @property
    def only_bias(self) -> bool:
        """Whether a requantize may still be put into this stage."""
        return self.shift == 0 and self.low == INT32_MIN and self.high == INT32_MAX

    @property
    def per_channel(self) -> bool:
        """Whether it has one value for every channel."""
        return self.bias is not None or isinstance(self.shift, tuple)


@dataclasses.dataclass
class Step:
    """One kernel call.

    Attributes:
        op: the op of ``node``; ``emit`` looks its emitter up by it.
        node: the first node of the chain.
        inputs: its operands (those of ``node``, or in front of an absorbed ``pad``).
        output: the value that the last node of the chain makes.
        stages: what happens to the accumulators before they are stored.
        pads: rows and columns of zeros around the input, from absorbed ``pad`` nodes: one pair for each spatial axis.
        nodes: names of all nodes in the chain.
    """

    op: str
    node: Node
    inputs: tuple[str, ...]
    output: str
    stages: list[Stage] = dataclasses.field(default_factory=list)
    pads: tuple[tuple[int, int], ...] | None = None
    nodes: list[str] = dataclasses.field(default_factory=list)

    @property
    def per_channel(self) -> bool:
        """Whether any stage has one value for every channel."""
        return any(stage.per_channel for stage in self.stages)


def requantize_shift(source, target, *, most_left: int = MAX_LEFT) -> int | tuple[int, ...]:
    """Right shift from one format's codes to another's, clipped to what still makes a difference; equal shifts become one."""
    shift = np.clip(np.asarray(target.exponent, np.int64) - np.asarray(source.exponent, np.int64), -most_left, MAX_RIGHT)
    if shift.ndim == 0 or (shift == shift.flat[0]).all():
        return int(shift.flat[0])
    return tuple(int(s) for s in shift)


def fuse(graph: Graph, enabled: bool = True) -> list[Step]:
    """The steps of a graph of codes, in an order that computes every operand first.

    Args:
        graph: integer, without float borders (``border.take_border_off``).
        enabled: false makes one step of every node, so that every tensor exists (for debugging and verification).
    """
    users = graph.users()
    absorbed: set[str] = set()
    pad_nodes: dict[str, Node] = {}  # output of a pad that its only reader takes in -> the pad
    steps = []

    def only_reader(value: str) -> Node | None:
        readers = users.get(value, [])
        single = enabled and len(readers) == 1 and value not in graph.outputs and readers[0].inputs.count(value) == 1
        return readers[0] if single else None

    for node in graph.nodes:
        if node.name in absorbed:
            continue
        reader = only_reader(node.name)
        if node.op == "pad" and reader is not None and reader.op in _PAD_INTO and reader.inputs[0] == node.name and attr(node, "pads")[-1] == (0, 0):
            pad_nodes[node.name] = node
            continue
        step = Step(node.op, node, node.inputs, node.name, nodes=[node.name])
        while step.inputs[0] in pad_nodes:
            pad = pad_nodes[step.inputs[0]]
            pads = [tuple(p) for p in attr(pad, "pads")[:-1]]
            step.pads = tuple((a + b, c + d) for (a, c), (b, d) in zip(pads, step.pads or [(0, 0)] * len(pads)))
            step.inputs = (pad.inputs[0], *step.inputs[1:])
            step.nodes.insert(0, pad.name)
        if node.op in UNARY:
            _absorb(graph, step, node)
        if node.op in (*PRODUCTS, *BINARY, *UNARY):
            while (reader := only_reader(step.output)) is not None and reader.inputs[0] == step.output and _absorb(graph, step, reader):
                step.output = reader.name
                step.nodes.append(reader.name)
                absorbed.add(reader.name)
        steps.append(step)
    return steps


def _absorb(graph: Graph, step: Step, node: Node) -> bool:
    """Add one node to the stages of a step; false where it is none that fits."""
    stages = step.stages
    if node.op == "bias_add":
        stages.append(Stage(bias=node.inputs[1]))
    elif node.op == "relu":
        if not stages:
            stages.append(Stage())
        stages[-1].low = max(stages[-1].low, 0)
        if node.attrs.get("max_code") is not None:
            stages[-1].high = min(stages[-1].high, int(node.attrs["max_code"]))
    elif node.op == "requantize":
        target = attr(node, "format")
        if not stages or not stages[-1].only_bias:
            stages.append(Stage())
        stages[-1].shift = requantize_shift(graph.format(node.inputs[0]), target)
        stages[-1].rounding = attr(node, "rounding")
        low, high = attr(node, "low"), attr(node, "high")
        stages[-1].low = target.qmin if low is None else max(int(low), target.qmin)
        stages[-1].high = target.qmax if high is None else min(int(high), target.qmax)
    else:
        return False
    return True
