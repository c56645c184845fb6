"""Runs float and fakequant graphs in plain numpy: how transform tests check that a pass keeps the function.

It is the inference form: dropout does nothing, batch norm uses moving statistics. In float64 (the default) fake
quantization is exact: codes stay far below 2**53. The folded weights are rounded to float32 first, as everywhere
(``numerics/fold.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graffiti.graph import affine, functions
from graffiti.graph.interpreter import Island, bind_inputs, run_island, walk
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attr, attributes
from graffiti.numerics import fold, products, reference
from graffiti.numerics.formats import QFormat, exponent_of_threshold
from graffiti.numerics.rounding import round_real
from graffiti.numerics.windows import pool_counts


def run_float(
    graph: Graph, inputs, *, values: bool = False, dtype=np.float64, island: Island | None = None,
    active: Callable[[Node], bool] | None = None,
):
    """Run a float or fakequant graph.

    Args:
        graph: of stage ``float`` or ``fakequant``; quantizers need thresholds.
        inputs: as in ``interpreter.run``; rounded to float32 first, as Keras takes them.
        values: whether to return every tensor.
        dtype: float64 or float32, of all arithmetic.
        island: computes a Keras layer left opaque, as in ``interpreter.run``.
        active: which quantizers (``fake_quantize`` and ``quantize_bias`` nodes) quantize; the others pass their input
            on. All by default.

    Returns:
        The list of output arrays in ``dtype``; with ``values`` a dict of every input and node output by name.

    Raises:
        ValueError: for an integer graph, wrong inputs, a quantizer without threshold, an island without ``island``.
    """
    if graph.stage == "integer":
        raise ValueError("run_float runs float and fakequant graphs, got an integer one; use interpreter.run")
    inputs = {name: np.asarray(array, graph.storage(name)) for name, array in bind_inputs(graph, inputs).items()}
    formats = Formats(graph)

    def compute(node: Node, arrays: list[np.ndarray]):
        if node.op == "island":
            return run_island(
                node, [np.asarray(a, graph.storage(value)) for a, value in zip(arrays, node.inputs)], island
            )
        if active is not None and node.op in ("fake_quantize", "quantize_bias") and not active(node):
            return [np.asarray(arrays[0], dtype)]
        if node.op not in RULES:
            raise ValueError(f"node {node.name!r}: there is no float meaning for the op {node.op!r}")
        # integers and text stay what they are
        moved = OPS[node.op].moves_codes and graph.types[node.inputs[0]].dtype != "float32"
        return [
            RULES[node.op](
                _Call(graph, node, attributes(node), formats),
                *(arrays if moved else (np.asarray(a, dtype) for a in arrays))
            )
        ]

    return walk(graph, inputs, compute, values=values, dtype=dtype)


# ---- formats of fake-quantized values --------------------------------------------------------------------------------
class Formats:
    """The format of the codes that a value of a fakequant graph stands for."""

    def __init__(self, graph: Graph) -> None:
        self._producers = graph.producers()

    def of(self, value: str) -> QFormat | None:
        """That of the quantizer the value comes from, through ops that keep codes; ``None`` where there is none."""
        node = self._producers.get(value)
        while node is not None and node.op != "fake_quantize":
            if not OPS[node.op].keeps_format:
                return None
            node = self._producers.get(node.inputs[0])
        return None if node is None else quantizer_format(node)

    def need(self, value: str, reader: Node) -> QFormat:
        """As ``of``; an error that names both where there is none."""
        format = self.of(value)
        if format is None:
            raise ValueError(f"node {reader.name!r} ({reader.op}) needs the exponent of {value!r}, which no quantizer "
                             "gives; expected a fake_quantize in front")
        return format


def quantizer_format(node: Node) -> QFormat:
    """The format that a ``fake_quantize`` node rounds to.

    Raises:
        ValueError: where it has no threshold yet.
    """
    thresholds = attr(node, "log2_threshold")
    if thresholds is None or not np.all(np.isfinite(np.asarray(thresholds, np.float64))):
        raise ValueError(
            f"the quantizer {node.name!r} has the log2_threshold {thresholds!r}; calibrate first, expected "
            "finite values"
        )
    bits, signed = int(attr(node, "bits")), bool(attr(node, "signed"))
    exponents = exponent_of_threshold(np.ravel(thresholds), bits, signed).tolist()
    return QFormat(
        bits, signed, exponents[0] if attr(node, "channel_axis") is None else tuple(exponents),
        bool(attr(node, "narrow"))
    )


class _Call:
    """What a rule may ask for beside its arrays."""

    def __init__(self, graph: Graph, node: Node, attrs: dict[str, Any], formats: Formats) -> None:
        self.graph, self.node, self.attrs, self.formats = graph, node, attrs, formats

    def __getitem__(self, key: str):
        return self.attrs[key]


# ---- rules -----------------------------------------------------------------------------------------------------------
def _fake_quantize(call, x):
    format = quantizer_format(call.node)
    exponent = np.asarray(format.exponent)
    if format.per_channel:
        exponent = fold.per_channel(exponent, x.shape, call["channel_axis"])
    if np.isnan(x).any():
        raise ValueError(f"the quantizer {call.node.name!r} got NaN; clean the data or the weights first")
    codes = np.clip(round_real(np.ldexp(x.astype(np.float64), -exponent), call["rounding"]), format.qmin, format.qmax)
    return np.ldexp(codes, exponent)


def _quantize_bias(call, bias, x, kernel):
    _, x_name, kernel_name = call.node.inputs
    exponent = (
        np.asarray(call.formats.need(x_name, call.node).exponent)
        + np.asarray(call.formats.need(kernel_name, call.node).exponent)
    )
    return np.ldexp(round_real(np.ldexp(bias.astype(np.float64), -exponent), "half_even"), exponent)


def _activation(call, x):
    if call["values"] is not None:
        format = call.formats.need(call.node.inputs[0], call.node)
        table = call.graph.constants[call["values"]]
        return table[np.ldexp(x.astype(np.float64), -format.exponent).astype(np.int64) - format.qmin]
    try:
        row = functions.get(call["function"])
        parameters = row.complete(call["parameters"])
    except ValueError as error:
        raise ValueError(f"node {call.node.name!r}: {error}") from None
    return row.values(x, **parameters)


def _average_pool(call, x):
    window = call["pool_size"], call["strides"], call["padding"]
    total = products.sum_pool(x, *window)
    return total / pool_counts(x.shape[1:-1], *window).astype(x.dtype) if call["divide"] else total


def _batch_norm(call, x, gamma, beta, mean, variance):
    return gamma * (x - mean) / np.sqrt(variance + call["epsilon"]) + beta


def _separable(call, x, depthwise, pointwise):
    x = products.depthwise_conv(x, depthwise, call["strides"], call["padding"], call["dilation"])
    return products.conv(x, pointwise, (1,) * (x.ndim - 2))


def _relu(call, x):
    return np.clip(x, 0, call["max_value"])


def _rescaling(call, x):
    scale, offset = affine.numbers(call.graph, call.node, x.dtype)
    return x * scale + offset


def _elementwise(function: Callable) -> Callable[..., np.ndarray]:
    return lambda c, x, y: function(x, y)


RULES: dict[str, Callable[..., np.ndarray]] = {
    **{name: _elementwise(row.elementwise) for name, row in OPS.items() if row.elementwise is not None},
    "conv": lambda c, x, k: products.conv(x, k, c["strides"], c["padding"], c["dilation"], c["groups"]),
    "depthwise_conv": lambda c, x, k: products.depthwise_conv(x, k, c["strides"], c["padding"], c["dilation"]),
    "conv_transpose": lambda c, x, k: products.conv_transpose(x, k, c["strides"], c["padding"], c["output_padding"]),
    "dense": lambda c, x, k: products.dense(x, k),
    "separable_conv": _separable,
    "bias_add": lambda c, x, b: x + b,
    "batch_norm": _batch_norm,
    "fold_kernel": lambda c, k, gamma, variance: fold.fold_kernel(k, gamma, variance, c["epsilon"], c["channel_axis"]),
    "fold_bias": lambda c, bias, gamma, beta, mean, variance: fold.fold_bias(
        bias, gamma, beta, mean, variance, c["epsilon"]
    ),
    "rescaling": _rescaling,
    "relu": _relu,
    "leaky_relu": lambda c, x: np.maximum(x, 0) + c["alpha"] * np.minimum(x, 0),
    "prelu": lambda c, x, alpha: np.maximum(x, 0) + alpha * np.minimum(x, 0),
    "activation": _activation,
    "softmax": lambda c, x: functions.FUNCTIONS["softmax"].values(x, c["axis"]),
    "max_pool": lambda c, x: products.max_pool(x, c["pool_size"], c["strides"], c["padding"]),
    "average_pool": _average_pool,
    "mean": lambda c, x: (x.mean if c["divide"] else x.sum)(tuple(c["axes"]), keepdims=c["keepdims"]),
    "global_max_pool": lambda c, x: reference.global_max_pool(x, c["axes"], c["keepdims"]),
    "concat": lambda c, *xs: reference.concat(xs, c["axis"]),
    "pad": lambda c, x: reference.pad(x, c["pads"]),
    "crop": lambda c, x: reference.crop(x, c["crops"]),
    "slice": lambda c, x: reference.slice_axes(x, c["slices"]),
    "take": lambda c, x: reference.take(x, c["axis"], c["indices"]),
    "reshape": lambda c, x: reference.reshape(x, c["shape"]),
    "permute": lambda c, x: reference.permute(x, c["dims"]),
    "upsample": lambda c, x: reference.upsample(x, c["size"]),
    "identity": lambda c, x: x,
    "training_only": lambda c, x: x,
    "fake_quantize": _fake_quantize,
    "quantize_bias": _quantize_bias,
}
