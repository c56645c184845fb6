"""``cost``: what a network costs per example: multiplications, bit operations, weight bytes, activation bytes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from graffiti.graph import memory
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import PRODUCTS
from graffiti.integer_graph import IntegerGraph
from graffiti.keras_io import compat
from graffiti.keras_io.read import read
from graffiti.low_bit.convert import strip
from graffiti.low_bit.layers import LowBitLayer
from graffiti.low_bit.quantizers import TensorQuantizer
from graffiti.transforms import pipelines

FLOAT_BITS = 32
_RECURRENT, _ATTENTION, _WRAPPERS = ("LSTM", "GRU", "SimpleRNN", "RNN"), ("MultiHeadAttention", "GroupedQueryAttention"), ("Bidirectional", "TimeDistributed")
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
        peak_activation_bytes: the most bytes of activations alive at one step, one example, in-order execution; ``None`` where a size is unknown.
        bias_bytes: of all biases.
    """

    layers: tuple[LayerCost, ...]
    peak_activation_bytes: int | None
    bias_bytes: float

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
            "peak_activation_bytes": self.peak_activation_bytes, "layers": [{**dataclasses.asdict(layer), "bops": layer.bops} for layer in self.layers],
        }

    def __str__(self) -> str:
        rows = [f"{'layer':<28} {'product':<16} {'MACs':>14} {'bits':>7} {'BOPs':>18} {'weight bytes':>13}"]
        for layer in self.layers:
            rows.append(f"{layer.layer:<28} {layer.product:<16} {layer.macs:>14,} {layer.bits[0]:>3}x{layer.bits[1]:<3} {layer.bops:>18,} {layer.weight_bytes:>13,.0f}")
        peak = "unknown" if self.peak_activation_bytes is None else f"{self.peak_activation_bytes:,}"
        rows.append(f"{'total':<28} {'':<16} {self.macs:>14,} {'':>7} {self.bops:>18,} {self.weight_bytes:>13,.0f}")
        return "\n".join([*rows, f"peak activation bytes: {peak}, bias bytes: {self.bias_bytes:,.0f}"])


def cost(model_or_graph: keras.Model | IntegerGraph) -> Cost:
    """What one example costs.

    MACs of a product = output values × terms of one output. BOPs = MACs × bits × bits. A float layer counts 32 bits. The peak is over an in-order execution in which a value lives from its
    step to its last reader.

    Args:
        model_or_graph: a float Keras model, one made by ``quantize`` (calibrated), one made by ``quantize_training`` (three products a layer, at the widths of now), or an
            ``IntegerGraph``.

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
    trained = {layer.name: layer for layer in model_or_graph._flatten_layers() if isinstance(layer, LowBitLayer)}
    if trained:
        return _of_training(_of_graph(read(strip(model_or_graph))), trained)
    graph = read(model_or_graph)
    return _of_graph(pipelines.lower(graph) if graph.stage == "fakequant" else graph)


def _of_graph(graph: Graph) -> Cost:
    layers, bias_bytes = [], 0.0
    for node in graph.nodes:
        if node.op in PRODUCTS:
            kernel = graph.constants[node.inputs[1]]
            bits = _bits(graph, node.inputs[0]), _bits(graph, node.inputs[1])
            layers.append(LayerCost(_layer_name(graph, node), node.op, "forward", _macs(graph, node, kernel), bits, kernel.size * bits[1] / 8))
        elif node.op == "bias_add" and graph.is_constant(node.inputs[1]):
            bias_bytes += graph.constants[node.inputs[1]].size * _bits(graph, node.inputs[1]) / 8
        elif node.op == "island":
            products = _of_island(graph, node)
            if products:
                bias_bytes += sum(graph.constants[name].size for name in node.attrs["weights"] if "bias" in name.rsplit("/", 1)[-1]) * FLOAT_BITS / 8
            for name, op, macs, weights in products:
                layers.append(LayerCost(f"{node.name}/{name}", op, "forward", macs, (FLOAT_BITS, FLOAT_BITS), weights * FLOAT_BITS / 8))
    return Cost(tuple(layers), _peak(graph), bias_bytes)


def _of_island(graph: Graph, node: Node) -> list[tuple[str, str, int, int]]:
    """``(product, op, MACs, weights)`` of each product in a recurrent or attention layer, which the graph holds as a whole."""
    layer = node.attrs["layer"]
    kernels = [graph.constants[name] for name in node.attrs["weights"] if "kernel" in name.rsplit("/", 1)[-1]]
    steps = [_elements(graph, name) // kernels[0].shape[0] for name in node.inputs] if kernels else []
    if layer["class_name"] in _ATTENTION and len(kernels) == len(_PROJECTIONS):
        queries, values = steps[0], steps[min(1, len(steps) - 1)]
        rows = [(name, "einsum", (values if name in ("key", "value") else queries) * k.size, k.size) for name, k in zip(_PROJECTIONS, kernels)]
        heads = [math.prod(kernels[0].shape[1:]), kernels[3].size // kernels[3].shape[-1]]
        return [*rows, *((name, "matmul", queries * values * size, 0) for name, size in zip(("scores", "mixture"), heads))]
    inner = [layer["config"][key] for key in ("layer", "backward_layer") if key in layer["config"]] if layer["class_name"] in _WRAPPERS else [layer]
    if [part["class_name"] for part in inner] == ["Dense"]:
        return [(inner[0]["config"]["name"], "dense", steps[0] * k.size, k.size) for k in kernels]
    if any(part["class_name"] not in _RECURRENT for part in inner):
        return []
    prefixes = [""] if inner == [layer] else [f"{part['config']['name']}/" for part in inner]
    names = [f"{prefix}{name}" for prefix in prefixes for name in ("input", "recurrent")]
    return [(name, "dense", steps[0] * k.size, k.size) for name, k in zip(names, kernels)] if len(names) == len(kernels) else []


def _layer_name(graph: Graph, node: Node) -> str:
    """The Keras layer's name: inner nodes are ``layer/product``."""
    return node.name.removesuffix("/product")


def _bits(graph: Graph, value: str) -> int:
    format = graph.format(value)
    return FLOAT_BITS if format is None else format.bits


def _elements(graph: Graph, value: str) -> int:
    """How many numbers one example of a value has."""
    sizes = graph.shape(value)[1:]
    if None in sizes:
        raise ValueError(f"cost needs sizes that are known: the tensor {value!r} has the shape {graph.shape(value)}; build the model with a fixed input shape")
    return math.prod(int(size) for size in sizes if size is not None)


def _macs(graph: Graph, node: Node, kernel: np.ndarray) -> int:
    if node.op == "conv_transpose":  # each input value meets the whole window of every output channel
        return _elements(graph, node.inputs[0]) * kernel.size // kernel.shape[-1]
    outputs = kernel.shape[-2] * kernel.shape[-1] if node.op == "depthwise_conv" else kernel.shape[-1]
    return _elements(graph, node.output) * kernel.size // outputs


def _peak(graph: Graph) -> int | None:
    lifetimes = memory.lifetimes_of(graph)
    try:
        sizes = [memory.bytes_of(graph, name) for name in lifetimes]
    except ValueError:
        return None
    return memory.lower_bound(sizes, list(lifetimes.values()))


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
        pairs = {"forward": ("activations", "weights"), "input_gradient": ("gradients", "weights"), "weight_gradient": ("activations", "gradients")}
        for name, (first, second) in pairs.items():
            low = product is not None and getattr(product.settings.scheme, name)
            bits = (width[first], width[second]) if low else (FLOAT_BITS, FLOAT_BITS)
            rows.append(LayerCost(row.layer, row.op, name, row.macs, bits, row.weight_bytes * width["weights"] / FLOAT_BITS if name == "forward" else 0.0))
    return Cost(tuple(rows), plain.peak_activation_bytes, plain.bias_bytes)


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
