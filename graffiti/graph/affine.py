"""The numbers of a ``rescaling``: one, one for each index of the last axis, or an array over one example.

``scale`` and ``offset`` are a number, a tuple along the last axis, or the name of a float32 constant that broadcasts
against one example (its axes are the value's last ones, the batch not among them).
"""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr

KEYS = ("scale", "offset")


def numbers(graph: Graph, node: Node, dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    """``(scale, offset)`` as arrays that broadcast against one example.

    Args:
        graph: holds the constants that a node names.
        node: a ``rescaling``.
        dtype: float32, in which a rescaling computes; float64 for what is to be computed from them.
    """
    values = [attr(node, key) for key in KEYS]
    scale, offset = (np.asarray(graph.constants[value] if isinstance(value, str) else value, dtype) for value in values)
    return scale, offset


def is_uniform(graph: Graph, node: Node) -> bool:
    """Whether every element of the value is scaled and shifted alike."""
    return all(value.size and (value == value.flat[0]).all() for value in numbers(graph, node))


def is_along_channels(value: np.ndarray, channels: int | None) -> bool:
    """Whether an array holds one number, or one for each index of the last axis."""
    return value.size == 1 or (value.size == channels and value.shape[-1] == channels)


def attributes_of(
    graph: Graph, name: str, scale: np.ndarray, offset: np.ndarray, channels: int | None
) -> dict[str, object]:
    """The attributes of a ``rescaling``: plain numbers where they hold it, else constants of the graph.

    Args:
        graph: takes the constants, as float32.
        name: of the rescaling; the constants are ``name/scale`` and ``name/offset``.
        scale, offset: arrays that broadcast against one example.
        channels: size of the value's last axis; ``None`` where it is unknown.

    Returns:
        ``{"scale": ..., "offset": ...}``: each a number where all elements are one, a tuple along the last axis, or the
        name of a constant.
    """
    attrs: dict[str, object] = {}
    for key, value in zip(KEYS, (scale, offset)):
        value = np.asarray(value)
        if value.size == 1:
            attrs[key] = float(value.reshape(()))
        elif is_along_channels(value, channels):
            attrs[key] = tuple(value.reshape(-1).tolist())
        else:
            attrs[key] = graph.add_constant(f"{name}/{key}", value.astype(np.float32))
    return attrs
