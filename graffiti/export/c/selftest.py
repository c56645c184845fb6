"""The files that test an export where it stands: ``main.c``, ``vectors.h`` with stored codes, and the ``Makefile``."""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.export.c.program import Program
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import format_of, literal


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Stored test vectors: codes of every input and output port, ``(count, ...)`` each, in the order of the ports."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


def vectors_text(program: Program, vectors: Vectors) -> str:
    """``vectors.h``: the codes as constant arrays, one row for each vector."""
    lines = [f"/* Stored test vectors of {program.name}: codes of the inputs, and the codes that the reference computes from them. */", "#include <stdint.h>", ""]
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
        lines.append(f"static const {type_of(format_of(program.graph, value)).c} vector_{argument}[VECTOR_COUNT][{data.shape[1]}] = {{\n" + "\n".join(rows) + "\n};")
    return "\n".join(lines) + "\n"


def main_text(program: Program, has_vectors: bool) -> str:
    """``main.c``: checks the stored vectors, streams codes through the network, or prints every tensor."""
    name, upper = program.name, program.name.upper()
    arguments = [a for a, _ in program.inputs] + [a for a, _ in program.outputs]
    buffers = "\n".join(
        [f"static {type_of(p.format).c} {a}[{upper}_{a.upper()}_COUNT];" for a, p in program.inputs]
        + [f"static {type_of(format_of(program.graph, p.value)).c} {a}[{upper}_{a.upper()}_COUNT];" for a, p in program.outputs]
    )
    reads = "\n".join(
        f"        got = fread({a}, sizeof({a}[0]), {upper}_{a.upper()}_COUNT, stdin);\n"
        + ("        if (got == 0 && feof(stdin)) return 0;\n" if i == 0 else "")
        + f"        if (got != {upper}_{a.upper()}_COUNT) return cut_off();" for i, (a, _) in enumerate(program.inputs)
    )
    writes = "\n".join(f"            fwrite({a}, sizeof({a}[0]), {upper}_{a.upper()}_COUNT, stdout);" for a, _ in program.outputs)
    sources = ", ".join([f"vector_{a}[i]" for a, _ in program.inputs] + [a for a, _ in program.outputs])
    compares = "\n".join(
        f"        for (long k = 0; k < {upper}_{a.upper()}_COUNT; k++) {{\n"
        f"            if ({a}[k] == vector_{a}[i][k]) continue;\n"
        f'            if (mismatches++ < 10) printf("vector %ld, {a}[%ld]: expected %ld, got %ld\\n", i, k, (long)vector_{a}[i][k], (long){a}[k]);\n'
        "        }" for a, _ in program.outputs
    )
    total = " + ".join(f"{upper}_{a.upper()}_COUNT" for a, _ in program.outputs)
    if has_vectors:
        include = '#include "vectors.h"\n'
        check = f"""static int check(void) {{
    long mismatches = 0;
    for (long i = 0; i < VECTOR_COUNT; i++) {{
        {name}_run({sources});
{compares}
    }}
    printf("{name}: %ld test vectors, %ld integers, %ld mismatches\\n", (long)VECTOR_COUNT, (long)VECTOR_COUNT * ({total}), mismatches);
    return mismatches == 0 ? 0 : 1;
}}"""
        trace_run = f"{name}_run({sources.replace('[i]', '[0]')});"
    else:
        include = ""
        check = f"""static int check(void) {{
    puts("{name}: no test vectors are stored; export with test_inputs=..., or use --batch");
    return 2;
}}"""
        trace_run = f"{name}_run({', '.join(arguments)}); /* on zeros */"
    return f"""/* Runs {name} on a computer.
 *
 *   {name}           run the stored test vectors; exit code 1 if one integer differs
 *   {name} --batch   codes of inputs from stdin, example after example (all inputs of one, then the next); codes of outputs to stdout
 *   {name} --trace   in a build with -DGRAFFITI_TRACE: print every tensor of the first test vector
 *   {name} --tensors in such a build: as --batch, but the codes of every tensor to stdout, in the order of {name}.json
 */
#include <stdio.h>
#include <string.h>

#include "{name}.h"
{include}
{buffers}

{check}

static int cut_off(void) {{
    fputs("{name}: the last example on stdin is not whole\\n", stderr);
    return 1;
}}

static int batch(int write_outputs) {{
    for (;;) {{
        size_t got;
{reads}
        {name}_run({', '.join(arguments)});
        if (write_outputs) {{
{writes}
        }}
        if (ferror(stdout)) return 1;
    }}
}}

#ifdef GRAFFITI_TRACE
static void print_tensor(const char *tensor, const void *data, size_t count, int bytes) {{
    const unsigned char *byte = (const unsigned char *)data;
    printf("%s: %lu elements of %d bytes\\n", tensor, (unsigned long)count, bytes);
    for (size_t i = 0; i < count * (size_t)bytes; i++) printf("%02x%s", byte[i], (i + 1) % 64 == 0 || i + 1 == count * (size_t)bytes ? "\\n" : "");
}}

static void write_tensor(const char *tensor, const void *data, size_t count, int bytes) {{
    (void)tensor;
    fwrite(data, (size_t)bytes, count, stdout);
}}
#else
static int no_trace(void) {{
    puts("{name}: build with -DGRAFFITI_TRACE to print tensors (make trace)");
    return 2;
}}
#endif

static int tensors(void) {{
#ifdef GRAFFITI_TRACE
    {name}_trace(write_tensor);
    return batch(0);
#else
    return no_trace();
#endif
}}

static int trace(void) {{
#ifdef GRAFFITI_TRACE
    {name}_trace(print_tensor);
    {trace_run}
    return 0;
#else
    return no_trace();
#endif
}}

int main(int argc, char **argv) {{
    if (argc == 1) return check();
    if (argc == 2 && strcmp(argv[1], "--batch") == 0) return batch(1);
    if (argc == 2 && strcmp(argv[1], "--trace") == 0) return trace();
    if (argc == 2 && strcmp(argv[1], "--tensors") == 0) return tensors();
    fprintf(stderr, "usage: %s [--batch | --trace | --tensors]\\n", argv[0]);
    return 2;
}}
"""


def makefile_text(program: Program) -> str:
    """``Makefile``: strict flags, and targets to check, sanitize and trace."""
    name = program.name
    return f"""# make            build the test program {name}_test
# make check      run the stored test vectors
# make sanitize   the same under the undefined-behaviour and address sanitizers
# make trace      print every tensor of the first test vector

CC       ?= cc
CFLAGS   ?= -O3
WARNINGS := -std=c99 -Wall -Wextra -Werror -pedantic
SOURCES  := main.c {name}.c graffiti_runtime.c
HEADERS  := $(wildcard *.h)

{name}_test: $(SOURCES) $(HEADERS)
\t$(CC) $(WARNINGS) $(CFLAGS) $(SOURCES) -o $@

.PHONY: check sanitize trace clean
check: {name}_test
\t./{name}_test

sanitize: $(SOURCES) $(HEADERS)
\t$(CC) $(WARNINGS) -O1 -g -fsanitize=undefined,address -fno-sanitize-recover=all $(SOURCES) -o {name}_sanitized
\t./{name}_sanitized

trace: $(SOURCES) $(HEADERS)
\t$(CC) $(WARNINGS) $(CFLAGS) -DGRAFFITI_TRACE $(SOURCES) -o {name}_traced
\t./{name}_traced --trace

clean:
\trm -f {name}_test {name}_sanitized {name}_traced
"""
