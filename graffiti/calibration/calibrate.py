"""Thresholds from data, in topological order with everything upstream active.

One walk over the calls of the model: every symbolic tensor that is still needed holds its values for the whole
calibration set, so that no part of the network runs twice. What is too much for memory lies in temporary files.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from graffiti.calibration import data as calibration_data
from graffiti.calibration import methods
from graffiti.calibration.values import Flat, Masked, Spool, Values
from graffiti.config import ReportLine
from graffiti.keras_io import compat
from graffiti.layers import InFloat, WithMask
from graffiti.layers.quantize import Quantize
from graffiti.quantizers.base import ZERO_LOG2_THRESHOLD, Quantizer, channel_view
from graffiti.quantizers.identity import Identity

_CHUNK = 64  # examples that run through a layer at once, fewer where tensors are large
_CHUNK_BYTES = 16 << 20  # of the largest tensor of a model in one chunk
_BIAS_BITS = 30  # a bias stays below 2**30 steps of its accumulator, which leaves as much again for the products
WEIGHT_ROLES = ("weight", "reciprocal", "alpha")  # constants; every other role sees data
_SMALLEST_CHANNEL = 2.0**-12  # of the largest channel's threshold


def threshold_of(quantizer: Quantizer, values: np.ndarray | Flat, method: str | None = None) -> np.ndarray:
    """The thresholds that a method gives for what a quantizer sees.

    Args:
        quantizer: says the range, the channels and, where ``method`` is ``None``, the method.
        values: float32, any shape (with the quantizer's channel axis); ``Flat`` for a quantizer of one threshold.
        method: a name of ``methods.METHODS``.

    Returns:
        float64 ``()`` or ``(channels,)``. Zero exactly where all values are zero. No other channel is below ``2**-12``
        of the largest: its products could not be seen beside the others', but at so fine a scale its bias would leave
        32 bits.

    Raises:
        ValueError: where there are no values, or a value is NaN or Inf.
    """
    estimate = methods.get(method or quantizer.calibration)
    if not isinstance(values, Flat):
        values = np.asarray(values, np.float32)
    if not values.size:
        raise ValueError(f"quantizer {quantizer.path!r} sees no values; pass calibration data")
    rows = (
        [values] if isinstance(values, Flat)
        else [np.ascontiguousarray(row) for row in channel_view(values, quantizer.channel_axis)]
    )
    if not all(np.isfinite(methods.maximum(row)) for row in rows):
        raise ValueError(
            f"quantizer {quantizer.path!r} sees NaN or Inf; check the calibration data and the weights in front of it"
        )
    if not quantizer.signed:  # what it cannot show has no say
        rows = [row.clipped() if isinstance(row, Flat) else np.maximum(row, 0) for row in rows]
    range_of: dict[str, Any] = dict(
        bits=quantizer.bits, signed=quantizer.signed, narrow=quantizer.narrow, rounding=quantizer.rounding,
    )
    thresholds = []
    for row in rows:
        largest = methods.maximum(row)
        # a method that finds 0 where there are values (a percentile of a sparse tensor) would lose all of them
        thresholds.append(0.0 if largest == 0.0 else estimate(row, **range_of) or largest)
    if quantizer.channel_axis is None:
        return np.asarray(thresholds[0], np.float64)
    each = np.asarray(thresholds, np.float64)
    return np.where(each > 0, np.maximum(each, _SMALLEST_CHANNEL * each.max()), 0.0)


FEW_LEVELS = 16  # a branch that is left with fewer, and lies as far below the largest, is worth a line


def lost_branches(layer: Quantize, ranges: dict[str, tuple[float, float]]) -> ReportLine | None:
    """A line where branches that share one grid lie so many bits apart that the small ones keep a few levels of it.

    Args:
        layer: called once for each branch; calibrated.
        ranges: node of the branch → least and largest value that calibration saw.

    Returns:
        A line for the op where the branches meet, ``None`` where all keep enough levels.
    """
    quantizer, magnitudes = layer.quantizer, {node: max(-low, high) for node, (low, high) in ranges.items()}
    format, largest, lost = quantizer.qformat(), max(magnitudes.values()), []
    for node, (low, high) in ranges.items():
        codes = np.clip(np.rint(np.asarray([low, high]) / np.max(format.scale)), format.qmin, format.qmax)
        levels = int(codes[1] - codes[0]) + 1
        if 0 < magnitudes[node] * FEW_LEVELS <= largest and levels < FEW_LEVELS:
            lost.append(
                f"{node!r} keeps {levels} of {2**quantizer.bits} levels ({math.log2(largest / magnitudes[node]):.0f} "
                "bits apart)"
            )
    if not lost:
        return None
    meeting = (layer.group or layer.name).removesuffix("_inputs")
    return ReportLine(
        meeting, "warning",
        f"its branches share one scale, and {', '.join(lost)}; give {meeting!r} more bits or leave it in float by a "
        "Rule, or "
        "scale the branches alike in the model")


class _Walk:
    """One calibration of one model."""

    def __init__(self, weights: str | None, activations: str | None, fixed_batch: int | None) -> None:
        self.weights, self.activations, self.fixed_batch = weights, activations, fixed_batch
        self.before: dict[int, tuple[Quantizer, list[np.ndarray]]] = {}
        self.members: dict[int, list[np.ndarray | Values]] = {}
        self.spool = Spool()
        self.sources: dict[int, Any] = {}  # symbolic exponent -> the layer that quantizes what it belongs to
        self.lines: dict[int, ReportLine | None] = {}
        self.ranges: dict[int, dict[str, tuple[float, float]]] = {}
        self.lost: list[ReportLine] = []

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
        seen.extend(array.keep() if isinstance(array, Values) else np.asarray(array, np.float32) for array in arrays)
        # per channel only tensors of one shape can share; otherwise members differ in shape and are taken flat
        values: np.ndarray | Flat = Flat(seen)
        if quantizer.channel_axis is not None and len(seen) == 1:
            values = seen[0].array() if isinstance(seen[0], Values) else np.asarray(seen[0])
        method = self.weights if quantizer.role in WEIGHT_ROLES else self.activations
        try:
            thresholds = threshold_of(quantizer, values, method)
        except ValueError as error:
            raise ValueError(f"cannot calibrate layer {layer!r}: {error}") from error
        quantizer.set_threshold(thresholds)
        zeros = int(np.count_nonzero(thresholds == 0))
        where = (
            "constant zero in calibration" if thresholds.ndim == 0
            else f"{zeros} of {thresholds.size} channels are constant zero"
        )
        self.lines[id(quantizer)] = ReportLine(
            layer, "frozen", f"{quantizer.role}: {where}; threshold frozen at 2**{ZERO_LOG2_THRESHOLD:.0f}"
        ) if zeros else None
        if not more:
            for array in self.members.pop(id(quantizer)):
                if isinstance(array, Values):
                    array.drop()

    def branch(self, layer: Any, node: str | None, values: Values, *, more: bool) -> None:
        """Note the range of one of several values that share a threshold; the last one closes the books."""
        seen = self.ranges.setdefault(id(layer), {})
        ends = (
            [(float(np.min(chunk)), float(np.max(chunk))) for chunk in values.chunks() if chunk.size] if more or seen
            else []
        )
        if ends:
            seen[node or f"call {len(seen)}"] = min(low for low, _ in ends), max(high for _, high in ends)
        if not more and isinstance(layer, Quantize) and not isinstance(layer.quantizer, Identity):
            line = lost_branches(layer, self.ranges.pop(id(layer))) if len(seen) > 1 else None
            self.lost += [line] if line is not None else []

    def has_batch(self, tensor: keras.KerasTensor) -> bool:
        """Whether the first axis is the batch: of unknown length, or the model's fixed one (perhaps with another
        axis folded into it).
        """
        if not len(tensor.shape) or tensor.shape[0] is None:
            return len(tensor.shape) > 0
        return self.fixed_batch is not None and tensor.shape[0] % self.fixed_batch == 0

    def run(self, operation: Any, args: Any, kwargs: Any, outputs: list[keras.KerasTensor]) -> list[Values]:
        """Run one call at inference, chunk by chunk; ``args`` and ``kwargs`` hold values for tensors.

        A chunk is what came of the same examples, however many rows that are (an axis may be folded into the batch).
        """
        training = {"training": False} if isinstance(operation, keras.layers.Layer) else {}
        results = [Values(self.spool, batched=self.has_batch(tensor)) for tensor in outputs]
        for number, (chunk_args, chunk_kwargs) in enumerate(_chunks((args, kwargs))):
            for values, result in zip(
                results, keras.tree.flatten(operation(*chunk_args, **{**chunk_kwargs, **training})), strict=True
            ):
                if number == 0 or values.batched:
                    values.append(np.asarray(result))
        return results

    def model(
        self, inputs: list[keras.KerasTensor], outputs: list[keras.KerasTensor], arrays: list[Values], progress: bool
    ) -> list[Values]:
        """Walk over all calls between ``inputs`` and ``outputs``; nested models are walked into."""
        calls = compat.calls(inputs, outputs)
        readers = Counter(id(x) for call in calls for x in call.inputs) + Counter(id(x) for x in outputs)
        repeats = Counter(id(call.operation.quantizer) for call in calls if _is_quantize(call.operation))
        repeats.update(id(call.operation) for call in calls if hasattr(call.operation, "calibration_inputs"))
        values = {id(x): array.keep() for x, array in zip(inputs, arrays, strict=True)}
        for call in tqdm(calls, desc="calibrating", unit="layer", delay=2, disable=not progress, leave=False):
            operation = call.operation
            args, kwargs = _filled((call.args, call.kwargs), values)
            if _is_quantize(operation):
                repeats[id(operation.quantizer)] -= 1
                more = repeats[id(operation.quantizer)] > 0
                self.estimate(compat.value_name(operation.name), operation.quantizer, [args[0]], more=more)
                self.branch(operation, kwargs.get("node"), args[0], more=more)
            elif hasattr(operation, "calibration_inputs"):
                repeats[id(operation)] -= 1
                self.inside(operation, args[0], more=repeats[id(operation)] > 0)
                self.hold(operation, call.args[0], values)
                args, kwargs = _filled((call.args, call.kwargs), values)
            if isinstance(operation, keras.Model) and compat.is_functional(operation):
                flat = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Values)]
                results = self.model(operation.inputs, operation.outputs, flat, progress=False)
            elif isinstance(operation, WithMask) and len(args[0]) > 1:
                results = [Masked(operation, *args[0])]
            else:
                results = self.run(operation, args, kwargs, call.outputs)
            if _is_quantize(operation):
                self.sources[id(call.outputs[-1])] = operation
            for x, result in zip(call.outputs, results, strict=True):
                if readers[id(x)]:
                    values[id(x)] = result
                else:
                    result.drop()
            for x in call.inputs:
                readers[id(x)] -= 1
                if not readers[id(x)] and id(x) in values:
                    values.pop(id(x)).drop()
        return [values[id(x)] for x in outputs]

    def inside(self, layer: Any, inputs: Any, *, more: bool) -> None:
        """Set the quantizers inside a compute layer; ``more`` says that the layer will be called again."""
        name = compat.value_name(layer.name)
        for quantizer, seen in layer.calibration_inputs(next(_chunks(inputs))):
            if quantizer.role in WEIGHT_ROLES:  # a constant, the same for every chunk and in every call
                self.estimate(name, quantizer, [np.asarray(array) for array in seen])
                continue
            moving, *constants = seen
            values = Values(self.spool)
            values.append(np.asarray(moving))
            for chunk in itertools.islice(_chunks(inputs), 1, None):
                values.append(
                    np.asarray(next(own for other, (own, *_) in layer.calibration_inputs(chunk) if other is quantizer))
                )
            self.estimate(name, quantizer, [values, *(np.asarray(array) for array in constants)], more=more)
            values.drop()

    def hold(self, layer: Any, tensors: Any, values: dict[int, Values]) -> None:
        """Make steps coarser where a bias would leave its 32 bits at the exponent of input and kernel.

        A tensor that calibration saw at zero, or nearly so, has so fine a step that an ordinary bias is no 32-bit
        integer in it; nothing of it can be seen beside that bias. A kernel (or channel of it) that is constant zero is
        held, else the input; the threshold is frozen then, since training could only bring it back.
        """
        if (
            not (
                getattr(layer, "use_bias", False) and layer.kernel_quantizer is not None
                and layer.accumulator_quantizer is None
            )
        ):
            return
        source = self.sources.get(id(tensors[1]))
        if source is None:
            return
        kernel = layer.kernel_quantizer
        bias = np.abs(np.asarray(layer.fold()[1], np.float64))
        if not np.isfinite(bias).all():
            return  # the quantizer behind it says so
        steps = (
            np.broadcast_to(np.asarray(kernel.exponent(), np.float64), bias.shape) + float(source.quantizer.exponent())
        )
        missing = np.where(bias > 0, np.ceil(np.log2(np.where(bias > 0, bias, 1.0))) - steps - _BIAS_BITS, 0.0)
        if not (missing > 0).any():
            return
        log2, frozen = (
            np.array(keras.ops.convert_to_numpy(variable)) for variable in (kernel.log2_threshold, kernel.frozen)
        )
        zero = frozen & (log2 == ZERO_LOG2_THRESHOLD)
        more = np.where(zero, missing if zero.ndim else missing.max(), 0.0)
        if (more > 0).any():
            kernel.assign_log2(log2 + np.maximum(more, 0.0), frozen=frozen)
        rest = float(np.max(np.where(np.broadcast_to(zero, missing.shape), 0.0, missing), initial=0.0))
        if rest > 0:
            name, quantizer = compat.value_name(source.name), source.quantizer
            self.before.setdefault(id(quantizer), (quantizer, quantizer.get_weights()))
            quantizer.assign_log2(quantizer.log2_threshold.numpy() + rest, frozen=True)
            held = Values(batched=False)
            held.append(np.asarray(quantizer.exponent()))
            values[id(tensors[1])].drop()
            values[id(tensors[1])] = held
            self.lines[id(quantizer)] = ReportLine(
                name, "frozen",
                f"{quantizer.role}: calibration saw next to nothing here; threshold held at "
                f"2**{float(quantizer.log2_threshold):.1f}, "
                f"so that the bias of {compat.value_name(layer.name)} fits 32 bits; "
                "calibrate with data that reaches it",
            )


def _filled(structure: Any, values: dict[int, Values]) -> Any:
    """A structure of symbolic tensors with their values."""
    return keras.tree.map_structure(lambda x: values[id(x)] if isinstance(x, keras.KerasTensor) else x, structure)


def _chunks(structure: Any) -> Iterator[Any]:
    """A structure with values in it, chunk by chunk: the same examples of all of them."""
    flat = [v.array() if isinstance(v, Values) and not v.batched else v for v in keras.tree.flatten(structure)]
    moving = [v for v in flat if isinstance(v, Values)]
    for parts in zip(*(v.chunks() for v in moving), strict=True) if moving else [()]:
        rest = iter(parts)
        yield keras.tree.pack_sequence_as(structure, [next(rest) if isinstance(v, Values) else v for v in flat])


def _sizes(inputs: list[keras.KerasTensor], outputs: list[keras.KerasTensor]) -> Iterator[int]:
    """Values of one example in every tensor of a model of known size."""
    for call in compat.calls(inputs, outputs):
        yield from (int(np.prod(x.shape[1:], dtype=np.int64)) for x in call.outputs if None not in x.shape[1:])
        if isinstance(call.operation, keras.Model) and compat.is_functional(call.operation):
            yield from _sizes(call.operation.inputs, call.operation.outputs)


def _is_quantize(operation: Any) -> bool:
    """Whether this is a layer that only quantizes its input (compute layers say what theirs see with
    ``calibration_inputs``).
    """
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
        data: see ``calibration.data.read``, or what that returned.
        steps: how many batches of ``data`` to use.
        weights: method for constants (weights, pool reciprocals, slopes) instead of each quantizer's own.
        activations: method for everything else instead of each quantizer's own.
        progress: show a bar where it takes longer than two seconds.

    Returns:
        Report lines: thresholds frozen because what they see is zero everywhere, or so small that a bias would leave 32
            bits; sums and
        joins whose small branches keep a few levels.

    Raises:
        ValueError: for unusable data (see ``calibration.data.read``), an unknown method, NaN or Inf inside the network,
            or a model without quantizers.

    References: Jain et al., arXiv 1903.08066, section 4, "Calibration procedure".
    """
    for method in (weights, activations):
        if method is not None:
            methods.get(method)
    walk = _Walk(weights, activations, model.inputs[0].shape[0])
    ready = isinstance(data, list) and bool(data) and all(isinstance(values, Values) for values in data)
    examples = data if ready else calibration_data.read(data, model, steps, walk.spool)
    fixed = walk.fixed_batch
    if fixed is not None and examples[0].examples % fixed:
        raise ValueError(
            f"model {model.name!r} takes batches of exactly {fixed}; pass a multiple of {fixed} calibration examples, "
            f"got {examples[0].examples}"
        )
    # as many examples at once as keep the largest tensor of the model in some megabytes
    largest = max(_sizes(model.inputs, model.outputs), default=1)
    size = fixed or max(1, min(_CHUNK, _CHUNK_BYTES // (4 * max(largest, 1))))
    try:
        inputs = [values.rechunked(size) for values in examples]
        with compat.kept_state(model, but=Quantizer):  # of layers that carry one from batch to batch
            walk.model(list(model.inputs), list(model.outputs), inputs, progress)
        if not walk.before and not any(isinstance(layer, InFloat) for layer in model.layers):
            raise ValueError(
                f"model {model.name!r} has no quantizers to calibrate; make a quantized model with "
                "graffiti.quantize first"
            )
    except BaseException:
        walk.restore()
        raise
    return [*(line for line in walk.lines.values() if line is not None), *walk.lost]
