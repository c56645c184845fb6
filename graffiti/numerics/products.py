"""Convolutions and dense products in whatever dtype the arrays have: the loops that integers and floats share.

``reference.py`` chooses a dtype in which every sum of its integers is exact; ``graph/float_interpreter.py`` uses
float32 or float64. Layouts are channels-last, kernels as in ``graph/ops.py``. One- and two-dimensional (any rank, in
fact).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graffiti.numerics.windows import transpose_pads, window_slices, windows

_CHUNK = 1 << 22  # elements of unfolded input held at a time


def _chunks(batch: int, per_example: int) -> Iterator[slice]:
    """Slices of the batch with about ``_CHUNK`` elements each; one (empty) slice for an empty batch."""
    step = max(_CHUNK // max(per_example, 1), 1)
    for start in range(0, max(batch, 1), step):
        yield slice(start, start + step)


def _by_chunks(x: np.ndarray, per_example: int, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    parts = [compute(x[chunk]) for chunk in _chunks(len(x), per_example)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def conv(
    x: np.ndarray, kernel: np.ndarray, strides: Sequence[int], padding: str = "valid",
    dilation: Sequence[int] | None = None, groups: int = 1,
) -> np.ndarray:
    """``y[b, p, o] = sum_{w, i} x[b, p*stride + w*dilation - pad, i] * kernel[w, i, o]``, zeros outside.

    Args:
        x: ``(batch, *spatial, in)``.
        kernel: ``(*window, in/groups, out)``; output channels come in ``groups`` equal blocks, each reading its own
            input block.
        strides, dilation: one integer per spatial axis; dilation 1 by default.
        padding: ``same`` or ``valid``.
        groups: divides both channel counts.

    Returns:
        ``(batch, *output, out)``.
    """
    *window, inputs, outputs = kernel.shape
    if x.shape[-1] != inputs * groups or outputs % groups:
        raise ValueError(
            f"a convolution in {groups} groups of a kernel {kernel.shape} expects {inputs * groups} input channels, "
            f"got {x.shape[-1]}"
        )
    dilation = dilation or (1,) * len(window)
    each = outputs // groups
    count = math.prod(window) * inputs

    def unfold(part):
        blocks = []
        for group in range(groups):
            view = windows(part[..., group * inputs : (group + 1) * inputs], window, strides, dilation, padding)
            spatial = view.shape[: len(window) + 1]
            rows = view.reshape(math.prod(spatial), count)
            matrix = kernel[..., group * each : (group + 1) * each].reshape(count, each)
            blocks.append((rows @ matrix).reshape(*spatial, each))
        return blocks[0] if groups == 1 else np.concatenate(blocks, -1)

    return _by_chunks(x, math.prod(x.shape[1:-1]) * count // max(math.prod(strides), 1), unfold)


def depthwise_conv(
    x: np.ndarray, kernel: np.ndarray, strides: Sequence[int], padding: str = "valid",
    dilation: Sequence[int] | None = None,
) -> np.ndarray:
    """``y[b, p, c*multiplier + m] = sum_w x[b, p*stride + w*dilation - pad, c] * kernel[w, c, m]``.

    Args:
        x: ``(batch, *spatial, in)``.
        kernel: ``(*window, in, multiplier)``.
        strides, padding, dilation: as in ``conv``.

    Returns:
        ``(batch, *output, in * multiplier)``.
    """
    *window, channels, multiplier = kernel.shape
    if x.shape[-1] != channels:
        raise ValueError(f"a depthwise kernel {kernel.shape} expects {channels} input channels, got {x.shape[-1]}")
    dilation = dilation or (1,) * len(window)

    def slide(part):
        total = None
        for position, seen in window_slices(part, window, strides, dilation, padding):
            term = seen * kernel[position][:, 0] if multiplier == 1 else seen[..., None] * kernel[position]
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None  # a window has at least one position
        return total.reshape(*total.shape[: len(window) + 1], channels * multiplier)

    return _by_chunks(x, 16 * math.prod(x.shape[1:]) * multiplier, slide)


def conv_transpose(
    x: np.ndarray, kernel: np.ndarray, strides: Sequence[int], padding: str = "valid",
    output_padding: Sequence[int] | None = None,
) -> np.ndarray:
    """``full[b, p*stride + w, o] += sum_i x[b, p, i] * kernel[w, o, i]``, then cut (or extended) to Keras' output
    length.

    Args:
        x: ``(batch, *spatial, in)``.
        kernel: ``(*window, out, in)``.
        strides: one integer per spatial axis.
        padding: ``same`` or ``valid``; what is cut is in ``windows.transpose_pads``.
        output_padding: one integer per spatial axis, or ``None`` for Keras' default length.

    Returns:
        ``(batch, *output, out)``.
    """
    *window, outputs, inputs = kernel.shape
    if x.shape[-1] != inputs:
        raise ValueError(f"a transposed kernel {kernel.shape} expects {inputs} input channels, got {x.shape[-1]}")
    extra = output_padding or (None,) * len(window)
    matrix = kernel.reshape(math.prod(window) * outputs, inputs).T

    def scatter(part):
        batch, *sizes, _ = part.shape
        terms = (part.reshape(math.prod(part.shape[:-1]), inputs) @ matrix).reshape(batch, *sizes, *window, outputs)
        full = np.zeros((batch, *((n - 1) * s + k for n, s, k in zip(sizes, strides, window)), outputs), terms.dtype)
        for position in np.ndindex(*window):
            reached = (
                (slice(None),) + tuple(slice(k, k + (n - 1) * s + 1, s) for k, n, s in zip(position, sizes, strides))
            )
            full[reached] += terms[(slice(None),) * (len(window) + 1) + position]
        for axis, (k, s, e) in enumerate(zip(window, strides, extra), 1):
            front, back = transpose_pads(k, s, padding, e)
            if back < 0:
                full = np.pad(full, [(0, -back if a == axis else 0) for a in range(full.ndim)])
            full = full[(slice(None),) * axis + (slice(front, full.shape[axis] - max(back, 0)),)]
        return full

    return _by_chunks(x, math.prod(x.shape[1:-1]) * matrix.shape[1], scatter)


def dense(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """``y[..., o] = sum_i x[..., i] * kernel[i, o]``: ``(..., in)`` times ``(in, out)``."""
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"a dense kernel {kernel.shape} expects {kernel.shape[0]} features on the last axis, got {x.shape[-1]}"
        )
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def max_pool(x: np.ndarray, pool_size: Sequence[int], strides: Sequence[int], padding: str = "valid") -> np.ndarray:
    """Maximum over each window; padding never wins (it is the lowest value of the dtype).

    Args:
        x: ``(batch, *spatial, channels)``, integers or floats.
        pool_size, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.

    Returns:
        ``(batch, *output, channels)`` in the dtype of ``x``.
    """
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    best = None
    for _, seen in window_slices(x, pool_size, strides, (1,) * len(pool_size), padding, lowest):
        best = seen.copy() if best is None else np.maximum(best, seen, out=best)
    assert best is not None  # a window has at least one position
    return best


def sum_pool(x: np.ndarray, pool_size: Sequence[int], strides: Sequence[int], padding: str = "valid") -> np.ndarray:
    """Sum over each window, zeros outside, in the dtype of ``x``; one axis after another.

    Args:
        x: ``(batch, *spatial, channels)``; the caller chooses a dtype that holds the sums.
        pool_size, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.

    Returns:
        ``(batch, *output, channels)``; ``x`` itself where every window is one element and the strides are 1.
    """
    for axis, (length, stride) in enumerate(zip(pool_size, strides)):
        if length == 1 and stride == 1:
            continue
        window, step = ([n if a == axis else 1 for a in range(len(pool_size))] for n in (length, stride))
        total = None
        for _, seen in window_slices(x, window, step, (1,) * len(pool_size), padding):
            total = seen.copy() if total is None else np.add(total, seen, out=total)
        assert total is not None  # a window has at least one position
        x = total
    return x
