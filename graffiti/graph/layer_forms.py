"""Each op as the layer that computes it on reals: a class's name and its arguments. Names only; Keras is not known
here.

One table for everything that needs a layer for a node: building a model (``keras_io/build.py``, and
``keras_io/clusters.py`` for products, whose quantized layer is called ``Quantized<name>``), layers that stay in float
(``transforms/prepare``, ``transforms/lower``), and the class names that rules match (``transforms/place/layers.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from graffiti.graph import affine
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attributes


@dataclasses.dataclass(frozen=True)
class LayerForm:
    """A layer.

    Attributes:
        name: its class, in ``keras.layers``.
        arguments: of its constructor, beside what every layer takes.
        weights: the node's inputs that are its weights, in the layer's order.
        own: whether the class is in ``graffiti.layers`` instead.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: tuple[str, ...] = ()
    own: bool = False

    def serialized(self, **more: Any) -> dict[str, Any]:
        """As Keras writes a layer down; ``more`` goes into its config."""
        return {
            "module": "graffiti.layers" if self.own else "keras.layers", "class_name": self.name,
            "config": {**more, **{key: _listed(value) for key, value in self.arguments.items()}},
            "registered_name": f"graffiti>{self.name}" if self.own else None,
        }


Make = Callable[[Graph, Node, dict[str, Any]], LayerForm]


@dataclasses.dataclass(frozen=True)
class Row:
    """How a node becomes a layer, and which layers read as its op.

    Attributes:
        make: ``(graph, node, attributes) -> LayerForm``.
        also: classes that read as the op beside the one it becomes: names that a rule may call it.
        plain: of a layer whose arguments are attributes of the node: the class, and argument -> attribute; such a layer
            reads as the op.
        own: whether the layer is always one of ``graffiti.layers``.
    """

    make: Make
    also: tuple[str, ...] = ()
    plain: tuple[str, Mapping[str, str]] | None = None
    own: bool = False


def form_of(graph: Graph, node: Node) -> LayerForm:
    """The layer that computes a node.

    Raises:
        ValueError: where no layer does.
    """
    if node.op not in LAYER_FORMS:
        raise ValueError(f"{node.op} {node.name!r} is no Keras layer by itself")
    return LAYER_FORMS[node.op].make(graph, node, attributes(node))


def class_names(graph: Graph, node: Node) -> tuple[str, ...]:
    """The Keras classes that read as a node's op."""
    if node.op not in LAYER_FORMS:
        return ()
    row = LAYER_FORMS[node.op]
    form = None if row.own else row.make(graph, node, attributes(node))
    return tuple(dict.fromkeys((*(() if form is None or form.own else (form.name,)), *row.also)))


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, (tuple, list)) else value


def _axes(graph: Graph, node: Node) -> int:
    """How many spatial axes a node works on."""
    return len(graph.shape(node.inputs[0])) - 2


def _per_axis(values, axes: int) -> Any:
    """One number for each spatial axis; a number where there is one."""
    return values[0] if axes == 1 else tuple(values)


# ---- products --------------------------------------------------------------------------------------------------------
def _window(graph: Graph, node: Node, attrs: dict[str, Any]) -> dict[str, Any]:
    axes = _axes(graph, node)
    window = {"kernel_size": graph.shape(node.inputs[1])[:-2], "strides": attrs["strides"]}
    if "dilation" in attrs:
        window["dilation_rate"] = attrs["dilation"]
    return {**{key: _per_axis(value, axes) for key, value in window.items()}, "padding": attrs["padding"]}


def _conv(graph, node, attrs):
    arguments = {"filters": graph.shape(node.inputs[1])[-1], **_window(graph, node, attrs), "groups": attrs["groups"]}
    return LayerForm(f"Conv{_axes(graph, node)}D", arguments, node.inputs[1:])


def _depthwise_conv(graph, node, attrs):
    arguments = {**_window(graph, node, attrs), "depth_multiplier": graph.shape(node.inputs[1])[-1]}
    return LayerForm(f"DepthwiseConv{_axes(graph, node)}D", arguments, node.inputs[1:])


def _separable_conv(graph, node, attrs):
    depthwise, pointwise = (graph.shape(value) for value in node.inputs[1:])
    arguments = {"filters": pointwise[-1], **_window(graph, node, attrs), "depth_multiplier": depthwise[-1]}
    return LayerForm(f"SeparableConv{_axes(graph, node)}D", arguments, node.inputs[1:])


def _conv_transpose(graph, node, attrs):
    axes, extra = _axes(graph, node), attrs["output_padding"]
    arguments = {"filters": graph.shape(node.inputs[1])[-2], **_window(graph, node, attrs)}
    arguments["output_padding"] = None if extra is None else _per_axis(extra, axes)
    return LayerForm(f"Conv{axes}DTranspose", arguments, node.inputs[1:])


def _dense(graph, node, attrs):
    return LayerForm("Dense", {"units": graph.shape(node.inputs[1])[-1]}, node.inputs[1:])


def _multiply(graph, node, attrs):
    """By a constant, whichever operand it is."""
    constant = node.inputs[0] if graph.is_constant(node.inputs[0]) else node.inputs[1]
    return LayerForm("ConstantMultiply", {"shape": graph.shape(constant)}, (constant,), own=True)


# ---- affine maps and functions ---------------------------------------------------------------------------------------
def _bias_add(graph, node, attrs):
    """On its own: an offset per channel."""
    return LayerForm("Affine", {"scale": 1.0, "offset": graph.constants[node.inputs[1]].tolist()}, own=True)


def _rescaling(graph, node, attrs):
    numbers = {
        key: graph.constants[attrs[key]].tolist() if isinstance(attrs[key], str) else attrs[key] for key in affine.KEYS
    }
    return LayerForm("Affine", numbers, own=True)


def _batch_norm(graph, node, attrs):
    return LayerForm("BatchNormalization", {key: attrs[key] for key in ("epsilon", "momentum")}, node.inputs[1:])


def _prelu(graph, node, attrs):
    alpha, shape = graph.shape(node.inputs[1]), graph.shape(node.inputs[0])
    shared = [axis for axis, (size, length) in enumerate(zip(alpha, shape[1:]), 1) if size == 1 and length != 1]
    return LayerForm("PReLU", {"shared_axes": shared or None}, node.inputs[1:])


def _activation(graph, node, attrs):
    parameters = {"parameters": dict(attrs["parameters"])} if attrs["parameters"] else {}
    return LayerForm("Elementwise", {"function": attrs["function"], **parameters}, own=True)


# ---- pools and moves -------------------------------------------------------------------------------------------------
def _pool(kind: str) -> Make:
    def form(graph, node, attrs):
        axes = _axes(graph, node)
        sizes = {key: attrs[key] for key in ("pool_size", "strides")}
        if not attrs.get("divide", True):
            return LayerForm("WindowMean", {**sizes, "padding": attrs["padding"], "divide": False}, own=True)
        arguments = {key: _per_axis(value, axes) for key, value in sizes.items()}
        return LayerForm(f"{kind}Pooling{axes}D", {**arguments, "padding": attrs["padding"]})

    return form


def _reduction(kind: str, operation: str) -> Make:
    """Over the image Keras' own layer, over other axes ours."""
    def form(graph, node, attrs):
        axes, divides, spatial = tuple(attrs["axes"]), attrs.get("divide", True), _axes(graph, node)
        if axes == tuple(range(1, spatial + 1)) and spatial in (1, 2) and divides:
            return LayerForm(f"Global{kind}Pooling{spatial}D", {"keepdims": bool(attrs["keepdims"])})
        arguments = {"operation": operation if divides else "sum", "axes": axes, "keepdims": bool(attrs["keepdims"])}
        return LayerForm("Reduce", arguments, own=True)

    return form


def _around(kind: str, argument: str, own: str, key: str) -> Make:
    """Pads and crops: Keras' layer where channels are left alone, ours elsewhere."""
    def form(graph, node, attrs):
        pairs, axes = tuple(tuple(pair) for pair in attrs[key]), _axes(graph, node)
        if axes in (1, 2) and pairs[-1] == (0, 0):
            return LayerForm(f"{kind}{axes}D", {argument: _per_axis(pairs[:-1], axes)})
        return LayerForm(own, {key: pairs}, own=True)

    return form


def _upsample(graph, node, attrs):
    axes = _axes(graph, node)
    return LayerForm(f"UpSampling{axes}D", {"size": _per_axis(attrs["size"], axes)})


def _plain(name: str, *also: str, own: bool = False, **names: str) -> Row:
    """A layer whose arguments are some of the node's attributes: ``argument="attribute"``."""
    def form(graph, node, attrs):
        return LayerForm(name, {argument: attrs[key] for argument, key in names.items()}, own=own)

    return Row(form, also, (name, names), own)


LAYER_FORMS: dict[str, Row] = {
    "conv": Row(_conv), "depthwise_conv": Row(_depthwise_conv), "conv_transpose": Row(_conv_transpose),
    "dense": Row(_dense, ("EinsumDense",)),
    "separable_conv": Row(_separable_conv), "multiply": Row(_multiply, ("Rescaling",), own=True),
    "bias_add": Row(_bias_add, own=True),
    "rescaling": Row(_rescaling, ("Normalization", "Rescaling", "BatchNormalization"), own=True),
    "batch_norm": Row(_batch_norm), "prelu": Row(_prelu),
    "add": _plain("Add"), "subtract": _plain("Subtract"),
    "maximum": _plain("Maximum"), "minimum": _plain("Minimum"), "concat": _plain("Concatenate", axis="axis"),
    "relu": _plain("ReLU", "Activation", max_value="max_value"),
    "leaky_relu": _plain("LeakyReLU", negative_slope="alpha"),
    "softmax": _plain("Softmax", "Activation", axis="axis"), "activation": Row(_activation, own=True),
    "max_pool": Row(_pool("Max")),
    "average_pool": Row(
        _pool("Average"), ("AveragePooling1D", "AveragePooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D")
    ),
    "mean": Row(_reduction("Average", "mean")),
    "global_max_pool": Row(_reduction("Max", "max"), ("GlobalMaxPooling1D", "GlobalMaxPooling2D")),
    "pad": Row(_around("ZeroPadding", "padding", "Pad", "pads")),
    "crop": Row(_around("Cropping", "cropping", "Crop", "crops")),
    "slice": _plain("Slice", own=True, slices="slices"),
    "take": _plain("Take", own=True, axis="axis", indices="indices"),
    "reshape": _plain("Reshape", "Flatten", target_shape="shape"), "permute": _plain("Permute", dims="dims"),
    "upsample": Row(_upsample),
    "identity": _plain("Identity"),
}
