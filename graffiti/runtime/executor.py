"""Splits an integer graph into native parts and nodes that Python computes, and runs them in turn.

Python computes islands (Keras layers left in float, by a callback), softmax at the output, and whatever the native
runner has no rule for (by ``numerics.reference``, so still exact). A graph without any of these is one native part.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from graffiti.graph import interpreter
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attributes
from graffiti.runtime import library
from graffiti.runtime.program import Program, compile_graph, unsupported

Island = Callable[[Node, list[np.ndarray]], Sequence[np.ndarray] | np.ndarray]


class NativeProgram:
    """A compiled program in the library; ``run`` may be called from several threads.

    Args:
        program: from ``program.compile_graph``.
        tier: a name of ``library.TIERS``.

    Raises:
        KernelsNotAvailable: where the library is missing.
        KernelError: where this CPU lacks the tier.
    """

    def __init__(self, program: Program, tier: str = "auto") -> None:
        self.program = program
        self._library = library.load()
        self._handle = ctypes.c_void_p()
        self._library.call(
            "create_program", program.blob, len(program.blob), library.tier_number(tier), ctypes.byref(self._handle)
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.destroy(self._handle)

    def run(
        self, inputs: Sequence[np.ndarray], batch: int, threads: int, values: bool = False
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Outputs, and with ``values`` every step's tensor by name.

        Args:
            inputs: contiguous arrays of the program's dtypes, ``(batch, ...)``.
            batch: how many images.
            threads: how many to use.
            values: whether to collect the tensors between.
        """
        program = self.program
        outputs = [np.empty((batch, *spec.shape), spec.dtype) for spec in program.outputs]
        to = (ctypes.c_void_p * len(outputs))(*[array.ctypes.data for array in outputs])
        source = (ctypes.c_void_p * max(len(inputs), 1))(*[array.ctypes.data for array in inputs])
        if not values:
            self._library.call("run_program", self._handle, source, to, batch, threads)
            return outputs, {}
        arrays: dict[int, np.ndarray] = {}
        for spec, number in program.values:
            arrays.setdefault(number, np.empty((batch, *spec.shape), spec.dtype))
        slots = (ctypes.c_void_p * max(program.value_count, 1))(
            *[arrays[n].ctypes.data if n in arrays else None for n in range(program.value_count)]
        )
        self._library.call("run_program_debug", self._handle, source, to, batch, threads, slots)
        return outputs, {spec.name: arrays[number].reshape(batch, *spec.shape) for spec, number in program.values}


@dataclasses.dataclass
class _Part:
    """Nodes that run together: one native program, or one node in Python."""

    inputs: list[str]
    outputs: list[str]
    program: NativeProgram | None = None
    node: Node | None = None


class Executor:
    """An integer graph with known shapes, ready to run.

    Args:
        graph: of stage ``integer``.
        tier: of the native parts.
        island: computes a Keras layer left in float; needed where the graph has one.
    """

    def __init__(self, graph: Graph, tier: str, island: Island | None) -> None:
        self.graph, self.island = graph, island
        self.parts: list[_Part] = []
        for native, nodes in _split(graph):
            made = {out for node in nodes for out in node.outputs}
            read = {v for node in nodes for v in node.inputs}
            inputs = list(
                dict.fromkeys(v for node in nodes for v in node.inputs if v not in made and v not in graph.constants)
            )
            behind = (
                {v for node in graph.nodes if not any(node is mine for mine in nodes) for v in node.inputs}
                | set(graph.outputs)
            )
            outputs = [out for node in nodes for out in node.outputs if out in behind]
            if native:
                names = made | read | {v for node in nodes for v in node.attached}
                part = Graph(
                    "integer", inputs, outputs, list(nodes), {k: v for k, v in graph.constants.items() if k in names},
                    {k: t for k, t in graph.types.items() if k in names}, graph.name
                )
                self.parts.append(_Part(inputs, outputs, NativeProgram(compile_graph(part), tier)))
            else:
                self.parts.append(_Part(inputs, outputs, node=nodes[0]))
        self._last = {value: index for index, part in enumerate(self.parts) for value in part.inputs}

    @property
    def is_native(self) -> bool:
        """Whether the whole graph is native."""
        return all(part.program is not None for part in self.parts)

    def run(
        self, inputs: dict[str, np.ndarray], threads: int, values: bool = False
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Outputs in order, and with ``values`` every step's tensor by name."""
        live, collected = dict(inputs), {}
        keep = set(self.graph.outputs)
        first = batch = len(next(iter(inputs.values()))) if inputs else 1
        for index, part in enumerate(self.parts):
            batch = len(live[part.inputs[0]]) if part.inputs else first  # an island may fold an axis into the batch
            if part.program is not None:
                results, between = part.program.run([live[name] for name in part.inputs], batch, threads, values)
                live.update(zip(part.outputs, results))
                collected.update(between)
            elif part.node is not None:
                live.update(self._compute(part.node, live))
                collected.update({name: live[name] for name in part.outputs} if values else {})
            for name in part.inputs:
                if self._last[name] == index and name not in keep:
                    live.pop(name, None)
        return [live[name] if name in live else self._constant(name, first) for name in self.graph.outputs], collected

    def _compute(self, node: Node, live: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = [self.graph.constants[v] if v in self.graph.constants else live[v] for v in node.inputs]
        if node.op == "island":
            results = interpreter.run_island(node, arrays, self.island)
        else:
            results = [interpreter.RULES[node.op](self.graph, node, attributes(node), *arrays)]
        made = {}
        for name, result in zip(node.outputs, results):
            made[name] = np.ascontiguousarray(result, self.graph.storage(name))
        return made

    def _constant(self, name: str, batch: int) -> np.ndarray:
        array = np.asarray(self.graph.constants[name])
        return (
            np.repeat(array, batch, 0) if array.ndim and array.shape[0] == 1 and self.graph.shape(name)[0] is None
            else array
        )


def _split(graph: Graph) -> list[tuple[bool, list[Node]]]:
    """Nodes in groups that run one after the other: native nodes of one level together, a Python node alone.

    The level counts the changes between native and Python on the way from the inputs: even levels are native. Where
    Python takes part, native nodes of one level that share no value are apart: an island may have given them another
    batch.
    """
    level: dict[str, int] = {}
    groups: dict[int, list[Node]] = {}
    for node in graph.nodes:
        native = unsupported(graph, node) is None
        depth = max((level.get(v, 0) for v in node.inputs), default=0)
        if native != (depth % 2 == 0):
            depth += 1
        for out in node.outputs:
            level[out] = depth
        groups.setdefault(depth, []).append(node)
    ordered: list[tuple[bool, list[Node]]] = []
    for depth in sorted(groups):
        if depth % 2 == 0:
            ordered.extend(
                (True, nodes) for nodes in (_connected(graph, groups[depth]) if len(groups) > 1 else [groups[depth]])
            )
        else:  # within a level the graph's order holds
            ordered.extend((False, [node]) for node in groups[depth])
    return ordered


def _connected(graph: Graph, nodes: list[Node]) -> list[list[Node]]:
    """Nodes in groups that share values, each in the graph's order."""
    group: dict[str, int] = {}
    members: dict[int, list[Node]] = {}
    for number, node in enumerate(nodes):
        values = [v for v in (*node.inputs, *node.outputs) if v not in graph.constants]
        joined = {group[v] for v in values if v in group}
        members[number] = [node]
        for old in joined:
            members[number] += members.pop(old)
        group.update({v: number for v, old in group.items() if old in joined} | dict.fromkeys(values, number))
    order = {id(node): index for index, node in enumerate(nodes)}
    return [sorted(found, key=lambda node: order[id(node)]) for found in members.values()]
