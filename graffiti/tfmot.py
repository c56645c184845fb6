"""The only file that touches Keras 2 (``tf_keras``) and tensorflow-model-optimization, and only inside its functions.

Importing ``tensorflow_model_optimization`` may switch ``tf.keras`` to Keras 2 for the whole process, so it is never
imported before Keras 3 and never by ``import graffiti``.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import keras
import numpy as np

from graffiti.keras_io import compat

# Constructor arguments of Keras 2 that Keras 3 has dropped or renamed; everything else is passed on as it is.
_DROPPED = {"batch_input_shape", "dtype", "ragged", "sparse", "implementation", "time_major", "renorm", "fused",
            "virtual_batch_size", "adjustment", "experimental_autocast"}
# What Keras 2 inherits and writes but these classes never use, and Keras 3 does not take.
_KERNEL = {"kernel_initializer", "kernel_regularizer", "kernel_constraint"}
_UNUSED = {
    "DepthwiseConv1D": {"groups", *_KERNEL}, "DepthwiseConv2D": {"groups", *_KERNEL},
    "SeparableConv1D": {"groups", *_KERNEL}, "SeparableConv2D": {"groups", *_KERNEL},
    "Conv1DTranspose": {"groups"}, "Conv2DTranspose": {"groups"},
    "MultiHeadAttention": {"query_shape", "key_shape", "value_shape", "softmax_robust_masking"},
}
_EXAMPLES, _UNKNOWN_SIZE = 4, 16   # of the random inputs that the converted model is held against
_TOLERANCE = 1e-4                  # of the largest output: two versions of Keras add in other orders


@keras.saving.register_keras_serializable(package="graffiti")
def keras2_hard_sigmoid(x):
    """``clip(0.2 * x + 0.5, 0, 1)``, the ``hard_sigmoid`` of Keras 2; that of Keras 3 is ``clip(x/6 + 0.5, 0, 1)``."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def convert(model: Any) -> keras.Model:
    """A ``tf_keras`` model, or the path of its ``.h5`` file, → an equal Keras 3 model.

    Forward: the same function; weights are copied bit for bit, in the same order. The original is not changed. Both
    models are run on random inputs, and the result is returned only where their outputs are equal up to float rounding.

    Args:
        model: a built Sequential or Functional ``tf_keras`` model (nested models and shared layers included), or the
            path of an ``.h5`` / ``.keras`` file or SavedModel folder that ``tf_keras`` can load.

    Returns:
        A new ``keras.Model`` with the same layer names.

    Raises:
        TypeError: where ``model`` is neither, or is a Keras 3 model already.
        ValueError: for a layer that has no Keras 3 counterpart, or whose outputs differ in Keras 3; the message names
            it.
        FileNotFoundError: where the path does not exist.
    """
    import tf_keras

    if isinstance(model, keras.Model):
        raise TypeError("convert expects a Keras 2 model (tf_keras), got a Keras 3 model; use it as it is")
    if isinstance(model, (str, os.PathLike)):
        if not os.path.exists(model):
            raise FileNotFoundError(f"there is no file {model}; expected a tf_keras .h5 or .keras file")
        model = tf_keras.models.load_model(os.fspath(model), compile=False)
    if not isinstance(model, tf_keras.Model):
        raise TypeError(f"convert expects a tf_keras model or the path of one, got {type(model).__name__}")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once, or give it an input shape, before convert")
    if not isinstance(model, tf_keras.Sequential) and not compat.is_keras2_graph(model):
        raise ValueError(f"model {model.name!r} is subclassed; convert reads Sequential and Functional models")
    converted = _Converter().model(model)
    _hold_against(model, converted)
    return converted


class _Converter:
    """Rebuilds a Keras 2 graph in Keras 3."""

    def __init__(self) -> None:
        # a layer's activation, where Keras 3 has it only as layers of their own
        self.behind: dict[int, list[keras.layers.Layer]] = {}

    def model(self, model) -> keras.Model:
        layers: dict[int, Any] = {}
        tensors: dict[int, Any] = {}
        calls: Counter[str] = Counter()
        for tensor in model.inputs:
            dtype = tensor.dtype.name
            name = compat.keras2_maker(tensor)
            tensors[id(tensor)] = keras.Input(batch_shape=tuple(tensor.shape), dtype=dtype, name=name)
        for node in compat.keras2_nodes(model):
            layer = node.layer
            if id(layer) not in layers:
                layers[id(layer)] = self.layer(layer)
            args, kwargs = self.arguments(node, tensors)
            made = layers[id(layer)](*args, **kwargs)
            for activation in self.behind.get(id(layer), ()):
                made = activation(made)
            for new in _flatten(made) if not isinstance(layers[id(layer)], keras.layers.Layer) else ():
                calls[layer.name] += 1  # Keras 3 numbers its ops in a count of its own; keep the names of the original
                compat.rename_maker(new, layer.name + (f"_{calls[layer.name]}" if calls[layer.name] > 1 else ""))
            for old, new in zip(_flatten(node.outputs), _flatten(made)):
                tensors[id(old)] = new
        inputs = [tensors[id(t)] for t in model.inputs]
        outputs = [tensors[id(t)] for t in model.outputs]
        converted = keras.Model(
            inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs, name=model.name
        )
        for layer in model.layers:
            new = layers.get(id(layer))
            if new is None or not layer.weights:
                continue
            _copy_weights(layer, new)
            if hasattr(new, "finalize_state"):  # preprocessing layers compute from what they adapted to
                new.finalize_state()
        return converted

    def layer(self, layer):
        """One Keras 3 layer without its weights."""
        import tf_keras

        if isinstance(layer, tf_keras.Model):
            return self.model(layer)
        kind = type(layer).__name__
        config = {
            key: value for key, value in layer.get_config().items() if key not in _DROPPED | _UNUSED.get(kind, set())
        }
        if kind == "LeakyReLU":
            config["negative_slope"] = config.pop("alpha")
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            return _op_layer(layer, config)
        if kind == "ThresholdedReLU":
            kind, config = "ReLU", {"name": config["name"], "threshold": float(config["theta"])}
        if config.get("activation") == "hard_sigmoid" and "recurrent_activation" not in config:
            # 0.2*x + 0.5 is Keras 3's x/6 + 0.5 of 1.2*x
            name = layer.name
            self.behind[id(layer)] = [
                keras.layers.Rescaling(1.2, name=f"{name}_scale"),
                keras.layers.Activation("hard_sigmoid", name=f"{name}_hard_sigmoid"),
            ]
            config["activation"] = "linear"
        if kind == "BatchNormalization":
            config["axis"] = config["axis"][0] if isinstance(config["axis"], (list, tuple)) else config["axis"]
        target = getattr(keras.layers, kind, None)
        if target is None or not type(layer).__module__.startswith("tf_keras."):
            raise ValueError(
                f"layer {layer.name!r} of class {type(layer).__module__}.{kind} has no counterpart in Keras 3; "
                "replace it in the tf_keras model, or strip its wrapper, before convert"
            )
        try:
            return target.from_config(_plain(config))
        except (TypeError, ValueError) as error:
            raise ValueError(f"layer {layer.name!r} ({kind}) cannot be rebuilt in Keras 3: {error}") from error

    @staticmethod
    def arguments(node, tensors):
        """The call's arguments with Keras 3 tensors in place of the Keras 2 ones."""
        import tf_keras

        def swap(value):
            if isinstance(value, (list, tuple)):
                return type(value)(swap(part) for part in value)
            if isinstance(value, dict):
                return {key: swap(part) for key, part in value.items()}
            if id(value) in tensors and tf_keras.backend.is_keras_tensor(value):
                return tensors[id(value)]
            return value

        kwargs = {
            key: swap(value) for key, value in node.call_kwargs.items()
            if key not in ("training", "mask") and value is not None
        }
        return swap(tuple(node.call_args)), kwargs


def _flatten(value) -> list:
    return [part for item in value for part in _flatten(item)] if isinstance(value, (list, tuple)) else [value]


def _plain(config):
    """Keras 2 writes nested objects as {class_name, config}; Keras 3 reads the same with a module."""
    if isinstance(config, dict):
        if "class_name" in config and "config" in config:
            kind, inner = config["class_name"], config["config"]
            if isinstance(inner, dict) and getattr(keras.layers, kind, None) is not None:  # a layer in a layer
                inner = {key: value for key, value in inner.items() if key not in _DROPPED | _UNUSED.get(kind, set())}
                config = {**config, "config": inner}
        if "class_name" in config and "config" in config and "module" not in config:
            return {
                "module": None, "class_name": config["class_name"], "config": _plain(config["config"]),
                "registered_name": None
            }
        if str(config.get("module", "")).startswith("tf_keras"):
            config = {**config, "module": config["module"].replace("tf_keras", "keras", 1)}
        return {
            key: keras2_hard_sigmoid if value == "hard_sigmoid" and "activation" in key else _plain(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):  # Keras 2 has lists of its own kind
        return (list if isinstance(config, list) else tuple)(_plain(value) for value in config)
    return config


def _copy_weights(old, new) -> None:
    """Copy arrays by position; both versions create a layer's weights in one order."""
    values = old.get_weights()
    expected = [tuple(weight.shape) for weight in new.weights]
    if [value.shape for value in values] != expected and len(values) == len(expected):
        raise ValueError(
            f"layer {old.name!r}: weights have shapes {[v.shape for v in values]}, Keras 3 expects {expected}"
        )
    if len(values) != len(expected):
        raise ValueError(
            f"layer {old.name!r} has {len(values)} weights, its Keras 3 counterpart {len(expected)}; it cannot be "
            "converted"
        )
    new.set_weights([np.asarray(value) for value in values])


def _op_layer(layer, config):
    """A TensorFlow function used as a layer → the Keras op of the same meaning."""
    function = config.get("function", "")
    table = {
        "math.add": keras.ops.add, "__operators__.add": keras.ops.add, "math.subtract": keras.ops.subtract,
        "math.multiply": keras.ops.multiply, "nn.relu": keras.ops.relu, "nn.relu6": keras.ops.relu6,
        "math.sigmoid": keras.ops.sigmoid, "math.tanh": keras.ops.tanh, "nn.softmax": keras.ops.softmax,
        "math.maximum": keras.ops.maximum, "math.minimum": keras.ops.minimum, "reshape": keras.ops.reshape,
        "math.truediv": keras.ops.true_divide,
    }
    if function == "__operators__.getitem":
        return lambda x, slice_spec: x[_slices(slice_spec)]
    if function == "concat":
        return lambda values, axis=-1: keras.ops.concatenate(values, axis)
    if function in ("math.reduce_mean", "reduce_mean"):
        return lambda x, axis=None, keepdims=False: keras.ops.mean(x, axis, keepdims)
    if function not in table:
        raise ValueError(
            f"layer {layer.name!r} calls the TensorFlow function {function!r}, which convert does not know; it knows "
            f"{', '.join(sorted(table))}, concat, math.reduce_mean, slices"
        )
    op = table[function]
    return lambda *args, **kwargs: op(*args, **{k: v for k, v in kwargs.items() if k not in ("name",)})


def _slices(spec):
    """A slice as Keras 2 keeps it in a call."""
    if isinstance(spec, dict):
        return slice(spec.get("start"), spec.get("stop"), spec.get("step"))
    return tuple(_slices(part) for part in spec) if isinstance(spec, (list, tuple)) else spec


def _hold_against(old, new: keras.Model) -> None:
    """Refuse a converted model whose outputs are not the original's, naming the first layer whose own differ.

    Random inputs: normal values where the input is float, 0 and 1 where it is whole numbers; models of texts are not
    run.
    """
    rng = np.random.default_rng(0)
    arrays = []
    for tensor in old.inputs:
        if tensor.dtype.name == "string":
            return
        shape = [
            _EXAMPLES if tensor.shape[0] is None else tensor.shape[0],
            *(_UNKNOWN_SIZE if n is None else n for n in tensor.shape[1:])
        ]
        values = rng.standard_normal(shape) if tensor.dtype.is_floating else rng.integers(0, 2, shape)
        arrays.append(values.astype(tensor.dtype.as_numpy_dtype))
    error = _difference(old, new, arrays)
    if error is None or error <= _TOLERANCE:
        return
    import tf_keras

    names = {layer.name: layer for layer in new.layers}
    for layer in old.layers:
        behind = names.get(f"{layer.name}_hard_sigmoid", names.get(layer.name))
        if behind is None or compat.call_count(layer) != 1 or compat.call_count(behind) != 1:
            continue  # shared layers have no output of their own to compare
        first = _difference(
            tf_keras.Model(old.inputs, layer.output),
            keras.Model(new.inputs[0] if len(new.inputs) == 1 else new.inputs, behind.output), arrays
        )
        if first is not None and first > _TOLERANCE:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) computes otherwise in Keras 3: outputs on random "
                f"inputs differ by {first:.2g} "
                "of the largest; replace it in the tf_keras model before convert"
            )
    raise ValueError(
        f"model {old.name!r} computes otherwise in Keras 3: its outputs on random inputs differ by {error:.2g} of the "
        "largest, and no single "
        "layer's do; convert it in parts to find the place"
    )


def _difference(old, new, arrays) -> float | None:
    """The largest difference of two models' outputs, as a part of the largest output; ``None`` where either cannot
    be run.
    """
    inputs = arrays[0] if len(arrays) == 1 else arrays
    try:
        expected, got = old(inputs, training=False), new(inputs, training=False)
    except Exception:  # random inputs are not what every model takes: no comparison then
        return None
    pairs = zip(map(np.asarray, _flatten(expected)), map(np.asarray, _flatten(got)), strict=True)
    return max(
        (
            float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0))
            / max(1.0, float(np.max(np.abs(a), initial=0.0)))
            for a, b in pairs
        ),
        default=0.0
    )
