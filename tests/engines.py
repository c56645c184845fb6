"""The engines and instruction sets of the integer ops, as parameters of tests; what this machine lacks skips with
its reason.
"""

import importlib.util

import pytest

from graffiti.ops import loader
from graffiti.ops.integer_ops import TIERS
from graffiti.runtime import library

needs_library = pytest.mark.skipif(not loader.available(), reason=f"needs the op library: {loader.problem()}")

# LiteRT's runtime for microcontrollers, where it is installed
MICRO = ("micro",) if importlib.util.find_spec("tflite_micro") else ()


def tiers() -> list[str]:
    """The tiers of the native ops that this processor runs, ``auto`` first; only that where there is no kernel
    library to ask.
    """
    try:
        return [TIERS[0], *library.load().tiers()]
    except library.KernelsNotAvailable:
        return [TIERS[0]]


NATIVE_TIERS = tuple(tiers()[1:])  # those that this processor has


def _native(tier: str):
    return pytest.param(
        ("native", tier), id=tier,
        marks=[needs_library, pytest.mark.skipif(tier not in tiers(), reason=f"this processor has no {tier}")]
    )


# (engine, tier)
ENGINES = [pytest.param(("python", "auto"), id="python"), *map(_native, TIERS)]
