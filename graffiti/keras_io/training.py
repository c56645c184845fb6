"""How training treats a weight: from a Keras variable to plain values in ``Graph.training``, and back to what layers
take.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import keras

from graffiti.graph import ops
from graffiti.graph.ir import Graph
from graffiti.keras_io import compat
from graffiti.layers import own_training

_ELEMENTWISE = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2, keras.constraints.NonNeg)
# the user's classes that were met while reading, which no file has to know in this process
_KNOWN: dict[tuple[str, str], type] = {}


def settings(variable, *, trainable: bool, path: str, reshaped: bool = False) -> dict[str, Any]:
    """What is not as usual about a weight: ``trainable``, ``regularizer``, ``constraint`` (see ``Graph.training``).

    Args:
        variable: a ``keras.Variable``, or numbers that no layer holds.
        trainable: whether an optimizer moves it.
        path: of the layer, for the message.
        reshaped: whether the graph holds the weight in another shape; only what looks at elements one by one is kept
            then.

    Raises:
        ValueError: for a regularizer or constraint that Keras cannot serialize.
    """
    found: dict[str, Any] = {} if trainable else {"trainable": False}
    for key in ("regularizer", "constraint"):
        value = getattr(variable, key, None)
        if value is not None and reshaped and not isinstance(value, _ELEMENTWISE):
            warnings.warn(
                f"the {key} of layer {path!r} looks at whole axes of a kernel that has other axes in the quantized "
                "model; it is left out there",
                stacklevel=2
            )
        elif value is not None:
            found[key] = plain(value, f"the {key} of layer {path!r}")
    return found


def plain(value, what: str) -> Any:
    """A regularizer or constraint as Keras serializes it.

    Raises:
        ValueError: where it cannot; ``what`` says whose it is.
    """
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except Exception as error:
        raise ValueError(
            f"{what} cannot be kept, because Keras cannot serialize it ({error}); give its class a get_config that "
            "returns plain values"
        ) from error
    if isinstance(config, dict) and not type(value).__module__.startswith("keras."):
        _KNOWN[str(config.get("module")), str(config.get("class_name"))] = (
            value if config.get("class_name") == "function" else type(value)
        )
    return config


def restored(config):
    """A regularizer or constraint from its config; ``None`` stays ``None``.

    Raises:
        ValueError: where its class is not known here.
    """
    if not isinstance(config, dict):
        return config
    known = _KNOWN.get((str(config.get("module")), str(config.get("class_name"))))
    if isinstance(known, type):
        return known.from_config(dict(config["config"])) if hasattr(known, "from_config") else known(**config["config"])
    return keras.saving.deserialize_keras_object(config)


def layer_config(layer) -> dict[str, Any]:
    """The config of a layer without what every layer has: its name, its dtype, whether it trains."""
    return {
        key: plain(value, f"the {key} of layer {layer.name!r}") if isinstance(value, keras.regularizers.Regularizer)
        else json.loads(json.dumps(value))
        for key, value in layer.get_config().items() if key not in ("name", "trainable", "dtype")
    }


def restored_config(config: dict[str, Any]) -> dict[str, Any]:
    """``layer_config`` as arguments of the layer's class."""
    return {key: restored(value) if key == "regularizer" else value for key, value in config.items()}


def take_over(quantized: keras.Model, model: keras.Model) -> list[tuple[str, str]]:
    """Let a quantized model train by the methods of its user's class (``train_step`` ...): ``(layer, sentence)`` of
    what is kept, or why not.
    """
    names = own_training.methods(type(model))
    if not names:
        return []
    own = f"{' and '.join(names)} of {type(model).__name__}"
    try:
        own_training.take_over(quantized, model)
    except own_training.CannotTakeOver as error:
        return [
            (
                model.name,
                f"{own} stays with the float model, because {error}; the quantized model trains as any keras.Model does"
            )
        ]
    return [(model.name, f"{own}: the quantized model trains by it too")]


def hand_on(copy: keras.Model, model: keras.Model) -> None:
    """Give a copy of a model what its class's own ``train_step`` ... reads; a warning where that cannot be."""
    try:
        own_training.hand_on(copy, model)
    except own_training.CannotTakeOver as error:
        own = f"{' and '.join(own_training.methods(type(model)))} of {type(model).__name__}"
        warnings.warn(
            f"{own} stays with the model {model.name!r}, because {error}; set on the returned model what it reads",
            stacklevel=4
        )


def lost(model: keras.Model) -> list[tuple[str, str]]:
    """What a quantized model does not take over from how a model computes: ``(layer, sentence)``."""
    found = []
    halves = [layer for layer in compat.sublayers(model) if layer is not model and _is_half(layer)]
    if halves:
        policies = ", ".join(sorted({layer.dtype_policy.name for layer in halves}))
        found.append(
            (
                model.name,
                f"{len(halves)} layers with the dtype policy {policies} are read as float32: fake quantization is "
                "exact there, and integers need no half precision"
            )
        )
    return found


def untied(graph: Graph) -> list[tuple[str, str]]:
    """Weights that a float layer shares with a layer in fixed point, and that are two in the quantized model:
    ``(layer, sentence)``.
    """
    found = []
    for node in graph.nodes:
        ties = (*ops.attr(node, "turned_ties"), *ops.attr(node, "ties")) if node.op == "island" else ()
        for number, (index, name) in enumerate(ties):
            own = node.attrs["weights"][index]
            turned = number < len(ops.attr(node, "turned_ties"))
            if turned or name not in graph.constants or graph.constants[name].shape != graph.constants[own].shape:
                found.append(
                    (
                        node.name,
                        f"its weight {own!r} is {name!r} too, which has other axes in the quantized model: the two "
                        "begin equal, and retraining moves each by itself"
                    )
                )
    return found


def _is_half(layer) -> bool:
    return (
        str(getattr(layer, "compute_dtype", None)) in ("float16", "bfloat16")
        and not isinstance(layer, keras.layers.InputLayer)
    )
