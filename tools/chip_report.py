"""Flash and RAM of the three MLPerf Tiny networks as C on a Cortex-M, beside TensorFlow Lite Micro's for the same
networks.

    python tools/chip_report.py --shared=../shared

Code and constants are the sections of a linked firmware (``arm-none-eabi-size -A``). TensorFlow Lite Micro's arena is
measured with the Python package ``tflite-micro`` on this machine where that is installed (``pip install
tflite-micro``): its planner's part for tensors, and the total with the persistent data of the interpreter, whose
pointers are wider here than on a Cortex-M. Prints Markdown.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

import chip_models
from absl import app, flags

from graffiti.export.c import boards
from graffiti.export.c.exporter import CExporter
from graffiti.export.c.harness import read_manifest, storage_dtype

_SHARED = flags.DEFINE_string("shared", "../shared", "folder that holds models/ and data/")
_CPU = flags.DEFINE_enum(
    "cpu", "cortex-m4", ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55"], "what to compile for"
)
_SCHEMES = flags.DEFINE_list("schemes", ["int8", "int8_per_channel", "int4", "int4_per_channel"], "which schemes")

_TFLM = """
from tflite_micro.python.tflite_micro import runtime
import numpy, sys
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=1 << 22)
details = interpreter.get_input_details(0)
interpreter.set_input(numpy.zeros(details["shape"], details["dtype"]), 0)
interpreter.invoke()
interpreter.print_allocations()
"""


def sections(program: pathlib.Path) -> dict[str, int]:
    """Section → bytes."""
    text = subprocess.run(
        [boards.BOARDS[_CPU.value].size_tool, "-A", program], capture_output=True, text=True, check=True
    ).stdout
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)\s+\d+", text, re.MULTILINE)}


def tflm(flatbuffer: pathlib.Path) -> str:
    """Bytes of the tensor part and of the whole arena, from TensorFlow Lite Micro's own recording allocator."""
    done = subprocess.run([sys.executable, "-c", _TFLM, flatbuffer], capture_output=True, text=True)
    found = dict(re.findall(r"Arena allocation (head|total) (\d+) bytes", done.stdout + done.stderr))
    if len(found) < 2:
        return "not installed" if "No module named" in done.stderr else "not measured"
    return f"{int(found['head']):,} / {int(found['total']):,}"


def main(_) -> None:
    shared = pathlib.Path(_SHARED.value)
    print(
        f"{_CPU.value}, bytes. Code is the kernels and the network's calls, libc's memcpy and the firmware around them "
        "included.\n"
    )
    print(
        "| network | scheme | weights and tables | code -Os | code -O2 | arena | best possible | arena, inputs and "
        "outputs | TFLM tensors / arena | .tflite |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in chip_models.MODELS:
        calibration, _inputs = chip_models.inputs(name, shared, 100)
        flatbuffer = shared / "models" / f"{name}_int8.tflite"
        measured = tflm(flatbuffer)
        for scheme in _SCHEMES.value:
            ig = chip_models.integer_graph(name, scheme, shared, calibration)
            with tempfile.TemporaryDirectory() as temporary:
                folder = pathlib.Path(temporary) / "export"
                CExporter().write(ig.graph, folder)
                manifest, code = read_manifest(folder), {}
                for level in ("-Os", "-O2"):
                    boards.build(folder, _CPU.value, folder / level, (level,))
                    found = sections(folder / level)
                    code[level] = found[".text"] + found[".rodata"] + found.get(".data", 0) - manifest["flash_bytes"]
            ports = sum(_bytes(port) for port in (*manifest["inputs"], *manifest["outputs"]))
            print(
                f"| {name} | {scheme} | {manifest['flash_bytes']:,} | {code['-Os']:,} | {code['-O2']:,} | "
                f"{manifest['arena_bytes']:,} | "
                f"{manifest['arena_lower_bound']:,} | {manifest['arena_bytes'] + ports:,} | {measured} | "
                f"{flatbuffer.stat().st_size:,} |",
                flush=True,
            )


def _bytes(port: dict) -> int:
    count = storage_dtype(port).itemsize
    for size in port["shape"]:
        count *= size
    return count


if __name__ == "__main__":
    app.run(main)
