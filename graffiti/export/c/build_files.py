"""The files that build an export and try it on a chip: ``CMakeLists.txt`` and the firmware's ``main.c``."""

from __future__ import annotations

from graffiti.export.c.program import Program
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import format_of

FIRMWARE = ("startup.c", "semihosting.h", "sections.ld", "mps2.ld", "mps3.ld", "arm-none-eabi.cmake")  # copied as they are


def cmake_text(program: Program, has_vectors: bool) -> str:
    """``CMakeLists.txt``: the library, the self-test on a computer, and with a Cortex-M toolchain the firmware."""
    name, upper = program.name, program.name.upper()
    test = f"\n    add_test(NAME {name} COMMAND {name}_test)" if has_vectors else ""
    firmware_test = """
        add_test(NAME firmware COMMAND ${QEMU} -machine ${MACHINE} -nographic -monitor none -semihosting-config enable=on,target=native
                 -kernel $<TARGET_FILE:firmware>)""" if has_vectors else ""
    return f"""# The library {name}_library (lib{name}.a), and what tries it:
#   cmake -S . -B build && cmake --build build && ctest --test-dir build
# On a Cortex-M, in an emulator (CPU: cortex-m3, cortex-m4, cortex-m7 or cortex-m55):
#   cmake -S . -B build_m4 -DCMAKE_TOOLCHAIN_FILE=firmware/arm-none-eabi.cmake -DCPU=cortex-m4
#   cmake --build build_m4 && ctest --test-dir build_m4
# For another board: add {name}.c and graffiti_runtime.c to its build; nothing else is needed.
cmake_minimum_required(VERSION 3.13)
project({name} C)

option({upper}_SELF_TEST "build the self-test: a program, or with a Cortex-M toolchain a firmware" ON)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release)
endif()

add_library({name}_library STATIC {name}.c graffiti_runtime.c)
set_target_properties({name}_library PROPERTIES OUTPUT_NAME {name} C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_include_directories({name}_library PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options({name}_library PRIVATE -Wall -Wextra -Wpedantic)
endif()

if({upper}_SELF_TEST AND NOT CMAKE_SYSTEM_NAME STREQUAL "Generic")
    enable_testing()
    add_executable({name}_test main.c)
    set_target_properties({name}_test PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
    target_link_libraries({name}_test PRIVATE {name}_library){test}
elseif({upper}_SELF_TEST AND CMAKE_SYSTEM_PROCESSOR STREQUAL "arm")
    set(BOARDS cortex-m3 mps2-an385 cortex-m4 mps2-an386 cortex-m7 mps2-an500 cortex-m55 mps3-an547)
    list(FIND BOARDS "${{CPU}}" INDEX)
    if(INDEX LESS 0)
        message(FATAL_ERROR "the firmware example knows the CPUs cortex-m3, cortex-m4, cortex-m7 and cortex-m55, got '${{CPU}}'; set -D{upper}_SELF_TEST=OFF")
    endif()
    math(EXPR INDEX "${{INDEX}} + 1")
    list(GET BOARDS ${{INDEX}} MACHINE)
    string(REGEX MATCH "^mps." BOARD ${{MACHINE}})
    enable_testing()
    add_executable(firmware firmware/startup.c firmware/main.c)
    set_target_properties(firmware PROPERTIES OUTPUT_NAME {name}.elf)
    target_link_libraries(firmware PRIVATE {name}_library)
    target_link_options(firmware PRIVATE -nostartfiles --specs=nano.specs -Wl,--gc-sections -L${{CMAKE_CURRENT_SOURCE_DIR}}/firmware -T${{BOARD}}.ld)
    find_program(QEMU qemu-system-arm)
    if(QEMU){firmware_test or " # export with test_inputs=... to have something to test"}
    endif()
endif()
"""


def firmware_text(program: Program, has_vectors: bool) -> str:
    """``firmware/main.c``: checks the stored vectors, or streams codes from file to file on the host."""
    name, upper = program.name, program.name.upper()
    inputs = [(a, p.value) for a, p in program.inputs]
    outputs = [(a, p.value) for a, p in program.outputs]
    buffers = "\n".join(f"static {type_of(format_of(program.graph, v)).c} {a}[{upper}_{a.upper()}_COUNT];" for a, v in (*inputs, *outputs))
    arguments = ", ".join(a for a, _ in (*inputs, *outputs))
    reads = "\n".join(
        f"        got = semihosting_read(from, {a}, sizeof {a});\n"
        + ("        if (got == 0) break;\n" if index == 0 else "")
        + f"        if (got != sizeof {a}) return fail(\"the last example is not whole\\n\");" for index, (a, _) in enumerate(inputs)
    )
    writes = "\n".join(f"        failed |= !semihosting_write(to, {a}, sizeof {a});" for a, _ in outputs)
    vectors = ", ".join([f"vector_{a}[i]" for a, _ in inputs] + [a for a, _ in outputs])
    compares = "\n".join(f"        for (size_t k = 0; k < {upper}_{a.upper()}_COUNT; k++) unequal += {a}[k] != vector_{a}[i][k];" for a, _ in outputs)
    total = " + ".join(f"{upper}_{a.upper()}_COUNT" for a, _ in outputs)
    if has_vectors:
        include = '#include "../vectors.h"\n'
        check = f"""static int check(void) {{
    uint32_t unequal = 0;
    for (size_t i = 0; i < VECTOR_COUNT; i++) {{
        {name}_run({vectors});
{compares}
    }}
    print_number("{name}: ", VECTOR_COUNT, " test vectors, ");
    print_number("", (uint32_t)VECTOR_COUNT * ({total}), " integers, ");
    print_number("", unequal, " mismatches\\n");
    return unequal == 0 ? 0 : 1;
}}"""
    else:
        include = ""
        check = """static int check(void) { return fail("no test vectors are stored; export with test_inputs=..., or pass two file names\\n"); }"""
    return f"""/* {name} on a Cortex-M, talking to the host through semihosting.
 *
 *   without arguments: run the stored test vectors; exit code 1 if one integer differs
 *   with two file names: codes of inputs from the first, example after example; codes of outputs to the second (with
 *   -DGRAFFITI_TRACE every tensor in the order of {name}.json)
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../{name}.h"
#include "semihosting.h"
{include}
{buffers}
static char line[512];

static int fail(const char *text) {{
    semihosting_print(text);
    return 2;
}}

{'''static void print_number(const char *before, uint32_t number, const char *behind) {
    char text[11], *at = text + 10;
    *at = 0;
    do *--at = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    semihosting_print(before);
    semihosting_print(at);
    semihosting_print(behind);
}

''' if has_vectors else ''}{check}

static int32_t to;
static int failed;

#ifdef GRAFFITI_TRACE
static void write_tensor(const char *tensor, const void *data, size_t count, int bytes) {{
    (void)tensor;
    failed |= !semihosting_write(to, data, count * (size_t)bytes);
}}
#endif

static int batch(const char *source, const char *target) {{
    const int32_t from = semihosting_open(source, 0);
    to = semihosting_open(target, 1);
    if (from < 0 || to < 0) return fail("a file cannot be opened\\n");
#ifdef GRAFFITI_TRACE
    {name}_trace(write_tensor);
#endif
    for (;;) {{
        size_t got;
{reads}
        {name}_run({arguments});
#ifndef GRAFFITI_TRACE
{writes}
#endif
        if (failed) return fail("the result cannot be written\\n");
    }}
    semihosting_close(from);
    semihosting_close(to);
    return 0;
}}

/* The word behind the first blank of `text`, which ends there; NULL where there is none. */
static char *next_word(char *text) {{
    char *blank = strchr(text, ' ');
    if (blank == NULL) return NULL;
    *blank = 0;
    return blank + 1;
}}

int main(void) {{
    semihosting_command_line(line, sizeof line);
    char *source = next_word(line), *target = source == NULL ? NULL : next_word(source);
    return target == NULL ? check() : batch(source, target);
}}
"""
