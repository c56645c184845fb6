"""Slow and obvious: products by loops over the window, written from the definition. For these tests only."""

from __future__ import annotations

import numpy as np

from graffiti.numerics.rounding import shift_right


def pads(size: int, window: int, stride: int, dilation: int, padding) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def patches(x, window, strides, dilation, padding, fill=0):
    """``(window place, slice)`` pairs; slices are ``(batch, rows, columns, channels)``."""
    around = padding if not isinstance(padding, str) else [
        pads(n, k, s, d, padding) for n, k, s, d in zip(x.shape[1:3], window, strides, dilation)]
    x = np.pad(x.astype(np.int64), [(0, 0), *around, (0, 0)], constant_values=fill)
    rows, columns = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[1:3], window, strides, dilation)]
    for u in range(window[0]):
        for v in range(window[1]):
            top, left = u * dilation[0], v * dilation[1]
            yield (
                (u, v),
                x[
                    :,
                    top : top + (rows - 1) * strides[0] + 1 : strides[0],
                    left : left + (columns - 1) * strides[1] + 1 : strides[1],
                ],
            )


def conv2d(x, kernel, strides, padding, dilation, groups):
    kernel = kernel.astype(np.int64)
    width, out = kernel.shape[2], kernel.shape[3] // groups
    parts = []
    for g in range(groups):
        part = sum(
            np.einsum(
                "bijc,co->bijo", piece[..., g * width : (g + 1) * width], kernel[u, v][:, g * out : (g + 1) * out]
            )
            for (u, v), piece in patches(x, kernel.shape[:2], strides, dilation, padding)
        )
        parts.append(part)
    return np.concatenate(parts, -1)


def depthwise_conv2d(x, kernel, strides, padding, dilation):
    kernel = kernel.astype(np.int64)
    total = sum(
        piece[..., None] * kernel[u, v] for (u, v), piece in patches(x, kernel.shape[:2], strides, dilation, padding)
    )
    return total.reshape(*total.shape[:3], -1)


def conv2d_transpose(x, kernel, strides, cut):
    """Every input element adds its multiple of the kernel; then rows and columns are cut or appended."""
    x, kernel = x.astype(np.int64), kernel.astype(np.int64)
    batch, height, width, _ = x.shape
    full = np.zeros(
        (
            batch,
            (height - 1) * strides[0] + kernel.shape[0],
            (width - 1) * strides[1] + kernel.shape[1],
            kernel.shape[2],
        ),
        np.int64,
    )
    for i in range(height):
        for j in range(width):
            top, left = i * strides[0], j * strides[1]
            full[:, top : top + kernel.shape[0], left : left + kernel.shape[1]] += np.einsum(
                "bc,uvoc->buvo", x[:, i, j], kernel
            )
    for axis, (front, back) in enumerate(cut, start=1):
        grow = [(0, 0)] * 4
        grow[axis] = (0, max(-back, 0))
        full = np.pad(full, grow)
        full = np.take(full, range(front, full.shape[axis] - max(back, 0)), axis)
    return full


def max_pool(x, pool_size, strides, padding):
    return np.max(
        [piece for _, piece in patches(x, pool_size, strides, (1, 1), padding, fill=np.iinfo(np.int64).min)], 0
    )


def requantize(x, shift, low, high, rounding):
    return np.clip(shift_right(x, shift, rounding), low, high)
