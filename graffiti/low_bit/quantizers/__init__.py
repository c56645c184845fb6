"""Tensor quantizers of low-bit training. A new one is a file and a row in ``TENSOR_QUANTIZERS``; the contract suite
then tests it.
"""

from __future__ import annotations

from graffiti.low_bit.quantizers.adaptive_precision import AdaptivePrecision
from graffiti.low_bit.quantizers.base import TensorQuantizer
from graffiti.low_bit.quantizers.direction_sensitive import DirectionSensitive
from graffiti.low_bit.quantizers.dorefa import DoReFa
from graffiti.low_bit.quantizers.dynamic_fixed_point import DynamicFixedPoint
from graffiti.low_bit.quantizers.large_gradients import LargeGradients, LearnedScale
from graffiti.low_bit.quantizers.min_max import MinMax
from graffiti.low_bit.quantizers.multi_level_scaling import MultiLevelScaling
from graffiti.low_bit.quantizers.per_sample import PerSample

TENSOR_QUANTIZERS: dict[str, type[TensorQuantizer]] = {
    "adaptive_precision": AdaptivePrecision,
    "direction_sensitive": DirectionSensitive,
    "dorefa": DoReFa,
    "dynamic_fixed_point": DynamicFixedPoint,
    "large_gradients": LargeGradients,
    "learned_scale": LearnedScale,
    "min_max": MinMax,
    "multi_level_scaling": MultiLevelScaling,
    "per_sample": PerSample,
}

__all__ = ["TENSOR_QUANTIZERS", "TensorQuantizer", "get", *sorted(cls.__name__ for cls in TENSOR_QUANTIZERS.values())]


def get(quantizer: str, /, **arguments) -> TensorQuantizer:
    """A tensor quantizer from its registry name and arguments.

    Raises:
        ValueError: where there is no such name, or an argument is out of its range.
        TypeError: where it has no such argument.
    """
    if quantizer not in TENSOR_QUANTIZERS:
        raise ValueError(f"a tensor quantizer is one of {', '.join(TENSOR_QUANTIZERS)}, got {quantizer!r}")
    return TENSOR_QUANTIZERS[quantizer](**arguments)
