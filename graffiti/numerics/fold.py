"""Batch norm folding: only IEEE-exact basic operations, in one order, in float64; one rounding to float32 at the end.

``layers/fold.py`` is the TensorFlow twin of the inference form and gives the same bits. The training form (batch
statistics on a kernel that was folded with the moving variance) is the float64 reference that the layers' training pass
is tested against.

References: Jain et al., arXiv 1903.08066, section 4; section 5 of its specification.
"""

from __future__ import annotations

import numpy as np


def multiplier(gamma, variance, epsilon: float) -> np.ndarray:
    """``gamma / sqrt(variance + epsilon)`` as ``sign(gamma) * sqrt(gamma*gamma / (variance + epsilon))``, float64.

    This form because graph optimizers rewrite ``x / sqrt(y)``, which rounds differently; they leave a root of a
    quotient alone.

    Args:
        gamma: ``(channels,)``.
        variance: ``(channels,)``, moving, not negative.
        epsilon: as the batch norm has it.

    Raises:
        ValueError: where ``variance + epsilon`` is not positive.
    """
    gamma, variance = np.asarray(gamma, np.float64), np.asarray(variance, np.float64) + np.float64(epsilon)
    if not (variance > 0).all():
        raise ValueError(f"batch norm needs variance + epsilon > 0 in every channel, got {variance.min()}; check the "
                         "moving variance")
    return np.sign(gamma) * np.sqrt(gamma * gamma / variance)


def per_channel(values, kernel_shape: tuple[int, ...], channel_axis: int | str) -> np.ndarray:
    """One value per output channel, shaped to broadcast against the kernel.

    Args:
        values: ``(channels,)``.
        kernel_shape: shape of the kernel.
        channel_axis: the kernel's axis of output channels (conv and dense −1, transposed conv −2), or ``flat``: the
            last two axes together, in row-major order (depthwise ``(..., in, multiplier)``).
    """
    values = np.asarray(values)
    if channel_axis == "flat":
        expected, shape = kernel_shape[-2] * kernel_shape[-1], kernel_shape[-2:]
    else:
        axis = int(channel_axis) % len(kernel_shape)
        expected, shape = kernel_shape[axis], (kernel_shape[axis],) + (1,) * (len(kernel_shape) - 1 - axis)
    if values.shape != (expected,):
        raise ValueError(
            f"a kernel {kernel_shape} with channel axis {channel_axis!r} takes {expected} values, one per output "
            f"channel, got shape {values.shape}"
        )
    return values.reshape(shape)


def fold_kernel(kernel, gamma, variance, epsilon: float, channel_axis: int | str = -1) -> np.ndarray:
    """``float32(float64(kernel) * multiplier)``, the shape of ``kernel``.

    Args:
        kernel: float32, laid out as in ``graph/ops.py``.
        gamma, variance, epsilon: as in ``multiplier``.
        channel_axis: as in ``per_channel``.

    Raises:
        ValueError: where ``variance + epsilon`` is not positive, or the channels are not the kernel's.
    """
    kernel = np.asarray(kernel, np.float64)
    return (kernel * per_channel(multiplier(gamma, variance, epsilon), kernel.shape, channel_axis)).astype(np.float32)


def fold_bias(bias, gamma, beta, mean, variance, epsilon: float) -> np.ndarray:
    """``float32(beta + (bias - mean) * multiplier)``, all ``(channels,)``.

    Args:
        bias: of the layer in front; zeros where it had none.
        gamma, variance, epsilon: as in ``multiplier``.
        beta: what the batch norm adds.
        mean: moving, as ``variance``.

    Raises:
        ValueError: where ``variance + epsilon`` is not positive.
    """
    bias, beta, mean = (np.asarray(value, np.float64) for value in (bias, beta, mean))
    return (beta + (bias - mean) * multiplier(gamma, variance, epsilon)).astype(np.float32)


def batch_statistics(product) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance (divided by n) over all axes but the last, float64."""
    product = np.asarray(product, np.float64)
    axes = tuple(range(product.ndim - 1))
    return product.mean(axes), product.var(axes)


def training_correction(
    gamma, beta, mean, variance, moving_mean, moving_variance, epsilon: float, frozen: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """What the training graph does to ``Y = product(x, q(kernel * gamma/sqrt(v+eps)))``: ``out = Y * correction +
    bias``.

    With ``f = 1`` where batch norm is frozen, else 0::

        correction = f + (1-f) * sqrt(v+eps) / sqrt(v_b+eps)
        bias       = beta - gamma * (f * mu/sqrt(v+eps) + (1-f) * mu_b/sqrt(v_b+eps))

    Args:
        gamma, beta: ``(channels,)``.
        mean, variance: ``mu_b, v_b`` of the product with the float kernel, from ``batch_statistics``.
        moving_mean, moving_variance: ``mu, v``.
        epsilon: as the batch norm has it.
        frozen: whether the batch statistics are ignored.

    Returns:
        ``(correction, bias)``, float64 ``(channels,)``.

    References: section 5 and C8 of the specification of arXiv 1903.08066.
    """
    gamma, beta, mean, variance, moving_mean, moving_variance = (
        np.asarray(value, np.float64) for value in (gamma, beta, mean, variance, moving_mean, moving_variance)
    )
    moving, batch = np.sqrt(moving_variance + epsilon), np.sqrt(variance + epsilon)
    if frozen:
        return np.ones_like(moving), beta - gamma * moving_mean / moving
    return moving / batch, beta - gamma * mean / batch


def bessel_to_biased(variance, count: int) -> np.ndarray:
    """A variance divided by ``n-1`` as one divided by ``n``: times ``(n-1)/n`` (fused batch norms return the
    former).
    """
    return np.asarray(variance, np.float64) * (count - 1) / count
