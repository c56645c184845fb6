"""What ordinary Keras layers and ``keras.ops`` read as. Two tables: layer class → rule, operation class name → rule.

A rule takes a ``Reading`` (``read.py``) and the layer; it emits nodes, or an island with the reason why not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from graffiti.graph import affine, border
from graffiti.graph.functions import FUNCTIONS
from graffiti.graph.layer_forms import LAYER_FORMS
from graffiti.graph.ops import OPS
from graffiti.keras_io import compat, einsum, functions, islands, time_distributed, training
from graffiti.keras_io.move_rules import LAYER_MOVES, OPERATION_MOVES, Move, useful
from graffiti.keras_io.move_rules import emit as emit_moves

L = keras.layers
Rule = Callable[[Any, Any], None]


def find(operation) -> Rule | None:
    """The rule for a layer or operation; ``None`` where there is none."""
    kind = compat.operation_kind(operation)
    if kind is not None:
        return OPERATION_RULES.get(kind) or (_function if functions.means_one(operation) else None)
    if getattr(operation, "quantization_mode", None) is not None:
        return _keras_quantized
    rule = LAYER_RULES.get(type(operation)) or (_augmentation if compat.is_augmentation(operation) else None)
    return _channels_first if rule is not None and getattr(operation, "data_format", None) == "channels_first" else rule


def _channels_first(reading, layer) -> None:
    reading.island("data_format='channels_first' has no fixed-point form; use channels_last")


def _augmentation(reading, layer) -> None:
    """Random at training and nothing at inference: dropped."""
    (tensor, *more) = reading.call.inputs
    if more or not compat.is_idle(layer, tensor):
        return reading.island(f"{type(layer).__name__} has no fixed-point form yet")
    reading.emit_result(
        "identity", [reading.x],
        {"layer": type(layer).__name__, "reason": "it augments training data and does nothing at inference"}
    )


def _keras_quantized(reading, layer) -> None:
    reading.island(f"it is quantized by Keras itself ({layer.quantization_mode}); use the float layer")


# ---- layers with a kernel --------------------------------------------------------------------------------------------
def product(
    reading, layer, op: str, kernels: dict[str, Any], attrs: dict[str, Any], *, x: str | None = None, bias=None,
    moves: Sequence[Move] = (),
) -> None:
    """``[pad] → [product] → [bias_add] → [moves] → [activation]``; the last node has the layer's name, inner ones are
    ``name/...``.

    Causal padding is a ``pad`` in front of a ``valid`` product.

    Args:
        reading: of the layer (``read.Reading``); takes the nodes and the result.
        layer: the Keras layer; its bias and activation are taken, where it has them.
        op: a row of ``graph/ops.py`` that multiplies by a kernel.
        kernels: role → variable, or (variable, its numbers in the shape that the op takes).
        attrs: of the op.
        x: what is multiplied; the call's input by default.
        bias: the bias' numbers as a vector, where the layer's own has another shape.
        moves: what brings the result into the layer's shape.
    """
    x = reading.x if x is None else x
    if attrs.get("padding") == "causal":
        before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        x = reading.emit("pad", [x], {"pads": ((before, 0), (0, 0))}, name=f"{reading.name}/pad")
        attrs = {**attrs, "padding": "valid"}
    activation = getattr(layer, "activation", None)
    fused = activation is not None and activation is not keras.activations.linear
    linear = f"{reading.name}/linear" if fused or moves else reading.name
    parts = {role: given if isinstance(given, tuple) else (given, None) for role, given in kernels.items()}
    inputs = [x, *(reading.weight(role, variable, array=array) for role, (variable, array) in parts.items())]
    if not fused and not moves and len(kernels) == 1:
        reading.activity(layer, inputs[1])
    if layer.bias is not None:
        product = reading.emit(op, inputs, attrs, name=f"{reading.name}/product")
        value = reading.emit("bias_add", [product, reading.weight("bias", layer.bias, array=bias)], name=linear)
    else:
        value = reading.emit(op, inputs, attrs, name=linear)
    if moves:
        value = emit_moves(reading, value, moves, f"{reading.name}/moved" if fused else reading.name)
    if fused:
        value = emit_activation(reading, activation, value)
    reading.result(value)


def _window(layer) -> dict[str, Any]:
    return {"strides": _ints(layer.strides), "padding": layer.padding, "dilation": _ints(layer.dilation_rate)}


def _conv(reading, layer) -> None:
    product(reading, layer, "conv", {"kernel": layer.kernel}, {**_window(layer), "groups": layer.groups})


def _depthwise(reading, layer) -> None:
    product(reading, layer, "depthwise_conv", {"kernel": layer.kernel}, _window(layer))


def _separable(reading, layer) -> None:
    kernels = {"depthwise_kernel": layer.depthwise_kernel, "pointwise_kernel": layer.pointwise_kernel}
    product(reading, layer, "separable_conv", kernels, _window(layer))


def _transpose(reading, layer) -> None:
    if any(d != 1 for d in _ints(layer.dilation_rate)):
        return reading.island("a dilated transposed convolution has no fixed-point form")
    extra = layer.output_padding
    rank = len(layer.kernel_size)
    attrs = {
        "strides": _ints(layer.strides), "padding": layer.padding,
        "output_padding": None if extra is None else (int(extra),) * rank if isinstance(extra, int) else _ints(extra),
    }
    product(reading, layer, "conv_transpose", {"kernel": layer.kernel}, attrs)


def _dense(reading, layer) -> None:
    product(reading, layer, "dense", {"kernel": layer.kernel}, {})


def _einsum_dense(reading, layer) -> None:
    """A dense product: the contracted axes last and as one, the new axes as one, both taken apart again behind it."""
    try:
        parts = einsum.parse(layer.equation, len(reading.input_shape))
        kernel, bias = keras.ops.convert_to_numpy(layer.kernel), None
        sizes = dict(zip(parts.x, reading.input_shape)) | dict(zip(parts.kernel, kernel.shape))
        if layer.bias is not None:
            bias = _einsum_bias(parts, keras.ops.convert_to_numpy(layer.bias), sizes)
        front: list[Move] = [
            ("permute", {"dims": tuple(parts.x.index(letter) for letter in parts.kept + parts.contracted)})
        ]
        kept = tuple(sizes[letter] for letter in parts.kept)
        rows, columns = (math.prod(sizes[letter] for letter in letters) for letters in (parts.contracted, parts.new))
        if len(parts.contracted) != 1:
            front.append(("reshape", {"shape": (*kept, rows)}))
        back: list[Move] = (
            [("reshape", {"shape": (*kept, *(sizes[letter] for letter in parts.new))})] if len(parts.new) != 1 else []
        )
        made = parts.kept + parts.new
        back.append(("permute", {"dims": tuple(made.index(letter) + 1 for letter in parts.out[1:])}))
        front, back = useful(front), useful(back)
        if [sizes.get(letter) for letter in parts.out[1:]] != list(reading.shape[1:]):
            raise einsum.NotDense(f"Keras says that the equation {layer.equation!r} makes the shape {reading.shape}")
        if any(None in move[1].get("shape", ()) for move in (*front, *back)):
            raise einsum.NotDense(f"the equation {layer.equation!r} joins axes beside ones of unknown length")
    except einsum.NotDense as why:
        return reading.island(f"{why}: no fixed-point form")
    matrix = kernel.transpose(
        [parts.kernel.index(letter) for letter in parts.contracted + parts.new]
    ).reshape(rows, columns)
    x = emit_moves(reading, reading.x, front, f"{reading.name}/x") if front else None
    product(reading, layer, "dense", {"kernel": (layer.kernel, matrix)}, {}, x=x, bias=bias, moves=back)


def _einsum_bias(parts: einsum.Dense, bias: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    """The bias as a vector over the new axes."""
    over = parts.out[len(parts.out) - bias.ndim :]
    if any(size != 1 and letter not in parts.new for letter, size in zip(over, bias.shape)):
        raise einsum.NotDense("the bias of an EinsumDense differs along axes that its kernel does not make")
    if (
        any(size != sizes[letter] for letter, size in zip(over, bias.shape) if letter in parts.new)
        or not set(parts.new) <= set(over)
    ):
        raise einsum.NotDense("the bias of an EinsumDense is one for several columns of its kernel")
    return bias.reshape(-1)


def _batch_norm(reading, layer) -> None:
    rank = len(reading.input_shape)
    if _axis(layer.axis, rank) != rank - 1:
        return reading.island("batch norm over another axis than the last has no fixed-point form")
    variance = keras.ops.convert_to_numpy(layer.moving_variance)
    if np.isfinite(variance).all() and np.any(variance + np.float32(layer.epsilon) <= 0):
        raise ValueError(
            f"batch norm {reading.path!r} has the moving variance {float(variance.min()):.3g} and epsilon "
            f"{layer.epsilon}; "
            "their sum must be above zero, since its square root divides: repair the variance, or take weights that "
            "were trained"
        )
    ones, zeros = (np.full(reading.input_shape[-1], value, np.float32) for value in (1, 0))
    constants = [
        reading.weight("gamma", layer.gamma) if layer.scale else reading.absent("gamma", ones),
        reading.weight("beta", layer.beta) if layer.center else reading.absent("beta", zeros),
        reading.weight("mean", layer.moving_mean, trainable=layer.trainable),  # of statistics: whether they move
        reading.weight("variance", layer.moving_variance, trainable=layer.trainable),
    ]
    reading.emit_result(
        "batch_norm", [reading.x, *constants], {"epsilon": float(layer.epsilon), "momentum": float(layer.momentum)}
    )


def _normalization(reading, layer) -> None:
    """``(x - mean) / max(sqrt(variance), epsilon)``, or its inverse, as scale and offset, in float64 rounded once."""
    mean, variance = (keras.ops.convert_to_numpy(value).astype(np.float64) for value in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _affine(reading, deviation, mean)
    _affine(reading, 1.0 / deviation, -mean / deviation)


def _rescaling(reading, layer) -> None:
    _affine(reading, layer.scale, layer.offset)


def _affine(reading, scale, offset) -> None:
    """A ``rescaling`` node: one factor, one per index of the last axis, or an array over one example."""
    channels = reading.input_shape[-1] if len(reading.input_shape) > 1 else None
    sizes = tuple(1 if size is None else size for size in reading.input_shape[1:])
    parts: list[np.ndarray] = []
    for value in (scale, offset):
        array = np.asarray(
            keras.ops.convert_to_numpy(value) if not isinstance(value, (int, float, list, tuple, np.ndarray))
            else value,
            np.float32
        )
        if not np.isfinite(array).all():
            raise ValueError(f"layer {reading.path!r} has NaN or Inf in its scale or offset; repair it first")
        if array.ndim > len(sizes) and array.shape[0] == 1:
            array = array[0]  # the batch
        if (
            len(reading.shape) != len(reading.input_shape) or array.ndim > len(sizes)
            or any(n not in (1, size) for n, size in zip(array.shape[::-1], sizes[::-1]))
        ):
            return reading.island("a constant that is larger than the tensor has no fixed-point form")
        parts.append(array)
    reading.emit_result(
        "rescaling", [reading.x], affine.attributes_of(reading.graph, reading.name, parts[0], parts[1], channels)
    )


# ---- activations -----------------------------------------------------------------------------------------------------
def emit_activation(reading, function, value: str) -> str:
    """A node for a Keras activation; an island where the function is not known.

    Args:
        reading: of the layer that has the activation (``read.Reading``).
        function: what the layer's ``activation`` is: a function or a layer.
        value: the graph's value in front of it.

    Returns:
        The value behind it.
    """
    known = functions.find(function)
    if known is not None:
        return reading.emit(known.node[0], [value], known.node[1])
    layer = reading.reader.activation(reading.call.operation, function)
    tensor = keras.KerasTensor(reading.shape)
    return reading.add_island(islands.describe(layer, (tensor,), {}), [value], [tensor], _no_table(function)).name


def _no_table(function) -> str:
    return f"the activation {compat.function_name(function)!r} has no table"


def _activation(reading, layer) -> None:
    if functions.find(layer) is None:
        return reading.island(_no_table(layer.activation))
    reading.result(emit_activation(reading, layer.activation, reading.x))


def _function(reading, operation) -> None:
    """A layer or an operation that is a function of the table and nothing else."""
    known = functions.find(operation)
    if known is None:
        return reading.island(f"{type(operation).__name__} with arguments other than single numbers has no table")
    reading.emit_result(known.node[0], [reading.x], known.node[1])


def _prelu(reading, layer) -> None:
    reading.emit_result("prelu", [reading.x, reading.weight("alpha", layer.alpha)])


def _softmax(reading, layer) -> None:
    if len(reading.call.inputs) > 1:
        return reading.island("a masked softmax has no fixed-point form")
    if isinstance(layer.axis, (list, tuple)) and len(layer.axis) != 1:
        return reading.island("softmax over several axes has no fixed-point form")
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    reading.emit_result("softmax", [reading.x], {"axis": int(axis)})


# ---- pools -----------------------------------------------------------------------------------------------------------
def _pool(op: str) -> Rule:
    def rule(reading, layer) -> None:
        reading.emit_result(
            op, [reading.x],
            {"pool_size": _ints(layer.pool_size), "strides": _ints(layer.strides), "padding": layer.padding}
        )
    return rule


def _global_pool(op: str) -> Rule:
    def rule(reading, layer) -> None:
        if len(reading.call.inputs) > 1:
            return reading.island("a masked global pool has no fixed-point form")
        reading.emit_result(
            op, [reading.x], {"axes": tuple(range(1, len(reading.input_shape) - 1)), "keepdims": bool(layer.keepdims)}
        )
    return rule


# ---- several inputs --------------------------------------------------------------------------------------------------
def _merge(op: str) -> Rule:
    def rule(reading, layer) -> None:
        values = reading.values
        total = values[0]
        for index, value in enumerate(values[1:], 1):
            total = reading.emit(
                op, [total, value], name=reading.name if index == len(values) - 1 else f"{reading.name}/{index}"
            )
        reading.result(total)
    return rule


def _average(reading, layer) -> None:
    """The mean over a new axis that the inputs are joined along."""
    shapes = {tuple(tensor.shape) for tensor in reading.call.inputs}
    if len(shapes) > 1 or None in reading.shape[1:]:
        return reading.island("an average of tensors of different or unknown shapes has no fixed-point form")
    row: Move = ("reshape", {"shape": (1, math.prod(reading.shape[1:]))})
    rows = {
        value: emit_moves(reading, value, [row], f"{reading.name}/{number}")
        for number, value in enumerate(dict.fromkeys(reading.values))
    }
    joined = reading.emit(
        "concat", [rows[value] for value in reading.values], {"axis": 1}, name=f"{reading.name}/joined"
    )
    mean = reading.emit("mean", [joined], {"axes": (1,), "keepdims": False}, name=f"{reading.name}/mean")
    reading.emit_result("reshape", [mean], {"shape": reading.shape[1:]})


def _concatenate(reading, layer) -> None:
    axis = _axis(layer.axis, len(reading.shape))
    if axis == 0:
        return reading.island("concatenation along the batch has no fixed-point form")
    reading.emit_result("concat", reading.values, {"axis": axis})


# ---- moves -----------------------------------------------------------------------------------------------------------
def _reshape(reading, layer) -> None:
    shape = reading.shape
    given = reading.input_shape
    folds = None not in given[1:] and None not in shape[1:] and math.prod(given[1:]) != math.prod(shape[1:])
    folds |= None in given[1:] and not isinstance(layer, L.Layer)
    if not shape or shape[0] != given[0] or None in shape[1:] or folds:
        return reading.island("a reshape of the batch axis or to an unknown length has no fixed-point form")
    reading.emit_result("reshape", [reading.x], {"shape": shape[1:]})


def _permute(reading, layer) -> None:
    reading.emit_result("permute", [reading.x], {"dims": _ints(layer.dims)})


def spatial_pairs(value, rank: int) -> tuple[tuple[int, int], ...]:
    if rank == 1:
        value = [value if not isinstance(value[0], (list, tuple)) else value[0]]
    return (*((int(before), int(after)) for before, after in value), (0, 0))


def _zero_padding(reading, layer) -> None:
    reading.emit_result("pad", [reading.x], {"pads": spatial_pairs(layer.padding, len(reading.shape) - 2)})


def _cropping(reading, layer) -> None:
    reading.emit_result("crop", [reading.x], {"crops": spatial_pairs(layer.cropping, len(reading.shape) - 2)})


def _upsampling(reading, layer) -> None:
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation != "nearest":
        return reading.island(f"upsampling by {interpolation!r} has no fixed-point form; use 'nearest'")
    reading.emit_result("upsample", [reading.x], {"size": _ints(layer.size)})


def _identity(reading, layer) -> None:
    reading.emit_result("identity", [reading.x])


def training_only(reading, layer) -> None:
    """Dropout, noise, a regularizer: nothing at inference."""
    reading.activity_kept = True
    attrs: dict[str, Any] = {"layer": type(layer).__name__, "config": training.layer_config(layer)}
    if reading.call.kwargs.get("training") is True:
        attrs["always"] = True
    reading.emit_result("training_only", [reading.x], attrs)


# op -> its layer, and its operation
_BINARY = {op: row.plain[0] for op, row in LAYER_FORMS.items() if row.plain and OPS[op].binary}

LAYER_RULES: dict[type, Rule] = {
    L.Conv1D: _conv, L.Conv2D: _conv,
    L.DepthwiseConv1D: _depthwise, L.DepthwiseConv2D: _depthwise,
    L.SeparableConv1D: _separable, L.SeparableConv2D: _separable,
    L.Conv1DTranspose: _transpose, L.Conv2DTranspose: _transpose,
    L.Dense: _dense, L.EinsumDense: _einsum_dense, L.TimeDistributed: time_distributed.rule,
    L.BatchNormalization: _batch_norm, L.Normalization: _normalization, L.Rescaling: _rescaling,
    **dict.fromkeys(functions.layer_classes(), _function), L.Activation: _activation, L.PReLU: _prelu,
    L.Softmax: _softmax,
    L.MaxPooling1D: _pool("max_pool"), L.MaxPooling2D: _pool("max_pool"),
    L.AveragePooling1D: _pool("average_pool"), L.AveragePooling2D: _pool("average_pool"),
    L.GlobalAveragePooling1D: _global_pool("mean"), L.GlobalAveragePooling2D: _global_pool("mean"),
    L.GlobalMaxPooling1D: _global_pool("global_max_pool"), L.GlobalMaxPooling2D: _global_pool("global_max_pool"),
    **{getattr(L, name): _merge(op) for op, name in _BINARY.items()}, L.Average: _average, L.Concatenate: _concatenate,
    L.Flatten: _reshape, L.Reshape: _reshape, L.Permute: _permute,
    L.ZeroPadding1D: _zero_padding, L.ZeroPadding2D: _zero_padding, L.Cropping1D: _cropping, L.Cropping2D: _cropping,
    **LAYER_MOVES,
    L.UpSampling1D: _upsampling, L.UpSampling2D: _upsampling,
    **dict.fromkeys((
        L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.GaussianDropout, L.AlphaDropout,
        L.GaussianNoise,
        L.ActivityRegularization,
    ), training_only),
    L.Identity: _identity,
}


# ---- keras.ops -------------------------------------------------------------------------------------------------------
def _operands(reading) -> tuple[list, bool]:
    """The two operands of an elementwise operation and whether both are tensors of the graph."""
    operands = [*reading.call.args, *reading.call.kwargs.values()][:2]
    return operands, all(isinstance(x, keras.KerasTensor) for x in operands)


def _elementwise(op: str, affine: Callable) -> Rule:
    """``op`` of two tensors; with a constant it is ``affine(constant, constant_first) -> (scale, offset)``."""
    def rule(reading, operation) -> None:
        operands, both = _operands(reading)
        if both:
            if not op:
                return reading.island(f"{type(operation).__name__} of two tensors has no fixed-point form")
            return reading.emit_result(op, reading.values)
        first = not isinstance(operands[0], keras.KerasTensor)
        constant = np.asarray(keras.ops.convert_to_numpy(operands[0] if first else operands[1]), np.float64)
        numbers = affine(constant, first)
        if numbers is None:
            return reading.island(f"{type(operation).__name__} with that constant has no fixed-point form")
        _affine(reading, *numbers)
    return rule


def _select(op: str, end: str) -> Rule:
    """``maximum`` or ``minimum`` of two tensors; with a number it is the clip that has it as its ``end``."""
    def rule(reading, operation) -> None:
        operands, both = _operands(reading)
        if both:
            return reading.emit_result(op, reading.values)
        constant = operands[1] if isinstance(operands[0], keras.KerasTensor) else operands[0]
        if np.size(constant) != 1:
            return reading.island(f"the {op} with a constant of the shape {np.shape(constant)} has no fixed-point form")
        name, attrs = FUNCTIONS["clip"].as_node({end: float(np.reshape(keras.ops.convert_to_numpy(constant), ()))})
        reading.emit_result(name, [reading.x], attrs)
    return rule


def _reduction(op: str, **attrs: Any) -> Rule:
    def rule(reading, operation) -> None:
        rank, axis = len(reading.input_shape), operation.axis
        if (
            len(reading.call.inputs) > 1 or reading.call.kwargs.get("weights") is not None
            or getattr(operation, "initial", None) is not None
        ):
            return reading.island("a weighted reduction, or one with a first value, has no fixed-point form")
        axes = (
            tuple(sorted({_axis(a, rank) for a in ([axis] if isinstance(axis, int) else axis)})) if axis is not None
            else ()
        )
        if not axes or 0 in axes:
            return reading.island("a reduction over the batch has no fixed-point form")
        reading.emit_result(
            op, [reading.x], {"axes": axes, "keepdims": bool(getattr(operation, "keepdims", False)), **attrs}
        )
    return rule


def _transpose_operation(reading, operation) -> None:
    rank = len(reading.input_shape)
    axes = operation.axes if operation.axes is not None else tuple(reversed(range(rank)))
    axes = tuple(_axis(axis, rank) for axis in axes)
    if axes[0] != 0:
        return reading.island("a transpose that moves the batch axis has no fixed-point form")
    reading.emit_result("permute", [reading.x], {"dims": axes[1:]})


def _pad_operation(reading, operation) -> None:
    value = reading.call.args[1] if len(reading.call.args) > 1 else reading.call.kwargs.get("constant_values")
    pads = operation.pad_width
    rank = len(reading.input_shape)
    if isinstance(pads, int):
        pads = ((pads, pads),) * rank
    elif len(pads) == 1 and rank > 1:
        pads = tuple(pads) * rank
    pads = tuple((int(before), int(after)) for before, after in pads)
    if operation.mode != "constant" or value not in (None, 0, 0.0) or pads[0] != (0, 0):
        return reading.island("only padding with zeros, not of the batch axis, has a fixed-point form")
    reading.emit_result("pad", [reading.x], {"pads": pads[1:]})


def _pool_operation(op: str) -> Rule:
    def rule(reading, operation) -> None:
        rank = len(reading.input_shape) - 2
        if operation.data_format == "channels_first":
            return _channels_first(reading, operation)
        size = _ints(operation.pool_size, rank)
        strides = size if operation.strides is None else _ints(operation.strides, rank)
        reading.emit_result(op, [reading.x], {"pool_size": size, "strides": strides, "padding": operation.padding})
    return rule


def _divide(constant, first):
    return None if first or np.any(constant == 0) else (1.0 / constant, 0.0)


def _cast(reading, operation) -> None:
    """An input of bytes as float32 is the same numbers: whoever reads it takes the bytes themselves, which are
    codes.
    """
    before, after = (
        keras.backend.standardize_dtype(x.dtype) for x in (reading.call.inputs[0], reading.call.outputs[0])
    )
    bytes_of_input = before in border.EXACT_INPUTS and reading.x in reading.graph.inputs
    if after != "float32" or not (before == "float32" or bytes_of_input) or reading.leaves:
        return reading.island(f"a cast of {before} to {after} has no fixed-point form")
    reading.emit_result("identity", [reading.x])


OPERATION_RULES: dict[str, Rule] = {
    **{name: _elementwise(op, lambda c, first: None) for op, name in _BINARY.items()},
    "Add": _elementwise("add", lambda c, first: (1.0, c)),
    "Subtract": _elementwise("subtract", lambda c, first: (-1.0, c) if first else (1.0, -c)),
    "Multiply": _elementwise("", lambda c, first: (c, 0.0)),
    "Divide": _elementwise("", _divide), "TrueDivide": _elementwise("", _divide),
    "Negative": lambda reading, operation: _affine(reading, -1.0, 0.0),
    "Maximum": _select("maximum", "x_min"), "Minimum": _select("minimum", "x_max"), "Concatenate": _concatenate,
    "Softmax": _softmax,
    "MaxPool": _pool_operation("max_pool"), "AveragePool": _pool_operation("average_pool"),
    "Mean": _reduction("mean"), "Average": _reduction("mean"), "Sum": _reduction("mean", divide=False),
    "Max": _reduction("global_max_pool"), "Amax": _reduction("global_max_pool"),
    "Reshape": _reshape, "Squeeze": _reshape, "ExpandDims": _reshape, "Transpose": _transpose_operation,
    "Pad": _pad_operation,
    **OPERATION_MOVES,
    "Identity": _identity, "Cast": _cast,
}


# ---- small -----------------------------------------------------------------------------------------------------------
def _ints(value, rank: int | None = None) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * (rank or 1)
    return tuple(int(v) for v in value)


def _axis(axis, rank: int) -> int:
    (axis,) = axis if isinstance(axis, (list, tuple)) else (axis,)
    return int(axis) + rank if axis < 0 else int(axis)
