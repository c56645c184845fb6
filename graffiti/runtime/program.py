"""Compile an integer graph to a flat program: products fused with bias, ReLU and requantization, pads merged, concats
in place.

``compile_graph(graph)`` returns a ``Program``: bytes for the native runner and what its inputs, outputs and values are
called. Knows no hardware: packing for an instruction set happens when the bytes are loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from graffiti.graph import affine
from graffiti.graph.chains import FOLLOWERS, Chain, chain_of
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, PRODUCTS, attr, transpose_pads, window_pads
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import index_grids
from graffiti.runtime.blob import ProgramWriter, Rounding, Tensor, View

PYTHON_OPS = ("island", "softmax")  # a Keras layer; float: numpy computes it, so that all targets agree to the bit


@dataclasses.dataclass(frozen=True)
class Spec:
    """Name, dtype and shape (without the batch) of a value."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled graph.

    Attributes:
        blob: for ``graffiti_create_program``; the same on every tier.
        inputs: of the program, in order.
        outputs: of the program, in order.
        values: what a debug run returns, each with its number in the blob; several names may share one number
            (reshape).
    """

    blob: bytes
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    values: tuple[tuple[Spec, int], ...]

    @property
    def value_count(self) -> int:
        """How many arrays a debug run fills."""
        return max((number for _, number in self.values), default=-1) + 1


def unsupported(graph: Graph, node: Node) -> str | None:
    """Why the native runner cannot run a node, ``None`` where it can."""
    if node.op in PYTHON_OPS:
        return f"{node.op} is computed in Python"
    if node.op not in _RULES:
        return f"the native runner has no op {node.op!r}"
    for value in (*node.inputs, *node.outputs):
        format = graph.format(value)
        if format is not None and format.dtype == np.uint32:
            return f"{value!r} holds 32-bit unsigned codes"
        if not graph.is_constant(value) and any(size is None for size in graph.shape(value)[1:]):
            return f"the shape {graph.shape(value)} of {value!r} is not known"
    if node.op in (*PRODUCTS, "lookup") and not graph.is_constant(node.inputs[1]):
        return f"{node.inputs[1]!r} is no constant"
    if node.op in PRODUCTS and graph.constants[node.inputs[1]].dtype not in (np.int8, np.uint8, np.int16):
        return f"the kernel {node.inputs[1]!r} has more than 16 bits"
    if OPS[node.op].stores and attr(node, "format").per_channel:
        return "its output has an exponent for each channel"
    return None


def compile_graph(graph: Graph) -> Program:
    """Compile a graph of stage ``integer``.

    Raises:
        ValueError: for another stage, or a node that the native runner cannot run (``runner.Runner`` splits such
            graphs).
    """
    if graph.stage != "integer":
        raise ValueError(f"a program is made from a graph of stage 'integer', got {graph.stage!r}; lower it first")
    for node in graph.nodes:
        if (reason := unsupported(graph, node)) is not None:
            raise ValueError(
                f"node {node.name!r} ({node.op}): {reason}; run the graph through runtime.runner.Runner, which splits "
                "it there"
            )
    return _Compiler(graph).compile()


class _Compiler:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writer = ProgramWriter()
        self.users = graph.users()
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, int] = {}             # value name → number in the debug run
        self.done: set[str] = set()                   # nodes that run in another's step
        self.pads: dict[str, tuple[str, list]] = {}   # a pad merged into its readers → its input and its pads
        # a value computed right into a concat → the concat and its first channel
        self.slots: dict[str, tuple[str, int]] = {}

    def compile(self) -> Program:
        graph = self.graph
        for name in graph.inputs:
            self.tensors[name] = self.writer.input(self.dtype(name), self.shape(name))
        self._find_slots()
        for node in graph.nodes:
            if node.name not in self.done:
                _RULES[node.op](self, node)
        outputs = []
        for name in graph.outputs:
            tensor = self.tensor(name)
            if tensor.place:  # an input, or an output already
                copy = self.writer.tensor(tensor.dtype, (tensor.elements,))
                self.writer.move(tensor, copy, [tensor.elements], [1], [1])
                tensor = copy
            self.writer.output(tensor)
            outputs.append(self.spec(name))
        values = tuple((self.spec(name), number) for name, number in self.numbers.items())
        return Program(self.writer.finish(), tuple(self.spec(name) for name in graph.inputs), tuple(outputs), values)

    # ---- values ------------------------------------------------------------------------------------------------------
    def dtype(self, name: str) -> np.dtype:
        format = self.graph.format(name)
        return np.dtype(np.float32) if format is None else format.dtype

    def format(self, name: str) -> QFormat:
        """Of a value that holds codes."""
        format = self.graph.format(name)
        if format is None:
            raise ValueError(f"{name!r} holds floats where codes are expected; check the lowering")
        return format

    def shape(self, name: str) -> tuple[int, ...]:
        """Without the batch."""
        return tuple(int(n) for n in self.graph.shape(name)[1:] if n is not None)

    def spec(self, name: str) -> Spec:
        return Spec(name, self.dtype(name), self.shape(name))

    def tensor(self, name: str) -> Tensor:
        """The tensor of a value; a constant is copied into one for every image."""
        if name not in self.tensors:
            array = np.asarray(self.graph.constants[name])
            shape = array.shape[1:]
            if array.ndim == 0 or array.shape[0] != 1:
                raise ValueError(
                    f"constant {name!r} has shape {array.shape}; where a tensor is expected its batch axis has size 1"
                )
            self.tensors[name] = self.writer.tensor(self.dtype(name), shape)
            self.writer.constant(self.tensors[name], array.astype(self.dtype(name)))
        return self.tensors[name]

    def define(self, name: str) -> Tensor:
        """A new tensor for a value, to be written by the next step; call ``noted`` behind it."""
        self.tensors[name] = self.writer.tensor(self.dtype(name), self.shape(name))
        return self.tensors[name]

    def noted(self, name: str, view: View | None = None) -> None:
        """The step just written made ``name``."""
        tensor = self.tensors[name]
        self.numbers[name] = self.writer.value(view or View(tensor, 0, 1, tensor.elements, tensor.elements))

    # ---- fusion ------------------------------------------------------------------------------------------------------
    def chain(self, node: Node) -> Chain:
        """What runs in the step of a node: whatever joins it, but for a ReLU of accumulators, exponents for each
        channel, and a bias behind sums.
        """
        def declines(chain: Chain) -> bool:
            added = chain.bias is not None and node.op not in (*PRODUCTS, "bias_add")
            return added or chain.clamp is not None or (chain.rounded is not None and chain.rounded.format.per_channel)

        chain = chain_of(self.graph, node, users=self.users, declines=declines)
        self.done.update(taken.name for taken in chain.nodes)
        return chain

    def _find_slots(self) -> None:
        """Products that only a concat of channels reads are written right into it (where the chain behind them ends
        there).
        """
        producers = self.graph.producers()
        for node in self.graph.nodes:
            rank = len(self.graph.shape(node.name))
            if node.op != "concat" or attr(node, "axis") % rank != rank - 1:
                continue
            first = 0
            for value in node.inputs:
                made_by = producers.get(value)
                while made_by is not None and made_by.op in FOLLOWERS:
                    made_by = producers.get(made_by.inputs[0])
                if (
                    made_by is not None and made_by.op in PRODUCTS
                    and only_reader(self.graph, value, self.users) is node and node.inputs.count(value) == 1
                    and self.dtype(value) == self.dtype(node.name)
                ):
                    self.slots[value] = (node.name, first)
                first += self._shape_of(value)[-1]

    # ---- products ----------------------------------------------------------------------------------------------------
    def product(self, node: Node) -> None:
        graph = self.graph
        kernel = np.asarray(graph.constants[node.inputs[1]])
        x, pads = self.pads.get(node.inputs[0], (node.inputs[0], [(0, 0)] * 2))
        shape, kernel = _conv_shape(graph, node, kernel, self.shape(x), pads)
        tensor = self.tensor(x)
        chain = self.chain(node)
        name, bias = chain.last, None if chain.bias is None else np.asarray(graph.constants[chain.bias])
        channels, pixels = shape["out_channels"], shape["out_height"] * shape["out_width"]
        concat, first = self.slots.get(name, (name, 0))
        if concat not in self.tensors:
            self.define(concat)
        width = self.shape(concat)[-1]
        view = View(self.tensors[concat], first, pixels, channels, width)
        self.tensors[name] = self.tensors[concat]
        self.writer.conv(tensor, view, shape, kernel, bias, _rounding(chain))
        self.noted(name, view)

    # ---- elementwise -------------------------------------------------------------------------------------------------
    def binary(self, node: Node) -> None:
        operation = "add" if node.op == "bias_add" else node.op
        x, y = node.inputs
        if self.graph.is_constant(x) and not self.graph.is_constant(y):
            x, y = y, x
            operation = "reverse_subtract" if operation == "subtract" else operation
        out_shape = self.shape(node.name)
        # what is no accumulator is stored as it is
        chain = self.chain(node) if self.dtype(node.name) == np.int32 else None
        name = node.name if chain is None else chain.last
        left = self._broadcast(x, out_shape)
        right = self._repeating(y, out_shape) if self.graph.is_constant(y) else self._broadcast(y, out_shape)
        if OPS[node.op].selects and isinstance(right, np.ndarray):
            right = right.astype(left.dtype)
        self.writer.binary(
            operation, left, right, self.define(name), out_shape[-1] if out_shape else 1,
            None if chain is None else _rounding(chain)
        )
        self.noted(name)

    def _repeating(self, name: str, out_shape: tuple[int, ...]) -> np.ndarray:
        """A constant as a run that repeats over the elements of one image."""
        array = np.asarray(self.graph.constants[name]).astype(self.dtype(name))
        if array.size == 1:
            return array.reshape(1)
        array = array.reshape((1,) * (len(out_shape) + 1 - array.ndim) + array.shape)[0]
        while array.shape != out_shape[len(out_shape) - array.ndim :] and array.shape[0] == 1:
            array = array[0]
        if array.shape != out_shape[len(out_shape) - array.ndim :]:
            array = np.broadcast_to(array, out_shape)
        return np.ascontiguousarray(array).reshape(-1)

    def _broadcast(self, name: str, out_shape: tuple[int, ...]) -> Tensor:
        """A value as a tensor of the output's shape."""
        if self.graph.is_constant(name) and np.ndim(self.graph.constants[name]) <= len(out_shape):
            array = np.broadcast_to(np.asarray(self.graph.constants[name]).astype(self.dtype(name)), out_shape)
            tensor = self.writer.tensor(array.dtype, out_shape)
            self.writer.constant(tensor, np.ascontiguousarray(array))
            return tensor
        tensor, shape = self.tensor(name), self.shape(name)
        if shape == out_shape:
            return tensor
        shape = (1,) * (len(out_shape) - len(shape)) + shape
        strides = [0 if n == 1 else s for n, s in zip(shape, _strides(shape))]
        whole = self.writer.tensor(tensor.dtype, out_shape)
        self.writer.move(tensor, whole, out_shape, strides, _strides(out_shape))
        return whole

    def relu(self, node: Node) -> None:
        format = self.format(node.name)
        top, largest = attr(node, "max_code"), int(np.iinfo(format.dtype).max)
        rounding = Rounding((0,), 0, largest if top is None else min(largest, int(top)), format.dtype, "floor")
        self.writer.requantize(self.tensor(node.inputs[0]), self.define(node.name), 1, rounding)
        self.noted(node.name)

    def requantize(self, node: Node) -> None:
        chain = self.chain(node)
        name = chain.last
        self.writer.requantize(
            self.tensor(node.inputs[0]), self.define(name), (self.shape(name) or (1,))[-1], _needed(chain)
        )
        self.noted(name)

    def lookup(self, node: Node) -> None:
        table = np.asarray(self.graph.constants[node.inputs[1]]).reshape(-1).astype(self.dtype(node.name))
        self.writer.lookup(self.tensor(node.inputs[0]), self.define(node.name), self.format(node.inputs[0]).qmin, table)
        self.noted(node.name)

    def rescaling(self, node: Node) -> None:
        shape = self.shape(node.name)
        numbers = affine.numbers(self.graph, node)
        period: tuple[int, ...] = ()  # the last axes along which the numbers differ
        for value in numbers:
            differs = [len(shape) - value.ndim + axis for axis, size in enumerate(value.shape) if size > 1]
            period = max(period, shape[min(differs, default=len(shape)) :], key=len)
        scale, offset = (
            np.broadcast_to(value, (1,) * (len(shape) - len(period)) + period).reshape(-1) for value in numbers
        )
        self.writer.rescale(self.tensor(node.inputs[0]), self.define(node.name), scale, offset)
        self.noted(node.name)

    def quantize(self, node: Node) -> None:
        format: QFormat = attr(node, "format")
        exponent = int(format.exponent)  # type: ignore[arg-type]  # one: see unsupported
        self.writer.quantize(
            self.tensor(node.inputs[0]), self.define(node.name), exponent, attr(node, "rounding"), format.qmin,
            format.qmax
        )
        self.noted(node.name)

    def dequantize(self, node: Node) -> None:
        exponents = [int(e) for e in np.atleast_1d(self.format(node.inputs[0]).exponent)]
        self.writer.dequantize(self.tensor(node.inputs[0]), self.define(node.name), exponents, len(exponents))
        self.noted(node.name)

    # ---- pools -------------------------------------------------------------------------------------------------------
    def max_pool(self, node: Node) -> None:
        self._max_pool(node, self._window(node))

    def average_pool(self, node: Node) -> None:
        chain = self.chain(node)
        name = chain.last
        self.writer.average_pool(
            self.tensor(node.inputs[0]), self.define(name), self._window(node), _needed(chain), attr(node, "divide")
        )
        self.noted(name)

    def _window(self, node: Node) -> dict[str, int]:
        """The words of ``graffiti_pool_shape``."""
        x, y = self.shape(node.inputs[0]), self.shape(node.name)
        window, strides = tuple(attr(node, "pool_size")), tuple(attr(node, "strides"))
        fronts = [window_pads(n, k, s, 1, attr(node, "padding"))[0] for n, k, s in zip(x[:-1], window, strides)]
        return _pool_shape(_two(x[:-1]), x[-1], _two(y[:-1]), _two(window), _two(strides), _two(fronts, 0))

    def global_max_pool(self, node: Node) -> None:
        shape, axes = (
            self.shape(node.inputs[0]),
            sorted(a % (len(self.shape(node.inputs[0])) + 1) - 1 for a in attr(node, "axes"))
        )
        x = self.tensor(node.inputs[0])
        if axes != list(range(axes[0], axes[-1] + 1)):  # bring the reduced axes together
            order = [*axes, *(a for a in range(len(shape)) if a not in axes)]
            strides, together = _strides(shape), self.writer.tensor(x.dtype, shape)
            sizes = [shape[a] for a in order]
            self.writer.move(x, together, sizes, [strides[a] for a in order], _strides(sizes))
            x, shape, axes = together, tuple(sizes), list(range(len(axes)))
        outer, window, inner = (
            math.prod(shape[: axes[0]]), math.prod(shape[a] for a in axes), math.prod(shape[axes[-1] + 1 :])
        )
        self._max_pool(node, _pool_shape((outer * window, 1), inner, (outer, 1), (window, 1), (window, 1), (0, 0)), x)

    def _max_pool(self, node: Node, shape: dict[str, int], x: Tensor | None = None) -> None:
        self.writer.max_pool(x or self.tensor(node.inputs[0]), self.define(node.name), shape)
        self.noted(node.name)

    # ---- moves -------------------------------------------------------------------------------------------------------
    def reshape(self, node: Node) -> None:
        source = node.inputs[0]
        self.tensors[node.name] = self.tensor(source)
        if source in self.numbers:
            self.numbers[node.name] = self.numbers[source]

    def concat(self, node: Node) -> None:
        y_shape = self.shape(node.name)
        axis = attr(node, "axis") % (len(y_shape) + 1) - 1
        if node.name not in self.tensors:
            self.define(node.name)
        out, strides, first = self.tensors[node.name], _strides(y_shape), 0
        for value in node.inputs:
            shape = self._shape_of(value)
            if self.tensors.get(value) is not out:  # else a product has written there
                self.writer.move(self.tensor(value), out, shape, _strides(shape), strides, 0, first * strides[axis])
            first += shape[axis]
        self.noted(node.name)

    def _shape_of(self, value: str) -> tuple[int, ...]:
        return tuple(np.shape(self.graph.constants[value])[1:]) if self.graph.is_constant(value) else self.shape(value)

    def pad(self, node: Node) -> None:
        pads = [tuple(pair) for pair in attr(node, "pads")]
        readers = self.users.get(node.name, [])
        spatial = pads[:-1] if len(pads) == 3 else [(0, 0), *pads[:-1]]
        inner = node.name not in self.graph.outputs and readers and node.inputs[0] not in self.pads
        if (
            inner and len(pads) in (2, 3) and pads[-1] == (0, 0)
            and all(OPS[r.op].pads and r.inputs[0] == node.name for r in readers)
        ):
            self.pads[node.name] = (node.inputs[0], spatial)
            return
        x_shape, y_shape = self.shape(node.inputs[0]), self.shape(node.name)
        strides = _strides(y_shape)
        x, y = self.tensor(node.inputs[0]), self.define(node.name)
        self.writer.zero(y)
        self.writer.move(
            x, y, x_shape, _strides(x_shape), strides, 0, sum(before * s for (before, _), s in zip(pads, strides))
        )
        self.noted(node.name)

    def crop(self, node: Node) -> None:
        x_shape, y_shape = self.shape(node.inputs[0]), self.shape(node.name)
        strides = _strides(x_shape)
        first = sum(before * s for (before, _), s in zip(attr(node, "crops"), strides))
        self.writer.move(
            self.tensor(node.inputs[0]), self.define(node.name), y_shape, strides, _strides(y_shape), first
        )
        self.noted(node.name)

    def slice(self, node: Node) -> None:
        strides, y_shape, slices = _strides(self.shape(node.inputs[0])), self.shape(node.name), attr(node, "slices")
        first = sum(start * stride for (start, _, _), stride in zip(slices, strides))
        x, y = self.tensor(node.inputs[0]), self.define(node.name)
        self.writer.move(
            x, y, y_shape, [step * stride for (_, _, step), stride in zip(slices, strides)], _strides(y_shape), first
        )
        self.noted(node.name)

    def take(self, node: Node) -> None:
        shape, strides, y_strides = (
            self.shape(node.inputs[0]), _strides(self.shape(node.inputs[0])), _strides(self.shape(node.name))
        )
        axis = attr(node, "axis") % (len(shape) + 1) - 1
        x, y, step, y_step = self.tensor(node.inputs[0]), self.define(node.name), strides[axis], y_strides[axis]
        for grid in index_grids(attr(node, "indices")):
            sizes = [*shape[:axis], *grid.sizes, *shape[axis + 1 :]]
            x_strides = [*strides[:axis], *(each * step for each in grid.steps), *strides[axis + 1 :]]
            out_strides = [*y_strides[:axis], grid.sizes[1] * y_step, y_step, *y_strides[axis + 1 :]]
            self.writer.move(x, y, sizes, x_strides, out_strides, grid.first * step, grid.start * y_step)
        self.noted(node.name)

    def permute(self, node: Node) -> None:
        strides, y_shape = _strides(self.shape(node.inputs[0])), self.shape(node.name)
        self.writer.move(
            self.tensor(node.inputs[0]), self.define(node.name), y_shape, [strides[d - 1] for d in attr(node, "dims")],
            _strides(y_shape)
        )
        self.noted(node.name)

    def upsample(self, node: Node) -> None:
        x_shape, y_strides = self.shape(node.inputs[0]), _strides(self.shape(node.name))
        sizes, x_strides, strides = [], [], []
        for n, factor, a, b in zip(x_shape, (*attr(node, "size"), 1), _strides(x_shape), y_strides):
            sizes += [n, factor]
            x_strides += [a, 0]
            strides += [factor * b, b]
        self.writer.move(self.tensor(node.inputs[0]), self.define(node.name), sizes, x_strides, strides)
        self.noted(node.name)


def _needed(chain: Chain) -> Rounding:
    """The rounding of a chain whose head rounds."""
    rounded = chain.rounded
    assert rounded is not None
    return Rounding(rounded.shift, rounded.low, rounded.high, rounded.format.dtype, rounded.mode)


def _rounding(chain: Chain) -> Rounding | None:
    """What a step does before it stores; ``None`` where its result stays an accumulator."""
    return None if chain.rounded is None else _needed(chain)


def _pool_shape(size, channels: int, out, window, strides, fronts) -> dict[str, int]:
    """The words of ``graffiti_pool_shape``; pairs are (vertical, horizontal)."""
    return {
        "height": size[0], "width": size[1], "channels": channels, "out_height": out[0], "out_width": out[1],
        "pool_height": window[0],
        "pool_width": window[1], "stride_h": strides[0], "stride_w": strides[1], "pad_top": fronts[0],
        "pad_left": fronts[1],
    }


def _strides(shape) -> list[int]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return strides


def _two(values, front: int = 1) -> tuple[int, int]:
    """One-dimensional windows are two-dimensional ones of height 1."""
    values = tuple(values)
    return values if len(values) == 2 else (front, *values)


def _conv_shape(
    graph: Graph, node: Node, kernel: np.ndarray, x_shape: tuple[int, ...], pads
) -> tuple[dict[str, int], np.ndarray]:
    """The words of ``graffiti_conv_shape`` for a product, and its kernel as ``(height, width, in/groups, out)``."""
    y_shape = tuple(graph.shape(node.name)[1:])
    shape = {
        "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1, "pad_top": 0, "pad_left": 0, "groups": 1,
        "spread_h": 1, "spread_w": 1
    }
    if node.op == "dense":
        rows = math.prod(x_shape[:-1])
        shape |= {"height": 1, "width": rows, "channels": x_shape[-1], "out_height": 1, "out_width": rows}
        kernel = kernel.reshape(1, 1, *kernel.shape)
    else:
        size, out = _two(x_shape[:-1]), _two(y_shape[:-1])
        shape |= {
            "height": size[0], "width": size[1], "channels": x_shape[-1], "out_height": out[0], "out_width": out[1]
        }
        if kernel.ndim == 3:
            kernel = kernel[None]
        strides = _two(attr(node, "strides"))
        window = kernel.shape[:2]
        if node.op == "conv_transpose":  # the flipped kernel over the input with zeros between its elements
            kernel = np.ascontiguousarray(kernel[::-1, ::-1].swapaxes(2, 3))
            extra = attr(node, "output_padding") or (None,) * len(x_shape[:-1])
            steps = attr(node, "strides")
            cut = [
                transpose_pads(k, s, attr(node, "padding"), e)[0] for k, s, e in zip(window[-len(steps):], steps, extra)
            ]
            front = [k - 1 - c for k, c in zip(window, _two(cut, 0))]
            shape |= {"spread_h": strides[0], "spread_w": strides[1], "pad_top": front[0], "pad_left": front[1]}
        else:
            dilation = _two(attr(node, "dilation"))
            padded = [n + a + b for n, (a, b) in zip(size, pads)]
            front = [
                window_pads(n, k, s, d, attr(node, "padding"))[0] + pad[0]
                for n, k, s, d, pad in zip(padded, window, strides, dilation, pads)
            ]
            groups = x_shape[-1] if node.op == "depthwise_conv" else attr(node, "groups")
            shape |= {
                "stride_h": strides[0], "stride_w": strides[1], "dilation_h": dilation[0], "dilation_w": dilation[1],
                "pad_top": front[0], "pad_left": front[1], "groups": groups
            }
            if node.op == "depthwise_conv":
                kernel = kernel.reshape(*window, 1, -1)
    shape |= {"kernel_height": kernel.shape[0], "kernel_width": kernel.shape[1], "out_channels": kernel.shape[3]}
    return shape, np.ascontiguousarray(kernel)


_RULES: dict[str, Callable[[_Compiler, Node], None]] = {
    **dict.fromkeys(PRODUCTS, _Compiler.product),
    **{name: _Compiler.binary for name, row in OPS.items() if row.binary or name == "bias_add"}, "relu": _Compiler.relu,
    "requantize": _Compiler.requantize,
    "lookup": _Compiler.lookup, "rescaling": _Compiler.rescaling, "quantize": _Compiler.quantize,
    "dequantize": _Compiler.dequantize, "max_pool": _Compiler.max_pool,
    "average_pool": _Compiler.average_pool,
    "global_max_pool": _Compiler.global_max_pool, "reshape": _Compiler.reshape, "concat": _Compiler.concat,
    "pad": _Compiler.pad, "crop": _Compiler.crop, "slice": _Compiler.slice, "take": _Compiler.take,
    "permute": _Compiler.permute, "upsample": _Compiler.upsample,
}
