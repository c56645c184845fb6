"""Islands: Keras layers that stay in float, as a config plus arrays in the graph, and how they are run.

An ``island`` node's ``layer`` is Keras' own serialized object, its ``weights`` are constants of the graph, and ``call`` says
how it takes its inputs: the arguments with ``{"input": i}``, ``{"array": j}`` and ``{"slice": [...]}`` in the places of tensors, arrays and slices.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti.graph.ir import Graph, Node

_INPUT, _ARRAY, _SLICE = "input", "array", "slice"
_KNOWN: dict[str, type] = {}  # classes met while reading, so that unregistered user layers can be made again in this process


def describe(operation, args: tuple, kwargs: dict[str, Any]) -> tuple[dict, dict, list[tuple[str, np.ndarray]]]:
    """A call as plain values.

    Args:
        operation: a layer, a model or a ``keras.ops`` operation.
        args: its positional arguments, symbolic tensors and arrays included.
        kwargs: its named arguments; ``training`` is dropped.

    Returns:
        ``(layer, call, arrays)``: config, call structure, and ``(name, array)`` of weights, then of array arguments.

    Raises:
        ValueError: where Keras cannot serialize it.
    """
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(operation)))
    except Exception as error:
        raise ValueError(
            f"layer {operation.name!r} ({type(operation).__name__}) has no fixed-point form and cannot be kept in float either, because Keras "
            "cannot serialize it; give it a get_config that returns plain values"
        ) from error
    for layer in operation._flatten_layers() if isinstance(operation, keras.layers.Layer) else ():
        _KNOWN[type(layer).__name__] = type(layer)
    weights = operation.weights if isinstance(operation, keras.layers.Layer) else []
    arrays = [(weight.name, keras.ops.convert_to_numpy(weight)) for weight in weights]
    count = len(arrays)
    inputs: list = []

    def plain(value):
        if isinstance(value, keras.KerasTensor):
            inputs.append(value)
            return {_INPUT: len(inputs) - 1}
        if isinstance(value, (np.ndarray, keras.Variable)) or keras.ops.is_tensor(value):
            arrays.append((f"argument_{len(arrays) - count}", np.asarray(keras.ops.convert_to_numpy(value))))
            return {_ARRAY: len(arrays) - 1 - count}
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        if isinstance(value, slice):
            return {_SLICE: plain((value.start, value.stop, value.step))}
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError(f"layer {operation.name!r} is called with {value!r}; expected tensors, arrays and plain values")

    call = {"args": plain(args), "kwargs": plain({key: value for key, value in kwargs.items() if key != "training"}), "weights": count}
    return config, call, arrays


def restore(node: Node, graph: Graph, name: str | None = None):
    """The layer or operation of an island, without its weights (they are set by ``set_weights`` once it is built)."""
    config = json.loads(json.dumps(node.attrs["layer"]))
    if name is not None and "config" in config and isinstance(config["config"], dict) and "name" in config["config"]:
        config["config"]["name"] = name
    try:
        return keras.saving.deserialize_keras_object(config, custom_objects=dict(_KNOWN))
    except Exception as error:
        raise ValueError(
            f"the float layer {node.name!r} cannot be made again ({error}); register its class with keras.saving.register_keras_serializable"
        ) from error


def arguments(node: Node, graph: Graph, inputs: list) -> tuple[list, dict]:
    """The arguments of an island's call, with ``inputs`` and arrays in their places."""
    call = node.attrs.get("call") or {"args": [{_INPUT: i} for i in range(len(inputs))], "kwargs": {}, "weights": len(node.attrs.get("weights", ()))}
    arrays = [graph.constants[name] for name in node.attrs.get("weights", ())[call["weights"]:]]

    def fill(value):
        if isinstance(value, dict):
            if set(value) == {_INPUT}:
                return inputs[value[_INPUT]]
            if set(value) == {_ARRAY}:
                return arrays[value[_ARRAY]]
            if set(value) == {_SLICE}:
                return slice(*fill(value[_SLICE]))
            return {key: fill(part) for key, part in value.items()}
        return [fill(part) for part in value] if isinstance(value, (list, tuple)) else value

    return fill(call["args"]), fill(call["kwargs"])


def set_weights(node: Node, graph: Graph, layer) -> None:
    """Give a built layer the arrays of its island."""
    names = node.attrs.get("weights", ())
    count = (node.attrs.get("call") or {"weights": len(names)})["weights"]
    if count:
        layer.set_weights([graph.constants[name] for name in names[:count]])


class IslandRunner:
    """Runs islands on numpy arrays; every layer is made once, and runs as a ``tf.function`` as in ``Model.predict``: TensorFlow
    fuses float ops there, and fused ones round differently than single ones.

    Args:
        graph: the graph whose islands are run; its constants are their weights.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._layers: dict[str, Any] = {}

    def __call__(self, node: Node, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of one island, float32 numpy arrays in the order of the node's outputs."""
        tensors = [keras.ops.convert_to_tensor(np.asarray(array, np.float32)) for array in arrays]
        if node.name not in self._layers:
            layer = restore(node, self.graph)

            def call(*inputs):
                args, kwargs = arguments(node, self.graph, list(inputs))
                return layer(*args, **kwargs)

            call(*tensors)  # builds it
            set_weights(node, self.graph, layer)
            self._layers[node.name] = tf.function(call, autograph=False, reduce_retracing=True)
        return [np.asarray(keras.ops.convert_to_numpy(part), np.float32) for part in keras.tree.flatten(self._layers[node.name](*tensors))]
