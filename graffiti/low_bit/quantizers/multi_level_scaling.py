"""Multi-level scaling: a float32 scale per tensor, a small float per group, a smaller float per element."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_choice
from graffiti.ops import loader, multi_level, training_quantize
from graffiti.ops import noise as counter_noise
from graffiti.quantizers.base import power_of_two

GROUPINGS = ("none", "first", "second", "both")


def floor_log2(x: tf.Tensor) -> tf.Tensor:
    """``floor(log2(x))`` of positive normal float32, from the bits; int32. Zero and subnormal numbers give -127."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def group_scale(relative: tf.Tensor, exponent_bits: int, mantissa_bits: int) -> tf.Tensor:
    """The smallest ``<E, M>`` number that is at least ``relative`` (0…1); 1 for an all-zero group.

    ``F * 2**e`` with ``F = ceil(relative / 2**e * 2**M) / 2**M`` in [1, 2) and ``e`` from ``1 - 2**E`` to 0.

    Args:
        relative: the group's largest magnitude over the tensor's, float32.
        exponent_bits, mantissa_bits: ``E`` and ``M``.
    """
    lowest = max(1 - 2**exponent_bits, -126)
    exponent = tf.clip_by_value(floor_log2(relative), -126, 0)
    fraction = tf.math.ceil(relative * power_of_two(-exponent) * 2.0**mantissa_bits) / 2.0**mantissa_bits
    carry = fraction >= 2.0
    fraction, exponent = tf.where(carry, 1.0, fraction), exponent + tf.cast(carry, tf.int32)
    too_small = exponent < lowest
    scale = (
        tf.where(too_small, 1.0, tf.maximum(fraction, 1.0))
        * power_of_two(tf.where(too_small, lowest, tf.minimum(exponent, 0)))
    )
    return tf.where(relative > 0, scale, tf.ones_like(scale))


def largest_element(exponent_bits: int, mantissa_bits: int, top_exponent: int = -1) -> float:
    """The largest number of ``<E, M>``: one step below ``2**(top_exponent + 1)``.

    Args:
        exponent_bits, mantissa_bits: ``E`` and ``M``; with ``E = 0`` numbers have no leading one, and ``M`` bits are
            all there is.
        top_exponent: of the largest binade.
    """
    step = 2.0 ** -(mantissa_bits + (exponent_bits > 0))
    return (1.0 - step) * 2.0 ** (top_exponent + 1)


def quantize_element(
    x: tf.Tensor, exponent_bits: int, mantissa_bits: int, noise: tf.Tensor | float = 0.0, *, carry: bool = True,
    top_exponent: int = -1
) -> tf.Tensor:
    """Magnitudes 0…1 to the small unsigned float ``<E, M>``.

    ``e = clip(floor(log2(x)), 1-2**E, -1)``, ``q = 2**(e-M)``, ``min(q * round(x/q + R), max)`` with ``R`` in [-1/2,
    1/2). For ``E = 0``: fixed point of M bits.

    Args:
        x: float32, 0 to 1.
        exponent_bits: E.
        mantissa_bits: M.
        noise: ``R``, or 0 for nearest (half to even).
        carry: whether rounding may reach the next binade; else the fraction stays at its largest code.
        top_exponent: -1: the largest number is ``1 - 2**-(M+1)``; 0: all exponents one higher.
    """
    shift = top_exponent + 1
    if exponent_bits == 0:
        exponent = tf.zeros_like(x, tf.int32) + shift
    else:
        exponent = tf.clip_by_value(floor_log2(x), 1 - 2**exponent_bits + shift, -1 + shift)
    spacing, per_spacing = power_of_two(exponent - mantissa_bits), power_of_two(mantissa_bits - exponent)
    codes = tf.maximum(tf.round(x * per_spacing + noise), 0.0)
    if not carry and exponent_bits:
        codes = tf.minimum(codes, 2.0 ** (mantissa_bits + 1) - 1.0)
    return tf.minimum(codes * spacing, largest_element(exponent_bits, mantissa_bits, top_exponent))


def quantize(
    x: tf.Tensor, group_axes: tuple[int, ...], element: tuple[int, int], group: tuple[int, int],
    noise: tf.Tensor | float = 0.0, *, carry: bool = True, top_exponent: int = -1, rescale: bool = False,
    largest: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A tensor in multi-level scaling.

    Args:
        x: float32.
        group_axes: the axes that one group spans.
        element: ``<E_x, M_x>``.
        group: ``<E_g, M_g>``.
        noise: ``R``, in [-1/2, 1/2).
        carry, top_exponent: see ``quantize_element``.
        rescale: the tensor's scale is ``max|x|`` over the largest representable number, so that the maximum does not
            saturate.
        largest: ``max|x|``, where it is known (of all replicas).

    Returns:
        ``(signed elements, group scales, tensor scale)``; their product is the quantized tensor.
    """
    magnitude = tf.abs(x)
    groups = tf.reduce_max(magnitude, group_axes, keepdims=True)
    tensor_scale = tf.reduce_max(groups) if largest is None else largest
    safe = tf.where(tensor_scale > 0, tensor_scale, tf.ones_like(tensor_scale))
    scales = group_scale(groups / safe, *group)
    factor = tensor_factor(tensor_scale, element, top_exponent, rescale)
    elements = quantize_element(
        magnitude / (tf.where(factor > 0, factor, tf.ones_like(factor)) * scales), *element, noise, carry=carry,
        top_exponent=top_exponent
    )
    return tf.sign(x) * elements, scales, factor


def tensor_factor(
    largest: tf.Tensor, element: tuple[int, int], top_exponent: int = -1, rescale: bool = False
) -> tf.Tensor:
    """The tensor's scale ``max|x|``; with ``rescale`` divided by the largest element.

    Args:
        largest: ``max|x|`` over all replicas.
        element: ``(E, M)``.
        top_exponent: as in ``largest_element``.
        rescale: whether the largest element stands for the maximum, which otherwise saturates.
    """
    return largest / largest_element(*element, top_exponent) if rescale else largest


@keras.saving.register_keras_serializable(package="graffiti")
class MultiLevelScaling(TensorQuantizer):
    """``x ~ sign * S_t * S_g * X``: float32 scale of the tensor, ``<E_g, M_g>`` scale of each group, ``<E_x, M_x>``
    elements.

    Every scale comes from the current tensor; nothing is remembered. The groups of a convolution's activations and
    gradients are (image, channel), of its kernel (input channel, output channel); of a kernel with one tap its output
    channels, since a group of one element would be its scale and nothing else, and its rounding not monotonic.
    Backward: straight through, no mask.

    Args:
        element: ``(E_x, M_x)``, exponent and mantissa bits of an element, sign not counted.
        group: ``(E_g, M_g)``.
        grouping: ``both``, ``first`` (image or output channel), ``second`` (channel or input channel) or ``none``.
        stochastic: stochastic rounding in training, for all three operands; false rounds to nearest there too.
        carry, top_exponent, rescale: see ``quantize``.
        use_sign_bit: in a tensor known not to be negative (activations after a ReLU) the bit that no sign needs is one
            of mantissa: ``<E_x, M_x + 1>``, as wide.
        **kwargs: see ``TensorQuantizer``.

    References: Zhong et al., arXiv 2006.02804, sections III and IV.
    """

    def __init__(
        self, *, element=(2, 1), group=(8, 1), grouping: str = "both", stochastic: bool = True, carry: bool = True,
        top_exponent: int = -1,
        rescale: bool = False, use_sign_bit: bool = False, **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.element = (
            check_bits("exponent of an element", element[0], 0, 5),
            check_bits("mantissa of an element", element[1], 1, 10)
        )
        self.use_sign_bit = bool(use_sign_bit)
        self.format = (self.element[0], self.element[1] + (self.use_sign_bit and not self.signed))
        self.group = (
            check_bits("exponent of a group scale", group[0], 1, 8),
            check_bits("mantissa of a group scale", group[1], 0, 10)
        )
        self.grouping = check_choice("grouping", grouping, GROUPINGS)
        self.stochastic, self.carry, self.rescale = bool(stochastic), bool(carry), bool(rescale)
        self.top_exponent = check_choice("top_exponent", top_exponent, (-1, 0))

    def build(self, input_shape=None) -> None:
        """Create the seeds."""
        if self.stochastic:
            self.add_noise()
        self.built = True

    def grouping_of(self, shape: tf.TensorShape) -> str:
        """``grouping``, but ``first`` where groups would be single weights."""
        single = self.role == "weights" and self.grouping == "both" and shape[:-2].num_elements() == 1
        return "first" if single else self.grouping

    def group_axes(self, shape: tf.TensorShape) -> tuple[int, ...]:
        """The axes that one group spans; NHWC and HWIO."""
        rank, grouping = len(shape), self.grouping_of(shape)
        first, second = (rank - 1, rank - 2) if self.role == "weights" else (0, rank - 1)
        axes = set(range(rank)) - {first, second}
        if grouping in ("none", "second"):
            axes.add(first)
        if grouping in ("none", "first"):
            axes.add(second)
        return tuple(sorted(axes))

    def encode(self, x, training, parameters=()):
        """The real values; outside training rounded to nearest, so that a trained network predicts the same twice."""
        ends = training_quantize.extremes(x)
        largest = replicas.maximum(tf.maximum(-ends[0], ends[1]))
        seed = self.next_seed() if self.stochastic and training else None
        if loader.engine_of("auto") == "native" and len(x.shape) >= 2:
            return Quantized(self._native(x, largest, seed, ends))
        noise = 0.0 if seed is None else counter_noise.uniform(tf.shape(x), seed) - 0.5
        elements, groups, scale = quantize(
            x, self.group_axes(x.shape), self.format, self.group, noise, carry=self.carry,
            top_exponent=self.top_exponent, rescale=self.rescale,
            largest=largest)
        return Quantized(elements * (groups * self.finite_scale(scale, ends)))

    def _native(self, x, largest, seed, ends):
        """The same in two native passes."""
        layout = self.layout(x)
        safe = tf.where(largest > 0, largest, tf.ones_like(largest))
        groups = group_scale(multi_level.group_maximum(x, layout) / safe, *self.group)
        factor = tensor_factor(largest, self.format, self.top_exponent, self.rescale)
        divisor = tf.where(factor > 0, factor, tf.ones_like(factor))
        return multi_level.quantize(
            x, divisor * groups, groups * self.finite_scale(factor, ends), layout, self.format, carry=self.carry,
            top_exponent=self.top_exponent, seed=seed
        )

    def layout(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` as ``[outer, rows, groups, inner]`` with one group for each (outer, group); at least two axes."""
        sizes = tf.shape(x, tf.int64)
        one, middle = tf.constant(1, tf.int64), tf.reduce_prod(sizes[1:-1])
        grouping = self.grouping_of(x.shape)
        by_first, by_second = grouping in ("both", "first"), grouping in ("both", "second")
        if self.role == "weights":  # [..., second, first]
            window, second, first = tf.reduce_prod(sizes[:-2]), sizes[-2], sizes[-1]
            if by_first:
                return tf.stack([one, window, second * first, one] if by_second else [one, window * second, first, one])
            return tf.stack([one, window, second, first] if by_second else [one, window * second, one, first])
        outer, rows = (sizes[0], middle) if by_first else (one, sizes[0] * middle)  # [first, ..., second]
        return tf.stack([outer, rows, sizes[-1], one] if by_second else [outer, rows, one, sizes[-1]])

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        names = ("element", "group", "grouping", "stochastic", "carry", "top_exponent", "rescale", "use_sign_bit")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
