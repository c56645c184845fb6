"""A missing array is one sentence, in every function of the kernel library that takes arrays."""

import ctypes

import numpy as np
import pytest

from graffiti.runtime import library

S8, U8, S32, F32 = 0, 1, 4, 5
SHAPE = library.ConvShape(4, 4, 2, 4, 4, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1)
POOL = library.PoolShape(4, 4, 2, 2, 2, 2, 2, 2, 2, 0, 0)
TO = library.Requantization.make(0, -128, 127, np.int8)
GROUPS = library.GroupLayout(1, 2, 4, 1)
ELEMENT = library.ElementFormat(2, 1, 1, -1)
THRESHOLD = library.FakeQuantizeFormat(0.0, 8, 1, 0, 0)


def buffer() -> ctypes.Array:
    """Zeros, more than any call below reads or writes."""
    return (ctypes.c_uint8 * 4096)()


def reference(value):
    return ctypes.byref(value)


# name, arguments; "array" stands for one that must be there
CALLS = [
    ("conv2d", [reference(SHAPE), 1, "array", U8, "array", S8, None, None, "array", 0, None]),
    ("dense", [2, 3, 4, "array", U8, "array", S8, None, None, "array", 0, None]),
    ("requantize", [8, 1, "array", S32, reference(TO), "array", 0, None]),
    ("elementwise", [0, 8, 1, "array", S8, "array", S8, 8, None, "array", 0, None]),
    ("relu", [8, "array", S8, 127, "array", 0, None]),
    ("lookup", [8, "array", S8, -128, "array", S8, 256, "array", 0, None]),
    ("max_pool", [reference(POOL), 1, "array", S8, "array", 0, None]),
    ("average_pool", [reference(POOL), 1, "array", S8, reference(TO), 1, "array", 0, None]),
    ("quantize", [8, "array", 0, 0, -128, 127, S8, "array", 0, None]),
    ("run_dot_kernel", [0, 2, 3, 4, "array", "array", None, None, "array", 1]),
    ("training_conv", [0, reference(SHAPE), 1, "array", U8, "array", S8, 1.0, "array", 0, None]),
    ("training_conv", [1, reference(SHAPE), 1, "array", S8, "array", S8, 1.0, "array", 0, None]),
    ("training_conv", [2, reference(SHAPE), 1, "array", U8, "array", S8, 1.0, "array", 0, None]),
    ("training_quantize", [8, "array", 1.0, -128, 127, None, S8, "array", "array", 0, None]),
    ("extremes", [8, "array", "array", 0, None]),
    ("count_above", [8, "array", 1.0, "array", 0, None]),
    ("group_maximum", [reference(GROUPS), "array", "array", 0, None]),
    ("multi_level", [reference(GROUPS), "array", "array", "array", reference(ELEMENT), None, "array", 0, None]),
    ("fake_quantize", [8, "array", reference(THRESHOLD), "array", 0, None]),
    ("fake_quantize_gradient", [8, "array", "array", reference(THRESHOLD), "array", "array", 0, None]),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CALLS)])
def test_a_missing_array_is_refused(name, arguments):
    kernels = library.load()
    places = [index for index, value in enumerate(arguments) if isinstance(value, str)]
    filled = [buffer() if isinstance(value, str) else value for value in arguments]
    kernels.call(name, *filled)  # with all of them it runs
    for place in places:
        with pytest.raises(library.KernelError, match="an array is missing|must not be NULL"):
            kernels.call(name, *filled[:place], None, *filled[place + 1 :])


@pytest.mark.parametrize(("name", "kinds", "optional"), [
    ("batch_norm", (library.BatchNormInputs, library.BatchNormOutputs), "residual"),
    ("batch_norm_gradient", (library.BatchNormGradientInputs, library.BatchNormGradientOutputs), "y"),
])
def test_a_missing_array_of_a_batch_norm_is_refused(name, kinds, optional):
    fields = [(kind, field) for kind in kinds for field, ctype in kind._fields_ if ctype is ctypes.c_void_p]
    buffers = {field: buffer() for _, field in fields}

    def call(missing=None):
        inputs, outputs = kinds[0](rows=2, channels=3, relu=1), kinds[1]()
        for kind, field in fields:
            if field != missing:
                setattr(inputs if kind is kinds[0] else outputs, field, ctypes.addressof(buffers[field]))
        structs = (None if kind is missing else reference(given) for kind, given in zip(kinds, (inputs, outputs)))
        library.load().call(name, *structs, 0, None)

    call()
    call(missing=optional)
    for missing in [*kinds, *(field for _, field in fields if field != optional)]:
        with pytest.raises(library.KernelError, match="an array is missing|must not be NULL"):
            call(missing=missing)


@pytest.mark.parametrize("name", ["conv2d", "max_pool", "training_conv"])
def test_a_missing_shape_is_refused(name):
    arguments = next(list(arguments) for other, arguments in CALLS if other == name)
    arguments = [buffer() if isinstance(value, str) else value for value in arguments]
    arguments[1 if name == "training_conv" else 0] = None
    with pytest.raises(library.KernelError, match="must not be NULL"):
        library.load().call(name, *arguments)


@pytest.mark.parametrize(
    ("first", "second", "group"),
    [(F32, S8, 0), (S8, U8, 0), (U8, S8, 1), (S8, U8, 2), (9, S8, 0), (S8, S8, 3), (S8, S8, -1)]
)
def test_training_products_refuse_other_types_and_passes(first, second, group):
    with pytest.raises(library.KernelError, match="training products take x as s8 or u8"):
        library.load().call(
            "training_conv", group, reference(SHAPE), 1, buffer(), first, buffer(), second, 1.0, buffer(), 0, None
        )


@pytest.mark.parametrize(("field", "value"), [
    ("dilation_h", 2**62),  # four taps reach over 2**64, which is 0 in 64 bits
    ("dilation_w", 2**62), ("dilation_h", 2**30), ("stride_w", 2**62), ("stride_h", 2**30), ("kernel_height", 2**62),
    ("height", 2**62), ("out_width", 2**62), ("pad_top", 2**62), ("pad_left", -(2**62)), ("height", -1),
    ("stride_h", 0)])
def test_training_products_refuse_sizes_that_cannot_be(field, value):
    shape = library.ConvShape.from_buffer_copy(SHAPE)
    shape.kernel_height = shape.kernel_width = 4
    setattr(shape, field, value)
    with pytest.raises(library.KernelError, match=r"training products: .* 2 GiB|training products: .* are -?\d+ to"):
        library.load().call("training_conv", 0, reference(shape), 1, buffer(), U8, buffer(), S8, 1.0, buffer(), 0, None)
