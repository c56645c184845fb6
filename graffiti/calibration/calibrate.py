"""Thresholds from data, in topological order with everything upstream active.

One walk over the calls of the model: every symbolic tensor that is still needed holds its values for the whole
calibration set, so that no part of the network runs twice.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from graffiti.calibration import data as calibration_data
from graffiti.calibration import methods
from graffiti.config import ReportLine
from graffiti.keras_io import compat
from graffiti.layers import InFloat
from graffiti.quantizers.base import ZERO_LOG2_THRESHOLD, Quantizer, channel_view
from graffiti.quantizers.identity import Identity

_CHUNK = 64  # examples that run through a layer at once
WEIGHT_ROLES = ("weight", "reciprocal", "alpha")  # constants; every other role sees data
_SMALLEST_CHANNEL = 2.0**-12  # of the largest channel's threshold


def threshold_of(quantizer: Quantizer, values: np.ndarray, method: str | None = None) -> np.ndarray:
    """The thresholds that a method gives for what a quantizer sees.

    Args:
        quantizer: says the range, the channels and, where ``method`` is ``None``, the method.
        values: float32, any shape (with the quantizer's channel axis).
        method: a name of ``methods.METHODS``.

    Returns:
        float64 ``()`` or ``(channels,)``. Zero exactly where all values are zero. No other channel is below ``2**-12`` of the
        largest: its products could not be seen beside the others', but at so fine a scale its bias would leave 32 bits.

    Raises:
        ValueError: where there are no values, or a value is NaN or Inf.
    """
    estimate = methods.get(method or quantizer.calibration)
    values = np.asarray(values, np.float32)
    if not values.size:
        raise ValueError(f"quantizer {quantizer.path!r} sees no values; pass calibration data")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"quantizer {quantizer.path!r} sees NaN or Inf; check the calibration data and the weights in front of it")
    if not quantizer.signed:
        values = np.maximum(values, 0)  # what it cannot show has no say
    thresholds = []
    for row in channel_view(values, quantizer.channel_axis):
        row = np.ascontiguousarray(row)
        largest = methods.maximum(row)
        range_of = dict(bits=quantizer.bits, signed=quantizer.signed, narrow=quantizer.narrow, rounding=quantizer.rounding)
        # a method that finds 0 where there are values (a percentile of a sparse tensor) would lose all of them
        thresholds.append(0.0 if largest == 0.0 else estimate(row, **range_of) or largest)
    if quantizer.channel_axis is None:
        return np.asarray(thresholds[0], np.float64)
    each = np.asarray(thresholds, np.float64)
    return np.where(each > 0, np.maximum(each, _SMALLEST_CHANNEL * each.max()), 0.0)


class _Walk:
    """One calibration of one model."""

    def __init__(self, weights: str | None, activations: str | None, fixed_batch: int | None, examples: int) -> None:
        self.weights, self.activations, self.fixed_batch, self.examples = weights, activations, fixed_batch, examples
        self.before: dict[int, tuple[Quantizer, list[np.ndarray]]] = {}
        self.members: dict[int, list[np.ndarray]] = {}
        self.lines: dict[int, ReportLine | None] = {}

    def restore(self) -> None:
        """Give every quantizer back what it had."""
        for quantizer, values in self.before.values():
            quantizer.set_weights(values)

    def estimate(self, layer: str, quantizer: Quantizer, arrays: list[Any], *, more: bool = False) -> None:
        """Set one quantizer's thresholds from what it has seen so far; ``more`` says that it will see more."""
        if isinstance(quantizer, Identity):
            return
        self.before.setdefault(id(quantizer), (quantizer, quantizer.get_weights()))
        seen = self.members.setdefault(id(quantizer), [])
        seen.extend(np.asarray(array, np.float32) for array in arrays)
        # per channel only tensors of one shape can share; otherwise members differ in shape and are taken flat
        values = seen[0] if len(seen) == 1 else np.concatenate([array.ravel() for array in seen])
        method = self.weights if quantizer.role in WEIGHT_ROLES else self.activations
        try:
            thresholds = threshold_of(quantizer, values, method)
        except ValueError as error:
            raise ValueError(f"cannot calibrate layer {layer!r}: {error}") from error
        quantizer.set_threshold(thresholds)
        zeros = int(np.count_nonzero(thresholds == 0))
        where = "constant zero in calibration" if thresholds.ndim == 0 else f"{zeros} of {thresholds.size} channels are constant zero"
        self.lines[id(quantizer)] = ReportLine(
            layer, "frozen", f"{quantizer.role}: {where}; threshold frozen at 2**{ZERO_LOG2_THRESHOLD:.0f}"
        ) if zeros else None
        if not more:
            del self.members[id(quantizer)]

    def has_batch(self, tensor: keras.KerasTensor) -> bool:
        """Whether the first axis is the batch: of unknown length, or the model's fixed one (perhaps with another axis folded into it)."""
        if not len(tensor.shape) or tensor.shape[0] is None:
            return len(tensor.shape) > 0
        return self.fixed_batch is not None and tensor.shape[0] % self.fixed_batch == 0

    def run(self, operation: Any, args: Any, kwargs: Any, outputs: list[keras.KerasTensor], batched: list[bool]) -> list[np.ndarray]:
        """Run one call at inference, chunk by chunk. ``args`` hold arrays for tensors; ``batched`` says which of them, flat, have a batch axis.

        An array may have several rows for each example, where an axis was folded into the batch: a chunk has all rows of its examples.
        """
        flat = keras.tree.flatten((args, kwargs))
        sizes = [len(value) for value, split in zip(flat, batched, strict=True) if split]
        whole = any(size % self.examples for size in sizes)  # rows that belong to no example
        parts: list[list[np.ndarray]] = [[] for _ in outputs]
        chunk = self.fixed_batch or _CHUNK
        training = {"training": False} if isinstance(operation, keras.layers.Layer) else {}
        for start in range(0, self.examples if sizes and not whole else 1, chunk):
            cut = [
                value[start * (len(value) // self.examples):(start + chunk) * (len(value) // self.examples)] if split and not whole else value
                for value, split in zip(flat, batched, strict=True)
            ]
            chunk_args, chunk_kwargs = keras.tree.pack_sequence_as((args, kwargs), cut)
            chunk_kwargs = {**chunk_kwargs, **training}
            for part, result in zip(parts, keras.tree.flatten(operation(*chunk_args, **chunk_kwargs)), strict=True):
                part.append(np.asarray(result))
        return [np.concatenate(p) if self.has_batch(t) else p[0] for p, t in zip(parts, outputs, strict=True)]

    def model(self, inputs: list[keras.KerasTensor], outputs: list[keras.KerasTensor], arrays: list[np.ndarray], progress: bool) -> list[np.ndarray]:
        """Walk over all calls between ``inputs`` and ``outputs``; nested models are walked into."""
        calls = compat.calls(inputs, outputs)
        readers = Counter(id(x) for call in calls for x in call.inputs) + Counter(id(x) for x in outputs)
        repeats = Counter(id(call.operation.quantizer) for call in calls if _is_quantize(call.operation))
        repeats.update(id(call.operation) for call in calls if hasattr(call.operation, "calibration_inputs"))
        values = {id(x): array for x, array in zip(inputs, arrays, strict=True)}
        for call in tqdm(calls, desc="calibrating", unit="layer", delay=2, disable=not progress, leave=False):
            operation = call.operation
            args, kwargs = keras.tree.map_structure(lambda x: values[id(x)] if isinstance(x, keras.KerasTensor) else x, (call.args, call.kwargs))
            batched = [isinstance(x, keras.KerasTensor) and self.has_batch(x) for x in keras.tree.flatten((call.args, call.kwargs))]
            if _is_quantize(operation):
                repeats[id(operation.quantizer)] -= 1
                self.estimate(compat.value_name(operation.name), operation.quantizer, [args[0]], more=repeats[id(operation.quantizer)] > 0)
            elif hasattr(operation, "calibration_inputs"):
                repeats[id(operation)] -= 1
                for quantizer, seen in operation.calibration_inputs(args[0]):
                    later = repeats[id(operation)] > 0 and quantizer.role not in WEIGHT_ROLES  # the kernel is the same in every call
                    self.estimate(compat.value_name(operation.name), quantizer, seen, more=later)
            if isinstance(operation, keras.Model) and compat.is_functional(operation):
                flat = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, np.ndarray)]
                results = self.model(operation.inputs, operation.outputs, flat, progress=False)
            else:
                results = self.run(operation, args, kwargs, call.outputs, batched)
            values.update((id(x), result) for x, result in zip(call.outputs, results, strict=True) if readers[id(x)])
            for x in call.inputs:
                readers[id(x)] -= 1
                if not readers[id(x)]:
                    values.pop(id(x), None)
        return [values[id(x)] for x in outputs]


def _is_quantize(operation: Any) -> bool:
    """Whether this is a layer that only quantizes its input (compute layers say what theirs see with ``calibration_inputs``)."""
    return isinstance(getattr(operation, "quantizer", None), Quantizer) and not hasattr(operation, "calibration_inputs")


def calibrate(
    model: keras.Model, data: Any, steps: int | None = None, *,
    weights: str | None = None, activations: str | None = None, progress: bool = True,
) -> list[ReportLine]:
    """Set every threshold of a quantized model from data, in topological order with everything upstream active.

    A threshold that several tensors share is estimated from all of them together; while later members are not reached
    yet it has a provisional value from the earlier ones, which is what their readers see (as published). The result
    depends on model, data and methods only.

    Args:
        model: a quantized model, changed in place: all thresholds, or none where this raises.
        data: see ``calibration.data.collect``.
        steps: how many batches of ``data`` to use.
        weights: method for constants (weights, pool reciprocals, slopes) instead of each quantizer's own.
        activations: method for everything else instead of each quantizer's own.
        progress: show a bar where it takes longer than two seconds.

    Returns:
        Report lines: thresholds frozen because what they see is zero everywhere.

    Raises:
        ValueError: for unusable data (see ``collect``), an unknown method, NaN or Inf inside the network, or a model
            without quantizers.

    References: Jain et al., arXiv 1903.08066, section 4, "Calibration procedure".
    """
    for method in (weights, activations):
        if method is not None:
            methods.get(method)
    arrays = calibration_data.collect(data, model, steps)
    fixed = model.inputs[0].shape[0]
    if fixed is not None and len(arrays[0]) % fixed:
        raise ValueError(f"model {model.name!r} takes batches of exactly {fixed}; pass a multiple of {fixed} calibration examples, got {len(arrays[0])}")
    walk = _Walk(weights, activations, fixed, len(arrays[0]))
    try:
        with compat.kept_state(model, but=Quantizer):  # of layers that carry one from batch to batch
            walk.model(list(model.inputs), list(model.outputs), arrays, progress)
        if not walk.before and not any(isinstance(layer, InFloat) for layer in model.layers):
            raise ValueError(f"model {model.name!r} has no quantizers to calibrate; make a quantized model with graffiti.quantize first")
    except BaseException:
        walk.restore()
        raise
    return [line for line in walk.lines.values() if line is not None]
