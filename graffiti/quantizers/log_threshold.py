"""``LogThreshold``: a power-of-two scale from a threshold that is trained in the log domain (TQT / ALT)."""

from __future__ import annotations

import functools
import math
import os

import keras
import numpy as np
import tensorflow as tf

from graffiti.numerics.rounding import check_rounding
from graffiti.ops.fallback import round_real
from graffiti.quantizers.base import ChannelAxis, Quantizer, channel_axes, channel_shape, exponents, power_of_two


@functools.cache
def fused_gradient() -> bool:
    """Whether the backward pass uses TensorFlow's fused masking op.

    It halves the time on a CPU but XLA has no kernel for it; so not where there is an accelerator, for which Keras
    compiles with XLA by itself, and not with ``GRAFFITI_XLA=1`` in the environment. The results are the same for
    finite inputs.
    """
    return (
        os.environ.get("GRAFFITI_XLA", "0") != "1"
        and all(device.device_type == "CPU" for device in tf.config.list_physical_devices())
    )


def code_range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Lowest and highest code.

    Args:
        bits: of the code, the sign included.
        signed: two's complement; else the lowest code is 0.
        narrow: whether a signed range lacks its lowest code.
    """
    return (-(1 << (bits - 1)) + int(narrow) if signed else 0), (1 << (bits - int(signed))) - 1


def inside_bounds(low: int, high: int, rounding: str) -> tuple[np.float32, np.float32]:
    """The smallest and largest float32 ``u`` with ``low <= round(u) <= high``.

    Half to even: ``[low-0.5, high+0.5)``, where a tie at the lower end counts as inside only if ``low`` is even.

    Args:
        low, high: the range of codes, both included.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.

    Returns:
        ``(smallest, largest)``, both inside.
    """
    if rounding == "floor":
        below, above, includes_low, includes_high = float(low), high + 1.0, True, False
    else:
        below, above = low - 0.5, high + 0.5
        includes_low = {"half_even": low % 2 == 0, "half_up": True, "half_away": low > 0}[rounding]
        includes_high = {"half_even": high % 2 == 0, "half_up": False, "half_away": high < 0}[rounding]
    first, last, inf = np.float32(below), np.float32(above), np.float32(np.inf)
    return first if includes_low else np.nextafter(first, inf), last if includes_high else np.nextafter(last, -inf)


def log_threshold_quantize(
    x, log2_threshold, *, bits: int, signed: bool, narrow: bool = False, rounding: str = "half_even",
    channel_axis: ChannelAxis = None, frozen=None,
) -> tf.Tensor:
    r"""Fake-quantize with a power-of-two scale from a threshold in the log domain.

    Forward, with ``s = 2**ceil(log2_threshold) / L``, ``L = 2**(bits-1)`` signed, ``2**bits`` unsigned, ``n, p`` the
    lowest and highest code, and ``r = round(x/s)``:

    .. math:: q(x) = \mathrm{clip}(r, n, p) \cdot s

    Backward, with ``g`` the upstream gradient and ``inside = n <= r <= p`` (of the *rounded* value):

    .. math:: \frac{dL}{dx} = g \cdot inside, \qquad
        \frac{dL}{d\log_2 t} = s \ln 2 \sum g \cdot \{ r - x/s \text{ inside};\ n \text{ below};\ p \text{ above} \}

    ``ceil`` is differentiated straight through; the sum goes over all elements, per channel with ``channel_axis``.
    Scales are made of bits, so dividing by them is exact; a finite ``x`` of any size saturates, NaN stays NaN.

    Args:
        x: float32, any shape.
        log2_threshold: float32, shape ``()``, or ``(channels,)`` with ``channel_axis``.
        bits: width of the code.
        signed: two's complement if true, else unsigned.
        narrow: a signed range without its lowest code.
        rounding: a mode of ``numerics/rounding.py``.
        channel_axis: see ``Quantizer``.
        frozen: bool tensor of the shape of ``log2_threshold``: true gives that threshold a zero gradient. ``True``
            (Python) leaves the threshold's gradient out altogether.

    Returns:
        float32 of the shape of ``x``.

    References: Jain et al., arXiv 1903.08066, section 3; the in-range term keeps the rounding error ``r - x/s``.
    """
    check_rounding(rounding)
    x = tf.cast(x, tf.float32)
    log2_threshold = tf.cast(tf.convert_to_tensor(log2_threshold), tf.float32)
    low, high = code_range(bits, signed, narrow)
    shape = channel_shape(tuple(x.shape), channel_axis)
    other_axes = (
        [axis for axis in range(len(shape)) if axis not in channel_axes(len(shape), channel_axis)] if shape else None
    )
    train_threshold = frozen is not True
    mask = None if frozen is None or isinstance(frozen, bool) else tf.convert_to_tensor(frozen)

    def forward(x, log2_threshold):
        exponent = exponents(log2_threshold, bits, signed)
        scale, inverse = (tf.reshape(power_of_two(e), shape) for e in (exponent, -exponent))
        if rounding == "half_even" and channel_axis is None:  # one pass over memory instead of five, the same values
            quantized = tf.raw_ops.QuantizeAndDequantizeV2(
                input=x, input_min=low * scale, input_max=high * scale, signed_input=signed, num_bits=bits,
                range_given=True, round_mode="HALF_TO_EVEN", narrow_range=narrow,
            )
        else:
            quantized = tf.clip_by_value(round_real(x * inverse, rounding), low, high) * scale
        first, last = (bound * scale for bound in inside_bounds(low, high, rounding))

        def gradient(upstream):
            if channel_axis is None and fused_gradient():
                def keep(values):
                    return tf.raw_ops.QuantizeAndDequantizeV4Grad(
                        gradients=values, input=x, input_min=first, input_max=last
                    ).input_backprop
            else:
                inside = (x >= first) & (x <= last)

                def keep(values):
                    return tf.where(inside, values, tf.zeros_like(values))
            to_x = keep(upstream)
            if not train_threshold:
                return to_x, tf.zeros_like(log2_threshold)
            # s*(r - x/s) inside, s*n or s*p outside: the output without its straight-through part
            terms = upstream * (quantized - keep(x))
            total = tf.reshape(tf.reduce_sum(terms, other_axes), tf.shape(log2_threshold)) * math.log(2.0)
            return to_x, total if mask is None else tf.where(mask, tf.zeros_like(total), total)

        return quantized, gradient

    return tf.custom_gradient(forward)(x, log2_threshold)


@keras.saving.register_keras_serializable(package="graffiti")
class LogThreshold(Quantizer):
    """Fake-quantizer with a trained log2 threshold; see ``log_threshold_quantize`` and ``Quantizer``."""

    def build(self, input_shape) -> None:
        """Create the threshold for a tensor of this shape."""
        super().build(input_shape)
        self.supports_jit = not fused_gradient()

    def call(self, x):
        """Fake-quantize ``x``, float32, any shape; the gradient reaches ``x`` and ``log2_threshold``."""
        return log_threshold_quantize(
            x, self.log2_threshold, bits=self.bits, signed=self.signed, narrow=self.narrow, rounding=self.rounding,
            channel_axis=self.channel_axis, frozen=self.frozen if self.log2_threshold.trainable else True,
        )
