"""``Runner``: an integer graph on the native kernels, numpy arrays in and out.

The graph is compiled once (``program.py``) and runs in one native call per batch, every thread on images of its own.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping

import numpy as np

from graffiti import checks
from graffiti.graph import interpreter, ops
from graffiti.graph.ir import Graph
from graffiti.runtime import library
from graffiti.runtime.executor import Executor, Island
from graffiti.runtime.library import KernelError, KernelsNotAvailable

__all__ = ["KernelError", "KernelsNotAvailable", "Runner", "supported_tiers"]


def supported_tiers() -> list[str]:
    """The instruction sets this CPU runs, slowest first: ``scalar``, then what it has of ``ops/kernels/tiers.inc``."""
    return library.load().tiers()


class Runner:
    """Runs an integer graph; its integers equal ``graph.interpreter.run`` on every tier and number of threads.

    Args:
        graph: of stage ``integer``. Sizes other than the batch may be unknown: a program is made for each that arrives.
        tier: ``auto``, or an instruction set of ``supported_tiers()``.
        threads: how many to use, the caller's included; as many as this process has processors by default.
        island: ``(node, arrays) -> arrays``, computes a Keras layer left in float.

    Raises:
        KernelsNotAvailable: where the kernel library is not built.
        KernelError: where this CPU lacks the tier.
        ValueError: for a graph of another stage, or with an island and no ``island``.
    """

    def __init__(
        self, graph: Graph, tier: str = "auto", threads: int | None = None, island: Island | None = None
    ) -> None:
        if graph.stage != "integer":
            raise ValueError(f"Runner runs a graph of stage 'integer', got {graph.stage!r}; lower it first")
        threads = None if threads is None else checks.whole("threads of a runner", threads, 1)
        if island is None and (islands := [node.name for node in graph.nodes if node.op == "island"]):
            raise ValueError(f"layer {islands[0]!r} stayed in float; pass island=, a function (node, arrays) -> arrays")
        library.tier_number(tier)
        self.graph, self.tier, self.island = graph, tier, island
        self.threads = threads or _processors()
        self._executors: dict[tuple, Executor] = {}
        self._lock = threading.Lock()
        if all(size is not None for name in graph.inputs for size in graph.shape(name)[1:]):
            self._executor(tuple(graph.shape(name)[1:] for name in graph.inputs))

    def __getstate__(self) -> dict:
        return {"graph": self.graph, "tier": self.tier, "threads": self.threads, "island": self.island}

    def __setstate__(self, state: dict) -> None:
        Runner.__init__(self, **state)

    @property
    def is_native(self) -> bool:
        """Whether no part runs in Python (known once a program was made)."""
        return all(executor.is_native for executor in self._executors.values())

    def run(self, inputs) -> list[np.ndarray]:
        """The graph's outputs, in order.

        Args:
            inputs: one array, a list in the order of the graph's inputs, or a dict by name; ``(batch, ...)``.
                Contiguous float32 (or codes in their storage dtype) is used in place.

        Raises:
            ValueError: for wrong shapes or dtypes, or NaN in an input.
        """
        executor, arrays = self._bind(inputs)
        return executor.run(arrays, self.threads)[0]

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """Every tensor that the program keeps, by name: what is fused into a step has no tensor of its own."""
        executor, arrays = self._bind(inputs)
        outputs, values = executor.run(arrays, self.threads, values=True)
        return {**values, **dict(zip(self.graph.outputs, outputs))}

    def _bind(self, inputs: np.ndarray | list | tuple | Mapping) -> tuple[Executor, dict[str, np.ndarray]]:
        arrays = interpreter.bind_inputs(self.graph, inputs)
        for name, array in arrays.items():
            format = self.graph.format(name)
            dtype = self.graph.storage(name)
            if (
                format is not None and array.dtype != dtype and array.size
                and not format.qmin <= array.min() <= array.max() <= format.qmax
            ):
                raise ValueError(
                    f"input {name!r} takes codes of {format}, got values from {array.min()} to {array.max()}"
                )
            arrays[name] = np.ascontiguousarray(array, dtype)
        return self._executor(tuple(array.shape[1:] for array in arrays.values())), arrays

    def _executor(self, shapes: tuple) -> Executor:
        with self._lock:
            if shapes not in self._executors:
                self._executors[shapes] = Executor(_with_shapes(self.graph, shapes), self.tier, self.island)
            return self._executors[shapes]


def _with_shapes(graph: Graph, shapes: tuple) -> Graph:
    """The graph with these input shapes (without the batch); itself where they are its own."""
    if all(tuple(graph.shape(name)[1:]) == shape for name, shape in zip(graph.inputs, shapes)):
        return graph
    graph = graph.copy()
    for name, shape in zip(graph.inputs, shapes):
        graph.types[name] = dataclasses.replace(graph.types[name], shape=(graph.shape(name)[0], *shape))
    ops.infer_all(graph)
    return graph


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
