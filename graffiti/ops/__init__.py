"""Integer ops and the fake-quantize op as Python sees them; see ``integer_ops`` and ``fake_quantization``.

Importing this package loads neither TensorFlow nor a compiled library: the names below are imported when first used.
"""

from __future__ import annotations

import importlib

_HOME = {
    "fake_quantize": "fake_quantization",
    **dict.fromkeys(
        (
            "Requantization",
            "add",
            "average_pool",
            "bias_add",
            "concat",
            "conv2d",
            "conv2d_transpose",
            "dense",
            "depthwise_conv2d",
            "dequantize",
            "elementwise",
            "lookup",
            "max_pool",
            "maximum",
            "minimum",
            "multiply",
            "quantize",
            "relu",
            "requantize",
            "run_program",
            "subtract",
        ),
        "integer_ops",
    ),
    "OpsNotAvailable": "loader",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
