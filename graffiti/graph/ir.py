"""The one graph type of graffiti: nodes, values with types, constants, and a stage.

A graph is ``float`` (what the user's model computes), ``fakequant`` (the same with quantizers put in) or ``integer``
(codes only). It knows neither Keras nor TensorFlow. What each op means is in ``graph/ops.py``.

Conventions
- A value is named by a string; a node is named by its first output. Further outputs are ``name:1``, ``name:2`` ...
- Where a Keras layer reads as several nodes, the last one carries the layer's name and the inner ones are
  ``layer/kernel``, ``layer/product``, ``layer/bias`` ...
- Nodes are kept in topological order. Constants are numpy arrays named like values.
- Shapes contain the batch dimension first, as ``None``. Constants have full shapes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from graffiti.numerics.formats import QFormat

STAGES = ("float", "fakequant", "integer")
_ATTACHED = ("values", "scale", "offset")  # attributes that may name a constant
TRAINING = ("trainable", "regularizer", "constraint", "activity")  # what ``Graph.training`` may say of a constant


@dataclasses.dataclass(frozen=True)
class TensorType:
    """Shape (batch first, ``None`` where unknown) and format; ``format`` is ``None`` for values that are no codes.

    Those are float32, but for what integers, booleans or text an island takes or gives: ``dtype`` names them as Keras
    does.
    """

    shape: tuple[int | None, ...]
    format: QFormat | None = None
    dtype: str = "float32"

    @property
    def is_float(self) -> bool:
        """Whether the value is no code."""
        return self.format is None

    @property
    def storage(self) -> np.dtype:
        """What holds it in memory (text: ``object``)."""
        if self.format is not None:
            return self.format.dtype
        return np.dtype(object if self.dtype == "string" else self.dtype)


@dataclasses.dataclass
class Node:
    """One operation: ``outputs = op(inputs, **attrs)``.

    ``layer`` names the layer of the model that the node is part of: rules and messages speak about layers. Empty where
    nobody said: then the node is a layer of its own.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)
    layer: str = ""

    @property
    def of_layer(self) -> str:
        """The layer that the node is part of, perhaps itself."""
        return self.layer or self.name

    @property
    def name(self) -> str:
        """The name of the first output."""
        return self.outputs[0]

    @property
    def output(self) -> str:
        """The only output; an error where there are several."""
        if len(self.outputs) != 1:
            raise ValueError(f"node {self.name!r} ({self.op}) has {len(self.outputs)} outputs, expected one")
        return self.outputs[0]

    @property
    def attached(self) -> tuple[str, ...]:
        """Constants that belong to the node without being inputs: an island's ``weights`` and ``state``, the table
        ``values`` of an activation, the ``scale`` and ``offset`` of a rescaling that differ over an example.
        """
        named = (value for key in _ATTACHED if isinstance(value := self.attrs.get(key), str))
        return (*self.attrs.get("weights", ()), *(entry[-1] for entry in self.attrs.get("state", ())), *named)


@dataclasses.dataclass
class Graph:
    """A directed acyclic graph in topological order.

    Args:
        stage: ``float``, ``fakequant`` or ``integer``.
        inputs: names of the graph's inputs; their types are in ``types``.
        outputs: names of the values the graph returns (a name may occur twice, an input may be an output).
        nodes: in topological order.
        constants: name → array. float32 before lowering, integers after (their formats are in ``types``).
        types: name → TensorType, for inputs, constants and every node output.
        name: for messages and exported symbols.
        interface: how the Keras model takes and returns its tensors (``keras_io``); no meaning for the graph itself.
            Structures of numbers (``inputs``, ``outputs``), and in order ``input_dtypes``, ``output_names``,
            ``output_dtypes`` and ``output_masks``:
            for each output the value that says which parts of it a loss leaves out, or ``None``.
        training: constant → how training treats this weight, where that is not as usual; no meaning for what the graph
            computes. ``trainable``: ``False`` for a weight that the user froze (of batch norm statistics: they do not
            move), ``None`` for a number that is no weight of the model; ``regularizer`` and ``constraint``: Keras'
            serialized objects. ``activity``, of a kernel: the regularizer of what its layer gives.
    """

    stage: str
    inputs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    types: dict[str, TensorType] = dataclasses.field(default_factory=dict)
    name: str = "model"
    interface: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    # ---- reading -----------------------------------------------------------------------------------------------
    def producer(self, value: str) -> Node | None:
        """The node that makes ``value``; ``None`` for inputs and constants."""
        for node in self.nodes:
            if value in node.outputs:
                return node
        return None

    def consumers(self, value: str) -> list[Node]:
        """The nodes that read ``value`` (each once, also where it reads it twice), in order."""
        return [node for node in self.nodes if value in node.inputs]

    def producers(self) -> dict[str, Node]:
        """Value name → node, for all node outputs at once."""
        return {out: node for node in self.nodes for out in node.outputs}

    def users(self) -> dict[str, list[Node]]:
        """Value name → its readers, for all values at once."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                table.setdefault(value, []).append(node)
        return table

    def node(self, name: str) -> Node:
        """The node called ``name``."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"graph {self.name!r} has no node {name!r}")

    def output_names(self) -> list[str]:
        """What the outputs are called where they are written or listed, in order, each name once: the keys of a model
        that returns a dict, else what Keras calls its outputs, else the values' own names.
        """
        structure, names = self.interface.get("outputs"), self.interface.get("output_names")
        if (
            isinstance(structure, dict)
            and sorted(map(str, structure.values())) == sorted(str(i) for i in range(len(self.outputs)))
        ):
            keys = {index: str(key) for key, index in structure.items()}
            names = [keys[index] for index in range(len(self.outputs))]
        if names is None or len(names) != len(self.outputs):
            names = self.outputs
        found: list[str] = []
        for name in names:
            number, free = 0, name
            while free in found:
                number += 1
                free = f"{name}_{number}"
            found.append(free)
        return found

    def masks(self) -> list[str]:
        """The values that are masks of outputs: training needs them, the outputs do not depend on them."""
        return [value for value in self.interface.get("output_masks", ()) if value is not None]

    def _rename_masks(self, old: str, new: str) -> None:
        if old in self.masks():
            self.interface = {
                **self.interface,
                "output_masks": [new if value == old else value for value in self.interface["output_masks"]]
            }

    def is_constant(self, value: str) -> bool:
        """Whether ``value`` is a stored array."""
        return value in self.constants

    def shape(self, value: str) -> tuple[int | None, ...]:
        """The shape of ``value``, batch first."""
        return self.types[value].shape

    def format(self, value: str) -> QFormat | None:
        """The fixed-point format of ``value``, ``None`` where it is float."""
        return self.types[value].format

    def storage(self, value: str) -> np.dtype:
        """What holds ``value`` in memory."""
        return self.types[value].storage

    # ---- changing (passes work on a copy) ------------------------------------------------------------------------
    def copy(self) -> Graph:
        """A copy that shares only the arrays (which nobody writes to)."""
        return Graph(
            self.stage,
            list(self.inputs),
            list(self.outputs),
            [Node(n.op, tuple(n.inputs), tuple(n.outputs), copy.copy(n.attrs), n.layer) for n in self.nodes],
            dict(self.constants),
            dict(self.types),
            self.name,
            dict(self.interface),
            dict(self.training),
        )

    def unique(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2`` ... where it is taken."""
        if name not in self.types:
            return name
        number = 1
        while f"{name}_{number}" in self.types:
            number += 1
        return f"{name}_{number}"

    def add_constant(self, name: str, value, format: QFormat | None = None) -> str:
        """Store an array under a free name; returns that name."""
        name = self.unique(name)
        array = np.asarray(value)
        self.constants[name] = array
        self.types[name] = TensorType(tuple(array.shape), format)
        return name

    def insert(
        self, op: str, inputs: Iterable[str], name: str, attrs: dict[str, Any] | None = None, *,
        type: TensorType | None = None, before: Node | None = None, after: Node | None = None, layer: str | None = None,
    ) -> Node:
        """Put a one-output node in; returns it.

        Args:
            op, inputs, name, attrs: of the node; where the name is taken it gets a number.
            type: of its output; inferred by the op's rule in ``graph/ops.py`` by default.
            before, after: another node that it stands next to; at the end by default.
            layer: what it is part of; by default what the node next to it is part of.
        """
        from graffiti.graph import ops  # the op table imports this module

        beside = before or after
        layer = layer if layer is not None or beside is None else beside.of_layer
        node = Node(op, tuple(inputs), (self.unique(name),), dict(attrs or {}), layer or "")
        if before is not None:
            index = self._index(before)
        elif after is not None:
            index = self._index(after) + 1
        else:
            index = len(self.nodes)
        self.nodes.insert(index, node)
        if type is None:
            (type,) = ops.infer(self, node)
        self.types[node.name] = type
        return node

    def _index(self, node: Node) -> int:
        for index, other in enumerate(self.nodes):
            if other is node:
                return index
        raise ValueError(f"node {node.name!r} is not in graph {self.name!r}")

    def replace_uses(self, old: str, new: str, *, except_in: Iterable[Node] = (), outputs: bool = True) -> None:
        """Let every reader of ``old`` read ``new`` (the graph's outputs too, unless ``outputs`` is false)."""
        skip = {id(node) for node in except_in}
        for node in self.nodes:
            if id(node) not in skip and old in node.inputs:
                node.inputs = tuple(new if value == old else value for value in node.inputs)
        if outputs:
            self.outputs = [new if value == old else value for value in self.outputs]
            self._rename_masks(old, new)

    def rename(self, old: str, new: str) -> None:
        """Give a value another name everywhere; ``new`` must be free."""
        if new in self.types:
            raise ValueError(f"cannot rename {old!r}: the name {new!r} is taken")
        for node in self.nodes:
            node.inputs = tuple(new if v == old else v for v in node.inputs)
            node.outputs = tuple(new if v == old else v for v in node.outputs)
            if old in node.attached:
                node.attrs = {
                    **node.attrs,
                    **{
                        key: _renamed(node.attrs[key], old, new) for key in ("weights", "state", *_ATTACHED)
                        if key in node.attrs
                    }
                }
        self.inputs = [new if v == old else v for v in self.inputs]
        self.outputs = [new if v == old else v for v in self.outputs]
        self._rename_masks(old, new)
        self.types[new] = self.types.pop(old)
        if old in self.constants:
            self.constants[new] = self.constants.pop(old)
        if old in self.training:
            self.training[new] = self.training.pop(old)

    def remove(self, node: Node) -> None:
        """Take a node out; nobody may read its outputs any more."""
        for out in node.outputs:
            if (
                out in self.outputs or out in self.masks()
                or any(out in other.inputs for other in self.nodes if other is not node)
            ):
                raise ValueError(f"cannot remove node {node.name!r}: its output {out!r} is still read")
        self.nodes = [other for other in self.nodes if other is not node]
        for out in node.outputs:
            self.types.pop(out, None)

    def prune(self) -> bool:
        """Remove nodes and constants that no output depends on; whether anything went."""
        alive = {*self.outputs, *self.masks()}
        kept = []
        for node in reversed(self.nodes):
            if any(out in alive for out in node.outputs):
                alive.update(node.inputs)
                alive.update(node.attached)
                kept.append(node)
        kept.reverse()
        live_names = set(self.inputs) | {o for n in kept for o in n.outputs} | (alive & set(self.constants))
        changed = len(kept) != len(self.nodes) or any(name not in live_names for name in self.types)
        self.nodes = kept
        self.constants = {k: v for k, v in self.constants.items() if k in live_names}
        self.training = {k: v for k, v in self.training.items() if k in live_names}
        self.types = {k: v for k, v in self.types.items() if k in live_names}
        return changed

    def sort(self) -> None:
        """Bring the nodes into topological order, keeping the present order where it is free."""
        ready = set(self.inputs) | set(self.constants)
        waiting, ordered = list(self.nodes), []
        while waiting:
            for index, node in enumerate(waiting):
                if all(value in ready for value in node.inputs):
                    ordered.append(waiting.pop(index))
                    ready.update(node.outputs)
                    break
            else:
                stuck = ", ".join(repr(n.name) for n in waiting[:5])
                raise ValueError(f"graph {self.name!r} has a cycle or reads undefined values near {stuck}")
        self.nodes = ordered


def _renamed(value, old: str, new: str):
    """A name, or names within tuples, with one of them replaced."""
    return (
        tuple(_renamed(part, old, new) for part in value) if isinstance(value, tuple) else new if value == old
        else value
    )


def layers_of_names(graph: Graph) -> list[str]:
    """For each node the layer that its name speaks of: ``c`` for ``c/product`` where there is a node ``c``, else the
    node itself.

    Texts and saved models hold names only; inside graffiti ``Node.layer`` counts.
    """
    names, found = {node.name for node in graph.nodes}, []
    for node in graph.nodes:
        parts = node.name.split("/")
        prefixes = ("/".join(parts[:length]) for length in range(1, len(parts)))
        found.append(next((prefix for prefix in prefixes if prefix in names), node.name))
    return found


def name_layers(graph: Graph) -> None:
    """Give every node whose layer nobody said the one that its name speaks of."""
    for node, layer in zip(graph.nodes, layers_of_names(graph)):
        node.layer = node.layer or layer
