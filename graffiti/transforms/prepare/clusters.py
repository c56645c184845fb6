"""Which batch norms can be absorbed by the compute layer in front of them."""

from __future__ import annotations

import dataclasses

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import chain, only_reader
from graffiti.graph.ops import OPS, PRODUCTS, attr


@dataclasses.dataclass(frozen=True)
class Cluster:
    """``product → [bias_add →] batch_norm``, every value in between read once."""

    product: Node
    bias_add: Node | None
    batch_norm: Node

    @property
    def kernel(self) -> str:
        """The product's kernel."""
        return self.product.inputs[1]

    @property
    def channel_axis(self) -> int | str:
        """The kernel's axis of output channels."""
        form = OPS[self.product.op].kernel
        assert form is not None, "a product has a kernel"
        return form.channel_axis

    @property
    def bias(self) -> str | None:
        """The bias, ``None`` where there is none."""
        return self.bias_add.inputs[1] if self.bias_add else None

    @property
    def parameters(self) -> tuple[str, ...]:
        """gamma, beta, mean, variance."""
        return self.batch_norm.inputs[1:]

    @property
    def layer(self) -> tuple:
        """What two calls of one layer have in common."""
        norm = self.batch_norm
        return (self.product.op, self.kernel, self.bias, self.parameters, attr(norm, "epsilon"), attr(norm, "momentum"))


def foldable(graph: Graph) -> list[list[Cluster]]:
    """The clusters that can fold, the calls of one layer together, in the order of their products.

    All parameters are constants, and nobody but the calls of the same layer with the same batch norm reads them: a
    kernel with two different batch norms, or a batch norm on two different kernels, cannot become one layer with one
    set of weights.
    """
    clusters = [cluster for node in graph.nodes if (cluster := _cluster(graph, node)) is not None]
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    layers: dict[str, list[Cluster]] = {}
    for cluster in sorted(clusters, key=lambda cluster: place[id(cluster.product)]):
        layers.setdefault(cluster.kernel, []).append(cluster)
    users = graph.users()
    return [calls for calls in layers.values() if _alone(graph, calls, users)]


def _cluster(graph: Graph, norm: Node) -> Cluster | None:
    if norm.op != "batch_norm":
        return None
    found = chain(graph, norm.inputs[0], PRODUCTS, "bias_add") or chain(graph, norm.inputs[0], PRODUCTS)
    if found is None or only_reader(graph, norm.inputs[0]) is not norm:
        return None
    return Cluster(found[0], found[1] if len(found) == 2 else None, norm)


def _alone(graph: Graph, calls: list[Cluster], users: dict[str, list[Node]]) -> bool:
    if any(call.layer != calls[0].layer for call in calls):
        return False
    members = {id(node) for call in calls for node in (call.product, call.bias_add, call.batch_norm)}
    values = [calls[0].kernel, *calls[0].parameters, *([calls[0].bias] if calls[0].bias else [])]
    return all(
        graph.is_constant(value) and value not in graph.outputs
        and all(id(reader) in members for reader in users[value])
        for value in values
    )
