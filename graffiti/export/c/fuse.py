"""From nodes to steps: each step is one call of a runtime kernel and makes one tensor.

A product, sum or product with a constant absorbs the ``bias_add``, ``relu`` and ``requantize`` nodes behind it as
*stages* that are applied while the accumulators are still in a scratch row; the tensor of accumulators never exists.
"""

from __future__ import annotations

import dataclasses

from graffiti.graph.chains import FOLLOWERS, Chain, chain_of, chains_of
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, attr

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


@dataclasses.dataclass
class Stage:
    """``value = clamp(round((value + bias) / 2**shift), low, high)``, bias and shift one number or one per channel."""

    bias: str | None = None                 # name of a constant
    shift: int | tuple[int, ...] = 0
    rounding: str = "half_even"
    low: int = INT32_MIN
    high: int = INT32_MAX

    @classmethod
    def of(cls, chain: Chain) -> Stage:
        """What a chain does to the value it begins with."""
        if (rounded := chain.rounded) is not None:
            return cls(chain.bias, one_shift(rounded.shift), rounded.mode, rounded.low, rounded.high)
        low, high = chain.clamp or (INT32_MIN, None)
        return cls(chain.bias, low=low, high=INT32_MAX if high is None else high)

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


def one_shift(shift: tuple[int, ...]) -> int | tuple[int, ...]:
    """Equal shifts as one number."""
    return shift[0] if len(set(shift)) == 1 else shift


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
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        reader = only_reader(graph, node.name, users) if enabled else None
        merges = reader is not None and OPS[reader.op].pads and reader.inputs[0] == node.name
        if node.op == "pad" and merges and attr(node, "pads")[-1] == (0, 0):
            pad_nodes[node.name] = node
            continue
        step = Step(node.op, node, node.inputs, node.name, nodes=[node.name])
        while step.inputs[0] in pad_nodes:
            pad = pad_nodes[step.inputs[0]]
            pads = [tuple(p) for p in attr(pad, "pads")[:-1]]
            step.pads = tuple((a + b, c + d) for (a, c), (b, d) in zip(pads, step.pads or [(0, 0)] * len(pads)))
            step.inputs = (pad.inputs[0], *step.inputs[1:])
            step.nodes.insert(0, pad.name)
        if OPS[node.op].accumulates or OPS[node.op].binary or node.op in FOLLOWERS:
            for chain in chains_of(graph, node, users=users) if enabled else [
                chain_of(graph, node, declines=lambda chain: True)
            ]:
                step.stages += [Stage.of(chain)] if chain.computes else []
                step.nodes += [taken.name for taken in chain.covered if taken is not node]
                absorbed.update(taken.name for taken in chain.covered)
                step.output = chain.last
        steps.append(step)
    return steps
