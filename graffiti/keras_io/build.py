"""``build``: a graph → a Keras model. The inverse of ``read``: ``read(build(g))`` equals ``g`` up to the values of
thresholds.

Clusters (kernel, product, bias and what is folded into them) become one layer (``clusters.py``); quantizers that share
a group become one ``Quantize`` layer called several times; every other node becomes the ordinary Keras layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from graffiti import layers, quantizers
from graffiti.graph import layer_forms, match, ops
from graffiti.graph.ir import Graph, Node
from graffiti.keras_io import clusters, compat, islands, training

L = keras.layers


def build(graph: Graph) -> keras.Model:
    """A float or fakequant graph as a Keras model with the graph's names, constants and thresholds.

    Args:
        graph: of stage ``float`` (plain Keras layers) or ``fakequant``.

    Returns:
        A new functional ``keras.Model``, named like the graph, that takes and returns what the model it was read from
        did.

    Raises:
        ValueError: for an integer graph, or a node that no layer exists for.
    """
    if graph.stage not in ("float", "fakequant"):
        raise ValueError(f"build makes a model of a float or fakequant graph, got one of stage {graph.stage!r}")
    with compat.default_policy("float32"):  # half precision holds no codes of 16 bits
        return Builder(graph).model()


class Builder:
    """The model being made: symbolic tensors and exponents by value name.

    Args:
        graph: what is built.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers, self.users = graph.producers(), graph.users()
        self.tensors: dict[str, keras.KerasTensor] = {}
        self.exponents: dict[str, keras.KerasTensor] = {}
        self.formats: dict[str, dict[str, Any]] = {}      # value -> attributes of the quantizer whose codes it holds
        self._groups: dict[str, layers.Quantize] = {}
        self._taken: set[str] = {
            compat.layer_name(name) for name in [*graph.inputs, *(node.name for node in graph.nodes)]
        }
        self.found = clusters.Clusters(graph)
        self.workshop = islands.Workshop(graph)

    def model(self) -> keras.Model:
        """Build everything."""
        graph = self.graph
        dtypes = graph.interface.get("input_dtypes", ["float32"] * len(graph.inputs))
        given = []
        for name, dtype in zip(graph.inputs, dtypes, strict=True):
            self.tensors[name] = keras.Input(
                batch_shape=graph.shape(name), dtype=dtype, name=compat.input_layer_name(name)
            )
            given.append(self.tensors[name])
        if graph.stage == "fakequant" and not any(node.op == "fake_quantize" for node in graph.nodes):
            first = graph.inputs[0]
            self.tensors[first] = layers.InFloat(name=self.free_name("in_float"))(self.tensors[first])
        for node in graph.nodes:
            if node.name in self.found.by_last:
                clusters.build(self, self.found.by_last[node.name])
            elif node.name not in self.found.inner:
                rule = RULES.get(node.op)
                if rule is None:
                    raise ValueError(
                        f"node {node.name!r} ({node.op}) stands alone, where no Keras layer exists for it; run the "
                        "preparing passes first"
                    )
                rule(self, node)
        self.tie()
        inputs = _filled(graph.interface.get("inputs"), given)
        tensors, renamed = self.outputs()
        outputs = _filled(graph.interface.get("outputs"), tensors)
        kind = layers.QuantizedModel if renamed or graph.stage == "fakequant" else keras.Model
        return kind(inputs, outputs, name=graph.name)

    def tie(self) -> None:
        """A weight that layers share is one variable here too; the layer whose it is in the first place knows the
        others by name.
        """
        made: dict[str, tuple[Any, keras.Variable, str]] = {}
        for key, layer in self.found.layers.items():
            for name, (variable, role) in clusters.variables(self.found.calls[key][0], layer).items():
                if self.graph.training.get(name, {}).get("trainable", True) is not None and name in made:
                    self._tie(layer, [id(weight) for weight in layer.weights].index(id(variable)), *made[name])
                made.setdefault(name, (layer, variable, role))
        for node in self.graph.nodes:
            for index, name in ops.attr(node, "ties") if node.op == "island" else ():
                if name in made:
                    self._tie(self.workshop.layer(node), index, *made[name])

    @staticmethod
    def _tie(layer, index: int, owner, variable: keras.Variable, role: str) -> None:
        if layer.weights[index] is not variable and tuple(layer.weights[index].shape) == tuple(variable.shape):
            layers.tie(layer, index, variable)
            if role:
                owner.ties.append((layer.name, index, role))

    def outputs(self) -> tuple[list[keras.KerasTensor], bool]:
        """The output tensors in order, each made by a layer that says the output's name; and whether any needed one
        for that.
        """
        values, names = self.graph.outputs, self.graph.interface.get("output_names")
        if names is None or len(names) != len(values):
            return [self.tensors[value] for value in values], False
        masks = self.graph.interface.get("output_masks", [None] * len(values))
        named: dict[tuple[str, str, str | None], keras.KerasTensor] = {}
        for value, name, mask in dict.fromkeys(zip(values, names, masks, strict=True)):
            tensor = self.tensors[value]
            if compat.maker(tensor) != name or mask is not None or compat.mask_of(tensor) is not None:
                layer = layers.Output(name, name=self.free_name(f"{name}_output"), dtype=tensor.dtype)
                tensor = layer(tensor if mask is None else [tensor, self.tensors[mask]])
            named[value, name, mask] = tensor
        tensors = [named[key] for key in zip(values, names, masks)]
        return tensors, any(tensor is not self.tensors[value] for tensor, value in zip(tensors, values))

    # ---- what rules use -------------------------------------------------------------------------------------------
    def name(self, value: str) -> str:
        """The Keras name of the layer for a value."""
        return compat.layer_name(value)

    def free_name(self, value: str) -> str:
        """A Keras name that no node has."""
        name = base = compat.layer_name(value)
        number = 0
        while name in self._taken:
            number += 1
            name = f"{base}_shared{number if number > 1 else ''}"
        self._taken.add(name)
        return name

    def inputs(self, node: Node) -> list[keras.KerasTensor]:
        """The symbolic inputs of a node; a constant among them is an error."""
        for value in node.inputs:
            if self.graph.is_constant(value):
                raise ValueError(
                    f"node {node.name!r} ({node.op}) reads the constant {value!r}, which no Keras layer can hold for it"
                )
        return [self.tensors[value] for value in node.inputs]

    def masked(self, value: str, tensor: keras.KerasTensor, mask: keras.KerasTensor | None) -> keras.KerasTensor:
        """A value's tensor with a mask on it, or with none, for one reader: attention takes the mask away."""
        name = self.free_name(f"{value}_{'unmasked' if mask is None else 'masked'}")
        return layers.WithMask(name=name, dtype=tensor.dtype)([tensor] if mask is None else [tensor, mask])

    def layer(self, node: Node, layer: keras.layers.Layer) -> None:
        """Call a layer on a node's inputs; codes stay codes where the op only moves them."""
        inputs = self.inputs(node)
        if compat.looks_at_masks(layer) or compat.takes_mask(layer):  # an op has none, whatever hangs on its inputs
            inputs = [
                x if compat.mask_of(x) is None else self.masked(value, x, None) for value, x in zip(node.inputs, inputs)
            ]
        self.tensors[node.output] = layer(inputs if len(inputs) > 1 or ops.OPS[node.op].meets else inputs[0])
        first = node.inputs[0]
        if first in self.exponents and ops.OPS[node.op].keeps_format:
            self.exponents[node.output], self.formats[node.output] = self.exponents[first], self.formats[first]

    def quantizer(self, node: Node, name: str) -> quantizers.Quantizer:
        """The quantizer of a ``fake_quantize`` node, without thresholds yet."""
        attrs = ops.attributes(node)
        arguments = {
            key: attrs[key]
            for key in ("bits", "signed", "narrow", "rounding", "channel_axis", "role", "calibration", "trainable")
        }
        quantizer = quantizers.get(attrs["quantizer"], name=name, **arguments)
        assert quantizer is not None
        return quantizer

    def set_threshold(self, quantizer: quantizers.Quantizer, node: Node) -> None:
        """Give a built quantizer the node's thresholds, where it has any."""
        log2 = ops.attr(node, "log2_threshold")
        if log2 is not None:
            quantizer.assign_log2(np.asarray(log2, np.float32))


def _filled(structure, tensors: list[keras.KerasTensor]):
    """A structure of numbers as one of tensors; without a structure a list, or the only tensor."""
    if structure is None or len(_flat(structure)) == 0 or max(_flat(structure)) >= len(tensors):
        return tensors[0] if len(tensors) == 1 else list(tensors)
    return keras.tree.map_structure(lambda index: tensors[index], structure)


def _flat(structure) -> list[int]:
    return keras.tree.flatten(structure)


# ---- rules -----------------------------------------------------------------------------------------------------------
def _fake_quantize(builder: Builder, node: Node) -> None:
    graph = builder.graph
    group = ops.attr(node, "group")
    if graph.is_constant(node.inputs[0]):
        raise ValueError(
            f"quantizer {node.name!r} reads the constant {node.inputs[0]!r}, and no compute layer reads the result; it "
            "has no place in a model"
        )
    layer = builder._groups.get(group) if group is not None else None
    if layer is None:
        members = ([node] if group is None else [
            other for other in graph.nodes
            if other.op == "fake_quantize" and ops.attr(other, "group") == group
            and other.name not in builder.found.inner
        ])
        for other in members[1:]:
            for key in ("bits", "signed", "narrow", "rounding", "quantizer", "channel_axis"):
                if ops.attr(other, key) != ops.attr(node, key):
                    raise ValueError(
                        f"{node.name!r} and {other.name!r} share the threshold {group!r} but differ in {key} "
                        f"({ops.attr(node, key)!r} and {ops.attr(other, key)!r})"
                    )
        name = builder.name(node.name) if group is None else builder.free_name(group)
        roles = {
            other.name: ops.attr(other, "role") for other in members
            if ops.attr(other, "role") != ops.attr(node, "role")
        }
        layer = layers.Quantize(
            builder.quantizer(node, "quantizer"), node_names=[m.name for m in members], group=group, roles=roles,
            name=name,
            trainable=bool(ops.attr(node, "trainable")),
        )
        if group is not None:
            builder._groups[group] = layer
    first, which = not layer.built, {"node": node.name} if len(layer.node_names) > 1 else {}
    builder.tensors[node.output], builder.exponents[node.output] = layer(builder.tensors[node.inputs[0]], **which)
    if first:
        builder.set_threshold(layer.quantizer, node)
    builder.formats[node.output] = ops.attributes(node)


def _activation(builder: Builder, node: Node) -> None:
    (value,) = node.inputs
    function, parameters, name = node.attrs["function"], ops.attr(node, "parameters"), builder.name(node.name)
    readers = builder.graph.consumers(node.output)
    # a table only where lowering makes one too: what stays in float is computed in float on both sides
    becomes_codes = node.output not in builder.graph.outputs and all(reader.op == "fake_quantize" for reader in readers)
    if value in builder.exponents and becomes_codes:
        format = builder.formats[value]
        layer = layers.LookupActivation(
            function, format["bits"], format["signed"], format["narrow"], parameters=parameters, node_names=[node.name],
            name=name
        )
        builder.tensors[node.output] = layer([builder.tensors[value], builder.exponents[value]])
    else:
        _plain(builder, node)


def _batch_norm(builder: Builder, node: Node) -> None:
    x, *constants = node.inputs
    settings = {
        role: builder.graph.training.get(name, {})
        for role, name in zip(("gamma", "beta", "mean", "variance"), constants)
    }
    layer = L.BatchNormalization(
        epsilon=node.attrs["epsilon"], momentum=ops.attr(node, "momentum"), name=builder.name(node.name),
        dtype="float32",
        trainable=settings["mean"].get("trainable", True) is not False,
        **{
            f"{role}_{key}": training.restored(settings[role].get(key)) for role in ("gamma", "beta")
            for key in ("regularizer", "constraint")
        },
    )
    builder.tensors[node.output] = layer(builder.tensors[x])
    layer.set_weights([builder.graph.constants[name] for name in constants])


def _bias_add(builder: Builder, node: Node) -> None:
    """A bias without a product in front: an offset per channel."""
    x, bias = node.inputs
    if not builder.graph.is_constant(bias):
        raise ValueError(f"the bias of {node.name!r} is quantized but belongs to no product; it cannot be built")
    form = layer_forms.form_of(builder.graph, node)
    builder.tensors[node.output] = layers.Affine(**form.arguments, name=builder.name(node.name))(builder.tensors[x])


def _prelu(builder: Builder, node: Node) -> None:
    x, alpha = node.inputs
    layer = L.PReLU(**layer_forms.form_of(builder.graph, node).arguments, name=builder.name(node.name), dtype="float32")
    builder.tensors[node.output] = layer(builder.tensors[x])
    layer.set_weights([builder.graph.constants[alpha]])


def _as_taken(node: Node, tensors: list[keras.KerasTensor]) -> list[keras.KerasTensor]:
    """The inputs of an island, integers as reals where the layer took reals: a layer between them was dropped."""
    dtypes = node.attrs.get("input_dtypes") or ["float32"] * len(tensors)
    return [
        tensor if dtype != "float32" or compat.exact_dtype(tensor) == dtype else keras.ops.cast(tensor, dtype)
        for tensor, dtype in zip(tensors, dtypes)
    ]


def _island(builder: Builder, node: Node) -> None:
    layer = builder.workshop.layer(node, builder.name(node.attrs.get("instance") or node.name))
    made: dict[tuple[int, int], keras.KerasTensor] = {}

    def hang(index: int, x, mask):
        key = (id(x), id(mask))
        if key not in made:
            made[key] = builder.masked(node.inputs[index], x, mask)
        return made[key]

    inputs = _as_taken(node, [builder.tensors[value] for value in node.inputs])
    call = node.attrs.get("call") or {}
    named = any(name == "mask" or name.endswith("_mask") for name in call.get("kwargs", ()))
    if (
        isinstance(layer, keras.layers.Layer) and not named
        and (compat.looks_at_masks(layer) or compat.takes_mask(layer))
    ):
        hung = {index for index, _ in call.get("masks", ())}
        inputs = [
            x if index in hung or compat.mask_of(x) is None else hang(index, x, None) for index, x in enumerate(inputs)
        ]
    args, kwargs = islands.arguments(node, builder.graph, inputs, hang)
    result = layer(*args, **kwargs)
    builder.workshop.fill(node)
    for value, tensor in zip(node.outputs, keras.tree.flatten(result), strict=True):
        builder.tensors[value] = tensor


def _average_pool(builder: Builder, node: Node) -> None:
    """The exact mean where lowering makes one of it too; else the ordinary layer, which is in float on both sides."""
    (value,), attrs = node.inputs, ops.attributes(node)
    if value in builder.exponents and match.only_rounded(builder.graph, node.output):
        layer = layers.WindowMean(
            attrs["pool_size"], attrs["strides"], attrs["padding"], input_bits=builder.formats[value]["bits"],
            divide=attrs["divide"],
            name=builder.name(node.name),
        )
        builder.tensors[node.output] = layer(builder.tensors[value])
    else:
        _plain(builder, node)


def _training_only(builder: Builder, node: Node) -> None:
    kind = getattr(layers, node.attrs["layer"], None) or getattr(L, node.attrs["layer"])
    builder.layer(
        node, kind(**training.restored_config(ops.attr(node, "config")), name=builder.name(node.name), dtype="float32")
    )


def _plain(builder: Builder, node: Node) -> None:
    """The layer of the op's form (``graph/layer_forms.py``)."""
    form = layer_forms.form_of(builder.graph, node)
    kind = getattr(layers if form.own else L, form.name)
    builder.layer(node, kind(**form.arguments, name=builder.name(node.name), dtype="float32"))


RULES: dict[str, Callable[[Builder, Node], None]] = {
    **{name: _plain for name in layer_forms.LAYER_FORMS if name not in clusters.PRODUCTS},
    "fake_quantize": _fake_quantize,
    "activation": _activation,
    "batch_norm": _batch_norm,
    "bias_add": _bias_add,
    "prelu": _prelu,
    "island": _island,
    "average_pool": _average_pool,
    "training_only": _training_only,
}
