"""Layers in float between their borders: Keras layers by config, on dequantized inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graffiti.graph import affine
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import PRODUCTS, attributes, infer
from graffiti.transforms.lower.context import Lowering


def lower_island(context: Lowering, node: Node) -> None:
    """An island as it is, its inputs dequantized."""
    inputs = tuple(context.real(value) for value in node.inputs)
    for name in node.attached:
        context.keep(name)
    _emit(context, node.outputs, inputs, {key: value for key, value in node.attrs.items() if key != "ties"})


def lower_float(context: Lowering, node: Node) -> None:
    """An ordinary op that computes on reals (a rule keeps it in float): the layer that the model has for it, as an island.

    1. A product and the bias behind it: one layer with both. 2. Any op of ``CONFIGS``: that layer. 3. Others: an error.
    """
    if node.op not in CONFIGS:
        raise ValueError(f"{node.op} {node.name!r} computes on float values and is no Keras layer by itself; quantize its input")
    last, reader = node, only_reader(context.source, node.name, context.readers)
    arrays = [value for value in node.inputs[1:] if node.op in WITH_WEIGHTS]
    if node.op in PRODUCTS and reader is not None and reader.op == "bias_add":
        last = reader
        arrays.append(last.inputs[1])
    computed = [value for value in arrays if not context.source.is_constant(value)]
    if computed:
        raise ValueError(f"{node.op} {node.name!r} is in float but {computed[0]!r} is computed; quantize its input, or keep its weights in float")
    data = [value for value in node.inputs if value not in arrays and not (node.op == "bias_add" and context.source.is_constant(value))]
    class_name, config = CONFIGS[node.op](context.source, node, attributes(node), last is not node)
    ours = class_name in ("Affine", "ConstantMultiply", "Elementwise", "Reduce", "Pad", "Crop", "Slice", "Take", "WindowMean")
    weights = tuple(context.constant(name, context.source.constants[name], None) for name in arrays)
    attrs: dict[str, Any] = {
        "layer": {
            "module": "graffiti.layers" if ours else "keras.layers", "class_name": class_name, "config": config,
            "registered_name": f"graffiti>{class_name}" if ours else None,
        },
        "output_shapes": (tuple(context.source.shape(last.name)),), "reason": "kept in float by a rule", "weights": weights,
    }
    for what, values in (("input_dtypes", data), ("output_dtypes", last.outputs)):
        dtypes = tuple(context.source.types[value].dtype for value in values)
        attrs.update({what: dtypes} if any(dtype != "float32" for dtype in dtypes) else {})
    if len(data) > 1:
        attrs["call"] = {"args": [[{"input": index} for index in range(len(data))]], "kwargs": {}, "weights": len(weights)}
    _emit(context, last.outputs, tuple(context.real(value) for value in data), attrs)
    if last is not node:
        context.values[node.name] = context.values[last.name]  # never read: the bias is inside


def _emit(context: Lowering, outputs: tuple[str, ...], inputs: tuple[str, ...], attrs: dict[str, Any]) -> None:
    node = Node("island", inputs, tuple(outputs), attrs)
    context.target.nodes.append(node)
    for out, type in zip(outputs, infer(context.target, node)):
        context.target.types[out] = type
        context.values[out] = out


# ---- ops as Keras layers: (graph, node, attributes, use_bias) -> (class name, config) ---------------------------------
def _window(graph: Graph, node: Node, attrs: dict, use_bias: bool) -> dict[str, Any]:
    shape = graph.shape(node.inputs[1])
    config = {"kernel_size": list(shape[:-2]), "strides": list(attrs["strides"]), "padding": attrs["padding"], "use_bias": use_bias}
    if "dilation" in attrs:
        config["dilation_rate"] = list(attrs["dilation"])
    return config


def _rank(graph: Graph, node: Node) -> str:
    return f"{len(graph.shape(node.inputs[0])) - 2}D"


def _conv(graph, node, attrs, use_bias):
    config = {**_window(graph, node, attrs, use_bias), "filters": graph.shape(node.inputs[1])[-1], "groups": attrs["groups"]}
    return f"Conv{_rank(graph, node)}", config


def _depthwise_conv(graph, node, attrs, use_bias):
    config = {**_window(graph, node, attrs, use_bias), "depth_multiplier": graph.shape(node.inputs[1])[-1]}
    return f"DepthwiseConv{_rank(graph, node)}", config


def _conv_transpose(graph, node, attrs, use_bias):
    config = {**_window(graph, node, attrs, use_bias), "filters": graph.shape(node.inputs[1])[-2]}
    extra = attrs["output_padding"]
    return f"Conv{_rank(graph, node)}Transpose", {**config, "output_padding": None if extra is None else list(extra)}


def _dense(graph, node, attrs, use_bias):
    return "Dense", {"units": graph.shape(node.inputs[1])[-1], "use_bias": use_bias}


def _pool(kind: str) -> Callable:
    def config(graph, node, attrs, use_bias):
        pool = {"pool_size": list(attrs["pool_size"]), "strides": list(attrs["strides"]), "padding": attrs["padding"]}
        if not attrs.get("divide", True):
            return "WindowMean", {**pool, "divide": False}
        return f"{kind}Pooling{_rank(graph, node)}", pool

    return config


def _upsample(graph, node, attrs, use_bias):
    sizes = list(attrs["size"])
    return f"UpSampling{_rank(graph, node)}", {"size": sizes[0] if len(sizes) == 1 else sizes}


def _batch_norm(graph, node, attrs, use_bias):
    return "BatchNormalization", {"epsilon": attrs["epsilon"], "momentum": attrs["momentum"]}


def _bias(graph, node, attrs, use_bias):
    return "Affine", {"scale": 1.0, "offset": graph.constants[node.inputs[1]].tolist()}


def _affine(graph, node, attrs, use_bias):
    return "Affine", dict(zip(affine.KEYS, (value.tolist() for value in affine.numbers(graph, node))))


def _reduce(operation: str) -> Callable:
    def config(graph, node, attrs, use_bias):
        return "Reduce", {"operation": operation if attrs.get("divide", True) else "sum", "axes": list(attrs["axes"]), "keepdims": attrs["keepdims"]}

    return config


def _activation(graph, node, attrs, use_bias):
    return "Elementwise", {"function": attrs["function"], **({"parameters": attrs["parameters"]} if attrs["parameters"] else {})}


def _plain(class_name: str, **names: str) -> Callable:
    """A layer whose config is some of the node's attributes under Keras' names."""
    def config(graph, node, attrs, use_bias):
        return class_name, {keras: _listed(attrs[ours]) for ours, keras in names.items()}

    return config


def _listed(value):
    return [_listed(part) for part in value] if isinstance(value, tuple) else value


WITH_WEIGHTS = (*PRODUCTS, "multiply", "batch_norm")  # ops whose operands but the first are arrays of the layer
CONFIGS: dict[str, Callable[[Graph, Node, dict, bool], tuple[str, dict[str, Any]]]] = {
    "conv": _conv, "depthwise_conv": _depthwise_conv, "conv_transpose": _conv_transpose, "dense": _dense,
    "multiply": lambda graph, node, attrs, use_bias: ("ConstantMultiply", {"shape": list(graph.shape(node.inputs[1]))}),
    "bias_add": _bias, "batch_norm": _batch_norm, "rescaling": _affine,
    "relu": _plain("ReLU", max_value="max_value"), "leaky_relu": _plain("LeakyReLU", alpha="negative_slope"),
    "activation": _activation,
    "max_pool": _pool("Max"), "average_pool": _pool("Average"), "global_max_pool": _reduce("max"), "mean": _reduce("mean"),
    "add": _plain("Add"), "subtract": _plain("Subtract"), "maximum": _plain("Maximum"), "minimum": _plain("Minimum"), "concat": _plain("Concatenate", axis="axis"),
    "reshape": _plain("Reshape", shape="target_shape"), "permute": _plain("Permute", dims="dims"),
    "pad": _plain("Pad", pads="pads"), "crop": _plain("Crop", crops="crops"), "upsample": _upsample,
    "slice": _plain("Slice", slices="slices"), "take": _plain("Take", axis="axis", indices="indices"),
}
