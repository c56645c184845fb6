"""``Quantizer``: the Keras object that holds a threshold and fake-quantizes with it. The maths is in
``log_threshold.py``.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti import checks
from graffiti.numerics.formats import QFormat, exponent_of_threshold
from graffiti.numerics.rounding import check_rounding

MIN_BITS, MAX_BITS = 2, 16
# ceil(log2_threshold) is held in ±100, so that scales, their inverses and ranges are normal float32
MAX_LOG2 = 100.0
ZERO_LOG2_THRESHOLD = -16.0  # for a tensor that is zero everywhere

# of numbers that the graph itself brought: never trained, whatever becomes of the layer around them
CONSTANT_ROLES = ("reciprocal", "alpha")

ChannelAxis = int | str | None


def power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    """``2**exponent`` in float32 from its bits, exact: int32 exponents in −126…127, any shape."""
    return tf.bitcast((exponent + 127) * (1 << 23), tf.float32)


def exponents(log2_threshold: tf.Tensor, bits: int, signed: bool) -> tf.Tensor:
    """int32 exponent of one step, ``ceil(log2_threshold) - (bits - signed)``; any shape.

    Args:
        log2_threshold: float32; its ceiling is held within ``±MAX_LOG2``.
        bits: of the code.
        signed: whether the code has a sign bit, which takes one of the bits.
    """
    ceiling = tf.clip_by_value(tf.cast(tf.math.ceil(log2_threshold), tf.int32), -int(MAX_LOG2), int(MAX_LOG2))
    return ceiling - (bits - int(signed))


def channel_axes(rank: int, channel_axis: ChannelAxis) -> tuple[int, ...]:
    """The axes of a tensor of this rank that ``channel_axis`` means, counted from the front."""
    if channel_axis is None:
        return ()
    if isinstance(channel_axis, str):  # "flat"
        return rank - 2, rank - 1
    return (channel_axis + rank if channel_axis < 0 else channel_axis,)


def channel_shape(shape: tuple[int | None, ...], channel_axis: ChannelAxis) -> tuple[int, ...]:
    """Shape of one value per channel that broadcasts against a tensor.

    Args:
        shape: the tensor's.
        channel_axis: ``None`` for one value, the index of an axis, or ``"flat"`` for the last two axes taken together
            (the channels ``c * multiplier + m`` of a depthwise kernel).

    Raises:
        ValueError: where the tensor has no such axis, or its length is unknown.
    """
    rank = len(shape)
    if channel_axis is None:
        return ()
    axes = channel_axes(rank, channel_axis)
    if any(not 0 <= axis < rank or shape[axis] is None for axis in axes):
        raise ValueError(
            f"channel_axis={channel_axis!r} must name an axis of known length, but the tensor has the shape "
            f"{tuple(shape)}"
        )
    return tuple(int(size or 0) if axis in axes else 1 for axis, size in enumerate(shape))


def channel_view(values: np.ndarray, channel_axis: ChannelAxis) -> np.ndarray:
    """A numpy tensor as ``(channels, values)``; one row where there is one threshold."""
    if channel_axis is None:
        return values.reshape(1, -1)
    if isinstance(channel_axis, str):  # "flat"
        return values.reshape(-1, values.shape[-2] * values.shape[-1]).T
    return np.moveaxis(values, channel_axis, 0).reshape(values.shape[channel_axis], -1)


_RANGE = "range"  # the entry of weight files that holds the lowest and the highest code


class Quantizer(keras.layers.Layer):
    """A fake-quantizer: ``call(x)`` returns ``clip(round(x/s), qmin, qmax) * s`` with ``s = 2**exponent``.

    It is a layer, so that its variables are tracked, saved and loaded with the layer that holds it. It always computes
    in float32, whatever the model's dtype policy.

    Args:
        bits: width of the code, 2 to 16.
        signed: two's complement if true, else unsigned.
        narrow: a signed range without its lowest code.
        rounding: a mode of ``numerics/rounding.py``.
        channel_axis: ``None`` for one threshold; the axis (or ``"flat"``) whose every index has its own.
        role: what it quantizes: ``input weight bias accumulator activation rescale reciprocal alpha``.
        calibration: name of the method that gives the first threshold (``calibration/methods.py``).
        trainable: whether an optimizer may move the threshold.

    Attributes:
        log2_threshold: float32 variable, shape ``()`` or ``(channels,)``; ``t = 2**log2_threshold``, un-ceiled.
        frozen: bool variable of the same shape: this threshold is not trained any more.
        calibrated: bool variable: the threshold came from data (or was set), not from the initializer.

    Raises:
        ValueError: where an argument is out of its range.

    References: Jain et al., arXiv 1903.08066, section 3.
    """

    trains_threshold = True  # whether the class has a threshold gradient

    def __init__(
        self, bits: int = 8, signed: bool = True, *, narrow: bool = False, rounding: str = "half_even",
        channel_axis: ChannelAxis = None, role: str = "activation", calibration: str = "max", trainable: bool = True,
        name: str | None = None, dtype: Any = "float32",
    ) -> None:
        bits = checks.whole("bits of a quantizer", bits, MIN_BITS, MAX_BITS)
        if narrow and not signed:
            raise ValueError("narrow drops the lowest code of a signed range; an unsigned quantizer cannot be narrow")
        if (
            not (
                channel_axis in (None, "flat") or (isinstance(channel_axis, int) and not isinstance(channel_axis, bool))
            )
        ):
            raise ValueError(f"channel_axis is None, 'flat' or the index of an axis, got {channel_axis!r}")
        # a loaded config names a dtype; there is only this one
        super().__init__(name=name, trainable=trainable, dtype="float32")
        self.bits, self.signed, self.narrow = bits, bool(signed), bool(narrow)
        self.rounding = check_rounding(rounding)
        self.channel_axis, self.role, self.calibration = channel_axis, role, calibration
        self.supports_masking = True
        self.log2_threshold: Any = None
        self.frozen: Any = None
        self.calibrated: Any = None

    # ---- range --------------------------------------------------------------------------------------------------
    @property
    def qmin(self) -> int:
        """Lowest code."""
        return -(1 << (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - int(self.signed))) - 1

    # ---- state --------------------------------------------------------------------------------------------------
    def build(self, input_shape) -> None:
        """Create the threshold for a tensor of this shape."""
        sizes = channel_shape(tuple(input_shape), self.channel_axis)
        shape = () if self.channel_axis is None else (int(np.prod(sizes)),)
        self.log2_threshold = self.add_weight(
            name="log2_threshold", shape=shape, initializer="zeros",
            trainable=self.trains_threshold and (self.trainable or self.role not in CONSTANT_ROLES)
        )
        self.frozen = self.add_weight(name="frozen", shape=shape, initializer="zeros", dtype="bool", trainable=False)
        self.calibrated = self.add_weight(
            name="calibrated", shape=(), initializer="zeros", dtype="bool", trainable=False
        )
        self.log2_threshold.frozen = self.frozen  # the threshold optimizer masks its updates with it (optimizers.py)

    def assign_log2(self, log2_threshold, *, frozen=None) -> None:
        """Set ``log2_threshold`` (one number, or one per channel) and perhaps ``frozen``.

        Raises:
            ValueError: where the count is wrong or a value is not finite or beyond ±100; nothing is changed then.
        """
        self._need_built()
        values, shape = np.asarray(log2_threshold, np.float32), tuple(self.log2_threshold.shape)
        if values.size not in (1, int(np.prod(shape))):
            raise ValueError(f"quantizer {self.path!r} has {int(np.prod(shape))} thresholds, got {values.size} values")
        if not np.all(np.abs(values) <= MAX_LOG2):
            raise ValueError(
                f"log2 of a threshold of quantizer {self.path!r} must be finite and within ±{MAX_LOG2:.0f}, got "
                f"{values}"
            )
        self.log2_threshold.assign(
            np.broadcast_to(values.reshape(shape if values.size > 1 or not shape else (1,)), shape)
        )
        self.calibrated.assign(True)
        if frozen is not None:
            self.frozen.assign(np.broadcast_to(np.asarray(frozen, bool), shape))

    def set_threshold(self, threshold) -> None:
        """Set the real thresholds ``t``; a zero becomes ``log2_threshold = -16`` and stays frozen.

        Raises:
            ValueError: where a threshold is negative or not finite; nothing is changed then.
        """
        threshold = np.asarray(threshold, np.float64)
        if not np.all(np.isfinite(threshold) & (threshold >= 0)):
            raise ValueError(f"a threshold of quantizer {self.path!r} must be a finite number >= 0, got {threshold}")
        zero = threshold == 0
        log2 = np.log2(np.where(zero, 1.0, threshold))
        self.assign_log2(np.where(zero, ZERO_LOG2_THRESHOLD, np.clip(log2, -MAX_LOG2, MAX_LOG2)), frozen=zero)

    def _need_built(self) -> None:
        if self.log2_threshold is None:
            raise ValueError(
                f"quantizer {self.name!r} has no threshold yet; build it with the shape of what it quantizes first"
            )

    # ---- values -------------------------------------------------------------------------------------------------
    def call(self, x):
        """Fake-quantize ``x``, float32, any shape."""
        raise NotImplementedError

    def exponent(self) -> tf.Tensor:
        """Exponent of one step: integer-valued float32, shape ``()`` or ``(channels,)``; no gradient."""
        return tf.cast(self._exponents(), tf.float32)

    def scale(self) -> tf.Tensor:
        """One step ``2**exponent``: float32, exactly a power of two, shape ``()`` or ``(channels,)``; no gradient."""
        return power_of_two(self._exponents())

    def _exponents(self) -> tf.Tensor:
        self._need_built()
        return exponents(tf.convert_to_tensor(self.log2_threshold), self.bits, self.signed)

    def qformat(self) -> QFormat | None:
        """The fixed-point format of the output, from the current thresholds."""
        self._need_built()
        log2 = np.clip(self.log2_threshold.numpy(), -MAX_LOG2, MAX_LOG2)
        exponent = exponent_of_threshold(log2, self.bits, self.signed)
        return QFormat(
            self.bits, self.signed, tuple(exponent.tolist()) if exponent.ndim else int(exponent), self.narrow
        )

    # ---- Keras --------------------------------------------------------------------------------------------------
    def save_own_variables(self, store) -> None:
        """The variables, and the range of codes that the threshold was meant for."""
        super().save_own_variables(store)
        store[_RANGE] = np.asarray([self.qmin, self.qmax], np.int32)

    def load_own_variables(self, store) -> None:
        """The variables of a quantizer with the same range of codes.

        A threshold means another step in another range, so the weights of one network would silently become another
        network's. Files of before hold no range and load as they did.

        Raises:
            ValueError: where the file's quantizer has another width or signedness.
        """
        if _RANGE in store.keys():
            low, high = (int(value) for value in np.asarray(store[_RANGE]))
            if (low, high) != (self.qmin, self.qmax):
                raise ValueError(
                    f"quantizer {self.path!r} has codes from {self.qmin} to {self.qmax}, the weights are of one with "
                    f"codes from {low} to {high}; "
                    "load the whole model with keras.models.load_model, or quantize with the same scheme and "
                    "calibration data (an input that is never negative is unsigned)"
                )
        super().load_own_variables({key: store[key] for key in store.keys() if key != _RANGE})

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "dtype": "float32",
            "bits": self.bits, "signed": self.signed, "narrow": self.narrow, "rounding": self.rounding,
            "channel_axis": self.channel_axis, "role": self.role, "calibration": self.calibration,
        }
