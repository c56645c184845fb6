"""Builds one ONNX graph from an integer graph: names, constants, layouts, and which tensor holds which value.

Every value travels as a float tensor in real units, ``code * 2**exponent``: float32 where its codes stay within 2**24,
float64 where they may not. Powers of two make both exact. Images travel channels-first (ONNX' layout); the graph's
inputs and outputs keep the Keras layout, and a transposed copy is made only where a layout meets the other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graffiti.export.onnx.ranges import Range, code_ranges, is_wide, magnitude
from graffiti.export.ports import output_dtype
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS

if TYPE_CHECKING:
    from graffiti.export.onnx.styles import Style

INT64_MAX = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a value of the integer graph is found in the ONNX graph.

    Attributes:
        name: of the ONNX tensor.
        last: whether it is laid out channels-last, as in the integer graph; else channels-first.
        codes: whether it holds integer codes; else reals, ``code * 2**exponent``.
        zero: the zero-point of stored codes: the tensor holds ``code + zero``.
    """

    name: str
    last: bool
    codes: bool
    zero: int = 0


class Builder:
    """Collects nodes, initializers and types of an ONNX graph.

    Args:
        graph: of stage ``integer``.
        style: how constants and quantizers are written.
        batch: size of the batch axis, ``None`` for any.

    Attributes:
        tensors: value name → the ``Tensor`` that shows it, for values that exist in the ONNX graph.
        outputs: ONNX names of the graph's outputs, in order.
        rounded: accumulator → by how many steps at most it is off where a runtime computes it in float32 and not in
            integers.
    """

    def __init__(self, graph: Graph, style: Style, batch: int | None) -> None:
        self.graph, self.style, self.batch = graph, style, batch
        self.ranges: dict[str, Range] = code_ranges(graph)
        self.users, self.producers = graph.users(), graph.producers()
        self.nodes: list = []
        self.initializers: list = []
        self.value_info: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.kernels: set[str] = set()                               # constants that a product reads already
        self.done: set[str] = set()                                  # nodes that an earlier rule computed already
        self.rounded: dict[str, int] = {}
        self.outputs = output_tensors(graph)
        self._file_name: dict[str, str] = {}                         # value -> the output that it is as it stands
        for index, (value, name) in enumerate(zip(graph.outputs, self.outputs)):
            if graph.format(value) is not None or output_dtype(graph, index) == np.float32:
                self._file_name.setdefault(value, name)
        self._taken = {*graph.types, *self.outputs, ""}
        self._own: set[str] = set()                                  # names given to a tensor
        self._constants: dict[tuple, str] = {}
        self._reals: dict[tuple[str, bool, bool], str] = {}          # (value, last, wide) -> tensor in real units
        self._codes: dict[tuple[str, bool], str] = {}                # (value, last) -> tensor of integers
        self._primary: dict[str, tuple[bool, bool]] = {}             # value -> (last, wide) it was computed in
        self._carries: dict[str, bool] = {}

    # ---- names, nodes, constants -----------------------------------------------------------------------------------
    def unique(self, name: str) -> str:
        """``name``, or with a number behind it where it is taken."""
        free, number = name, 1
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free

    def node(
        self, op: str, inputs: Iterable[str], name: str, *, domain: str = "", exact_name: bool = False, **attrs
    ) -> str:
        """Add a node with one output; returns the output's name: ``name`` itself, or a free one made of it."""
        from onnx import helper

        output, read = name if exact_name else self.unique(name), list(inputs)
        if not self.style.repeats_inputs:
            read = [self.node("Identity", [v], f"{output}/copy") if v in read[:i] else v for i, v in enumerate(read)]
        self.nodes.append(helper.make_node(op, read, [output], name=output, domain=domain or None, **attrs))
        return output

    def split(self, source: str, count: int, name: str) -> list[str]:
        """The batch axis cut into equal parts."""
        from onnx import helper

        outputs = [self.unique(f"{name}{i}") for i in range(count)]
        self.nodes.append(helper.make_node("Split", [source], outputs, name=outputs[0], axis=0, num_outputs=count))
        return outputs

    def initializer(self, array: np.ndarray, name: str, onnx_type: int | None = None, *, own: bool = False) -> str:
        """A stored array; equal arrays of one name are stored once.

        Args:
            array: of the ONNX type's numpy dtype.
            name: wish for the name.
            onnx_type: int4 or uint4, which numpy does not have: the array then holds the codes in 8 bits, and two are
                stored in a byte.
            own: whether to store it once more even where an equal one is there.
        """
        from onnx import helper, numpy_helper

        array = np.asarray(array)
        key = (name, array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest(), onnx_type)
        if own or key not in self._constants:
            free = (
                name if name in self.graph.constants and name not in (*self._own, *self.outputs) else self.unique(name)
            )
            self._own.add(free)
            if onnx_type is None:
                tensor = numpy_helper.from_array(np.asarray(array, order="C"), free)
            else:
                nibbles = np.append(array.reshape(-1).astype(np.uint8) & 15, np.zeros(array.size % 2, np.uint8))
                tensor = helper.make_tensor(
                    free, onnx_type, array.shape, (nibbles[::2] | nibbles[1::2] << 4).tobytes(), raw=True
                )
            self.initializers.append(tensor)
            self._constants[key] = free
        return self._constants[key]

    def scalar(self, value: float, wide: bool = False) -> str:
        """A float constant without axes."""
        return self.initializer(np.array(value, np.float64 if wide else np.float32), f"constant/{value:g}")

    def integers(self, values: Sequence[int]) -> str:
        """A constant vector of int64: axes, pads, shapes."""
        return self.initializer(
            np.array(values, np.int64), "constant/" + "_".join("end" if v == INT64_MAX else str(v) for v in values)
        )

    def power(
        self, exponents: Sequence[int], wide: bool = False, *, rank: int = 0, axis: int = 0, name: str = "scale"
    ) -> str:
        """``2**exponents`` as a constant: a scalar, or a vector shaped to broadcast along ``axis`` of a tensor of
        ``rank`` axes (0: one axis).
        """
        array = np.ldexp(1.0, np.array(exponents, np.int64)).astype(np.float64 if wide else np.float32)
        if len(exponents) == 1:
            return self.initializer(array.reshape(()), f"2**{exponents[0]}")
        return self.initializer(array.reshape([-1 if i == axis else 1 for i in range(rank)] if rank else -1), name)

    def shifted(self, codes: str, by: int, dtype: np.dtype, name: str, *, exact_name: bool = False) -> str:
        """Integers plus a constant, as another integer type."""
        from onnx import TensorProto, helper

        wide = self.node("Cast", [codes], f"{name}/int32", to=TensorProto.INT32)
        moved = self.node(
            "Add", [wide, self.initializer(np.array(by, np.int32), f"constant/int32/{by}")], f"{name}/moved"
        )
        return self.node(
            "Cast", [moved], name, exact_name=exact_name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )

    # ---- values in real units ----------------------------------------------------------------------------------------
    def rank(self, value: str) -> int:
        """Number of axes."""
        return len(self.graph.shape(value))

    def wide(self, value: str) -> bool:
        """Whether a value's codes may leave what float32 holds."""
        return value in self.ranges and value not in self.rounded and is_wide(self.ranges[value])

    def is_last(self, value: str) -> bool:
        """The layout in which a value was computed; values of rank 2 and less have one layout only, called last."""
        return self._primary[value][0] if value in self._primary else True

    def axis(self, value: str, axis: int, last: bool) -> int:
        """Where an axis of the channels-last value is in a tensor of the given layout."""
        rank = self.rank(value)
        axis %= rank
        return axis if last or rank < 3 or axis == 0 else 1 if axis == rank - 1 else axis + 1

    def shape(self, value: str, last: bool) -> list[int | None]:
        """A value's sizes in a layout, the batch replaced by the fixed one where there is one."""
        sizes = list(self.graph.shape(value))
        if value not in self.graph.constants and sizes and self.batch is not None and sizes[0] is None:
            sizes[0] = self.batch
        return sizes if last or len(sizes) < 3 else [sizes[0], sizes[-1], *sizes[1:-1]]

    def get(self, value: str, last: bool, wide: bool = False, *, rank: int | None = None) -> str:
        """A tensor of the value in real units, in a layout and a float type; copies are made on demand and once.

        A constant may be asked for at a higher ``rank``, as broadcasting sees it.
        """
        if value in self.graph.constants:
            return self._constant(value, last, wide or self.wide(value), max(rank or 0, self.rank(value)))
        last = last or self.rank(value) < 3
        key = (value, last, wide)
        if key not in self._reals:
            own_last, own_wide = self._primary[value]
            if last != own_last:
                name, perm = f"{value}/channels_{'last' if last else 'first'}", self.permutation(self.rank(value), last)
                # codes are a quarter as long, and no pair is put around their Transpose
                if (value, own_last) in self._codes and not wide:
                    codes = self._codes[value, last] = self.node(
                        "Transpose", [self._codes[value, own_last]], f"{name}/codes", perm=perm
                    )
                    self._reals[key] = self.style.to_reals(self, value, codes, name, last)
                else:
                    self._reals[key] = self.node("Transpose", [self.get(value, own_last, wide)], name, perm=perm)
            else:
                source = self._reals[value, own_last, own_wide]
                self._reals[key] = self.node(
                    "Cast", [source], f"{value}/float{64 if wide else 32}", to=self.float_type(wide)
                )
        return self._reals[key]

    @staticmethod
    def permutation(rank: int, to_last: bool) -> list[int]:
        """The axes that take channels-first to channels-last, or back."""
        return [0, *range(2, rank), 1] if to_last else [0, rank - 1, *range(1, rank - 1)]

    @staticmethod
    def float_type(wide: bool) -> int:
        """ONNX' number of float32 or float64."""
        from onnx import TensorProto

        return TensorProto.DOUBLE if wide else TensorProto.FLOAT

    def _constant(self, value: str, last: bool, wide: bool, rank: int) -> str:
        """A constant operand in real units, brought to a rank and layout."""
        format, codes = self.graph.format(value), self.graph.constants[value]
        assert format is not None  # an integer graph's constants are codes
        codes = codes.reshape((1,) * (rank - codes.ndim) + codes.shape)
        axis = rank - 1
        if not last and rank >= 3:
            codes, axis = codes.transpose(self.permutation(rank, False)), 1
        key = (value, last, wide, rank)
        if key not in self._constants:
            if wide:
                exponents = (
                    np.array(format.exponents).reshape([-1 if i == axis else 1 for i in range(rank)])
                    if format.per_channel else format.exponents[0]
                )
                self._constants[key] = self.initializer(np.ldexp(codes.astype(np.float64), exponents), f"{value}/real")
            else:
                self._constants[key] = self.style.constant(self, value, codes, format, axis)
        return self._constants[key]

    # ---- putting results in ------------------------------------------------------------------------------------------
    def name(self, value: str, last: bool, *, codes: bool, wide: bool = False) -> str:
        """What a new tensor of a value is called: like the model's output where it is one, else like the value, unless
        an output is called so or will be of another type or layout.
        """
        last = last or self.rank(value) < 3
        format = self.graph.format(value)
        as_output = (
            last and not wide and codes == (format is not None)
            and not (codes and format is not None and self.style.zero(format))
        )
        wish = self._file_name.get(value, value)
        if wish in self._own or (wish in self.outputs and not (as_output and value in self._file_name)):
            return self.unique(f"{value}/{'codes' if codes else 'real' if last else 'channels_first'}")
        self._own.add(wish)
        return wish

    def put(self, value: str, op: str, inputs: Iterable[str], last: bool, *, wide: bool = False, **attrs) -> str:
        """Add the node that computes a value in real units; returns its tensor."""
        name = self.name(value, last, codes=False, wide=wide)
        self.node(op, inputs, name, exact_name=True, **attrs)
        self.hold(value, name, last, wide)
        return name

    def move(self, value: str, op: str, inputs: Iterable[str], last: bool, *, wide: bool = False, **attrs) -> None:
        """As ``put``, for ops whose results are codes of at most 16 bits again wherever their inputs are: they stand
        between two quantizers of one format, as runtimes expect it of the QDQ form, which changes nothing.
        """
        format = self.graph.format(value)
        if self.style.pairs and format is not None and self.carries_codes(value):
            moved = self.node(op, inputs, f"{value}/{op.lower()}", **attrs)
            self.style.quantize(self, value, moved, format, last, steps=False, rounding="half_even")
        else:
            self.put(value, op, inputs, last, wide=wide, **attrs)

    def codes(self, value: str, last: bool) -> str | None:
        """The tensor of a value's integers in a layout, if the style has one."""
        self.get(value, last)
        return self._codes.get((value, last or self.rank(value) < 3))

    def hold(self, value: str, tensor: str, last: bool, wide: bool = False, *, codes: str | None = None) -> None:
        """Remember which tensors a value is: in real units, and its codes where they exist."""
        from onnx import helper

        last = last or self.rank(value) < 3
        self._primary[value] = (last, wide)
        self._reals[value, last, wide] = tensor
        if codes is not None:
            self._codes[value, last] = codes
        format = self.graph.format(value)
        zero = self.style.zero(format) if codes is not None and format is not None else 0
        self.tensors.setdefault(value, Tensor(codes or tensor, last, codes is not None, zero))
        self.value_info[tensor] = helper.make_tensor_value_info(tensor, self.float_type(wide), self.dims(value, last))

    def dims(self, value: str, last: bool) -> list[int | str | None]:
        """A value's shape for ONNX, with a named batch axis."""
        sizes: list[int | str | None] = [*self.shape(value, last)]
        if sizes and self.graph.shape(value)[0] is None and self.batch is None:
            sizes[0] = "batch"
        return sizes

    # ---- layouts -----------------------------------------------------------------------------------------------------
    def layout(self, node: Node, *values: str) -> bool:
        """Whether an op that works in both layouts works channels-last: it does unless an input is channels-first
        and none has another rank.
        """
        rank, computed = self.rank(node.output), [v for v in values if v not in self.graph.constants]
        return rank < 3 or any(self.rank(v) != rank for v in computed) or all(self.is_last(v) for v in computed)

    def carries_codes(self, value: str) -> bool:
        """Whether a value is codes of at most 16 bits that nothing computed with since: another quantizer right behind
        would let ONNX Runtime melt the two pairs into one, with other results."""
        if value not in self._carries:
            node = self.producers.get(value)
            if node is None or OPS[node.op].accumulates or node.op == "softmax":
                self._carries[value] = False
            else:
                self._carries[value] = OPS[node.op].stores or any(self.carries_codes(v) for v in node.inputs)
        return self._carries[value]

    def top(self, value: str) -> int:
        """The largest magnitude of a value's codes."""
        return magnitude(self.ranges[value])


def output_tensors(graph: Graph) -> list[str]:
    """What the outputs of the file are called: as the model's, with a number behind what an input is called already
    (ONNX names a tensor once).
    """
    taken, found = set(graph.inputs), []
    for name in graph.output_names():
        free, number = name, 1
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        taken.add(free)
        found.append(free)
    return found
