"""Sliding windows over the spatial axes of channels-last arrays: output lengths, padding, and views of all windows.

The lengths follow TensorFlow (``same`` puts the odd zero behind) and Keras (transposed convolutions). numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def window_output(size: int | None, window: int, stride: int, dilation: int, padding: str) -> int | None:
    """Output length of a sliding window along one axis, ``None`` for an unknown length."""
    if size is None:
        return None
    if padding == "same":
        return -(-size // stride)
    return max((size - (window - 1) * dilation - 1) // stride + 1, 0)


def window_pads(size: int, window: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Zeros that ``padding`` puts before and after one axis (TensorFlow's rule: the odd one goes after)."""
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def transpose_output(size: int | None, window: int, stride: int, padding: str, output_padding: int | None) -> int | None:
    """Output length of a transposed convolution along one axis (Keras' rule, dilation 1)."""
    if size is None:
        return None
    if output_padding is None:
        return size * stride if padding == "same" else size * stride + max(window - stride, 0)
    total = 2 * (window // 2) if padding == "same" else 0
    return (size - 1) * stride + window - total + output_padding


def transpose_pads(window: int, stride: int, padding: str, output_padding: int | None) -> tuple[int, int]:
    """Rows cut from the front and back of the full transposed convolution (length ``(size-1)*stride + window``).

    ``same`` cuts ``window - stride`` in all, or ``2*(window//2) - output_padding`` where that is given, the smaller half
    in front (what TensorFlow does for the output length that Keras asks for). The back may be negative: zeros are appended.
    """
    if padding == "valid":
        return 0, min(window - stride, 0) if output_padding is None else -output_padding
    total = window - stride if output_padding is None else 2 * (window // 2) - output_padding
    front = max(total, 0) // 2
    return front, total - front


def pad_spatial(x: np.ndarray, pads: Sequence[tuple[int, int]], value=0) -> np.ndarray:
    """``x`` with ``value`` around its spatial axes (1 … rank-2); ``x`` itself where nothing is added."""
    if not any(before or after for before, after in pads):
        return x
    return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)


def windows(
    x: np.ndarray, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: str, value=0,
) -> np.ndarray:
    """All windows of a channels-last array as a read-only view of the (padded) input.

    Args:
        x: ``(batch, *spatial, channels)``.
        window, strides, dilation: one integer per spatial axis.
        padding: ``same`` or ``valid``.
        value: what the padding holds.

    Returns:
        ``(batch, *output, *window, channels)``.
    """
    sizes = x.shape[1:-1]
    pads = [window_pads(n, k, s, d, padding) for n, k, s, d in zip(sizes, window, strides, dilation)]
    output: list = [window_output(n, k, s, d, padding) for n, k, s, d in zip(sizes, window, strides, dilation)]
    x = pad_spatial(x, pads, value)
    steps = x.strides[1:-1]
    return np.lib.stride_tricks.as_strided(
        x, (x.shape[0], *output, *window, x.shape[-1]),
        (x.strides[0], *(b * s for b, s in zip(steps, strides)), *(b * d for b, d in zip(steps, dilation)), x.strides[-1]),
        writeable=False,
    )


def window_slices(
    x: np.ndarray, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: str, value=0,
):
    """For each position inside the window, what all windows see there: ``(position, (batch, *output, channels))``."""
    view = windows(x, window, strides, dilation, padding, value)
    rank = len(window)
    for position in np.ndindex(*window):
        yield position, view[(slice(None),) * (rank + 1) + position]
