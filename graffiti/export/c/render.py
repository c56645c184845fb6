"""The text of the exported files, from a ``Program``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from graffiti.export.c.border import InputPort
from graffiti.export.c.build_files import cmake_text, firmware_text
from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.names import comment, string_literal
from graffiti.export.c.program import Program
from graffiti.export.c.selftest import Vectors, main_text, makefile_text, vectors_text
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import Writer, count_of, example_shape, format_of, literal
from graffiti.graph import memory
from graffiti.numerics.formats import QFormat

_MAP_LINES = 200


def render(program: Program, vectors: Vectors | None) -> dict[str, str]:
    """File name → text, the runtime not included."""
    arguments = [argument for argument, _ in (*program.inputs, *program.outputs)]
    writer = Writer(program.graph, program.name, program.addresses, reserved=arguments)
    body = _body(program, writer)
    files = {
        f"{program.name}.h": _header(program, writer.flash),
        f"{program.name}.c": _source(program, writer, body),
        "main.c": main_text(program, vectors is not None),
        "Makefile": makefile_text(program),
        "arena_map.txt": program.arena_map(),
        "CMakeLists.txt": cmake_text(program, vectors is not None),
        "firmware/main.c": firmware_text(program, vectors is not None),
        f"{program.name}.json": json.dumps(manifest(program, writer.flash), indent=1) + "\n",
    }
    if vectors is not None:
        files["vectors.h"] = vectors_text(program, vectors)
    return files


def traced(program: Program) -> list[str]:
    """The tensors that a trace reports, in order: inputs, then what each step makes."""
    return [*(port.value for _, port in program.inputs), *(step.output for step in program.steps)]


def manifest(program: Program, flash: int) -> dict:
    """What a program (``harness.py``, a firmware build) needs to know to call the exported network."""

    def tensor(value: str) -> dict:
        format = _format(program, value)
        return {
            "tensor": value, "format": str(format), "type": type_of(format).c,
            "shape": list(example_shape(program.graph, value))
        }

    return {
        "format": "graffiti-c", "version": 1, "name": program.name, "arena_bytes": program.arena_bytes,
        "arena_lower_bound": program.lower_bound, "flash_bytes": flash,
        "model_inputs": program.model_inputs, "passed_through": program.passed,
        "inputs": [
            {"argument": a, "name": p.source, "source": p.source, "rounding": p.rounding, **tensor(p.value)}
            for a, p in program.inputs
        ],
        "outputs": [
            {
                "argument": a, "name": p.name, "source": p.source, "softmax_left_out": p.softmax,
                **({"part": p.part} if p.part else {}), **tensor(p.value)
            }
            for a, p in program.outputs
        ],
        "trace": [tensor(value) for value in traced(program)],
    }


# ---- the .c file -----------------------------------------------------------------------------------------------------
def _body(program: Program, writer: Writer) -> list[str]:
    """The statements of the run function; defines the constants on the way."""
    lines = [_trace(program, value) for _, value in ((a, p.value) for a, p in program.inputs)]
    for index, step in enumerate(program.steps):
        names = " + ".join(step.nodes)
        lines.append(f"/* {index}: {comment(names)} -> {comment(str(_format(program, step.output)))} "
                     f"{_shape(program, step.output)} */")
        scratch = f"AT({program.arena.scratch[index]})" if index in program.arena.scratch else "NULL"
        lines += EMITTERS[step.op].emit(writer, step, scratch)
        lines.append(_trace(program, step.output))
    for port, value in program.copies:
        lines.append(f"memcpy({program.outputs[port][0]}, {writer.read(value)}, "
                     f"{memory.bytes_of(program.graph, value)});")
    return lines


def _trace(program: Program, value: str) -> str:
    address = program.addresses[value].readable()
    return (
        f"TRACE({string_literal(value)}, {address}, {count_of(program.graph, value)}, "
        f"{type_of(_format(program, value)).bytes});"
    )


def _source(program: Program, writer: Writer, body: Sequence[str]) -> str:
    name, definitions = program.name, "\n".join(writer.definitions)
    arena = ""
    if program.arena_bytes:
        blocks = [
            f" *   {b.offset:>9} ... {b.offset + b.bytes:<9} steps {b.first:>3} ... {b.last:<3}  {comment(b.name)}"
            for b in program.blocks if b.bytes
        ]
        if len(blocks) > _MAP_LINES:
            blocks = [*blocks[:_MAP_LINES], f" *   ... and {len(blocks) - _MAP_LINES} more"]
        arena = (
            f"\n/* The arena: {program.arena_bytes} bytes; best possible for this order of steps "
             f"{program.lower_bound} (see arena_map.txt).\n"
            " *       first ... end       living in            what\n" + "\n".join(blocks) + "\n */\n"
            f"static union {{\n    int32_t alignment;\n    uint8_t bytes[{program.arena_bytes}];\n}} {name}_arena "
            "GRAFFITI_ALIGNED;\n"
            f"#define AT(offset) ((void *)({name}_arena.bytes + (offset)))\n"
        )
    statements = "\n".join(f"    {line}" for line in body)
    return f"""/* {comment(name)}: generated by graffiti. Integers only; see {name}.h for the interface. */
#include "{name}.h"

#include <string.h>

#include "graffiti_runtime.h"

#ifndef GRAFFITI_FLASH
#define GRAFFITI_FLASH /* for instance __attribute__((section(".flash"))): where constants go */
#endif
#ifndef GRAFFITI_ALIGNED
#ifdef __GNUC__
#define GRAFFITI_ALIGNED __attribute__((aligned(16)))
#else
#define GRAFFITI_ALIGNED
#endif
#endif

#ifdef GRAFFITI_TRACE
static {name}_trace_callback trace_callback;

void {name}_trace({name}_trace_callback callback) {{ trace_callback = callback; }}
#define TRACE(tensor, data, count, bytes) \\
    do {{ \\
        if (trace_callback != NULL) trace_callback(tensor, data, count, bytes); \\
    }} while (0)
#else
#define TRACE(tensor, data, count, bytes) ((void)0)
#endif

{definitions}
{arena}
void {name}_run({_arguments(program)}) {{
{statements}
}}
"""


def _arguments(program: Program) -> str:
    inputs = [f"const {type_of(port.format).c} *{argument}" for argument, port in program.inputs]
    outputs = [f"{type_of(_format(program, port.value)).c} *{argument}" for argument, port in program.outputs]
    return ", ".join([*inputs, *outputs])


def _format(program: Program, value: str) -> QFormat:
    return format_of(program.graph, value)


def _shape(program: Program, value: str) -> str:
    return "[" + ", ".join(map(str, example_shape(program.graph, value))) + "]"


# ---- the .h file -----------------------------------------------------------------------------------------------------
def _header(program: Program, flash: int) -> str:
    name, upper = program.name, program.name.upper()
    described, macros, helpers = [], [], []
    for argument, port in program.inputs:
        format = port.format
        behind = (
            " (codes of what the affine map in front of the network makes of it, see the helper below)" if port.affine
            else ""
        )
        described.append(f" *   {argument:<16} in   {format!s:<10} {_shape(program, port.value):<18} "
                         f"{comment(port.source)}{behind}")
        macros += _macros(program, f"{upper}_{argument.upper()}", port.value)
        helpers.append(_quantize_helper(program, argument, port))
    for argument, out in program.outputs:
        left_out = " (softmax left out: the largest code is the largest probability)" if out.softmax else ""
        left_out += f" (a part of it, as it is in front of the concat: {comment(out.value)})" if out.part else ""
        text = comment(str(_format(program, out.value)))
        described.append(f" *   {argument:<16} out  {text:<10} {_shape(program, out.value):<18} "
                         f"{comment(out.name)}{left_out}")
        macros += _macros(program, f"{upper}_{argument.upper()}", out.value)
        helpers.append(_dequantize_helper(program, argument, out.value))
    for called, source in program.passed.items():
        described.append(f" *   {'(none)':<16} out  {comment(called)}: the input {comment(source)} as it came, which "
                         "the caller has")
    lines, functions = "\n".join(described), "\n\n".join(helpers)
    return f"""/* {comment(name)}: a network in integers, generated by graffiti.
 *
 * A tensor holds codes, channels last, one example; real value = code * 2^exponent. s8@-7: signed, 8 bits, exponent -7.
 *
{lines}
 *
 * Constants take {flash} bytes of flash (weights, biases, shifts, tables), the static arena {program.arena_bytes}
 * bytes of RAM.
 * There is one arena: {name}_run is not reentrant. Inputs and outputs must not overlap.
 */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{chr(10).join(macros)}
#define {upper}_ARENA_BYTES {program.arena_bytes}
#define {upper}_FLASH_BYTES {flash}

/* Run one example. */
void {name}_run({_arguments(program)});

#ifdef GRAFFITI_TRACE
/* In a debug build: every tensor is handed to the callback as soon as it is made, the inputs first. */
typedef void (*{name}_trace_callback)(const char *tensor, const void *data, size_t count, int bytes_per_element);
void {name}_trace({name}_trace_callback callback);
#endif

#ifdef GRAFFITI_FLOAT_HELPERS
/* Between real values and codes, for hosts with a float unit (link with -lm). */
#include <math.h>

{functions}
#endif

#ifdef __cplusplus
}}
#endif
#endif /* {upper}_H */
"""


def _macros(program: Program, prefix: str, value: str) -> list[str]:
    format = _format(program, value)
    exponent = format.exponent
    lines = [f"#define {prefix}_COUNT {count_of(program.graph, value)}"]
    if isinstance(exponent, tuple):
        lines.append(f"#define {prefix}_EXPONENTS {{{', '.join(map(str, exponent))}}} /* one per channel */")
    else:
        lines.append(f"#define {prefix}_EXPONENT ({exponent})")
    return [*lines, f"#define {prefix}_LOWEST ({literal(format.qmin)})", f"#define {prefix}_HIGHEST "
                                                                         f"{literal(format.qmax)}"]


_ROUND = {
    "half_even": "rint(scaled)",
    "half_up": "floor(scaled) + (scaled - floor(scaled) >= 0.5 ? 1.0 : 0.0)",
    "half_away": "round(scaled)",
    "floor": "floor(scaled)",
}


def _exponent_code(program: Program, prefix: str, value: str) -> tuple[str, str]:
    """A declaration (or nothing) and an expression of the exponent of element ``i``."""
    exponent = _format(program, value).exponent
    if isinstance(exponent, tuple):
        return (f"    static const int exponents[{len(exponent)}] = {prefix}_EXPONENTS;\n", "exponents[i % "
                                                                                            f"{len(exponent)}]")
    return "", f"{prefix}_EXPONENT"


def _quantize_helper(program: Program, argument: str, port: InputPort) -> str:
    type, prefix = type_of(port.format).c, f"{program.name.upper()}_{argument.upper()}"
    declaration, exponent = _exponent_code(program, prefix, port.value)
    tables: list[str] = []
    lines, value = [], "values[i]"
    for number, stage in enumerate(port.affine):
        scale, offset = (
            _real_code(tables, f"{word}_{number}", part, example_shape(program.graph, port.value))
            for word, part in zip(("scale", "offset"), stage)
        )
        lines.append(f"        const volatile float product_{number} = {value} * {scale}, sum_{number} = "
                     f"product_{number} + {offset};\n")
        value = f"sum_{number}"
    note = (
        "\n * The affine map in front of the network: its product is rounded to float, then its sum, which volatile "
        "makes sure of. */"
        if lines else " */"
    )
    return f"""/* {port.rounding}, saturating; NaN, which has no code, becomes 0.{note}
static inline void {program.name}_quantize_{argument}(const float *values, {type} *codes) {{
{"".join(tables)}{declaration}    for (int32_t i = 0; i < {prefix}_COUNT; i++) {{
{"".join(lines)}        const double scaled = ldexp((double){value}, -({exponent})), code = {_ROUND[port.rounding]};
        const double low = {prefix}_LOWEST, high = {prefix}_HIGHEST;
        codes[i] = ({type})(code != code ? 0.0 : code < low ? low : code > high ? high : code);
    }}
}}"""


def _real_code(tables: list[str], name: str, number: np.ndarray, shape: tuple[int, ...]) -> str:
    """An expression for the number that belongs to element ``i``; an array is declared in ``tables``."""
    texts = [
        text + ("f" if any(mark in text for mark in ".e") else ".0f")
        for text in (f"{float(value):.9g}" for value in np.ravel(number))
    ]
    if number.ndim == 0:
        return texts[0] if number >= 0 else f"({texts[0]})"
    if number.ndim > 1:
        texts = np.broadcast_to(np.reshape(texts, number.shape), shape).reshape(-1).tolist()
    lines = [f"        {', '.join(texts[start : start + 8])}," for start in range(0, len(texts), 8)]
    tables.append(f"    static const float {name}[{len(texts)}] = {{\n" + "\n".join(lines) + "\n    };\n")
    return f"{name}[i % {len(texts)}]" if number.ndim == 1 else f"{name}[i]"


def _dequantize_helper(program: Program, argument: str, value: str) -> str:
    type, prefix = type_of(_format(program, value)).c, f"{program.name.upper()}_{argument.upper()}"
    declaration, exponent = _exponent_code(program, prefix, value)
    return f"""static inline void {program.name}_dequantize_{argument}(const {type} *codes, float *values) {{
{declaration}    for (int32_t i = 0; i < {prefix}_COUNT; i++) values[i] = (float)ldexp((double)codes[i], {exponent});
}}"""
