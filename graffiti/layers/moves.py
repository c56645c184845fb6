"""Moves and reductions over axes that no Keras layer has, so that every graph can be built."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def _pairs(value) -> tuple[tuple[int, int], ...]:
    return tuple((int(before), int(after)) for before, after in value)


def _nested(value) -> float | tuple:
    """Nested sequences or an array as tuples of plain floats."""
    return (
        tuple(map(_nested, value)) if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) else float(value)
    )


@keras.saving.register_keras_serializable(package="graffiti")
class Pad(keras.layers.Layer):
    """Zeros around every axis but the batch.

    Args:
        pads: ``((before, after), ...)``, one pair per axis after the batch.
    """

    def __init__(self, pads, **kwargs) -> None:
        super().__init__(**kwargs)
        self.pads = _pairs(pads)

    def call(self, x):
        """Pad."""
        return keras.ops.pad(x, ((0, 0), *self.pads))

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "pads": self.pads}


@keras.saving.register_keras_serializable(package="graffiti")
class Crop(keras.layers.Layer):
    """Cut from every axis but the batch.

    Args:
        crops: ``((before, after), ...)``, one pair per axis after the batch.
    """

    def __init__(self, crops, **kwargs) -> None:
        super().__init__(**kwargs)
        self.crops = _pairs(crops)

    def call(self, x):
        """Cut."""
        return x[tuple([slice(None)] + [slice(before, -after or None) for before, after in self.crops])]

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "crops": self.crops}


@keras.saving.register_keras_serializable(package="graffiti")
class Slice(keras.layers.Layer):
    """Every step-th index of every axis but the batch.

    Args:
        slices: ``((start, stop, step), ...)``, one triple per axis after the batch; ``stop`` ``None`` goes to the end.
    """

    def __init__(self, slices, **kwargs) -> None:
        super().__init__(**kwargs)
        self.slices = tuple(
            (int(start), None if stop is None else int(stop), int(step)) for start, stop, step in slices
        )

    def call(self, x):
        """Slice."""
        return x[tuple([slice(None)] + [slice(*each) for each in self.slices])]

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "slices": self.slices}


@keras.saving.register_keras_serializable(package="graffiti")
class Take(keras.layers.Layer):
    """The listed indices along one axis, in their order: a flip, a repetition, a tiling, a rotation.

    Args:
        axis: counted with the batch as 0, which it is not.
        indices: integers from 0 on.
    """

    def __init__(self, axis: int, indices, **kwargs) -> None:
        super().__init__(**kwargs)
        self.axis, self.indices = int(axis), tuple(int(index) for index in indices)

    def call(self, x):
        """Take."""
        return keras.ops.take(x, self.indices, axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "axis": self.axis, "indices": self.indices}


@keras.saving.register_keras_serializable(package="graffiti")
class Reduce(keras.layers.Layer):
    """Mean, sum or maximum over axes.

    Args:
        operation: ``mean``, ``sum`` or ``max``.
        axes: counted with the batch as 0.
        keepdims: whether the axes stay with length 1.
    """

    def __init__(self, operation: str, axes, keepdims: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        if operation not in ("mean", "sum", "max"):
            raise ValueError(f"a reduction is 'mean', 'sum' or 'max', got {operation!r}")
        self.operation, self.axes, self.keepdims = operation, tuple(int(axis) for axis in axes), bool(keepdims)

    def call(self, x):
        """Reduce."""
        return getattr(keras.ops, self.operation)(x, axis=self.axes, keepdims=self.keepdims)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "operation": self.operation, "axes": self.axes, "keepdims": self.keepdims}


@keras.saving.register_keras_serializable(package="graffiti")
class Affine(keras.layers.Layer):
    """``x * scale + offset`` with fixed numbers, in float32: the product is rounded, then the sum.

    Args:
        scale: a number, one for each index of the last axis, or an array (nested lists) over one example.
        offset: the same.
    """

    def __init__(self, scale, offset=0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.scale, self.offset = (v if isinstance(v, (int, float)) else _nested(v) for v in (scale, offset))
        self.supports_jit = False  # XLA may contract the two into one fused multiply-add, which rounds once

    def call(self, x):
        """Scale and shift."""
        x = keras.ops.cast(x, self.compute_dtype)
        scale, offset = (
            keras.ops.convert_to_tensor(np.asarray(v, np.float32), x.dtype) for v in (self.scale, self.offset)
        )
        return x * scale + offset

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}
