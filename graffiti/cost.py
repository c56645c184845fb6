"""``cost``: what a network costs per example: multiplications, bit operations, weight bytes, activation bytes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from graffiti.export import ExportError
from graffiti.export.c.exporter import CExporter
from graffiti.graph import memory
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, PRODUCTS, attr
from graffiti.integer_graph import IntegerGraph
from graffiti.keras_io import compat
from graffiti.keras_io.read import read
from graffiti.low_bit.convert import strip
from graffiti.low_bit.layers import LowBitLayer
from graffiti.low_bit.quantizers import TensorQuantizer
from graffiti.transforms import pipelines

FLOAT_BITS = 32
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN")
_PROJECTIONS = ("query", "key", "value", "attention_output")


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One product of one layer.

    Attributes:
        layer: the layer's name.
        op: ``conv``, ``depthwise_conv``, ``dense``, ``conv_transpose``.
        product: ``forward``; with low-bit training also ``input_gradient`` and ``weight_gradient``.
        macs: multiplications with addition for one example.
        bits: widths of the two operands.
        weight_bytes: bytes of the kernel at its width, bias not counted; counted once, with the forward product.
    """

    layer: str
    op: str
    product: str
    macs: int
    bits: tuple[int, int]
    weight_bytes: float

    @property
    def bops(self) -> int:
        """Bit operations: MACs times both widths."""
        return self.macs * self.bits[0] * self.bits[1]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        layers: one ``LayerCost`` per product, in the order of the network.
        peak_activation_bytes: what activations need in memory, one example: the planned arena of the exported C, where
            the network can be exported; else the most bytes alive at one step of an in-order execution that keeps no
            accumulator; ``None`` where a size is unknown.
        bias_bytes: of all biases.
        uncounted: layers that compute with weights, or multiply tensors, in a way that is not counted here.
    """

    layers: tuple[LayerCost, ...]
    peak_activation_bytes: int | None
    bias_bytes: float
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Of all products."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bops(self) -> int:
        """Of all products."""
        return sum(layer.bops for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Of all kernels."""
        return sum(layer.weight_bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "macs": self.macs, "bops": self.bops, "weight_bytes": self.weight_bytes, "bias_bytes": self.bias_bytes,
            "peak_activation_bytes": self.peak_activation_bytes, "uncounted": list(self.uncounted),
            "layers": [{**dataclasses.asdict(layer), "bops": layer.bops} for layer in self.layers],
        }

    def __str__(self) -> str:
        rows = [f"{'layer':<28} {'product':<16} {'MACs':>14} {'bits':>7} {'BOPs':>18} {'weight bytes':>13}"]
        for layer in self.layers:
            rows.append(
                f"{layer.layer:<28} {layer.product:<16} {layer.macs:>14,} {layer.bits[0]:>3}x{layer.bits[1]:<3} "
                f"{layer.bops:>18,} {layer.weight_bytes:>13,.0f}"
            )
        peak = "unknown" if self.peak_activation_bytes is None else f"{self.peak_activation_bytes:,}"
        rows.append(f"{'total':<28} {'':<16} {self.macs:>14,} {'':>7} {self.bops:>18,} {self.weight_bytes:>13,.0f}")
        if self.uncounted:
            rows.append(f"not counted: {', '.join(self.uncounted)}")
        return "\n".join([*rows, f"peak activation bytes: {peak}, bias bytes: {self.bias_bytes:,.0f}"])


def cost(model_or_graph: keras.Model | IntegerGraph) -> Cost:
    """What one example costs.

    MACs of a product = output values × terms of one output. BOPs = MACs × bits × bits. A float layer counts 32 bits.
    What memory activations need is the planned arena of the C export; where there is none, the peak of an in-order
    execution in which a value lives from its step to its last reader.

    Args:
        model_or_graph: a float Keras model, one made by ``quantize`` (calibrated), one made by ``quantize_training``
            (three products a layer, at the widths of now), or an ``IntegerGraph``.

    Returns:
        A ``Cost``; printing it gives a table.

    Raises:
        TypeError: for anything else.
        ValueError: where the model is not built, has a size that is not known, or is quantized and not calibrated.

    Example:
        >>> print(graffiti.cost(model))
    """
    if isinstance(model_or_graph, IntegerGraph):
        return _of_graph(model_or_graph.graph)
    if not isinstance(model_or_graph, keras.Model):
        raise TypeError(f"cost takes a Keras 3 model or an IntegerGraph, got {type(model_or_graph).__name__}")
    compat.check_model(model_or_graph)
    trained = {layer.name: layer for layer in compat.sublayers(model_or_graph) if isinstance(layer, LowBitLayer)}
    for layer in compat.sublayers(model_or_graph):
        if isinstance(layer, keras.layers.TimeDistributed) and layer.layer.name in trained:
            trained[layer.name] = trained[layer.layer.name]  # its product is read under the name of the wrapper
    if trained:
        return _of_training(_of_graph(read(strip(model_or_graph))), trained)
    graph = read(model_or_graph)
    return _of_graph(pipelines.lower(graph) if graph.stage == "fakequant" else graph)


def _of_graph(graph: Graph) -> Cost:
    layers, bias_bytes, uncounted = [], 0.0, []
    for node in graph.nodes:
        if node.op in PRODUCTS:
            kernel = graph.constants[node.inputs[1]]
            bits = _bits(graph, node.inputs[0]), _bits(graph, node.inputs[1])
            layers.append(
                LayerCost(
                    _layer_name(graph, node), node.op, "forward", _macs(graph, node, kernel), bits,
                    kernel.size * bits[1] / 8
                )
            )
        elif node.op == "bias_add" and graph.is_constant(node.inputs[1]):
            bias_bytes += graph.constants[node.inputs[1]].size * _bits(graph, node.inputs[1]) / 8
        elif node.op == "island":
            products = _of_island(graph, node)
            if not products and _computes(node):
                uncounted.append(node.name)
            if products:
                bias_bytes += (
                    sum(graph.constants[name].size for name, role in _roles(node) if "bias" in role) * FLOAT_BITS / 8
                )
            for name, op, macs, weights in products:
                layers.append(
                    LayerCost(
                        f"{node.name}/{name}", op, "forward", macs, (FLOAT_BITS, FLOAT_BITS), weights * FLOAT_BITS / 8
                    )
                )
    return Cost(tuple(layers), _peak(graph), bias_bytes, tuple(uncounted))


# ---- what a graph holds as a whole: Keras layers in float ------------------------------------------------------------
Products = list[tuple[str, str, int, int]]  # (product, op, MACs, weights)


def _roles(node: Node) -> list[tuple[str, str]]:
    """The constants of an island that are weights, and what its layer calls them; files without roles say it in the
    constants' names.
    """
    weights = node.attrs["weights"]
    return list(zip(weights, attr(node, "roles") or [name.rsplit("/", 1)[-1] for name in weights]))


def _kernels(graph: Graph, node: Node) -> list[np.ndarray]:
    """The island's weights that multiply, in their order."""
    return [graph.constants[name] for name, role in _roles(node) if "kernel" in role and graph.constants[name].ndim > 1]


def _window_island(op: str):
    """A convolution: every output value takes a window of one filter; a transposed one gives every input value to
    one.
    """
    def rule(graph: Graph, node: Node, config: dict) -> Products:
        rows = []
        for index, kernel in enumerate(_kernels(graph, node)):
            form = OPS[op].kernel
            assert form is not None, "a product has a kernel"
            if op == "conv_transpose":
                macs = _elements(graph, node.inputs[0]) * kernel.size // kernel.shape[-1]
            else:
                macs = _elements(graph, node.output) * form.terms(kernel.shape)
            rows.append(("product" if index == 0 else f"product_{index}", op, macs, kernel.size))
        return rows
    return rule


def _separable_island(graph: Graph, node: Node, config: dict) -> Products:
    depthwise, pointwise = _kernels(graph, node)
    positions = _elements(graph, node.output) // pointwise.shape[-1]
    return [
        ("depthwise", "depthwise_conv", positions * depthwise.size, depthwise.size),
        ("pointwise", "conv", positions * pointwise.size, pointwise.size)
    ]


def _dense_island(graph: Graph, node: Node, config: dict) -> Products:
    (kernel,) = _kernels(graph, node)
    return [("product", "dense", _elements(graph, node.inputs[0]) // kernel.shape[0] * kernel.size, kernel.size)]


def _einsum_sizes(equation: str, shapes: list[tuple[int | None, ...]]) -> int:
    """Multiplications of an einsum of two operands: the product of the sizes of all its letters, the batch counted
    once.
    """
    operands = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    extra = 1
    for letters, shape in zip(operands, shapes, strict=True):
        front = letters.split("...")[0]
        if "..." in letters:
            hidden = len(shape) - len(letters.replace("...", ""))
            extra = max(extra, math.prod(size or 1 for size in shape[len(front):len(front) + hidden]))
            shape = (*shape[:len(front)], *shape[len(front) + hidden:])
        sizes.update({letter: size or 1 for letter, size in zip(letters.replace("...", ""), shape, strict=True)})
    return math.prod(sizes.values()) * extra


def _einsum_dense_island(graph: Graph, node: Node, config: dict) -> Products:
    (kernel,) = _kernels(graph, node)
    return [
        (
            "product", "einsum", _einsum_sizes(config["equation"], [graph.shape(node.inputs[0]), kernel.shape]),
            kernel.size
        )
    ]


def _matmul_island(graph: Graph, node: Node, config: dict) -> Products:
    """Two tensors over their common axis: every output value takes as many terms as the last axis of the first has."""
    axes = config.get("axes") if config else None
    axis = (axes[0] if isinstance(axes, (list, tuple)) else axes) if axes is not None else -1
    terms = graph.shape(node.inputs[0])[int(axis)]
    if len(node.inputs) != 2 or terms is None:
        return []
    return [("product", "matmul", _elements(graph, node.output) * int(terms), 0)]


def _attention_island(graph: Graph, node: Node, config: dict) -> Products:
    kernels = _kernels(graph, node)
    if len(kernels) != len(_PROJECTIONS):
        return []
    steps = [_elements(graph, name) // kernels[0].shape[0] for name in node.inputs]
    queries, values = steps[0], steps[min(1, len(steps) - 1)]
    rows = [
        (name, "einsum", (values if name in ("key", "value") else queries) * k.size, k.size)
        for name, k in zip(_PROJECTIONS, kernels)
    ]
    heads = [math.prod(kernels[0].shape[1:]), kernels[3].size // kernels[3].shape[-1]]
    return [*rows, *((name, "matmul", queries * values * size, 0) for name, size in zip(("scores", "mixture"), heads))]


def _plain_attention_island(graph: Graph, node: Node, config: dict) -> Products:
    """Scores and mixture of ``Attention`` without projections."""
    (_, queries, width), (_, values, depth) = (_known(graph, name) for name in node.inputs[:2])
    return [("scores", "matmul", queries * values * width, 0), ("mixture", "matmul", queries * values * depth, 0)]


def _recurrent_island(
    graph: Graph, node: Node, config: dict, prefix: str = "", kernels: list[np.ndarray] | None = None
) -> Products:
    kernels = _kernels(graph, node) if kernels is None else kernels
    if len(kernels) != 2:
        return []
    steps = _elements(graph, node.inputs[0]) // kernels[0].shape[0]
    return [(f"{prefix}{name}", "dense", steps * k.size, k.size) for name, k in zip(("input", "recurrent"), kernels)]


def _convolutional_recurrent_island(graph: Graph, node: Node, config: dict) -> Products:
    """Both products of every step, over the positions that the state has."""
    kernels = _kernels(graph, node)
    if len(kernels) != 2:
        return []
    steps = _known(graph, node.inputs[0])[1]
    state = _known(graph, node.output)[2 if config.get("return_sequences") else 1:]
    positions = math.prod(state[:-1])
    return [(name, "conv", steps * positions * k.size, k.size) for name, k in zip(("input", "recurrent"), kernels)]


def _bidirectional_island(graph: Graph, node: Node, config: dict) -> Products:
    kernels, rows = _kernels(graph, node), []
    parts = [config["layer"], config.get("backward_layer") or config["layer"]]
    if len(kernels) != 4 or any(part["class_name"] not in _RECURRENT for part in parts):
        return []
    for index, part in enumerate(parts):
        rows += _recurrent_island(
            graph, node, part["config"], f"{part['config']['name']}/", kernels[2 * index:2 * index + 2]
        )
    return rows


def _steps_island(graph: Graph, node: Node, config: dict) -> Products:
    inner = config["layer"]
    if inner["class_name"] != "Dense":
        return []
    return [
        (inner["config"]["name"], op, macs, weights)
        for _, op, macs, weights in _dense_island(graph, node, inner["config"])
    ]


ISLANDS = {  # Keras class -> its products; what computes and is not here is listed as not counted
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _window_island("conv")),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _window_island("depthwise_conv")),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _window_island("conv_transpose")),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_island),
    "Dense": _dense_island, "EinsumDense": _einsum_dense_island,
    **dict.fromkeys(("Matmul", "Dot"), _matmul_island),
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"), _attention_island),
    "Attention": _plain_attention_island,
    **dict.fromkeys(_RECURRENT, _recurrent_island),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _convolutional_recurrent_island),
    "Bidirectional": _bidirectional_island, "TimeDistributed": _steps_island,
}
_WITHOUT_PRODUCTS = (
    "Embedding", "BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "PReLU",
    "Normalization"
)
_WITHOUT_WEIGHTS = ("Matmul", "Dot", "Einsum", "Tensordot", "Attention", "AdditiveAttention", "Inner", "Outer", "Vdot")


def _of_island(graph: Graph, node: Node) -> Products:
    """Each product of a layer that the graph holds as a whole; empty where it is not known."""
    layer = node.attrs["layer"]
    rule = ISLANDS.get(layer.get("class_name", ""))
    return [] if rule is None else rule(graph, node, layer.get("config") or {})


def _computes(node: Node) -> bool:
    """Whether a layer in float multiplies by more than a factor for each value."""
    kind = node.attrs["layer"].get("class_name", "")
    return kind not in _WITHOUT_PRODUCTS and (bool(node.attrs["weights"]) or kind in _WITHOUT_WEIGHTS)


def _layer_name(graph: Graph, node: Node) -> str:
    """The Keras layer's name for its last product, which may be its only one; others have names of their own."""
    products = [other for other in graph.nodes if other.op in PRODUCTS and other.of_layer == node.of_layer]
    return node.of_layer if node is products[-1] else node.name


def _bits(graph: Graph, value: str) -> int:
    format = graph.format(value)
    return FLOAT_BITS if format is None else format.bits


def _known(graph: Graph, value: str) -> tuple[int, ...]:
    """The shape of one example with a 1 for the batch, every size known."""
    sizes = graph.shape(value)[1:]
    if None in sizes:
        raise ValueError(
            f"cost needs sizes that are known: the tensor {value!r} has the shape {graph.shape(value)}; build the "
            "model with a fixed input shape"
        )
    return (1, *(int(size) for size in sizes if size is not None))


def _elements(graph: Graph, value: str) -> int:
    """How many numbers one example of a value has."""
    return math.prod(_known(graph, value))


def _macs(graph: Graph, node: Node, kernel: np.ndarray) -> int:
    if node.op == "conv_transpose":  # each input value meets the whole window of every output channel
        return _elements(graph, node.inputs[0]) * kernel.size // kernel.shape[-1]
    form = OPS[node.op].kernel
    assert form is not None, "a product has a kernel"
    return _elements(graph, node.output) * form.terms(kernel.shape)


def _peak(graph: Graph) -> int | None:
    if graph.stage == "integer":
        try:
            return CExporter().plan(graph).arena_bytes
        except (ExportError, ValueError):
            pass  # what C does not take is counted by the rule below
    lifetimes = memory.lifetimes_of(graph)
    kept = {name: lifetimes[name] for name in lifetimes if not _passes(graph, name)}
    try:
        sizes = [memory.bytes_of(graph, name) for name in kept]
    except ValueError:
        return None
    return memory.lower_bound(sizes, [(_begin(graph, lifetimes, name), last) for name, (_, last) in kept.items()])


def _begin(graph: Graph, lifetimes: dict[str, tuple[int, int]], value: str) -> int:
    """The step that first writes where a value lies: that of the product which it became on the spot."""
    node = graph.producer(value)
    while node is not None and OPS[node.op].in_place and _passes(graph, node.inputs[0]):
        value = node.inputs[0]
        node = graph.producer(value)
    return lifetimes[value][0] if value in lifetimes else 0


def _passes(graph: Graph, value: str) -> bool:
    """Whether a value becomes the next one on the spot: an accumulator, or what one elementwise op alone reads."""
    reader = only_reader(graph, value)
    return reader is not None and value not in graph.inputs and OPS[reader.op].in_place


def _of_training(plain: Cost, trained: dict[str, Any]) -> Cost:
    """Each layer three times: forward, input gradient, weight gradient, at the widths of its quantizers."""
    rows = []
    for row in plain.layers:
        layer = next((trained[part] for part in reversed(row.layer.split("/")) if part in trained), None)
        products = [] if layer is None else layer.low_bit_products()
        product = _product_of(row, products)
        of = {role: product for role in ("activations", "weights", "gradients")}
        if product is not None and "gradients" not in product.roles:
            of["gradients"] = products[0]  # a recurrent product shares the gradients of the input product
        width = {role: FLOAT_BITS if found is None else _width(found.quantizer(role)) for role, found in of.items()}
        pairs = {
            "forward": ("activations", "weights"), "input_gradient": ("gradients", "weights"),
            "weight_gradient": ("activations", "gradients")
        }
        for name, (first, second) in pairs.items():
            low = product is not None and getattr(product.settings.scheme, name)
            bits = (width[first], width[second]) if low else (FLOAT_BITS, FLOAT_BITS)
            rows.append(
                LayerCost(
                    row.layer, row.op, name, row.macs, bits,
                    row.weight_bytes * width["weights"] / FLOAT_BITS if name == "forward" else 0.0
                )
            )
    return Cost(tuple(rows), plain.peak_activation_bytes, plain.bias_bytes, plain.uncounted)


def _product_of(row: LayerCost, products: list):
    """The one of a layer's products that a row counts; ``None`` for a row that the layer computes in float."""
    if len(products) == 1:
        return products[0]
    return next((p for p in products if row.layer.split("/")[-1] == p.layer_name.split("/")[-1]), None)


def _width(quantizer: TensorQuantizer | None) -> int:
    """Bits of one element now."""
    if quantizer is None:
        return FLOAT_BITS
    element = getattr(quantizer, "element", None)
    if element is not None:
        return 1 + sum(element)
    return int(np.asarray(quantizer.bits))
