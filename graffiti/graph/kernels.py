"""How the kernels of products lie: which axes are the output channels, and which ones are summed over."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Kernel:
    """How a product's kernel lies: every index of its axes ``outputs`` is one output channel, over the others it is
    summed.

    Attributes:
        outputs: from the end, in the order that numbers the channels.
        inputs: the axis of the input channels, from the end.
    """

    outputs: tuple[int, ...] = (-1,)
    inputs: int = -2

    @property
    def channel_axis(self) -> int | str:
        """What quantizers and folding call the output channels: an axis, or ``flat`` for the last two together."""
        return self.outputs[0] if len(self.outputs) == 1 else "flat"

    def channels(self, shape: tuple[int | None, ...]) -> int:
        """How many output channels a kernel of a shape makes."""
        return math.prod(shape[axis] or 0 for axis in self.outputs)

    def terms(self, shape: tuple[int | None, ...]) -> int:
        """How many products make one output."""
        return math.prod(size or 0 for axis, size in enumerate(shape, -len(shape)) if axis not in self.outputs)

    def rows(self, kernel: np.ndarray) -> np.ndarray:
        """``(terms, channels)``: one column for each output channel."""
        last = np.moveaxis(kernel, self.outputs, range(-len(self.outputs), 0))
        return last.reshape(-1, self.channels(kernel.shape))
