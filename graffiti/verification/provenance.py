"""With what a certificate was made: digests, formats, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from graffiti.executors import EXECUTORS, Unavailable
from graffiti.graph.ir import Graph
from graffiti.graph.ops import PRODUCTS


def model_digest(q) -> str:
    """SHA-256 of architecture and weights."""
    digest = hashlib.sha256(q.to_json().encode())
    for weight in q.weights:
        value = np.ascontiguousarray(weight.numpy())
        digest.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def data_digest(graph: Graph, arrays: list[np.ndarray]) -> str:
    """SHA-256 of the inputs, with names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in zip(graph.inputs, arrays):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def formats(graph: Graph) -> dict[str, dict[str, int]]:
    """How many tensors of each width: the scheme, as the graph holds it."""
    found: dict[str, Counter[str]] = {"weights": Counter(), "activations": Counter(), "accumulators": Counter()}
    kernels = {node.inputs[1] for node in graph.nodes if node.op in PRODUCTS}
    for kernel in kernels:
        if (format := graph.format(kernel)) is not None:
            found["weights"][f"int{format.bits}{' per channel' if len(format.exponents) > 1 else ''}"] += 1
    for value in (output for node in graph.nodes for output in node.outputs):
        if (format := graph.format(value)) is not None:
            role = "accumulators" if format.bits > 16 else "activations"
            found[role][f"{'' if format.signed else 'u'}int{format.bits}"] += 1
    return {role: dict(sorted(counts.items())) for role, counts in found.items()}


def environment(targets: Iterable[str]) -> dict[str, Any]:
    """Versions of everything that took part, and what the processor has.

    Args:
        targets: ``executor:option`` words; one that is no executor's (``keras``) needs nothing beside.
    """
    packages = ["graffiti", "numpy", "tensorflow", "keras"]
    for target in targets:
        name, _, option = target.partition(":")
        if name in EXECUTORS:
            packages += [package.name for package in EXECUTORS[name].needs(option)]
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in dict.fromkeys(packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    try:
        tiers = list(EXECUTORS["native"].usual())
    except Unavailable:  # no kernel library
        tiers = []
    return {**versions, "machine": platform.machine(), "tiers": tiers}
