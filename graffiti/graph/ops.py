"""The op table: one row per op, with its inputs, attributes, stages, shape rule and meaning.

Adding an op adds a row here, a function in ``numerics/reference.py`` and, for the targets that have it, a row in
theirs. The meaning of the integer ops is normative in ``numerics/README.md``; the last column here is only the short
form.

Layouts are channels-last. Kernels: ``conv`` ``(*window, in/groups, out)``, ``depthwise_conv`` ``(*window, in,
multiplier)``, ``conv_transpose`` ``(*window, out, in)``, ``dense`` ``(in, out)``. ``padding`` is ``same`` or ``valid``
and means what TensorFlow means; explicit zeros are a ``pad`` node in front. ``fixed``: the kernel (the bias) is a
number of the model that no training changes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from graffiti.graph import interval_rules as rules
from graffiti.graph.ir import Graph, Node, TensorType
from graffiti.graph.kernels import Kernel
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import (  # noqa: F401  (re-exported)
    transpose_output,
    transpose_pads,
    window_output,
    window_pads,
)

REQUIRED = object()  # an attribute without a default
FLOAT = ("float", "fakequant")
ALL = ("float", "fakequant", "integer")

Shape = tuple[int | None, ...]


# ---- shape rules: (node, input shapes, attributes) -> output shapes ------------------------------------------------
def _same_shape(node, shapes, attrs):
    return (shapes[0],)


def _conv(node, shapes, attrs):
    x, kernel = shapes
    spatial = tuple(
        window_output(n, k, s, d, attrs["padding"])
        for n, k, s, d in zip(x[1:-1], kernel[:-2], attrs["strides"], attrs["dilation"])
    )
    return ((x[0], *spatial, OPS[node.op].kernel.channels(kernel)),)


def _conv_transpose(node, shapes, attrs):
    x, kernel = shapes
    extra = attrs["output_padding"] or (None,) * (len(x) - 2)
    spatial = tuple(
        transpose_output(n, k, s, attrs["padding"], e)
        for n, k, s, e in zip(x[1:-1], kernel[:-2], attrs["strides"], extra)
    )
    return ((x[0], *spatial, kernel[-2]),)


def _separable(node, shapes, attrs):
    x, depthwise, pointwise = shapes
    spatial = tuple(
        window_output(n, k, s, d, attrs["padding"])
        for n, k, s, d in zip(x[1:-1], depthwise[:-2], attrs["strides"], attrs["dilation"])
    )
    return ((x[0], *spatial, pointwise[-1]),)


def _dense(node, shapes, attrs):
    return ((*shapes[0][:-1], shapes[1][-1]),)


def _pool(node, shapes, attrs):
    x = shapes[0]
    spatial = tuple(
        window_output(n, k, s, 1, attrs["padding"]) for n, k, s in zip(x[1:-1], attrs["pool_size"], attrs["strides"])
    )
    return ((x[0], *spatial, x[-1]),)


def _reduce(node, shapes, attrs):
    x, axes = shapes[0], attrs["axes"]
    if attrs["keepdims"]:
        return (tuple(1 if i in axes else n for i, n in enumerate(x)),)
    return (tuple(n for i, n in enumerate(x) if i not in axes),)


def _broadcast(node, shapes, attrs):
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*padded):
        known = {n for n in sizes if n not in (1, None)}
        if len(known) > 1:
            raise ValueError(f"node {node.name!r} ({node.op}): shapes {shapes} do not broadcast")
        out.append(known.pop() if known else (None if None in sizes else 1))
    return (tuple(out),)


def _concat(node, shapes, attrs):
    axis = attrs["axis"] % len(shapes[0])
    sizes = [s[axis] for s in shapes]
    total = None if None in sizes else sum(sizes)
    return (tuple(total if i == axis else n for i, n in enumerate(shapes[0])),)


def _pad(node, shapes, attrs):
    return ((shapes[0][0], *(None if n is None else n + a + b for n, (a, b) in zip(shapes[0][1:], attrs["pads"]))),)


def _crop(node, shapes, attrs):
    return ((shapes[0][0], *(None if n is None else n - a - b for n, (a, b) in zip(shapes[0][1:], attrs["crops"]))),)


def _slice(node, shapes, attrs):
    sizes = (
        None if n is None else len(range(n)[start:stop:step])
        for n, (start, stop, step) in zip(shapes[0][1:], attrs["slices"])
    )
    return ((shapes[0][0], *sizes),)


def _take(node, shapes, attrs):
    axis = attrs["axis"] % len(shapes[0])
    return (tuple(len(attrs["indices"]) if i == axis else n for i, n in enumerate(shapes[0])),)


def _reshape(node, shapes, attrs):
    return ((shapes[0][0], *attrs["shape"]),)


def _permute(node, shapes, attrs):
    return ((shapes[0][0], *(shapes[0][d] for d in attrs["dims"])),)


def _upsample(node, shapes, attrs):
    x = shapes[0]
    return ((x[0], *(None if n is None else n * f for n, f in zip(x[1:-1], attrs["size"])), x[-1]),)


def _first_constant(node, shapes, attrs):
    return (shapes[0],)


def _explicit(node, shapes, attrs):
    return tuple(tuple(s) for s in attrs["output_shapes"])


# ---- format rules: (graph, node) -> output format in an integer graph -----------------------------------------------
def _product_format(graph: Graph, node: Node) -> QFormat:
    """Accumulator of x times kernel: 32 bits signed at ``e_x + e_kernel`` (a vector where the kernel has one)."""
    x, kernel = graph.format(node.inputs[0]), graph.format(node.inputs[1])
    if x is None or kernel is None or x.per_channel:
        raise ValueError(
            f"node {node.name!r} ({node.op}) takes codes at one exponent and a kernel of codes, got the formats {x} "
            f"and {kernel}"
        )
    exponents = tuple(x.exponents[0] + e for e in kernel.exponents)
    return QFormat(32, True, exponents if kernel.per_channel else exponents[0])


def _keep_format(graph: Graph, node: Node) -> QFormat | None:
    return graph.format(node.inputs[0])


def _sum_format(graph: Graph, node: Node) -> QFormat | None:
    first = graph.format(node.inputs[0])
    return None if first is None else QFormat(32, True, first.exponent)


def _attr_format(graph: Graph, node: Node) -> QFormat | None:
    return node.attrs["format"]


def _float_format(graph: Graph, node: Node) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class OpRow:
    """One row: what an op takes, in which stages it may stand, how its output type follows, and of which kinds it is.

    What a pass, an executor or an exporter must know of an op to treat it like others of its kind is a column, or
    follows from columns: nobody lists names.
    """

    name: str
    inputs: str                                     # names of the inputs; a trailing ``...`` takes one or more
    attrs: dict[str, Any]
    stages: tuple[str, ...]
    shape: Callable
    meaning: str
    format: Callable = _float_format                # only asked in the integer stage
    moves_codes: bool = False                       # output codes are input codes: formats pass through unchanged
    meets: bool = False                             # its inputs are on one grid: their quantizers share a threshold
    interval: rules.Rule | None = None              # see interval_rules; None: what follows from the other columns
    # of two operands: the function of numpy that it is, monotone in each
    elementwise: Callable | None = None
    kernel: Kernel | None = None                    # of a product: how its second input lies
    on_reals: bool = False                          # reads real numbers, in an integer graph too
    in_place: bool = False                          # writes where its input lies, which nobody else reads
    unprepared: bool = False                        # ``transforms.prepare`` rewrites it; what it leaves is an island

    @property
    def interval_rule(self) -> rules.Rule:
        """The interval of the output from a node and those of its inputs."""
        if self.kernel is not None:
            return functools.partial(rules.product, self.kernel)
        if self.elementwise is not None and self.interval is None:
            return functools.partial(rules.corners, self.elementwise)
        return self.interval or (rules.same if self.moves_codes else rules.anything)

    @property
    def variadic(self) -> bool:
        """Whether the op takes any number of inputs."""
        return self.inputs.endswith("...")

    @property
    def integer(self) -> bool:
        """Whether an integer graph may hold it."""
        return "integer" in self.stages

    @property
    def binary(self) -> bool:
        """Whether it computes on two operands that broadcast, element by element."""
        return self.elementwise is not None

    @property
    def keeps_format(self) -> bool:
        """Whether the output has the format of the first input."""
        return self.format is _keep_format

    @property
    def selects(self) -> bool:
        """Whether each output is the one or the other operand: codes of one format stay codes of it."""
        return self.binary and self.keeps_format

    @property
    def sums(self) -> bool:
        """Whether it adds codes of one exponent in 32 bits."""
        return self.format is _sum_format

    @property
    def multiplies(self) -> bool:
        """Whether its output is at the sum of two exponents, in 32 bits."""
        return self.format is _product_format

    @property
    def accumulates(self) -> bool:
        """Whether its output has more bits than what is stored: something must round it."""
        return self.sums or self.multiplies

    @property
    def stores(self) -> bool:
        """Whether it makes codes of a format of its own."""
        return self.format is _attr_format

    @property
    def rounds_codes(self) -> bool:
        """Whether it rounds codes into a format of its own."""
        return self.stores and "low" in self.attrs

    @property
    def pads(self) -> bool:
        """Whether zeros around its input may be part of its window."""
        return self.kernel is not None and "dilation" in self.attrs

    @property
    def window(self) -> bool:
        """Whether a window slides over the spatial axes."""
        return "padding" in self.attrs


_WINDOW = {"strides": REQUIRED, "padding": "valid", "dilation": REQUIRED}
_POOL = {"pool_size": REQUIRED, "strides": REQUIRED, "padding": "valid"}

# fmt: off
OPS: dict[str, OpRow] = {row.name: row for row in (
    # products; in an integer graph the output is a 32-bit accumulator at e_x + e_kernel
    OpRow("conv", "x kernel", {**_WINDOW, "groups": 1}, ALL, _conv, "1-D or 2-D convolution", _product_format, kernel=Kernel()),
    OpRow("depthwise_conv", "x kernel", {**_WINDOW, "fixed": False}, ALL, _conv, "one filter stack per input channel; output channel c*multiplier+m", _product_format, kernel=Kernel((-2, -1))),
    OpRow("conv_transpose", "x kernel", {"strides": REQUIRED, "padding": "valid", "output_padding": None}, ALL, _conv_transpose, "transposed convolution", _product_format, kernel=Kernel((-2,), -1)),
    OpRow("dense", "x kernel", {}, ALL, _dense, "x @ kernel over the last axis of x", _product_format, kernel=Kernel()),
    OpRow("separable_conv", "x depthwise pointwise", _WINDOW, FLOAT, _separable, "depthwise, then 1x1 convolution", unprepared=True),
    OpRow("bias_add", "x bias", {"fixed": False}, ALL, _same_shape, "x + bias over the last axis; both at one exponent; the sum is 32 bits (16-bit accumulator plus 16-bit bias needs 17)", _sum_format, interval=rules.bias_add, in_place=True),
    # batch norm and its folding (constants only; evaluated by lowering)
    OpRow("batch_norm", "x gamma beta mean variance", {"epsilon": REQUIRED, "momentum": 0.99}, FLOAT, _same_shape, "gamma*(x-mean)/sqrt(variance+epsilon)+beta over the last axis", in_place=True, unprepared=True),
    OpRow("fold_kernel", "kernel gamma variance", {"epsilon": REQUIRED, "channel_axis": REQUIRED}, FLOAT, _first_constant, "kernel * gamma/sqrt(variance+epsilon) per output channel (numerics/fold.py)"),
    OpRow("fold_bias", "bias gamma beta mean variance", {"epsilon": REQUIRED, "momentum": 0.99}, FLOAT, _first_constant, "beta + (bias-mean)*gamma/sqrt(variance+epsilon)"),
    OpRow("rescaling", "x", {"scale": REQUIRED, "offset": REQUIRED}, ALL, _same_shape, "x*scale + offset; integer: float32 at the border, rounded twice; numbers, or names of constants that broadcast against one example", interval=rules.rescaling, in_place=True, on_reals=True),
    # elementwise
    OpRow("add", "x y", {}, ALL, _broadcast, "x + y; one exponent", _sum_format, meets=True, elementwise=np.add),
    OpRow("subtract", "x y", {}, ALL, _broadcast, "x - y; one exponent", _sum_format, meets=True, elementwise=np.subtract),
    OpRow("multiply", "x y", {"trained": False}, ALL, _broadcast, "x * y, y a constant; accumulator at e_x + e_y", _product_format, interval=rules.multiply, elementwise=np.multiply),
    OpRow("maximum", "x y", {}, ALL, _broadcast, "max(x, y); one format", _keep_format, meets=True, elementwise=np.maximum),
    OpRow("minimum", "x y", {}, ALL, _broadcast, "min(x, y); one format", _keep_format, meets=True, elementwise=np.minimum),
    OpRow("relu", "x", {"max_value": None, "max_code": None}, ALL, _same_shape, "max(x, 0), min(., max_value); integer: max_code instead of max_value", _keep_format, interval=rules.relu, in_place=True),
    OpRow("leaky_relu", "x", {"alpha": REQUIRED}, FLOAT, _same_shape, "max(x, alpha*x)", interval=rules.leaky_relu, in_place=True, unprepared=True),
    OpRow("prelu", "x alpha", {}, ("float",), _same_shape, "max(x, 0) + alpha*min(x, 0), alpha broadcast against one example", interval=rules.prelu, unprepared=True),
    OpRow("activation", "x", {"function": REQUIRED, "parameters": None, "values": None}, FLOAT, _same_shape, "a function of graph/functions.py by a table of all input codes; `parameters` that are not the defaults; `values` names the constant of float32 outputs, codes ascending", interval=rules.activation, in_place=True),
    OpRow("softmax", "x", {"axis": -1}, ALL, _same_shape, "float softmax, at the output only", interval=rules.softmax, on_reals=True),
    OpRow("lookup", "x table", {"format": REQUIRED}, ("integer",), _same_shape, "table[code - qmin]", _attr_format),
    # pools
    OpRow("max_pool", "x", _POOL, ALL, _pool, "maximum over a window; padding never wins", _keep_format, True),
    OpRow("average_pool", "x", {
        **_POOL, "divide": True,  # false: the sum over the window, which is everything an average is but the division
        "format": None, "rounding": "half_even", "low": None, "high": None,  # of an integer graph, as in requantize
    }, ALL, _pool, "mean over the part of the window inside the image; integer: the exact mean, rounded and saturated once into `format`", _attr_format, interval=rules.average),
    OpRow("mean", "x", {"axes": REQUIRED, "keepdims": False, "divide": True}, FLOAT, _reduce, "mean over axes; their sum where it does not divide", interval=rules.average, unprepared=True),
    OpRow("global_max_pool", "x", {"axes": REQUIRED, "keepdims": False}, ALL, _reduce, "maximum over axes", _keep_format, True),
    # moves
    OpRow("concat", "x...", {"axis": -1}, ALL, _concat, "joined along an axis; one format", _keep_format, True, meets=True),
    OpRow("pad", "x", {"pads": REQUIRED}, ALL, _pad, "zeros around every axis but the batch: ((before, after), ...)", _keep_format, True, interval=rules.with_zero),
    OpRow("crop", "x", {"crops": REQUIRED}, ALL, _crop, "cut from every axis but the batch", _keep_format, True),
    OpRow("slice", "x", {"slices": REQUIRED}, ALL, _slice, "every step-th index of every axis but the batch: ((start, stop, step), ...); stop None: to the end", _keep_format, True),
    OpRow("take", "x", {"axis": REQUIRED, "indices": REQUIRED}, ALL, _take, "the listed indices along one axis: flip, repeat, tile, roll", _keep_format, True),
    OpRow("reshape", "x", {"shape": REQUIRED}, ALL, _reshape, "new shape without the batch axis", _keep_format, True),
    OpRow("permute", "x", {"dims": REQUIRED}, ALL, _permute, "axes 1.. in a new order, counted from 1", _keep_format, True),
    OpRow("upsample", "x", {"size": REQUIRED}, ALL, _upsample, "nearest: every element repeated", _keep_format, True),
    OpRow("identity", "x", {"layer": "", "reason": ""}, FLOAT, _same_shape, "x", _keep_format, True, in_place=True),
    OpRow("training_only", "x", {"layer": REQUIRED, "config": {}, "always": False}, FLOAT, _same_shape, "x; in training a Keras layer of that class and config (dropout, noise, a regularizer of x), with `always` at inference too", _keep_format, True, interval=rules.with_zero, in_place=True),
    # quantization
    OpRow("fake_quantize", "x", {
        "quantizer": "log_threshold",    # registry name, see quantizers/__init__.py
        "bits": REQUIRED, "signed": REQUIRED, "narrow": False, "rounding": "half_even",
        "channel_axis": None,            # None: one threshold; else one per index of this axis of x ("flat" for depthwise)
        "group": None,                   # nodes with one group share one threshold; None: the node's own
        "role": "activation",            # input weight bias accumulator activation rescale reciprocal alpha
        "trainable": True,
        "calibration": "max",            # registry name, see calibration/methods.py
        "log2_threshold": None,          # tuple of floats; None before calibration
    }, ("fakequant",), _same_shape, "clip(round(x/s), qmin, qmax)*s, s = 2**(ceil(log2_threshold) - (bits - signed))", interval=rules.fake_quantize),
    OpRow("quantize_bias", "bias x kernel", {"bits": 32}, ("fakequant",), _first_constant, "bias rounded half-even at e_x + e_kernel", interval=rules.quantize_bias),
    OpRow("quantize", "x", {"format": REQUIRED, "rounding": "half_even"}, ("integer",), _same_shape, "float -> codes, at the border", _attr_format, on_reals=True),
    OpRow("dequantize", "x", {}, ("integer",), _same_shape, "codes -> float, at the border"),
    OpRow("requantize", "x", {"format": REQUIRED, "rounding": "half_even", "low": None, "high": None}, ("integer",), _same_shape, "rounding shift to another exponent, saturated to [low, high] (default: the format's range)", _attr_format, in_place=True),
    # whatever has no row: a Keras layer kept in float, opaque to the graph
    OpRow("island", "x...", {
        "layer": REQUIRED,          # serialized config of the Keras layer or operation
        "output_shapes": REQUIRED,
        "output_dtypes": (),        # as Keras names them; () for float32
        "input_dtypes": (),         # what the layer takes; () for float32
        "reason": "",               # why it is in float
        "weights": (),              # names of its constants: weights, then array arguments of the call
        "roles": (),                # what the layer calls its weights: kernel, bias ...
        "state": (),                # what it keeps beside weights: (number of the layer inside, kind, key, constant)
        "call": None,               # how it takes its inputs
        "turned_ties": (),          # the same of constants that have other axes than the weight: they are two in a built model
        "ties": (),                 # (number of the weight, constant): weights that are a constant which other nodes read, too
        "instance": None,           # the first node of the layer, where this is another call of it
    }, ALL, _explicit, "a Keras layer in float, opaque to the graph", on_reals=True),
)}
# fmt: on

PRODUCTS = tuple(name for name, row in OPS.items() if row.kernel is not None)  # ops that multiply by a kernel


def attr(node: Node, key: str) -> Any:
    """An attribute of a node, or the table's default."""
    if key in node.attrs:
        return node.attrs[key]
    default = OPS[node.op].attrs[key]
    if default is REQUIRED:
        raise ValueError(f"node {node.name!r} ({node.op}) needs the attribute {key!r}")
    return default


def attributes(node: Node) -> dict[str, Any]:
    """All attributes of a node with defaults filled in."""
    row = OPS[node.op].attrs
    return {**{key: attr(node, key) for key in row}, **node.attrs}


def infer(graph: Graph, node: Node) -> tuple[TensorType, ...]:
    """The types of a node's outputs from those of its inputs."""
    if node.op not in OPS:
        raise ValueError(f"there is no op {node.op!r} in graph/ops.py (node {node.name!r})")
    row = OPS[node.op]
    shapes = row.shape(node, [graph.shape(v) for v in node.inputs], attributes(node))
    format = row.format(graph, node) if graph.stage == "integer" else None
    dtypes = attributes(node).get("output_dtypes") or ()
    if row.moves_codes and format is None:
        first = graph.types[node.inputs[0]].dtype
        dtypes = (first if all(graph.types[value].dtype == first for value in node.inputs) else "float32",)
    dtypes = itertools.chain(dtypes, itertools.repeat("float32"))
    return tuple(TensorType(tuple(shape), format, dtype) for shape, dtype in zip(shapes, dtypes))


def infer_all(graph: Graph) -> None:
    """Write the inferred type of every node output into ``graph.types``."""
    for node in graph.nodes:
        for out, type in zip(node.outputs, infer(graph, node)):
            graph.types[out] = type
