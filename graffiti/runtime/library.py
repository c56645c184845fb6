"""The kernel library through ctypes: ``graffiti/ops/kernels/c_api.h`` in Python. Knows numpy and nothing of
TensorFlow.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.ops.kernels import tables
from graffiti.runtime import program_format

ABI_VERSION = 3
PATH = pathlib.Path(__file__).resolve().parents[1] / "ops" / "graffiti_kernels.so"
BUILD_COMMAND = "python graffiti/ops/kernels/build.py"
TIERS = tables.tier_names()  # a name's place is its number in the ABI
OPERATIONS = tables.operations()  # on two operands
TYPES = tuple(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "float32"))

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class KernelsNotAvailable(ImportError):
    """The kernel library is missing, broken, or of another version."""


class KernelError(ValueError):
    """A call into the library failed; the message is the library's sentence."""


class ConvShape(ctypes.Structure):
    """``graffiti_conv_shape``."""

    _fields_ = [(field.name, _LONG) for field in program_format.load().records["ConvShape"]]


class PoolShape(ctypes.Structure):
    """``graffiti_pool_shape``."""

    _fields_ = [(field.name, _LONG) for field in program_format.load().records["PoolShape"]]


class Requantization(ctypes.Structure):
    """``graffiti_requantization``."""

    _fields_ = [
        ("shift", _POINTER), ("shift_count", _LONG), ("rounding", _INT), ("low", _INT), ("high", _INT), ("type", _INT)
    ]

    @classmethod
    def make(
        cls, shift: int | Sequence[int], low: int, high: int, dtype, rounding: str = "half_even"
    ) -> Requantization:
        """From plain values; the shifts are kept alive by the object."""
        shifts = np.atleast_1d(np.asarray(shift, np.int32)).copy()
        self = cls(shifts.ctypes.data, len(shifts), ROUNDING_MODES.index(rounding), low, high, type_number(dtype))
        self.keep = shifts
        return self


class GroupLayout(ctypes.Structure):
    """``graffiti_group_layout``."""

    _fields_ = [(name, _LONG) for name in ("outer", "rows", "groups", "inner")]


class ElementFormat(ctypes.Structure):
    """``graffiti_element_format``."""

    _fields_ = [(name, _INT) for name in ("exponent_bits", "mantissa_bits", "carry", "top_exponent")]


class BatchNormInputs(ctypes.Structure):
    """``graffiti_batch_norm_inputs``."""

    _fields_ = [("rows", _LONG), ("channels", _LONG), ("x", _POINTER), ("gamma", _POINTER), ("beta", _POINTER),
                ("residual", _POINTER), ("epsilon", ctypes.c_float), ("relu", _INT)]


class BatchNormOutputs(ctypes.Structure):
    """``graffiti_batch_norm_outputs``."""

    _fields_ = [(name, _POINTER) for name in ("y", "mean", "variance", "inverse_deviation")]


class BatchNormGradientInputs(ctypes.Structure):
    """``graffiti_batch_norm_gradient_inputs``."""

    ARRAYS = ("dy", "x", "gamma", "beta", "mean", "inverse_deviation", "y")
    _fields_ = [("rows", _LONG), ("channels", _LONG), *((name, _POINTER) for name in ARRAYS), ("relu", _INT)]


class BatchNormGradientOutputs(ctypes.Structure):
    """``graffiti_batch_norm_gradient_outputs``."""

    _fields_ = [(name, _POINTER) for name in ("dx", "dgamma", "dbeta", "dresidual")]


class FakeQuantizeFormat(ctypes.Structure):
    """``graffiti_fake_quantize_format``."""

    NUMBERS = ("bits", "is_signed", "narrow", "rounding")
    _fields_ = [("log2_threshold", ctypes.c_float), *((name, _INT) for name in NUMBERS)]


class DotKernelInfo(ctypes.Structure):
    """``graffiti_dot_kernel_info``."""

    _fields_ = [
        ("name", ctypes.c_char * 48), ("tier", _INT), ("rows", _INT), ("columns", _INT), ("a_type", _INT),
        ("b_type", _INT)
    ]


_TO = ctypes.POINTER(Requantization)
_FUNCTIONS = {  # name: (result, arguments)
    "abi_version": (_INT, []),
    "last_error": (ctypes.c_char_p, []),
    "best_tier": (_INT, []),
    "tier_supported": (_INT, [_INT]),
    "tier_name": (ctypes.c_char_p, [_INT]),
    "conv2d": (
        _INT,
        [ctypes.POINTER(ConvShape), _LONG, _POINTER, _INT, _POINTER, _INT, _POINTER, _TO, _POINTER, _INT, _POINTER]
    ),
    "dense": (_INT, [_LONG, _LONG, _LONG, _POINTER, _INT, _POINTER, _INT, _POINTER, _TO, _POINTER, _INT, _POINTER]),
    "training_conv": (
        _INT,
        [
            _INT, ctypes.POINTER(ConvShape), _LONG, _POINTER, _INT, _POINTER, _INT, ctypes.c_float, _POINTER, _INT,
            _POINTER
        ],
    ),
    "requantize": (_INT, [_LONG, _LONG, _POINTER, _INT, _TO, _POINTER, _INT, _POINTER]),
    "elementwise": (_INT, [_INT, _LONG, _LONG, _POINTER, _INT, _POINTER, _INT, _LONG, _TO, _POINTER, _INT, _POINTER]),
    "relu": (_INT, [_LONG, _POINTER, _INT, _INT, _POINTER, _INT, _POINTER]),
    "lookup": (_INT, [_LONG, _POINTER, _INT, _INT, _POINTER, _INT, _LONG, _POINTER, _INT, _POINTER]),
    "max_pool": (_INT, [ctypes.POINTER(PoolShape), _LONG, _POINTER, _INT, _POINTER, _INT, _POINTER]),
    "average_pool": (_INT, [ctypes.POINTER(PoolShape), _LONG, _POINTER, _INT, _TO, _INT, _POINTER, _INT, _POINTER]),
    "quantize": (_INT, [_LONG, _POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER, _INT, _POINTER]),
    "dequantize": (_INT, [_LONG, _LONG, _POINTER, _INT, _POINTER, _LONG, _POINTER, _INT, _POINTER]),
    "training_quantize": (
        _INT, [_LONG, _POINTER, ctypes.c_float, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER],
    ),
    "extremes": (_INT, [_LONG, _POINTER, _POINTER, _INT, _POINTER]),
    "count_above": (_INT, [_LONG, _POINTER, ctypes.c_float, _POINTER, _INT, _POINTER]),
    "group_maximum": (_INT, [ctypes.POINTER(GroupLayout), _POINTER, _POINTER, _INT, _POINTER]),
    "multi_level": (
        _INT,
        [ctypes.POINTER(GroupLayout), _POINTER, _POINTER, _POINTER, ctypes.POINTER(ElementFormat), _POINTER, _POINTER,
         _INT, _POINTER],
    ),
    "batch_norm": (_INT, [ctypes.POINTER(BatchNormInputs), ctypes.POINTER(BatchNormOutputs), _INT, _POINTER]),
    "batch_norm_gradient": (
        _INT, [ctypes.POINTER(BatchNormGradientInputs), ctypes.POINTER(BatchNormGradientOutputs), _INT, _POINTER],
    ),
    "fake_quantize": (_INT, [_LONG, _POINTER, ctypes.POINTER(FakeQuantizeFormat), _POINTER, _INT, _POINTER]),
    "fake_quantize_gradient": (
        _INT, [_LONG, _POINTER, _POINTER, ctypes.POINTER(FakeQuantizeFormat), _POINTER, _POINTER, _INT, _POINTER],
    ),
    "create_program": (_INT, [ctypes.c_char_p, _LONG, _INT, ctypes.POINTER(_POINTER)]),
    "run_program": (_INT, [_POINTER, _POINTER, _POINTER, _LONG, _INT]),
    "run_program_debug": (_INT, [_POINTER, _POINTER, _POINTER, _LONG, _INT, _POINTER]),
    "destroy_program": (None, [_POINTER]),
    "dot_kernel_count": (_LONG, []),
    "get_dot_kernel": (_INT, [_LONG, ctypes.POINTER(DotKernelInfo)]),
    "run_dot_kernel": (_INT, [_LONG, _LONG, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _TO, _POINTER, _LONG]),
}


class Library:
    """The loaded library; ``call`` checks the status of each function.

    Args:
        path: of ``graffiti_kernels.so``.

    Raises:
        KernelsNotAvailable: where the file is missing, does not load, or has another ABI.
    """

    abi_version: Callable[[], int]
    last_error: Callable[[], bytes]
    tier_supported: Callable[[int], int]
    tier_name: Callable[[int], bytes | None]

    def __init__(self, path: pathlib.Path = PATH) -> None:
        if not path.is_file():
            raise KernelsNotAvailable(f"there is no kernel library {path}; build it with: {BUILD_COMMAND}")
        try:
            self._library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(self._library, f"graffiti_{name}")
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise KernelsNotAvailable(
                f"{path} does not load ({error}); build it again with: {BUILD_COMMAND}"
            ) from error
        if self.abi_version() != ABI_VERSION:
            raise KernelsNotAvailable(
                f"{path} has the ABI {self.abi_version()}, expected {ABI_VERSION}; build it again with: {BUILD_COMMAND}"
            )

    def call(self, name: str, *arguments) -> None:
        """Call ``graffiti_<name>``; a ``KernelError`` with the library's sentence where it fails."""
        if getattr(self, name)(*arguments):
            raise KernelError(self.last_error().decode())

    def destroy(self, program: ctypes.c_void_p) -> None:
        """Free a program."""
        self._library.graffiti_destroy_program(program)

    def tiers(self) -> list[str]:
        """The tiers this CPU runs, slowest first."""
        return [name for number, name in enumerate(TIERS) if number and self.tier_supported(number)]


@functools.lru_cache(maxsize=1)
def load() -> Library:
    """The library beside the package's sources, loaded once."""
    return Library()


def tier_number(tier: str) -> int:
    """The number of a tier in the ABI.

    Raises:
        ValueError: for an unknown tier.
    """
    if tier not in TIERS:
        raise ValueError(f"a tier is one of {', '.join(TIERS)}, got {tier!r}")
    return TIERS.index(tier)


def type_number(dtype) -> int:
    """The number of a numpy dtype in the ABI.

    Raises:
        ValueError: for a dtype that kernels do not know.
    """
    dtype = np.dtype(dtype)
    if dtype not in TYPES:
        raise ValueError(f"kernels take int8, uint8, int16, uint16, int32 and float32, got {dtype}")
    return TYPES.index(dtype)
