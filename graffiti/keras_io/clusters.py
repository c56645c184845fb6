"""Clusters: the nodes of a graph that one compute layer stands for, and the layer made of them.

A cluster is a product with what belongs to it alone: its kernel (folded, quantized), its accumulator's quantizer, its
bias (folded, quantized) and the ``bias_add``. It is called after its last node. Clusters with equal constants and
attributes are calls of one layer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from graffiti import layers
from graffiti.graph import layer_forms, ops
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.keras_io import training

if TYPE_CHECKING:
    from graffiti.keras_io.build import Builder

L = keras.layers
PRODUCTS = (*ops.PRODUCTS, "separable_conv", "multiply")  # ops that stand in clusters


@dataclasses.dataclass
class Cluster:
    """One product and what belongs to it; ``None`` where it has no such node."""

    product: Node
    x: str
    kernels: tuple[str, ...]              # constants
    fold_kernel: Node | None = None
    q_kernel: Node | None = None
    accumulator: Node | None = None
    bias: str | None = None               # constant
    fold_bias: Node | None = None
    q_bias: Node | None = None
    bias_add: Node | None = None

    @property
    def last(self) -> Node:
        """The node that the cluster is called after."""
        return self.bias_add or self.product

    @property
    def plain(self) -> bool:
        """Whether nothing is quantized or folded, so that Keras' own layer computes it."""
        return self.q_kernel is None and self.fold_kernel is None

    @property
    def only_float(self) -> bool:
        """Whether the product has no quantized form; preparing splits it where it is to have one."""
        return ops.OPS[self.product.op].kernel is None

    @property
    def parts(self) -> dict[str, Node | None]:
        """Inner nodes by role."""
        roles = {
            "folded_kernel": self.fold_kernel, "q_kernel": self.q_kernel, "accumulator": self.accumulator,
            "folded_bias": self.fold_bias, "q_bias": self.q_bias,
        }
        return {**roles, "product": self.product} if self.bias_add is not None else roles

    def names(self) -> dict[str, str]:
        """Role → value name, for every role the cluster has."""
        names = {role: node.name for role, node in self.parts.items() if node is not None}
        names["kernel"] = self.kernels[0]
        if self.bias is not None:
            names["bias"] = self.bias
        fold = self.fold_bias
        if fold is not None:
            names.update(zip(("gamma", "beta", "mean", "variance"), fold.inputs[1:]))
        if self.accumulator is not None:
            names["accumulator_group"] = ops.attr(self.accumulator, "group") or self.accumulator.name
        return names

    def key(self) -> tuple:
        """Equal for clusters that are calls of one layer."""
        def plain(node: Node | None):
            return None if node is None else (node.op, tuple(sorted((k, str(v)) for k, v in node.attrs.items())))

        constants = (*self.kernels, self.bias, *(self.fold_bias.inputs if self.fold_bias else ()))
        return (
            constants, self.product.op,
            *map(plain, (self.product, self.fold_kernel, self.q_kernel, self.accumulator, self.fold_bias))
        )


class Clusters:
    """All clusters of a graph.

    Attributes:
        by_last: name of the last node → cluster.
        inner: names of the nodes inside clusters.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers, self.users = graph, graph.producers(), graph.users()
        self.by_last: dict[str, Cluster] = {}
        self.inner: set[str] = set()
        self.layers: dict[tuple, Any] = {}
        for node in graph.nodes:
            if node.op in PRODUCTS:
                cluster = self._find(node)
                self.by_last[cluster.last.name] = cluster
        lasts = set(self.by_last)
        for cluster in self.by_last.values():
            self.inner.update(node.name for node in cluster.parts.values() if node is not None)
        self.inner -= lasts
        self.calls: dict[tuple, list[Cluster]] = {}
        for cluster in self.by_last.values():
            self.calls.setdefault(cluster.key(), []).append(cluster)

    def _find(self, product: Node) -> Cluster:
        x, *kernels = product.inputs
        if product.op == "multiply" and self.graph.is_constant(x):
            x, kernels = kernels[0], [x]
        cluster = Cluster(product, x, tuple(kernels))
        if product.op != "separable_conv":
            kernel = kernels[0]
            cluster.q_kernel = self._made_by(kernel, "fake_quantize")
            kernel = cluster.q_kernel.inputs[0] if cluster.q_kernel else kernel
            cluster.fold_kernel = self._made_by(kernel, "fold_kernel")
            cluster.kernels = (cluster.fold_kernel.inputs[0] if cluster.fold_kernel else kernel,)
        for name in cluster.kernels:
            if not self.graph.is_constant(name):
                raise ValueError(
                    f"the kernel {name!r} of {product.name!r} is not a constant; such a product cannot be built"
                )
        if product.op != "multiply":
            self._find_bias(cluster)
        if cluster.fold_kernel is not None and cluster.fold_bias is None:
            raise ValueError(f"{product.name!r} has a folded kernel but no folded bias behind it; it cannot be built")
        return cluster

    def _find_bias(self, cluster: Cluster) -> None:
        value, accumulator = cluster.product.output, None
        reader = only_reader(self.graph, value, self.users)
        if reader is not None and reader.op == "fake_quantize" and ops.attr(reader, "role") == "accumulator":
            accumulator, reader = reader, only_reader(self.graph, reader.output, self.users)
        if reader is None or reader.op != "bias_add" or reader.inputs[0] != (accumulator or cluster.product).output:
            return
        cluster.accumulator, cluster.bias_add, bias = accumulator, reader, reader.inputs[1]
        cluster.q_bias = self._made_by(bias, "quantize_bias") or self._made_by(bias, "fake_quantize")
        bias = cluster.q_bias.inputs[0] if cluster.q_bias else bias
        cluster.fold_bias = self._made_by(bias, "fold_bias")
        cluster.bias = cluster.fold_bias.inputs[0] if cluster.fold_bias else bias
        if not self.graph.is_constant(cluster.bias):
            raise ValueError(
                f"the bias {cluster.bias!r} of {reader.name!r} is not a constant; such a layer cannot be built"
            )

    def _made_by(self, value: str, op: str) -> Node | None:
        node = self.producers.get(value)
        return node if node is not None and node.op == op else None


def build(builder: Builder, cluster: Cluster) -> None:
    """Call the layer of a cluster; make it at its first call."""
    key = cluster.key()
    layer = builder.found.layers.get(key)
    first = layer is None
    if layer is None:
        layer = builder.found.layers[key] = _layer(builder, cluster, builder.found.calls[key])
    x = builder.tensors[cluster.x]
    if cluster.q_kernel is not None and cluster.product.op != "multiply":
        if cluster.x not in builder.exponents:
            raise ValueError(f"the input {cluster.x!r} of the quantized layer {cluster.last.name!r} is not quantized")
        x = [x, builder.exponents[cluster.x]]
    node = {"node": cluster.last.name} if len(getattr(layer, "node_names", ())) > 1 else {}
    builder.tensors[cluster.last.output] = layer(x, **node)
    if first:
        _set_weights(builder, cluster, layer)


def _layer(builder: Builder, cluster: Cluster, calls: list[Cluster]):
    """The layer of a cluster: Keras' own where it is plain and called once, else the quantized one of the same
    arguments.
    """
    form, name = layer_forms.form_of(builder.graph, cluster.product), builder.name(cluster.last.name)
    weights = _weight_settings(builder, cluster)
    frozen, activity = _frozen(weights), weights["kernel"].pop("activity", None)
    known, named = _input_format(builder, calls), _value_names(calls)
    if form.own:
        quantizer = cluster.q_kernel and builder.quantizer(cluster.q_kernel, "quantizer")
        return layers.ConstantMultiply(
            **form.arguments, quantizer=quantizer, input_bits=None if known is None else known["bits"],
            trained=ops.attr(cluster.product, "trained"), **named, name=name,
            trainable=not frozen, weight_settings=_own_settings({"constant": weights["kernel"]}, frozen),
        )
    settings = {**form.arguments, "name": name, "trainable": not frozen, "activity_regularizer": activity}
    if cluster.only_float or (cluster.plain and len(calls) == 1 and not _unusual(cluster)):
        return getattr(L, form.name)(
            use_bias=cluster.bias_add is not None, dtype="float32", **settings, **_keras_settings(weights, form.name)
        )
    own = {**named, **_quantization(builder, cluster, known), "weight_settings": _own_settings(weights, frozen)}
    return getattr(layers, f"Quantized{form.name}")(**own, **settings)


def _input_format(builder: Builder, calls: list[Cluster]) -> dict[str, Any] | None:
    """The attributes of the quantizer whose codes a layer reads; ``None`` where its calls read codes of other bits
    or signs, or none.
    """
    formats = [builder.formats.get(call.x) for call in calls]
    kinds = {None if format is None else (format["bits"], format["signed"]) for format in formats}
    return formats[0] if len(kinds) == 1 else None


def _value_names(calls: list[Cluster]) -> dict[str, Any]:
    """What the graph calls the nodes of each call, where that is not as usual."""
    return {
        "node_names": [call.last.name for call in calls],
        "value_names": {call.last.name: _unusual(call) for call in calls if _unusual(call)}
    }


def _weight_settings(builder: Builder, cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Role → how training treats the weight, with regularizers and constraints as objects; every role the cluster
    has.
    """
    names = {"kernel": cluster.kernels[0], "bias": cluster.bias}
    if len(cluster.kernels) > 1:
        names["pointwise"] = cluster.kernels[1]
    if cluster.fold_bias is not None:
        names.update(zip(("gamma", "beta", "statistics"), cluster.fold_bias.inputs[1:]))
    return {
        role: {key: training.restored(value) for key, value in builder.graph.training.get(name, {}).items()}
        for role, name in names.items() if name is not None
    }


def _frozen(weights: dict[str, dict[str, Any]]) -> bool:
    """Whether the user froze the layer as a whole."""
    found = [parts.get("trainable", True) for parts in weights.values()]
    return False in found and True not in found


def _own_settings(weights: dict[str, dict[str, Any]], frozen: bool) -> dict[str, dict[str, Any]]:
    """What is left to say of each weight of a layer that is frozen, or not, as a whole."""
    kept = {
        role: {key: value for key, value in parts.items() if key != "trainable" or not frozen or value is None}
        for role, parts in weights.items()
    }
    return {role: parts for role, parts in kept.items() if parts}


def _keras_settings(weights: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The same as arguments of Keras' own layer of that class name, which can be frozen as a whole only."""
    kernel = "depthwise" if name.startswith(("Depthwise", "Separable")) else "kernel"
    return {
        f"{kernel if role == 'kernel' else role}_{key}": value
        for role, parts in weights.items() for key, value in parts.items() if key != "trainable"
    }


def _quantization(builder: Builder, cluster: Cluster, known: dict[str, Any] | None) -> dict[str, Any]:
    fold = cluster.fold_bias
    q, accumulator = cluster.q_kernel, cluster.accumulator
    if cluster.q_bias is not None and cluster.q_bias.op == "fake_quantize" and accumulator is None:
        raise ValueError(
            f"the bias of {cluster.last.name!r} has a quantizer of its own, but its accumulator has none to "
            "share it with"
        )
    return {
        "kernel_quantizer": q and builder.quantizer(q, "kernel_quantizer"),
        "use_bias": cluster.bias_add is not None,
        "accumulator_quantizer": accumulator and builder.quantizer(accumulator, "accumulator_quantizer"),
        "batch_norm": fold and {"epsilon": fold.attrs["epsilon"], "momentum": ops.attr(fold, "momentum")},
        "input_bits": known and known["bits"], "input_signed": bool(known and known["signed"]),
        "kernel_trainable": not (
            ops.attributes(cluster.product).get("fixed") or (q is not None and ops.attr(q, "role") == "reciprocal")
        ),
    }


def _unusual(cluster: Cluster) -> dict[str, str]:
    """The names that are not ``node/role``."""
    node = cluster.last.name
    names = cluster.names()
    usual = {role: f"{node}/{role}" for role in names} | {"accumulator_group": f"{node}/accumulator"}
    if cluster.product.op == "multiply":
        names = {"constant": names["kernel"], **({"q_constant": names["q_kernel"]} if cluster.q_kernel else {})}
        usual = {role: f"{node}/{role}" for role in names}
    if cluster.q_kernel is not None and ops.attr(cluster.q_kernel, "group") is not None:
        names[
            "kernel_group" if cluster.product.op != "multiply" else "constant_group"
        ] = ops.attr(cluster.q_kernel, "group")
    return {role: name for role, name in names.items() if usual.get(role) != name}


def variables(cluster: Cluster, layer) -> dict[str, tuple[keras.Variable, str]]:
    """Constant → the variable of the cluster's layer that it became, and the name of the layer's attribute, where
    the layer is graffiti's.
    """
    if isinstance(layer, layers.ConstantMultiply):
        return {cluster.kernels[0]: (layer.constant, "constant")}
    if not isinstance(layer, layers.QuantizedProduct):
        return {
            name: (variable, "")
            for name, variable in zip(
                [*cluster.kernels, *([] if cluster.bias is None else [cluster.bias])], layer.weights
            )
        }
    found = {cluster.kernels[0]: "kernel", **({} if cluster.bias is None else {cluster.bias: "bias"})}
    if cluster.fold_bias is not None:
        found.update(zip(cluster.fold_bias.inputs[1:3], ("gamma", "beta")))
    return {name: (getattr(layer, role), role) for name, role in found.items()}


def _set_weights(builder: Builder, cluster: Cluster, layer) -> None:
    constants = builder.graph.constants
    if isinstance(layer, layers.ConstantMultiply):
        layer.constant.assign(constants[cluster.kernels[0]])
        if cluster.q_kernel is not None:
            builder.set_threshold(layer.quantizer, cluster.q_kernel)
        return
    bias = [] if cluster.bias is None else [np.asarray(constants[cluster.bias], np.float32)]
    if not isinstance(layer, layers.QuantizedProduct):
        layer.set_weights([*(constants[name] for name in cluster.kernels), *bias])
        return
    layer.kernel.assign(constants[cluster.kernels[0]])
    if bias:
        layer.bias.assign(bias[0])
    if cluster.fold_bias is not None:
        for variable, name in zip(
            (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance), cluster.fold_bias.inputs[1:]
        ):
            variable.assign(constants[name])
    if cluster.q_kernel is not None:
        builder.set_threshold(layer.kernel_quantizer, cluster.q_kernel)
    if cluster.accumulator is not None:
        builder.set_threshold(layer.accumulator_quantizer, cluster.accumulator)
