"""Layers in float between their borders: Keras layers by config, on dequantized inputs."""

from __future__ import annotations

from typing import Any

from graffiti.graph import layer_forms
from graffiti.graph.ir import Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, PRODUCTS, infer
from graffiti.transforms.lower.context import Lowering


def lower_island(context: Lowering, node: Node) -> None:
    """An island as it is, its inputs dequantized."""
    inputs = tuple(context.real(value) for value in node.inputs)
    for name in node.attached:
        context.keep(name)
    _emit(
        context, node.outputs, inputs,
        {key: value for key, value in node.attrs.items() if key not in ("ties", "turned_ties")}
    )


def lower_float(context: Lowering, node: Node) -> None:
    """An ordinary op that computes on reals (a rule keeps it in float): the layer that the model has for it, as an
    island.

    1. A product and the bias behind it: one layer with both. 2. Any op of ``graph/layer_forms.py``: that layer. 3.
       Others: an error.
    """
    if node.op not in layer_forms.LAYER_FORMS:
        raise ValueError(f"{node.op} {node.name!r} computes on float values and is no Keras layer by itself; quantize "
                         "its input")
    form = layer_forms.form_of(context.source, node)
    last, reader = node, only_reader(context.source, node.name, context.readers)
    arrays = list(form.weights)
    if node.op in PRODUCTS and reader is not None and reader.op == "bias_add":
        last = reader
        arrays.append(last.inputs[1])
    computed = [value for value in arrays if not context.source.is_constant(value)]
    if computed:
        raise ValueError(
            f"{node.op} {node.name!r} is in float but {computed[0]!r} is computed; quantize its input, or keep its "
            "weights in float"
        )
    data = [
        value for value in node.inputs
        if value not in arrays and not (node.op == "bias_add" and context.source.is_constant(value))
    ]
    weights = tuple(context.constant(name, context.source.constants[name], None) for name in arrays)
    attrs: dict[str, Any] = {
        "layer": form.serialized(**({"use_bias": last is not node} if node.op in PRODUCTS else {})),
        "output_shapes": (tuple(context.source.shape(last.name)),), "reason": "kept in float by a rule",
        "weights": weights,
        "roles": (*OPS[node.op].inputs.split()[1 : 1 + len(form.weights)], *(["bias"] if last is not node else [])),
    }
    for what, values in (("input_dtypes", data), ("output_dtypes", last.outputs)):
        dtypes = tuple(context.source.types[value].dtype for value in values)
        attrs.update({what: dtypes} if any(dtype != "float32" for dtype in dtypes) else {})
    if len(data) > 1:
        attrs["call"] = {
            "args": [[{"input": index} for index in range(len(data))]], "kwargs": {}, "weights": len(weights)
        }
    _emit(context, last.outputs, tuple(context.real(value) for value in data), attrs)
    if last is not node:
        context.values[node.name] = context.values[last.name]  # never read: the bias is inside


def _emit(context: Lowering, outputs: tuple[str, ...], inputs: tuple[str, ...], attrs: dict[str, Any]) -> None:
    node = Node("island", inputs, tuple(outputs), attrs, context.layers.get(outputs[0], ""))
    context.target.nodes.append(node)
    for out, type in zip(outputs, infer(context.target, node)):
        context.target.types[out] = type
        context.values[out] = out
