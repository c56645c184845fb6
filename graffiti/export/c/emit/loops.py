"""Nests of loops over strided tensors: made from shapes, then with as few axes as will do."""

from __future__ import annotations

from collections.abc import Sequence


def dense_steps(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next along each axis of a dense tensor."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return steps[::-1]


def broadcast_steps(shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """Steps of a dense tensor as it is broadcast to ``target`` of at least its rank; 0 where it is repeated."""
    padded = [1] * (len(target) - len(shape)) + list(shape)
    return [0 if size == 1 and wanted != 1 else step for size, wanted, step in zip(padded, target, dense_steps(padded))]


def collapse(
    sizes: Sequence[int], a: Sequence[int], b: Sequence[int], keep_last: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """Drop axes of size 1 and join neighbours that both tensors step through alike; at least one axis stays.

    Args:
        sizes, a, b: of each axis its size and the steps of both tensors.
        keep_last: leave the last axis alone (it is the channels).
    """
    axes = list(zip(sizes, a, b))
    last = [axes.pop()] if keep_last else []
    joined: list[tuple[int, int, int]] = []
    for size, a_step, b_step in axes:
        if size == 1:
            continue
        if joined and joined[-1][1] == a_step * size and joined[-1][2] == b_step * size:
            joined[-1] = (joined[-1][0] * size, a_step, b_step)
        else:
            joined.append((size, a_step, b_step))
    joined = (joined + last) or [(1, 1, 1)]
    return [axis[0] for axis in joined], [axis[1] for axis in joined], [axis[2] for axis in joined]
