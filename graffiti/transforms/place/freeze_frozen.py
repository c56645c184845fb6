"""What the user froze keeps its thresholds too."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.plan import Plan

_CONSTANT_ROLES = ("reciprocal", "alpha")


class FreezeFrozen(Pass):
    """``trainable=False`` on quantizers whose values no training step may change.

    1. The kernel's (and a narrow accumulator's) quantizer of a frozen layer: the layer is frozen with it.
    2. A value that depends on frozen weights and on no others: what stands behind a frozen base sees the same codes
       before and after training.
    3. An input that only frozen layers read: the same.
    4. Behind a layer that trains, or in front of one: trained, whatever stands elsewhere.
    5. A shared threshold: frozen where all its members are.
    6. A model of which nothing trains: all.
    7. Nothing frozen: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        if (
            not any(settings.get("trainable", True) is False for settings in graph.training.values())
            and not any(map(_frozen_island, graph.nodes))
        ):
            return PassResult(graph, False)
        trains, frozen = _upstream(graph)
        still = {value for value in frozen if value not in trains}
        quantizers = [node for node in graph.nodes if node.op == "fake_quantize"]
        due = {
            node.name for node in quantizers
            if not trains or node.name in still or self._only_frozen_readers(graph, node, trains, still)
        }
        groups: dict[str, bool] = {}
        for node in quantizers:
            if node.attrs["group"] is not None:
                groups[node.attrs["group"]] = groups.get(node.attrs["group"], True) and node.name in due
        modified = False
        for node in quantizers:
            if groups.get(node.attrs["group"], node.name in due) and node.attrs["trainable"]:
                node.attrs = {**node.attrs, "trainable": False}
                modified = True
        for node in graph.nodes:
            if node.op in PRODUCTS and _parameters_still(graph, node, still):
                self.plan.note(
                    node.of_layer, "frozen",
                    "trainable=False in the model: its weights and its thresholds stay as they are"
                )
        return PassResult(graph, modified)

    @staticmethod
    def _only_frozen_readers(graph: Graph, quantizer: Node, trains: set[str], still: set[str]) -> bool:
        if quantizer.inputs[0] not in graph.inputs:
            return False
        readers = [
            reader for value in _moved(graph, quantizer.name) for reader in graph.consumers(value)
            if not OPS[reader.op].moves_codes
        ]
        return bool(readers) and all(set(reader.outputs) <= still for reader in readers)


def _moved(graph: Graph, value: str) -> list[str]:
    """A value and what only moves it."""
    found = [value]
    for node in graph.nodes:
        if OPS[node.op].moves_codes and any(v in found for v in node.inputs):
            found.extend(node.outputs)
    return found


def _upstream(graph: Graph) -> tuple[set[str], set[str]]:
    """The values that depend on weights that train, and those that depend on frozen ones."""
    trains: set[str] = set()
    frozen: set[str] = set()
    fixed = {value for node in graph.nodes if node.attrs.get("fixed") for value in node.inputs[1:]}
    fixed |= {
        value for node in graph.nodes if set(node.outputs) & fixed and node.op in ("fake_quantize", "quantize_bias")
        for value in node.inputs[:1]
    }
    for name in graph.constants:
        if name in fixed:
            continue  # no training changes a rescaling's numbers
        trainable = graph.training.get(name, {}).get("trainable", True)
        if trainable is not None:
            (trains if trainable else frozen).add(name)
    for node in graph.nodes:
        neutral = node.op == "fake_quantize" and node.inputs[0] in graph.constants and (
            node.attrs["role"] in _CONSTANT_ROLES or (not node.attrs["trainable"] and node.inputs[0] not in frozen))
        inputs = node.inputs[:1] if node.attrs.get("fixed") else node.inputs
        for found in (trains, frozen):
            if not neutral and any(value in found for value in inputs):
                found.update(node.outputs)
        if node.op == "island" and node.attrs.get("weights"):
            (frozen if _frozen_island(node) else trains).update(node.outputs)
    return trains, frozen


def _frozen_island(node: Node) -> bool:
    layer = node.attrs.get("layer") if node.op == "island" else None
    config = layer.get("config") if isinstance(layer, dict) else None
    return isinstance(config, dict) and config.get("trainable", True) is False and bool(node.attrs.get("weights"))


def _parameters_still(graph: Graph, product: Node, still: set[str]) -> bool:
    return product.inputs[1] in still
