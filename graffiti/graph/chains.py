"""Chains: a node and what reads its result alone, as far as one kernel computes all of it.

A product, a sum or a product with a constant makes 32-bit accumulators. The bias, the ReLUs and the rounding behind it
work on each accumulator by itself, so a kernel applies them before it stores anything. ``chain_of`` finds them; a
backend says which chains it cannot run (``declines``) and gets the longest that it can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, attr
from graffiti.numerics.formats import MOST_LEFT, QFormat
from graffiti.numerics.rounding import shift_right

FOLLOWERS = ("bias_add", "relu", "requantize")  # ops that a chain takes in
MOST_LEFT_OF_MEAN = 61  # a sum that is not 0 leaves every format of codes behind it, whatever it is divided by


@dataclasses.dataclass(frozen=True)
class Rounded:
    """How codes become codes of another format: ``clamp(round(x / 2**shift), low, high)``.

    Attributes:
        shift: to the right, one or one per channel.
        mode: of the rounding.
        low: the lowest code, within the format.
        high: the highest.
        format: of the result.
    """

    shift: tuple[int, ...]
    mode: str
    low: int
    high: int
    format: QFormat

    def within(self, low: int | None, high: int | None) -> Rounded | None:
        """With a narrower range; ``None`` where it would be empty."""
        low, high = self.low if low is None else max(self.low, low), self.high if high is None else min(self.high, high)
        return dataclasses.replace(self, low=low, high=high) if low <= high else None


@dataclasses.dataclass(frozen=True)
class Chain:
    """``clamp(round((x + bias) / 2**shift), low, high)`` of what the head makes: bias, ReLUs, one rounding, ReLUs.

    Attributes:
        head: the node that the chain begins with.
        last: the value that the chain makes.
        nodes: what it takes in behind the head, in order.
        bias: name of the constant that is added, ``None`` where there is none.
        clamp: the limits of ReLUs with no rounding behind them, the upper one perhaps ``None``; ``None`` where there
            are no such ReLUs.
        rounded: the rounding with all ReLUs as its limits; ``None`` where the result has the head's format.
    """

    head: Node
    last: str
    nodes: tuple[Node, ...] = ()
    bias: str | None = None
    clamp: tuple[int, int | None] | None = None
    rounded: Rounded | None = None

    @property
    def computes(self) -> bool:
        """Whether it changes what it begins with."""
        return any(part is not None for part in (self.bias, self.clamp, self.rounded))

    @property
    def covered(self) -> list[Node]:
        """The head and what it takes in."""
        return [self.head, *self.nodes]

    def with_node(self, graph: Graph, node: Node) -> Chain | None:
        """The chain with one more node at its end; ``None`` where it has another form.

        1. A bias: a constant, in front of everything else.
        2. A ReLU: its limits join those in force. None where the two ranges have nothing in common.
        3. A requantize: the first one. ReLUs in front of it become limits of the rounded codes, since rounding is
           monotone and keeps 0; a maximum must then mean the same code in every channel.
        """
        if node.op == "bias_add" and graph.is_constant(node.inputs[1]) and not self.computes:
            return self._grown(node, bias=node.inputs[1])
        if node.op == "relu" and self.rounded is None:
            tops = [top for top in (self.clamp and self.clamp[1], attr(node, "max_code")) if top is not None]
            return self._grown(node, clamp=(0, min(tops, default=None)))
        if node.op == "relu" and self.rounded is not None:
            rounded = self.rounded.within(0, attr(node, "max_code"))
            return None if rounded is None else self._grown(node, rounded=rounded)
        if node.op == "requantize" and self.rounded is None:
            behind = _behind_clamp(rounded_by(graph, node), self.clamp)
            return None if behind is None else self._grown(node, clamp=None, rounded=behind)
        return None

    def _grown(self, node: Node, **changes) -> Chain:
        return dataclasses.replace(self, last=node.output, nodes=(*self.nodes, node), **changes)


def _behind_clamp(rounded: Rounded, clamp: tuple[int, int | None] | None) -> Rounded | None:
    """A rounding with what ReLUs in front of it do; ``None`` where that is no range of its codes."""
    if clamp is None:
        return rounded
    low, high = clamp
    if high is not None and len(set(rounded.shift)) > 1:
        return None
    return rounded.within(low, None if high is None else int(shift_right(high, rounded.shift[0], rounded.mode)))


def rounded_by(graph: Graph, node: Node) -> Rounded:
    """What a node does that rounds codes into a format: a ``requantize``, or an ``average_pool``, which divides as
    well.
    """
    source, target = graph.format(node.inputs[0]), attr(node, "format")
    if source is None:
        raise ValueError(f"node {node.name!r}: {node.op} takes codes, {node.inputs[0]!r} is float; check the lowering")
    shift = source.shift_to(target, most_left=MOST_LEFT_OF_MEAN if node.op == "average_pool" else MOST_LEFT)
    low, high = target.limits(attr(node, "low"), attr(node, "high"))
    return Rounded(shift, attr(node, "rounding"), low, high, target)


def chain_of(
    graph: Graph, head: Node, *, users: Mapping[str, Sequence[Node]] | None = None,
    declines: Callable[[Chain], bool] = lambda chain: False,
) -> Chain:
    """The longest chain behind a node that a backend runs.

    A node joins where it alone reads the chain's last value, reads it once, and as its first input. A value that leaves
    the graph ends its chain.

    Args:
        graph: of stage ``integer``.
        head: the node to begin with. One that a chain could take in itself (a requantize on its own) is its first node
            at once.
        users: ``graph.users()``, where the caller has it.
        declines: says of a chain that the backend cannot end there. A longer one may still do: a ReLU may need the
            rounding behind it.

    Returns:
        The chain; of the head alone where nothing joins.
    """
    users = graph.users() if users is None else users
    best = chain = _begin(graph, head)
    while (
        (reader := _follower(graph, chain, users)) is not None and (grown := chain.with_node(graph, reader)) is not None
    ):
        chain = grown
        best = best if declines(chain) else chain
    return best


def chains_of(graph: Graph, head: Node, *, users: Mapping[str, Sequence[Node]] | None = None) -> list[Chain]:
    """The chain behind a node and, where it ends at another bias, ReLU or rounding that joins no chain of that form,
    the next one.

    Args:
        graph: of stage ``integer``.
        head: the node to begin with.
        users: ``graph.users()``, where the caller has it.
    """
    users = graph.users() if users is None else users
    found = [chain_of(graph, head, users=users)]
    while (
        (reader := _follower(graph, found[-1], users)) is not None
        and (behind := chain_of(graph, reader, users=users)).computes
    ):
        found.append(behind)
    return found


def _follower(graph: Graph, chain: Chain, users: Mapping[str, Sequence[Node]]) -> Node | None:
    """The node that could join a chain at its end."""
    reader = only_reader(graph, chain.last, users)
    if reader is None or reader.op not in FOLLOWERS:
        return None
    return reader if reader.inputs[0] == chain.last and reader.inputs.count(chain.last) == 1 else None


def _begin(graph: Graph, head: Node) -> Chain:
    """The chain of one node."""
    if OPS[head.op].rounds_codes:
        return Chain(head, head.output, rounded=rounded_by(graph, head))
    own = Chain(head, head.inputs[0]).with_node(graph, head) if head.op in FOLLOWERS else None
    return Chain(head, head.output) if own is None else dataclasses.replace(own, nodes=())
