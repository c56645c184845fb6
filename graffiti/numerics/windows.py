"""Sliding windows over the spatial axes of channels-last arrays: output lengths, padding, views of all windows; lists
of indices as grids.

The lengths follow TensorFlow (``same`` puts the odd zero behind) and Keras (transposed convolutions). numpy only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


def window_output(size: int | None, window: int, stride: int, dilation: int, padding: str) -> int | None:
    """Output length of a sliding window along one axis, ``None`` for an unknown length.

    Args:
        size: input length; ``None`` where it is unknown.
        window: elements that one window reads.
        stride: elements between the starts of two windows.
        dilation: elements between two that a window reads; 1 for neighbours.
        padding: ``same`` (``ceil(size / stride)`` windows) or ``valid`` (windows that lie inside; 0 where none does).
    """
    if size is None:
        return None
    if padding == "same":
        return -(-size // stride)
    return max((size - (window - 1) * dilation - 1) // stride + 1, 0)


def window_pads(size: int, window: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Zeros that ``padding`` puts before and after one axis (TensorFlow's rule: the odd one goes after).

    Args:
        size, window, stride, dilation: as in ``window_output``; the size is known.
        padding: ``same``; ``valid`` has no zeros.

    Returns:
        ``(before, after)``.
    """
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def window_counts(size: int, window: int, stride: int, padding: str) -> np.ndarray:
    """How many elements each window covers, ``(windows,)``: less than ``window`` over a padded border.

    Args:
        size, window, stride: as in ``window_output``; the size is known.
        padding: ``same`` or ``valid``, where every count is ``window``.
    """
    output, (before, _) = window_output(size, window, stride, 1, padding), window_pads(size, window, stride, 1, padding)
    assert output is not None  # the size is known
    start = np.arange(output) * stride - before
    return np.minimum(start + window, size) - np.maximum(start, 0)


def pool_counts(sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: str) -> np.ndarray:
    """The elements of each window of a pool, ``(*output, 1)``: that many does an average divide by.

    Args:
        sizes: input length of each spatial axis.
        window, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.
    """
    counts = np.ones((1,), np.int64)
    for size, length, stride in zip(sizes, window, strides):
        counts = counts[..., None] * window_counts(size, length, stride, padding)
    return counts.reshape(*counts.shape[1:], 1)


def transpose_output(
    size: int | None, window: int, stride: int, padding: str, output_padding: int | None
) -> int | None:
    """Output length of a transposed convolution along one axis (Keras' rule, dilation 1).

    Args:
        size: input length; ``None`` where it is unknown.
        window: length of the kernel.
        stride: output elements between two inputs.
        padding: ``same`` or ``valid``.
        output_padding: elements added behind; ``None`` for Keras' default length.
    """
    if size is None:
        return None
    if output_padding is None:
        return size * stride if padding == "same" else size * stride + max(window - stride, 0)
    total = 2 * (window // 2) if padding == "same" else 0
    return (size - 1) * stride + window - total + output_padding


def transpose_pads(window: int, stride: int, padding: str, output_padding: int | None) -> tuple[int, int]:
    """Rows cut from the front and back of the full transposed convolution (length ``(size-1)*stride + window``).

    ``same`` cuts ``window - stride`` in all, or ``2*(window//2) - output_padding`` where that is given, the smaller
    half in front (what TensorFlow does for the output length that Keras asks for). The back may be negative: zeros are
    appended.

    Args:
        window, stride, output_padding: as in ``transpose_output``.
        padding: ``same``, or ``valid``, which cuts nothing.

    Returns:
        ``(front, back)``.
    """
    if padding == "valid":
        return 0, min(window - stride, 0) if output_padding is None else -output_padding
    total = window - stride if output_padding is None else 2 * (window // 2) - output_padding
    front = max(total, 0) // 2
    return front, total - front


def pad_spatial(x: np.ndarray, pads: Sequence[tuple[int, int]], value=0) -> np.ndarray:
    """``x`` with ``value`` around its spatial axes (1 … rank-2); ``x`` itself where nothing is added.

    Args:
        x: ``(batch, *spatial, channels)``.
        pads: ``(before, after)`` for each spatial axis.
        value: of the dtype of ``x``.
    """
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
        (
            x.strides[0], *(b * s for b, s in zip(steps, strides)), *(b * d for b, d in zip(steps, dilation)),
            x.strides[-1]
        ),
        writeable=False,
    )


def window_slices(
    x: np.ndarray, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: str, value=0,
):
    """For each position inside the window, what all windows see there: ``(position, (batch, *output, channels))``.

    Args:
        x, window, strides, dilation, padding, value: as in ``windows``.

    Returns:
        A generator, one pair for each position of the window in row-major order; the arrays are read-only views.
    """
    view = windows(x, window, strides, dilation, padding, value)
    rank = len(window)
    for position in np.ndindex(*window):
        yield position, view[(slice(None),) * (rank + 1) + position]


# ---- lists of indices ------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class IndexGrid:
    """A part of a list of indices that is a grid: the indices ``start ...`` are ``first + i * steps[0] + j *
    steps[1]``, ``j`` fastest.

    Attributes:
        start: place of the part in the list.
        first: the index there.
        sizes, steps: of the outer and the inner loop; an inner loop alone has an outer one of size 1.
    """

    start: int
    first: int
    sizes: tuple[int, int]
    steps: tuple[int, int]


def index_grids(indices: Sequence[int]) -> list[IndexGrid]:
    """A list of indices as few grids: flips, repetitions and tilings are one, a rotation is two.

    Args:
        indices: what is read, in the order of what is written.

    Returns:
        Grids that follow each other and cover the list.
    """
    grids, start = [], 0
    while start < len(indices):
        inner = _run(indices, start)
        step = indices[start + 1] - indices[start] if inner > 1 else 0
        outer, outer_step = 1, 0
        following = start + inner
        if following + inner <= len(indices):
            outer_step = indices[following] - indices[start]
            while all(
                indices[place] == indices[start] + outer * outer_step + k * step
                for k, place in enumerate(range(start + outer * inner, start + (outer + 1) * inner))
                if place < len(indices)
            ) and start + (outer + 1) * inner <= len(indices):
                outer += 1
        grids.append(
            IndexGrid(start, int(indices[start]), (outer, inner), (int(outer_step) if outer > 1 else 0, int(step)))
        )
        start += outer * inner
    return grids


def _run(indices: Sequence[int], start: int) -> int:
    """How many indices from ``start`` on are an arithmetic progression."""
    count = min(2, len(indices) - start)
    while (
        start + count < len(indices)
        and indices[start + count] - indices[start + count - 1] == indices[start + 1] - indices[start]
    ):
        count += 1
    return count
