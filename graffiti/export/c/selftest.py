"""The files that test an export where it stands: ``main.c``, ``vectors.h`` with stored codes, and the ``Makefile``."""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.export.c.program import Program
from graffiti.export.c.templates import fill
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import format_of, literal


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Stored test vectors: codes of every input and output port, ``(count, ...)`` each, in the order of the ports."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


def vectors_text(program: Program, vectors: Vectors) -> str:
    """``vectors.h``: the codes as constant arrays, one row for each vector."""
    lines = [f"/* Stored test vectors of {program.name}: codes of the inputs, and the codes that the reference "
             "computes from them. */", "#include <stdint.h>", ""]
    lines.append(f"#define VECTOR_COUNT {len(vectors.inputs[0])}")
    arguments = [(a, p.value) for a, p in program.inputs] + [(a, p.value) for a, p in program.outputs]
    for (argument, value), array in zip(arguments, [*vectors.inputs, *vectors.outputs]):
        data = array.reshape(len(array), -1)
        rows = []
        for row in data:
            text, line = [], "     "
            for code in row:
                piece = f" {literal(int(code))},"
                if len(line) + len(piece) > 120:
                    text.append(line)
                    line = "     "
                line += piece
            rows.append("    {\n" + "\n".join([*text, line]) + "\n    },")
        lines.append(f"static const {type_of(format_of(program.graph, value)).c} "
                     f"vector_{argument}[VECTOR_COUNT][{data.shape[1]}] = {{\n" + "\n".join(rows) + "\n};")
    return "\n".join(lines) + "\n"


def main_text(program: Program, has_vectors: bool) -> str:
    """``main.c``: checks the stored vectors, streams codes through the network, or prints every tensor."""
    name, upper = program.name, program.name.upper()
    arguments = [a for a, _ in program.inputs] + [a for a, _ in program.outputs]
    buffers = "\n".join(
        [f"static {type_of(p.format).c} {a}[{upper}_{a.upper()}_COUNT];" for a, p in program.inputs]
        + [
            f"static {type_of(format_of(program.graph, p.value)).c} {a}[{upper}_{a.upper()}_COUNT];"
            for a, p in program.outputs
        ]
    )
    reads = "\n".join(
        f"        got = fread({a}, sizeof({a}[0]), {upper}_{a.upper()}_COUNT, stdin);\n"
        + ("        if (got == 0 && feof(stdin)) return 0;\n" if i == 0 else "")
        + f"        if (got != {upper}_{a.upper()}_COUNT) return cut_off();" for i, (a, _) in enumerate(program.inputs)
    )
    writes = "\n".join(
        f"            fwrite({a}, sizeof({a}[0]), {upper}_{a.upper()}_COUNT, stdout);" for a, _ in program.outputs
    )
    sources = ", ".join([f"vector_{a}[i]" for a, _ in program.inputs] + [a for a, _ in program.outputs])
    compares = "\n".join(
        f"        for (long k = 0; k < {upper}_{a.upper()}_COUNT; k++) {{\n"
        f"            if ({a}[k] == vector_{a}[i][k]) continue;\n"
        f'            if (mismatches++ < 10) printf("vector %ld, {a}[%ld]: expected %ld, got %ld\\n", i, k, '
        f'(long)vector_{a}[i][k], (long){a}[k]);\n'
        "        }" for a, _ in program.outputs
    )
    total = " + ".join(f"{upper}_{a.upper()}_COUNT" for a, _ in program.outputs)
    run = {"name": name, "arguments": ", ".join(arguments)}
    if has_vectors:
        check = fill("check.c.in", name=name, arguments=sources, compares=compares, total=total)
        trace_run = f"{name}_run({sources.replace('[i]', '[0]')});"
    else:
        check, trace_run = fill("no_check.c.in", name=name), f"{name}_run({', '.join(arguments)}); /* on zeros */"
    include = '#include "vectors.h"\n' if has_vectors else ""
    return fill(
        "main.c.in", **run, include=include, buffers=buffers, check=check.rstrip(), reads=reads, writes=writes,
        trace_run=trace_run
    )


def makefile_text(program: Program) -> str:
    """``Makefile``: strict flags, and targets to check, sanitize and trace."""
    return fill("Makefile.in", name=program.name)
