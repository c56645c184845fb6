"""Run an integer graph by TensorFlow ops: our native ones, or their pure TensorFlow twins.

One ``tf.function`` around the whole graph. ``verify`` uses it for the targets ``ops`` and ``python``; prediction goes
through the program runner (``runtime/runner.py``), which is several times faster. ``to_saved_model`` wraps that program
in one op.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from graffiti import files
from graffiti.graph import affine, interpreter
from graffiti.graph.chains import Chain, Rounded, chain_of, rounded_by
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS, attr, transpose_pads
from graffiti.ops import integer_ops as ops
from graffiti.ops import loader


class TensorFlowExecutor:
    """An integer graph as one ``tf.function``.

    Args:
        graph: of stage ``integer``.
        ops: ``native`` (the op library) or ``python`` (pure TensorFlow).
        tier: instruction set of the native ops, a name of ``graffiti.ops.loader.TIERS``.
        island: ``(node, arrays) -> arrays``, computes a Keras layer left in float; needed where the graph has one.

    Raises:
        ValueError: for a graph of another stage, or with an island and no ``island``.
        loader.OpsNotAvailable: for ``native`` where the library does not load.
    """

    def __init__(
        self, graph: Graph, ops: str = "native", tier: str = "auto",
        island: Callable[[Node, list[np.ndarray]], Sequence[np.ndarray]] | None = None,
    ) -> None:
        if graph.stage != "integer":
            raise ValueError(f"TensorFlowExecutor runs a graph of stage 'integer', got {graph.stage!r}; lower it first")
        if ops not in ("native", "python"):
            raise ValueError(f"ops is native or python, got {ops!r}")
        unknown = [node for node in graph.nodes if node.op not in RULES]
        if unknown:
            raise ValueError(f"node {unknown[0].name!r}: TensorFlowExecutor has no rule for {unknown[0].op!r}")
        if island is None and any(node.op == "island" for node in graph.nodes):
            raise ValueError("the graph has Keras layers left in float; pass island=, the function that computes them")
        if ops == "native":
            loader.load()
        self.graph, self.island = graph, island
        self.options = {"engine": ops, "tier": tier}
        self._fused = _fusions(graph)
        self._functions: dict[bool, Callable] = {}

    def run(self, inputs) -> list[np.ndarray]:
        """The graph's outputs, in order.

        Args:
            inputs: one array, a list in the order of the graph's inputs, or a dict by name; shape ``(batch, ...)``.
        """
        return [np.asarray(value) for value in self._call(inputs, False)]

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """Every node output by name, nothing fused."""
        return {name: np.asarray(value) for name, value in self._call(inputs, True).items()}

    def _call(self, inputs, every: bool):
        arrays = self._arrays(inputs)
        if every not in self._functions:
            signature = [tf.TensorSpec(self.graph.shape(name), self._dtype(name)) for name in self.graph.inputs]
            self._functions[every] = tf.function(
                self._all_values if every else self._outputs, input_signature=signature, autograph=False)
        try:
            return self._functions[every](*arrays)
        except tf.errors.InvalidArgumentError as error:
            nan = "quantize expects numbers, its input holds NaN"
            raise ValueError(f"graph {self.graph.name!r}: {nan if nan in error.message else error.message}") from error

    def _arrays(self, inputs) -> list[tf.Tensor]:
        bound = interpreter.bind_inputs(self.graph, inputs)
        for name, array in bound.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ValueError(
                    f"input {name!r} holds {np.count_nonzero(np.isnan(array))} NaN; NaN has no code, clean the data"
                )
        return [
            tf.constant(array.astype(self.graph.storage(name), copy=False), self._dtype(name))
            for name, array in bound.items()
        ]

    def _dtype(self, value: str) -> tf.DType:
        type = self.graph.types[value]
        return tf.as_dtype(type.dtype if type.is_float else type.storage)

    # ---- tracing -------------------------------------------------------------------------------------------------
    def _outputs(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        values = self._trace(inputs, self._fused)
        return [values[name] for name in self.graph.outputs]

    def _all_values(self, *inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        values = self._trace(inputs, {})
        return {out: values[out] for node in self.graph.nodes for out in node.outputs}

    def _trace(self, inputs: Sequence[tf.Tensor], fused: Mapping[str, Chain]) -> dict[str, tf.Tensor]:
        values = dict(zip(self.graph.inputs, inputs))
        owned = {name for node in self.graph.nodes if node.op == "island" for name in node.attached}
        owned -= {value for node in self.graph.nodes for value in node.inputs}
        for name, array in self.graph.constants.items():
            if name not in owned:
                values[name] = tf.constant(np.asarray(array).astype(self._dtype(name).as_numpy_dtype, copy=False))
        done: set[str] = set()
        for node in self.graph.nodes:
            if node.name in done:
                continue
            arguments = [values[value] for value in node.inputs]
            if node.op in PRODUCTS:
                chain = fused.get(node.name, Chain(node, node.output))
                bias = None if chain.bias is None else values[chain.bias]
                results = [RULES[node.op](self, node, *arguments, bias=bias, requantize=_requantization(chain))]
                done.update(taken.name for taken in chain.nodes)
                names: tuple[str, ...] = (chain.last,)
            else:
                results = RULES[node.op](self, node, *arguments)
                results = results if isinstance(results, (list, tuple)) else [results]
                names = node.outputs
            for name, result in zip(names, results):
                result.set_shape(self.graph.shape(name))
                values[name] = tf.cast(result, self._dtype(name))  # of the format; changes nothing but the storage
        return values

    def requantization(self, node: Node) -> ops.Requantization:
        """The numbers of a ``requantize`` node, or of another that rounds into a format."""
        return _requantization_of(rounded_by(self.graph, node))


def _fusions(graph: Graph) -> dict[str, Chain]:
    """Product name → what its op computes along, where that is anything; it clamps nothing but what it rounds."""
    users, products = graph.users(), [node for node in graph.nodes if node.op in PRODUCTS]
    chains = [chain_of(graph, node, users=users, declines=lambda chain: chain.clamp is not None) for node in products]
    return {chain.head.name: chain for chain in chains if chain.nodes}


def _requantization(chain: Chain) -> ops.Requantization | None:
    """How a chain rounds; ``None`` where its result stays an accumulator."""
    return None if chain.rounded is None else _requantization_of(chain.rounded)


def _requantization_of(rounded: Rounded) -> ops.Requantization:
    shift = rounded.shift if len(rounded.shift) > 1 else rounded.shift[0]
    return ops.Requantization(shift, rounded.low, rounded.high, rounded.format.dtype.name, rounded.mode)


# ---- one rule per op: (executor, node, *inputs) -> output or outputs ------------------------------------------------
def _as_2d(x: tf.Tensor, kernel: tf.Tensor | None, *windows):
    """A one-dimensional window op as a two-dimensional one of height 1; the last value undoes it."""
    if x.shape.rank == 4:
        return (x, kernel, *map(tuple, windows), lambda y: y)
    x = tf.expand_dims(x, 1)
    kernel = None if kernel is None else tf.expand_dims(kernel, 0)
    return (x, kernel, *((1, *window) for window in windows), lambda y: tf.squeeze(y, 1))


def _conv(executor, node, x, kernel, **fused):
    x, kernel, strides, dilation, undo = _as_2d(x, kernel, attr(node, "strides"), attr(node, "dilation"))
    return undo(ops.conv2d(
        x, kernel, strides=strides, padding=attr(node, "padding"), dilation=dilation, groups=attr(node, "groups"),
        **fused, **executor.options))


def _depthwise_conv(executor, node, x, kernel, **fused):
    x, kernel, strides, dilation, undo = _as_2d(x, kernel, attr(node, "strides"), attr(node, "dilation"))
    return undo(ops.depthwise_conv2d(
        x, kernel, strides=strides, padding=attr(node, "padding"), dilation=dilation, **fused, **executor.options))


def _conv_transpose(executor, node, x, kernel, **fused):
    strides = tuple(attr(node, "strides"))
    extra = attr(node, "output_padding") or (None,) * len(strides)
    cut = [transpose_pads(k, s, attr(node, "padding"), e) for k, s, e in zip(kernel.shape, strides, extra)]
    if x.shape.rank == 3:
        cut = [(0, 0), *cut]
    x, kernel, strides, undo = _as_2d(x, kernel, strides)
    return undo(ops.conv2d_transpose(x, kernel, strides=strides, cut=cut, **fused, **executor.options))


def _dense(executor, node, x, kernel, **fused):
    return ops.dense(x, kernel, **fused, **executor.options)


def _bias_add(executor, node, x, bias):
    return ops.bias_add(x, bias, **executor.options)


def _elementwise(executor, node, x, y):
    return ops.elementwise(node.op, x, y, **executor.options)


def _relu(executor, node, x):
    return ops.relu(x, high=attr(node, "max_code"), **executor.options)


def _lookup(executor, node, x, table):
    return ops.lookup(x, table, low=executor.graph.format(node.inputs[0]).qmin, **executor.options)


def _max_pool(executor, node, x):
    x, _, pool_size, strides, undo = _as_2d(x, None, attr(node, "pool_size"), attr(node, "strides"))
    if x.dtype.is_floating:  # at the border
        return undo(tf.nn.max_pool2d(x, pool_size, strides, attr(node, "padding").upper()))
    return undo(
        ops.max_pool(x, pool_size=pool_size, strides=strides, padding=attr(node, "padding"), **executor.options)
    )


def _average_pool(executor, node, x):
    x, _, pool_size, strides, undo = _as_2d(x, None, attr(node, "pool_size"), attr(node, "strides"))
    return undo(
        ops.average_pool(
            x, executor.requantization(node), pool_size=pool_size, strides=strides, padding=attr(node, "padding"),
            divide=attr(node, "divide"), **executor.options
        )
    )


def _global_max_pool(executor, node, x):
    best = tf.reduce_max(
        x if x.dtype.is_floating else tf.cast(x, tf.int32), list(attr(node, "axes")), keepdims=attr(node, "keepdims")
    )
    return tf.cast(best, x.dtype)


def _concat(executor, node, *values):
    if values[0].dtype.is_floating:  # at the border
        return tf.concat(values, attr(node, "axis"))
    return ops.concat(values, axis=attr(node, "axis"))


def _pad(executor, node, x):
    return tf.pad(x, [(0, 0), *attr(node, "pads")])


def _crop(executor, node, x):
    window = tuple(slice(before, -after or None) for before, after in attr(node, "crops"))
    return x[(slice(None),) + window]


def _slice(executor, node, x):
    return x[tuple([slice(None)] + [slice(*each) for each in attr(node, "slices")])]


def _take(executor, node, x):
    return tf.gather(x, tf.constant(attr(node, "indices"), tf.int32), axis=attr(node, "axis"))


def _reshape(executor, node, x):
    return tf.reshape(x, [tf.shape(x)[0], *(-1 if n is None else n for n in attr(node, "shape"))])


def _permute(executor, node, x):
    return tf.transpose(x, [0, *attr(node, "dims")])


def _upsample(executor, node, x):
    for axis, factor in enumerate(attr(node, "size"), start=1):
        x = tf.repeat(x, factor, axis)
    return x


def _rescaling(executor, node, x):
    scale, offset = (tf.constant(value) for value in affine.numbers(executor.graph, node))
    return x * scale + offset  # two ops, so two roundings


def _quantize(executor, node, x):
    format = attr(node, "format")
    return ops.quantize(x, format=format, rounding=attr(node, "rounding"), **executor.options)


def _dequantize(executor, node, x):
    return ops.dequantize(x, format=executor.graph.format(node.inputs[0]), **executor.options)


def _requantize(executor, node, x):
    return ops.requantize(x, executor.requantization(node), **executor.options)


def _softmax(executor, node, x):
    from graffiti.numerics import reference  # float: the exponential of every library differs in the last bit

    return tf.numpy_function(lambda array: reference.softmax(array, attr(node, "axis")), [x], tf.float32)


def _island(executor, node, *values):
    def call(*arrays):
        results = executor.island(node, list(arrays))
        results = results if isinstance(results, (list, tuple)) else [results]
        return [np.asarray(result, executor.graph.storage(name)) for name, result in zip(node.outputs, results)]

    return tf.numpy_function(call, list(values), [executor._dtype(name) for name in node.outputs])


RULES: dict[str, Callable] = {
    "conv": _conv, "depthwise_conv": _depthwise_conv, "conv_transpose": _conv_transpose, "dense": _dense,
    "bias_add": _bias_add, **{name: _elementwise for name, row in OPS.items() if row.binary},
    "relu": _relu, "lookup": _lookup,
    "max_pool": _max_pool, "average_pool": _average_pool, "global_max_pool": _global_max_pool, "concat": _concat,
    "pad": _pad, "crop": _crop, "slice": _slice, "take": _take,
    "reshape": _reshape, "permute": _permute, "upsample": _upsample, "rescaling": _rescaling, "quantize": _quantize,
    "dequantize": _dequantize,
    "requantize": _requantize, "softmax": _softmax, "island": _island,
}


# ---- deployment -----------------------------------------------------------------------------------------------------
def program_function(
    graph: Graph, *, threads: int = 0, tier: str = "auto",
) -> tf.types.experimental.PolymorphicFunction:
    """The whole graph as one native op in a ``tf.function``, for SavedModels and ``tf.data`` pipelines.

    Integers are those of every other executor. A softmax at the output runs in TensorFlow, behind the op: its last bit
    may differ from the reference.

    Args:
        graph: of stage ``integer``, with known sizes but for the batch and no Keras layer left in float.
        threads: of the runner; 0 takes as many as TensorFlow has.
        tier: instruction set of the native kernels.

    Returns:
        A function of one tensor per graph input, in order; it returns a dict by output name.

    Raises:
        ValueError: where a node cannot run natively.
        loader.OpsNotAvailable: where the op library does not load.
    """
    from graffiti.runtime.program import compile_graph

    loader.load()
    core, softmax = graph.copy(), {}
    for node in graph.nodes:
        if node.op == "softmax" and node.output in graph.outputs and not graph.consumers(node.output):
            softmax[node.output] = (node.inputs[0], attr(node, "axis"))
    core.outputs = list(dict.fromkeys(softmax.get(name, (name,))[0] for name in graph.outputs))
    core.prune()
    program = compile_graph(core)
    signature = [
        tf.TensorSpec((None, *spec.shape), tf.as_dtype(spec.dtype), name=_identifier(spec.name))
        for spec in program.inputs
    ]

    @tf.function(input_signature=signature, autograph=False)
    def run(*inputs):
        results = ops.run_program(
            program.blob, inputs, output_types=[spec.dtype for spec in program.outputs],
            output_shapes=[spec.shape for spec in program.outputs], threads=threads, tier=tier)
        values = dict(zip(core.outputs, results, strict=True))
        for name, (source, axis) in softmax.items():
            values[name] = tf.nn.softmax(values[source], axis)
        return {_identifier(name): values[name] for name in graph.outputs}

    return run


def to_saved_model(
    graph: Graph, path: str | os.PathLike, *, threads: int = 0, tier: str = "auto", overwrite: bool = False,
) -> None:
    """Write a TensorFlow SavedModel whose serving signature is the graph as one native op; atomically.

    Whoever loads it first calls ``graffiti.ops.loader.load()``, which makes the op known to TensorFlow.

    Args:
        graph, threads, tier: as in ``program_function``.
        path: a folder that does not exist yet.
        overwrite: replace it where it does.

    Raises:
        FileExistsError: where ``path`` exists and ``overwrite`` is false.
        ValueError, loader.OpsNotAvailable: as ``program_function``.
    """
    files.check_free(path, overwrite=overwrite)
    module = tf.Module()
    module.serve = program_function(graph, threads=threads, tier=tier)
    with files.atomic_folder(path, overwrite=overwrite) as folder:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def _identifier(name: str) -> str:
    """A name that TensorFlow takes for an argument or a result."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name[:1].isalpha() else f"x_{name}"
