"""Runs an integer graph on ``numerics.reference``: the oracle that every executor and exporter must equal with ``==``.

Values are held in the storage dtype of their format (int8, uint8, int16, int32), float ones in float32. Every stored
value is checked against its format, so an accumulator that leaves 32 bits is an error here, never a wrapped integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graffiti.graph import affine
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attributes
from graffiti.numerics import reference

Island = Callable[[Node, list[np.ndarray]], Any]


def run(graph: Graph, inputs, *, values: bool = False, island: Island | None = None, softmax: bool = True):
    """Run an integer graph.

    Args:
        graph: of stage ``integer``.
        inputs: an array (one input), a list in the order of ``graph.inputs``, or a dict by name; ``(batch, ...)``.
            Float inputs become float32, as in Keras; inputs that have a format take codes.
        values: whether to return every tensor.
        island: computes a Keras layer left in float: ``island(node, arrays) -> arrays`` (or one array).
        softmax: whether softmax nodes compute; if not, they hand on their input (same order of classes).

    Returns:
        The list of output arrays; with ``values`` a dict of every input and node output by name.

    Raises:
        ValueError: for another stage, wrong inputs, NaN in an input, an island without ``island``, a value outside its
            format.
    """
    if graph.stage != "integer":
        raise ValueError(f"the interpreter runs integer graphs, got stage {graph.stage!r}; lower the graph, or use "
                         "float_interpreter.run_float")

    def compute(node: Node, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if node.op == "island":
            return run_island(node, arrays, island)
        if node.op == "softmax" and not softmax:
            return arrays
        if node.op not in RULES:
            raise ValueError(f"node {node.name!r}: there is no integer meaning for the op {node.op!r}; lowering should "
                             "have replaced it")
        return [RULES[node.op](graph, node, attributes(node), *arrays)]

    return walk(graph, inputs, compute, values=values)


def walk(
    graph: Graph, inputs, compute: Callable[[Node, list[np.ndarray]], Sequence[np.ndarray]], *, values: bool = False,
    dtype=np.float32
):
    """Evaluate the nodes in order, each as soon as it is reached; values nobody needs any more are dropped.

    Args:
        graph: in topological order.
        inputs: as in ``run``.
        compute: a node and its input arrays to its output arrays.
        values: whether to keep and return everything.
        dtype: of real values.

    Returns:
        As ``run``.
    """
    live: dict[str, np.ndarray] = {}
    for name, array in bind_inputs(graph, inputs).items():
        live[name] = _store(graph, name, array, "an input", dtype)
    last = {value: index for index, node in enumerate(graph.nodes) for value in node.inputs}
    kept = set(graph.outputs)
    for index, node in enumerate(graph.nodes):
        arrays = [graph.constants[value] if value in graph.constants else live[value] for value in node.inputs]
        results = compute(node, arrays)
        if len(results) != len(node.outputs):
            raise ValueError(f"node {node.name!r} ({node.op}) has {len(node.outputs)} outputs, {len(results)} were "
                             "computed")
        for out, result in zip(node.outputs, results):
            live[out] = _store(graph, out, result, f"node {node.name!r} ({node.op})", dtype)
        if not values:
            for value in (*node.inputs, *node.outputs):
                if last.get(value, index) <= index and value not in kept:
                    live.pop(value, None)
    if values:
        return live
    return [live[name] if name in live else graph.constants[name] for name in graph.outputs]


def fixed_batch(graph: Graph) -> int | None:
    """How many examples the graph takes at a time, where its inputs say so; ``None`` where it takes any number."""
    return next(
        (size for name in graph.inputs if graph.shape(name) and (size := graph.shape(name)[0]) is not None), None
    )


def cut(graph: Graph, arrays: Sequence[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Arrays batch by batch, as the graph takes them.

    Args:
        graph: says whether it has a batch size of its own.
        arrays: one for each input, ``(examples, ...)``.
        size: examples at a time, where the graph takes any number.

    Raises:
        ValueError: where the graph has a batch size of its own and the examples do not fill whole batches.
    """
    count, fixed = len(arrays[0]), fixed_batch(graph)
    if fixed and count % fixed:
        raise ValueError(f"the network takes batches of exactly {fixed}; pass a multiple of {fixed} examples, "
                         f"got {count}")
    size = fixed or size
    for start in range(0, count, size):
        yield [array[start : start + size] for array in arrays]


def bind_inputs(graph: Graph, inputs) -> dict[str, np.ndarray]:
    """Arrays by input name, checked for number, rank, sizes and a common batch.

    Raises:
        ValueError: a sentence that says which input, what was expected and what arrived.
    """
    if isinstance(inputs, Mapping):
        missing, unknown = [n for n in graph.inputs if n not in inputs], [n for n in inputs if n not in graph.inputs]
        if missing or unknown:
            raise ValueError(f"the graph {graph.name!r} has the inputs {', '.join(graph.inputs)}; missing: {missing}, "
                             f"unknown: {unknown}")
        arrays = [np.asarray(inputs[name]) for name in graph.inputs]
    else:
        arrays = [np.asarray(part) for part in inputs] if isinstance(inputs, (list, tuple)) else [np.asarray(inputs)]
        if len(arrays) != len(graph.inputs):
            raise ValueError(f"the graph {graph.name!r} has {len(graph.inputs)} inputs ({', '.join(graph.inputs)}), "
                             f"got {len(arrays)} arrays")
    batch: tuple[str, int] | None = None
    for name, array in zip(graph.inputs, arrays):
        expected = graph.shape(name)
        if array.ndim != len(expected) or any(size is not None and size != n for size, n in zip(expected, array.shape)):
            raise ValueError(f"input {name!r} has shape {expected} (None: any size), got {array.shape}")
        if graph.types[name].dtype == "string":
            if array.dtype.kind not in "OSUT":
                raise ValueError(f"input {name!r} takes text, got dtype {array.dtype}")
        elif array.dtype.kind not in "fiub" or (graph.format(name) is not None and array.dtype.kind not in "iu"):
            raise ValueError(f"input {name!r} takes {'numbers' if graph.format(name) is None else 'integer codes'}, "
                             f"got dtype {array.dtype}")
        if array.ndim and expected[0] is None:
            if batch is not None and batch[1] != len(array):
                raise ValueError(f"inputs have one batch size, got {batch[1]} examples for {batch[0]!r} and "
                                 f"{len(array)} for {name!r}")
            batch = name, len(array)
    return dict(zip(graph.inputs, arrays))


def run_island(node: Node, arrays: list[np.ndarray], island: Island | None) -> list[np.ndarray]:
    """Let the callback compute an island node; its results as a list.

    Args:
        node: an ``island``.
        arrays: its inputs, in order.
        island: the callback of ``run``; ``None`` where the caller passed none.

    Raises:
        ValueError: without a callback; says which layer stayed in float and why.
    """
    if island is None:
        raise ValueError(
            f"layer {node.name!r} stayed in float ({node.attrs.get('reason') or 'an island'}) and numpy cannot "
            "compute it; "
            "pass island=, a function (node, arrays) -> arrays"
        )
    results = island(node, arrays)
    return [np.asarray(r) for r in results] if isinstance(results, (list, tuple)) else [np.asarray(results)]


def _store(graph: Graph, name: str, array: np.ndarray, who: str, dtype) -> np.ndarray:
    """In the storage dtype of the value's format, checked to be within it."""
    format = graph.format(name)
    if format is None:
        return np.asarray(array, dtype if graph.types[name].dtype == "float32" else graph.storage(name))
    if array.size and (array.min() < format.qmin or array.max() > format.qmax):
        raise ValueError(
            f"{who}: the codes of {name!r} run from {array.min()} to {array.max()}, outside {format.bits}-bit "
            f"{'signed' if format.signed else 'unsigned'} [{format.qmin}, {format.qmax}]; requantize earlier or check "
            "the lowering proof"
        )
    return array.astype(format.dtype, copy=False)


# ---- op → (graph, node, attributes, *arrays) -> array: the call of numerics.reference --------------------------------
def _requantize(graph, node, a, x):
    return reference.requantize(x, graph.format(node.inputs[0]), a["format"], a["rounding"], a["low"], a["high"])


def _average_pool(graph, node, a, x):
    return reference.average_pool(
        x, a["pool_size"], a["strides"], a["padding"], graph.format(node.inputs[0]), a["format"], a["rounding"],
        a["low"], a["high"], a["divide"]
    )


def _elementwise(op: str) -> Callable[..., np.ndarray]:
    """An op of two operands is the function of its name."""
    return lambda g, n, a, x, y: getattr(reference, op)(x, y)


RULES: dict[str, Callable[..., np.ndarray]] = {
    **{name: _elementwise(name) for name, row in OPS.items() if row.binary},
    "conv": lambda g, n, a, x, k: reference.conv(x, k, a["strides"], a["padding"], a["dilation"], a["groups"]),
    "depthwise_conv": lambda g, n, a, x, k: reference.depthwise_conv(x, k, a["strides"], a["padding"], a["dilation"]),
    "conv_transpose": lambda g, n, a, x, k: reference.conv_transpose(
        x, k, a["strides"], a["padding"], a["output_padding"]
    ),
    "dense": lambda g, n, a, x, k: reference.dense(x, k),
    "bias_add": lambda g, n, a, x, b: reference.bias_add(x, b),
    "relu": lambda g, n, a, x: reference.relu(x, a["max_code"]),
    "lookup": lambda g, n, a, x, table: reference.lookup(x, table, g.format(n.inputs[0]).qmin),
    "average_pool": _average_pool,
    "max_pool": lambda g, n, a, x: reference.max_pool(x, a["pool_size"], a["strides"], a["padding"]),
    "global_max_pool": lambda g, n, a, x: reference.global_max_pool(x, a["axes"], a["keepdims"]),
    "concat": lambda g, n, a, *xs: reference.concat(xs, a["axis"]),
    "pad": lambda g, n, a, x: reference.pad(x, a["pads"]),
    "crop": lambda g, n, a, x: reference.crop(x, a["crops"]),
    "slice": lambda g, n, a, x: reference.slice_axes(x, a["slices"]),
    "take": lambda g, n, a, x: reference.take(x, a["axis"], a["indices"]),
    "reshape": lambda g, n, a, x: reference.reshape(x, a["shape"]),
    "permute": lambda g, n, a, x: reference.permute(x, a["dims"]),
    "upsample": lambda g, n, a, x: reference.upsample(x, a["size"]),
    "rescaling": lambda g, n, a, x: reference.rescaling(x, *affine.numbers(g, n)),
    "quantize": lambda g, n, a, x: reference.quantize(
        x, a["format"], a["rounding"], name=f"the tensor {n.inputs[0]!r}"
    ),
    "dequantize": lambda g, n, a, x: reference.dequantize(x, g.format(n.inputs[0])),
    "requantize": _requantize,
    "softmax": lambda g, n, a, x: reference.softmax(x, a["axis"]),
}
