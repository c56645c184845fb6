"""The program format: what each version was, and that C++ and Python number the same things alike."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.ops.kernels import tables
from graffiti.runtime import library, program_format
from graffiti.runtime.blob import ProgramWriter, Rounding, View

TEXT = (tables.HERE / "program_format.inc").read_text()
HEADER = (tables.HERE / "c_api.h").read_text()

# What blobs of version 1 are: never to be changed. Another format gets another version and another list.
VERSION_1 = """
magic 0x3147525046415247
Header: magic version size tensors steps inputs outputs values arena block data
Tensor: TYPE type, place offset elements
Value: step READ tensor, offset rows inner stride
Requantization: OPTIONAL_DATA shift, count ROUNDING rounding, low high TYPE type
ConvShape: height width channels out_height out_width out_channels kernel_height kernel_width stride_h stride_w
  dilation_h dilation_w pad_top pad_left groups spread_h spread_w
PoolShape: height width channels out_height out_width pool_height pool_width stride_h stride_w pad_top pad_left
1 Quantize: READ x, WRITE y, exponent ROUNDING rounding, low high
2 Dequantize: READ x, WRITE y, channels DATA exponents, count
3 Conv: READ x, WRITE y, y_offset y_stride ConvShape shape, TYPE kernel_type, DATA kernel, OPTIONAL_DATA bias,
  Requantization to
4 Binary: OPERATION operation, READ x, OPTIONAL_READ y, OPTIONAL_DATA constant, TYPE y_type, y_count WRITE out, channels
  Requantization to
5 Requantize: READ x, WRITE y, channels Requantization to
6 Lookup: READ x, WRITE y, low DATA table, entries
7 MaxPool: READ x, WRITE y, PoolShape shape
8 Move: READ x, WRITE y, x_offset y_offset rank rank*sizes rank*x_strides rank*y_strides
9 Zero: WRITE y
10 Constant: WRITE y, DATA array
11 Rescale: READ x, WRITE y, count DATA scale, DATA offset
12 AveragePool: READ x, WRITE y, PoolShape shape, divide Requantization to
"""
VERSIONS = {1: VERSION_1}
OPERATIONS_1 = {"add": 0, "subtract": 1, "multiply": 2, "maximum": 3, "reverse_subtract": 4, "minimum": 5}


def listing(format: program_format.Format) -> list[str]:
    """A format in the words of ``VERSION_1``."""
    def field(f: program_format.Field) -> str:
        if f.kind == "NUMBERS":
            return f"{f.of}*{f.name}"
        return f.name if f.kind == "NUMBER" else f"{f.of or f.kind} {f.name},"

    rows = {**format.records, **{f"{format.kinds[name]} {name}": fields for name, fields in format.steps.items()}}
    lines = [f"{name}: {' '.join(field(f) for f in fields)}" for name, fields in rows.items()]
    return " ".join([f"magic {format.magic:#x}", *lines]).replace(",", " ").split()


def test_a_version_is_what_it_was():
    format = program_format.load()
    assert format.version == max(VERSIONS), "list the new version here"
    assert listing(format) == VERSIONS[format.version].replace(",", " ").split(), "another format needs another version"
    assert library.OPERATIONS.items() >= OPERATIONS_1.items(), "the numbers of ops lie in programs too"


@pytest.mark.parametrize(("old", "new"), [
    ("READ(x) WRITE(y) NUMBER(exponent)", "WRITE(y) READ(x) NUMBER(exponent)"),  # an order
    ("NUMBER(divide)", "NUMBER(mean)"),  # a name
    ("OPTIONAL_DATA(bias)", "DATA(bias)"),  # a type
    ("NUMBER(spread_h) NUMBER(spread_w)", "NUMBER(spread_h)"),  # a field less
    ("GRAFFITI_STEP(9, Zero, ", "GRAFFITI_STEP(13, Zero, "),  # a kind
    ("NUMBER(rows) NUMBER(inner)", "NUMBER(inner) NUMBER(rows)"),
    ("0x3147525046415247", "0x3247525046415247"),
])
def test_a_change_without_a_version_is_seen(old, new):
    assert TEXT.count(old) == 1
    assert listing(program_format.parse(TEXT.replace(old, new))) != VERSION_1.replace(",", " ").split()


def test_a_table_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="two steps of one name or kind"):
        program_format.parse(TEXT.replace("GRAFFITI_STEP(9, Zero", "GRAFFITI_STEP(8, Zero"))
    with pytest.raises(ValueError, match=r"a field is one of NUMBER, .* got WORD\(low\)"):
        program_format.parse(TEXT.replace("NUMBER(low) DATA(table)", "WORD(low) DATA(table)"))


def test_a_step_wants_a_value_for_each_field():
    writer = ProgramWriter()
    x, y = writer.input(np.int8, (3,)), writer.tensor(np.int8, (3,))
    with pytest.raises(TypeError, match="the fields are x, y, low, table, entries; got x, y, low"):
        writer._add("Lookup", x=x, y=y, low=0)


def test_the_reader_takes_every_kind(kernels):
    """A program of one step of each kind, without which a row of the table has no reader."""
    writer = ProgramWriter()
    real, other = writer.input(np.float32, (2, 2, 4)), writer.tensor(np.float32, (2, 2, 4))
    codes = [writer.tensor(np.int8, (2, 2, 4)) for _ in range(6)]
    pooled, mean = writer.tensor(np.int8, (1, 1, 4)), writer.tensor(np.int32, (1, 1, 4))
    out, sums = writer.tensor(np.float32, (2, 2, 4)), writer.tensor(np.int32, (2, 2, 4))
    records = program_format.load().records
    window = dict(zip((field.name for field in records["PoolShape"]), (2, 2, 4, 1, 1, 2, 2, 1, 1, 0, 0)))
    shape = {field.name: 1 for field in records["ConvShape"]}
    shape.update(height=2, width=2, channels=4, out_height=2, out_width=2, out_channels=4, pad_top=0, pad_left=0)
    to = Rounding((0,), -128, 127, np.dtype(np.int8), "half_even")
    sum_of = Rounding((0,), -(2**31), 2**31 - 1, np.dtype(np.int32), "half_even")
    writer.rescale(real, other, np.float32([2.0]), np.float32([0.5]))
    writer.quantize(other, codes[0], 0, "half_even", -128, 127)
    writer.conv(codes[0], View(sums, 0, 4, 4, 4), shape, np.eye(4, dtype=np.int8).reshape(1, 1, 4, 4), None, None)
    writer.requantize(sums, codes[1], 1, to)
    writer.constant(codes[2], np.arange(16, dtype=np.int8))
    writer.binary("add", codes[1], codes[2], codes[3], 1, to)
    writer.lookup(codes[3], codes[4], -128, np.arange(-128, 128, dtype=np.int8))
    writer.zero(codes[5])
    writer.move(codes[4], codes[5], [2, 2, 4], [8, 4, 1], [8, 4, 1])
    writer.max_pool(codes[5], pooled, window)
    writer.average_pool(codes[5], mean, window, sum_of, False)
    writer.dequantize(codes[5], out, [0], 1)
    for tensor in (out, pooled, mean):
        writer.output(tensor)
    assert {kind for kind, *_ in writer._steps} == set(program_format.load().kinds.values())
    x = np.arange(-8, 8, dtype=np.float32)
    results = run(kernels, writer.finish(), x, [(np.float32, 16), (np.int8, 4), (np.int32, 4)])
    expected = np.rint(2 * x + np.float32(0.5)) + np.arange(16)
    assert np.array_equal(results[0], expected)
    pixels = expected.reshape(4, 4)
    assert np.array_equal(results[1], pixels.max(0)) and np.array_equal(results[2], pixels.sum(0))


def run(kernels, blob: bytes, x: np.ndarray, outputs) -> list[np.ndarray]:
    """The outputs of a program for one image."""
    handle = ctypes.c_void_p()
    kernels.call("create_program", blob, len(blob), 0, ctypes.byref(handle))
    arrays = [np.zeros(size, dtype) for dtype, size in outputs]
    to = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
    kernels.call("run_program", handle, (ctypes.c_void_p * 1)(x.ctypes.data), to, 1, 1)
    kernels.destroy(handle)
    return arrays


def enumeration(name: str) -> list[str]:
    """The constants of an enum of ``c_api.h`` in order; their values must count from 0."""
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    (body,) = re.findall(rf"enum {name} \{{(.*?)\}};", text, flags=re.DOTALL)
    found = re.findall(r"GRAFFITI_(\w+) = (\d+)", body)
    assert [int(value) for _, value in found] == list(range(body.count("=")))
    return [constant.lower() for constant, _ in found]


def test_enumerations_are_those_of_the_header():
    short = {"int": "s", "uint": "u", "float": "f"}
    types = [re.sub(r"[a-z]+", lambda m: short[m.group()], dtype.name) for dtype in library.TYPES]
    assert enumeration("graffiti_type") == types
    assert enumeration("graffiti_rounding") == list(ROUNDING_MODES)
    assert int(re.findall(r"#define GRAFFITI_ABI_VERSION (\d+)", HEADER)[0]) == library.ABI_VERSION
