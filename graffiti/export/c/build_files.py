"""The files that build an export and try it on a chip: ``CMakeLists.txt`` and the firmware's ``main.c``."""

from __future__ import annotations

from graffiti.export.c.program import Program
from graffiti.export.c.templates import fill
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import format_of

# copied as they are
FIRMWARE = ("startup.c", "semihosting.h", "sections.ld", "mps2.ld", "mps3.ld", "arm-none-eabi.cmake")


def cmake_text(program: Program, has_vectors: bool) -> str:
    """``CMakeLists.txt``: the library, the self-test on a computer, and with a Cortex-M toolchain the firmware."""
    name, upper = program.name, program.name.upper()
    test = f"\n    add_test(NAME {name} COMMAND {name}_test)" if has_vectors else ""
    firmware_test = " # export with test_inputs=... to have something to test"
    if has_vectors:
        firmware_test = """
        add_test(NAME firmware COMMAND ${QEMU} -machine ${MACHINE} -nographic -monitor none
                 -semihosting-config enable=on,target=native -kernel $<TARGET_FILE:firmware>)"""
    return fill("CMakeLists.txt.in", name=name, upper=upper, test=test, firmware_test=firmware_test)



def firmware_text(program: Program, has_vectors: bool) -> str:
    """``firmware/main.c``: checks the stored vectors, or streams codes from file to file on the host."""
    name, upper = program.name, program.name.upper()
    inputs = [(a, p.value) for a, p in program.inputs]
    outputs = [(a, p.value) for a, p in program.outputs]
    buffers = "\n".join(
        f"static {type_of(format_of(program.graph, v)).c} {a}[{upper}_{a.upper()}_COUNT];"
        for a, v in (*inputs, *outputs)
    )
    arguments = ", ".join(a for a, _ in (*inputs, *outputs))
    reads = "\n".join(
        f"        got = semihosting_read(from, {a}, sizeof {a});\n"
        + ("        if (got == 0) break;\n" if index == 0 else "")
        + f"        if (got != sizeof {a}) return fail(\"the last example is not whole\\n\");"
        for index, (a, _) in enumerate(inputs)
    )
    writes = "\n".join(f"        failed |= !semihosting_write(to, {a}, sizeof {a});" for a, _ in outputs)
    vectors = ", ".join([f"vector_{a}[i]" for a, _ in inputs] + [a for a, _ in outputs])
    compares = "\n".join(
        f"        for (size_t k = 0; k < {upper}_{a.upper()}_COUNT; k++) unequal += {a}[k] != vector_{a}[i][k];"
        for a, _ in outputs
    )
    total = " + ".join(f"{upper}_{a.upper()}_COUNT" for a, _ in outputs)
    include, check = "", fill("firmware_no_check.c.in")
    if has_vectors:
        include = '#include "../vectors.h"\n'
        check = fill("firmware_check.c.in", name=name, arguments=vectors, compares=compares, total=total)
    texts = {"include": include, "buffers": buffers, "check": check.rstrip(), "reads": reads, "writes": writes}
    return fill("firmware_main.c.in", name=name, arguments=arguments, **texts)
