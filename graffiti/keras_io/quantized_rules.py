"""What graffiti's own layers read as: the fakequant graph with thresholds, constants from the variables, tables from
the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from graffiti import layers, quantizers
from graffiti.graph import affine, ops
from graffiti.graph.ir import Graph, Node
from graffiti.graph.layer_forms import LAYER_FORMS
from graffiti.keras_io import training
from graffiti.numerics.formats import exponent_of_threshold

ROLES = (
    "product", "kernel", "folded_kernel", "q_kernel", "accumulator", "bias", "folded_bias", "q_bias", "gamma", "beta",
    "mean", "variance"
)


def find(operation) -> Callable | None:
    """The rule for a graffiti layer; ``None`` for all others."""
    if isinstance(operation, layers.QuantizedProduct):
        return _product
    return RULES.get(type(operation))


def quantizer_attributes(
    quantizer: quantizers.Quantizer, *, role: str | None = None, group: str | None = None
) -> dict[str, Any]:
    """Attributes of the ``fake_quantize`` node that a quantizer is; thresholds only where they are calibrated.

    Args:
        quantizer: of a layer.
        role: what the quantized value is; ``None`` for what the quantizer says.
        group: of the quantizers that share its threshold; ``None`` where none does.
    """
    log2 = None
    if quantizer.calibrated is not None and bool(quantizer.calibrated.numpy()):
        log2 = tuple(float(t) for t in np.ravel(keras.ops.convert_to_numpy(quantizer.log2_threshold)))
    return {
        "quantizer": quantizers.name_of(quantizer), "bits": quantizer.bits, "signed": quantizer.signed,
        "narrow": quantizer.narrow,
        "rounding": quantizer.rounding, "channel_axis": quantizer.channel_axis, "group": group,
        "role": role or quantizer.role,
        "trainable": bool(quantizer.trainable), "calibration": quantizer.calibration, "log2_threshold": log2,
    }


class _Names:
    """Names of a call's inner values: ``node/role`` unless the layer remembers another."""

    def __init__(self, reading, layer) -> None:
        node = _node_name(reading, layer)
        self.node, self.prefix, self.given = (
            reading.prefix + node, reading.prefix, dict(layer.value_names.get(node, {}))
        )

    def __getitem__(self, role: str) -> str:
        return self.prefix + self.given[role] if role in self.given else f"{self.node}/{role}"


def _node_name(reading, layer) -> str:
    """Which node a call is: the call says it, or it is the only one, or the layer's list in order of the calls."""
    names = layer.node_names
    return (
        reading.call.kwargs.get("node")
        or (names[reading.number] if reading.number < len(names) else f"{names[0]}_call{reading.number}")
    )


def _emit_once(reading, op: str, inputs: list[str], attrs: dict[str, Any], name: str) -> str:
    """A node, or the equal one that an earlier call of the same layer made."""
    if name in reading.graph.types:
        node = reading.graph.node(name)
        if node.op == op and list(node.inputs) == inputs:
            return name
    return reading.emit(op, inputs, attrs, name=name)


def _quantize(reading, layer) -> None:
    node = _node_name(reading, layer)
    attrs = quantizer_attributes(layer.quantizer, group=layer.group, role=layer.roles.get(node))
    value = reading.emit("fake_quantize", [reading.x], attrs, name=reading.prefix + node)
    reading.result(value)  # the second output, the exponent, is no value of the graph


def _weight(reading, layer, role: str, names: _Names) -> str:
    """The kernel, bias, gamma or beta of a layer; numbers that are no weights of the model (a pool's reciprocals, a
    rescaling) are said to be none.
    """
    value = reading.weight(
        role, getattr(layer, role), names[role],
        trainable=None if role not in ("kernel", "bias") or layer.kernel_trainable else True
    )
    if layer.weight_settings.get(role, {}).get("trainable", True) is None:
        reading.graph.training[value] = {"trainable": None}
    return value


def _product(reading, layer) -> None:
    names = _Names(reading, layer)
    kernel = layer_kernel = _weight(reading, layer, "kernel", names)
    norm, statistics = layer.batch_norm, {}
    if norm:
        variables = {
            "gamma": layer.gamma, "beta": layer.beta, "mean": layer.moving_mean, "variance": layer.moving_variance
        }
        moving = {"mean": layer.statistics_trainable, "variance": layer.statistics_trainable}
        statistics = {
            role: reading.weight(role, variable, names[role], trainable=moving[role]) if role in moving
            else _weight(reading, layer, role, names)
            for role, variable in variables.items()
        }
        kernel = _emit_once(
            reading, "fold_kernel", [kernel, statistics["gamma"], statistics["variance"]],
            {"epsilon": norm["epsilon"], "channel_axis": layer.channel_axis}, names["folded_kernel"],
        )
    if layer.kernel_quantizer is not None:
        group = names.given.get("kernel_group")
        kernel = _emit_once(
            reading, "fake_quantize", [kernel], quantizer_attributes(layer.kernel_quantizer, group=group),
            names["q_kernel"]
        )
    reading.activity(layer, layer_kernel)
    x = reading.reader.value(reading.call.inputs[0])
    fixed = (
        {} if layer.kernel_trainable or getattr(layer.kernel_quantizer, "role", "") == "reciprocal" else {"fixed": True}
    )
    attrs = {**layer.graph_attributes(), **fixed}
    if not layer.use_bias:
        return reading.result(reading.emit(layer.op, [x, kernel], attrs, name=names.node))
    product = reading.emit(layer.op, [x, kernel], attrs, name=names["product"])
    bias = _weight(reading, layer, "bias", names)
    if norm:
        inputs = [bias, *(statistics[role] for role in ("gamma", "beta", "mean", "variance"))]
        bias = _emit_once(
            reading, "fold_bias", inputs, {"epsilon": norm["epsilon"], "momentum": norm["momentum"]},
            names["folded_bias"]
        )
    if layer.accumulator_quantizer is not None:
        group = names["accumulator_group"] if "accumulator_group" in names.given else names["accumulator"]
        attrs = quantizer_attributes(layer.accumulator_quantizer, group=group)
        product = reading.emit("fake_quantize", [product], attrs, name=names["accumulator"])
        bias = _emit_once(reading, "fake_quantize", [bias], {**attrs, "role": "bias"}, names["q_bias"])
    elif layer.kernel_quantizer is not None:
        bias = reading.emit("quantize_bias", [bias, x, kernel], {"bits": 32}, name=names["q_bias"])
    reading.result(reading.emit("bias_add", [product, bias], dict(fixed), name=names.node))


def _multiply(reading, layer) -> None:
    names = _Names(reading, layer)
    constant = reading.weight("constant", layer.constant, names["constant"], trainable=None if layer.trained else True)
    if layer.quantizer is not None:
        constant = _emit_once(
            reading, "fake_quantize", [constant],
            quantizer_attributes(layer.quantizer, group=names.given.get("constant_group")), names["q_constant"]
        )
    reading.result(
        reading.emit("multiply", [reading.x, constant], {"trained": True} if layer.trained else {}, name=names.node)
    )


def _lookup(reading, layer) -> None:
    name = reading.prefix + _node_name(reading, layer)
    attrs = _function_attributes(layer)
    quantizer = source_quantizer(reading.graph, reading.x)
    if quantizer is not None and ops.attr(quantizer, "log2_threshold") is not None:
        (log2,) = ops.attr(quantizer, "log2_threshold")
        exponent = int(exponent_of_threshold(log2, layer.format.bits, layer.format.signed))
        attrs["values"] = reading.graph.add_constant(f"{name}/values", layer.table_values(exponent))
    reading.result(reading.emit("activation", [reading.x], attrs, name=name))


def _function_attributes(layer) -> dict[str, Any]:
    return {"function": layer.function, **({"parameters": dict(layer.parameters)} if layer.parameters else {})}


def source_quantizer(graph: Graph, value: str) -> Node | None:
    """The ``fake_quantize`` node whose codes a value holds, looking through ops that keep them; ``None`` where there
    is none.
    """
    producers = graph.producers()
    while value in producers:
        node = producers[value]
        if node.op == "fake_quantize":
            return node
        if not ops.OPS[node.op].keeps_format:
            return None
        value = node.inputs[0]
    return None


def _pad(reading, layer) -> None:
    reading.emit_result("pad", [reading.x], {"pads": layer.pads})


def _crop(reading, layer) -> None:
    reading.emit_result("crop", [reading.x], {"crops": layer.crops})


def _plain(op: str, attributes: Mapping[str, str]) -> Callable:
    """A layer that is an op with some of its own fields as attributes."""
    def rule(reading, layer) -> None:
        reading.emit_result(op, [reading.x], {key: getattr(layer, argument) for argument, key in attributes.items()})
    return rule


def _reduce(reading, layer) -> None:
    op, attrs = {
        "mean": ("mean", {}), "sum": ("mean", {"divide": False}), "max": ("global_max_pool", {})
    }[layer.operation]
    reading.emit_result(op, [reading.x], {"axes": layer.axes, "keepdims": layer.keepdims, **attrs})


def _window_mean(reading, layer) -> None:
    attrs = {"pool_size": layer.pool_size, "strides": layer.strides, "padding": layer.padding}
    reading.emit_result("average_pool", [reading.x], {**attrs, **({} if layer.divide else {"divide": False})})


def _affine(reading, layer) -> None:
    name, channels = reading.name, reading.input_shape[-1] if len(reading.input_shape) > 1 else None
    attrs = affine.attributes_of(
        reading.graph, name, np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64), channels
    )
    reading.emit_result("rescaling", [reading.x], attrs)


def _elementwise(reading, layer) -> None:
    reading.emit_result("activation", [reading.x], _function_attributes(layer))


def _output(reading, layer) -> None:
    reading.result(reading.x)


def _activity_loss(reading, layer) -> None:
    reading.activity_kept = True
    reading.emit_result("training_only", [reading.x], {"layer": "ActivityLoss", "config": training.layer_config(layer)})


RULES: dict[type, Callable] = {
    layers.ActivityLoss: _activity_loss,
    layers.Output: _output, layers.InFloat: _output, layers.WithMask: _output,
    layers.Elementwise: _elementwise,
    layers.Quantize: _quantize,
    layers.ConstantMultiply: _multiply,
    layers.LookupActivation: _lookup,
    layers.Pad: _pad,
    layers.Crop: _crop,
    **{
        getattr(layers, row.plain[0]): _plain(op, row.plain[1]) for op, row in LAYER_FORMS.items()
        if row.own and row.plain
    },
    layers.Reduce: _reduce,
    layers.WindowMean: _window_mean,
    layers.Affine: _affine,
}
