"""Machines that an exported network is compiled for and run on here, in an emulator: Cortex-M boards, aarch64, riscv64.

Each is a row of ``BOARDS``. The very files of the export are compiled: on a Cortex-M the firmware example, elsewhere
the self-test program; codes go in and every tensor comes back through files.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from graffiti.export.c.border import InputPort
from graffiti.export.c.exporter import CExporter, any_batch, port_codes
from graffiti.export.c.harness import WARNINGS, read_manifest, storage_dtype
from graffiti.graph.ir import Graph

_FIRMWARE_FLAGS = ("-ffunction-sections", "-fdata-sections")
_USER_PACKAGES = "qemu-user and gcc-{}-linux-gnu"


@dataclasses.dataclass(frozen=True)
class Board:
    """A machine.

    Attributes:
        compiler: a cross GCC.
        flags: what it needs to know about the machine.
        emulator: command in front of the program.
        packages: Debian packages that bring both, for the message where they are missing.
        linker_script: of the firmware folder, for a board without operating system; ``None`` for a program under Linux.
    """

    compiler: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    packages: str
    linker_script: str | None = None

    @property
    def size_tool(self) -> str:
        """The ``size`` program of the compiler."""
        return self.compiler.removesuffix("gcc") + "size"


def _board(cpu: str, machine: str, script: str, float_abi: str = "hard") -> Board:
    return Board(
        "arm-none-eabi-gcc", ("-mthumb", f"-mcpu={cpu}", f"-mfloat-abi={float_abi}"),
        ("qemu-system-arm", "-machine", machine, "-nographic", "-monitor", "none"),
        "gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm", script,
    )


BOARDS: dict[str, Board] = {
    "cortex-m3": _board("cortex-m3", "mps2-an385", "mps2.ld", "soft"),   # neither DSP instructions nor Helium
    "cortex-m4": _board("cortex-m4", "mps2-an386", "mps2.ld"),           # SMLAD
    "cortex-m7": _board("cortex-m7", "mps2-an500", "mps2.ld"),           # SMLAD
    "cortex-m55": _board("cortex-m55", "mps3-an547", "mps3.ld"),         # Helium
    "aarch64": Board("aarch64-linux-gnu-gcc", (), ("qemu-aarch64",), _USER_PACKAGES.format("aarch64")),
    "riscv64": Board("riscv64-linux-gnu-gcc", (), ("qemu-riscv64",), _USER_PACKAGES.format("riscv64")),
}


def missing(name: str) -> str | None:
    """One sentence that says which tool of a board is not installed and what brings it; ``None`` where all are
    there.
    """
    board = BOARDS[name]
    absent = [tool for tool in (board.compiler, board.emulator[0]) if shutil.which(tool) is None]
    return (
        f"the board c:{name} needs {' and '.join(absent)}, not found on this machine; install {board.packages}"
        if absent else None
    )


def build(folder: pathlib.Path, name: str, program: pathlib.Path, flags: Sequence[str] = ("-O2",)) -> None:
    """Compile an exported folder for a board: the firmware, or the self-test program.

    Args:
        folder: what the exporter wrote, firmware or ``main.c`` included.
        name: a key of ``BOARDS``.
        program: the file to write.
        flags: of the compiler, behind those of the board.

    Raises:
        RuntimeError: where a tool is missing or the compiler fails.
    """
    why = missing(name)
    if why:
        raise RuntimeError(why)
    board, model = BOARDS[name], read_manifest(folder)["name"]
    command: list[str | os.PathLike] = [board.compiler, *WARNINGS, *board.flags, *flags]
    sources: list[str | os.PathLike] = [folder / f"{model}.c", folder / "graffiti_runtime.c"]
    if board.linker_script is None:
        command += ["-static", folder / "main.c", *sources]
    else:
        firmware = folder / "firmware"
        command += [*_FIRMWARE_FLAGS, firmware / "startup.c", firmware / "main.c", *sources]
        command += [
            "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", f"-L{firmware}", f"-T{board.linker_script}"
        ]
    done = subprocess.run(
        [*(os.fspath(part) for part in command), "-o", os.fspath(program)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{board.compiler} failed on the export of {model!r} for {name}:\n{done.stderr[-4000:]}")


def command_of(name: str, program: pathlib.Path, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs a built program in its emulator.

    Args:
        name: a key of ``BOARDS``.
        program: from ``build``.
        arguments: what ``main`` gets; a firmware gets them by semihosting.
    """
    board = BOARDS[name]
    if board.linker_script is None:
        return [*board.emulator, os.fspath(program), *arguments]
    words = "".join(f",arg={word}" for word in ("firmware", *arguments))
    return [*board.emulator, "-semihosting-config", f"enable=on,target=native{words}", "-kernel", os.fspath(program)]


class EmulatedModel:
    """An integer graph, exported, cross-compiled and run on a board; the counterpart of ``harness.CModel``.

    Args:
        graph: of stage ``integer``.
        name: a key of ``BOARDS``.
        flags: of the compiler.

    Raises:
        ValueError: for an unknown board.
        RuntimeError: where a tool is missing, with the packages that bring it, or fails.
        ExportError: where the graph cannot be exported.
    """

    def __init__(self, graph: Graph, name: str, flags: Sequence[str] = ("-O2",)) -> None:
        if name not in BOARDS:
            raise ValueError(f"the C export is emulated on {', '.join(BOARDS)}, got {name!r}")
        why = missing(name)
        if why:
            raise RuntimeError(why)
        self.graph, self.name = graph, name
        self._ports: list[InputPort] = CExporter().border(graph).inputs  # in the order of the manifest's
        self._folder = tempfile.TemporaryDirectory(prefix=f"graffiti-{name}-")
        self._program = pathlib.Path(self._folder.name) / "program"
        export = pathlib.Path(self._folder.name) / "export"
        CExporter().write(graph, export)
        self.manifest = read_manifest(export)
        build(export, name, self._program, (*flags, "-DGRAFFITI_TRACE"))

    def run_all(self, inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every tensor that exists in the C program by its name in the graph: codes ``(batch, ...)``.

        Args:
            inputs: ``(batch, ...)`` real values: an array, a list in the order of the graph's inputs, or a dict by
                input name.
        """
        codes = port_codes(any_batch(self.graph), self._ports, inputs)
        count = len(codes[0])
        rows = [
            np.ascontiguousarray(array, storage_dtype(entry)).reshape(count, -1).view(np.uint8)
            for array, entry in zip(codes, self.manifest["inputs"])
        ]
        folder = pathlib.Path(self._folder.name)
        np.concatenate(rows, axis=1).tofile(folder / "in.bin")
        if BOARDS[self.name].linker_script is None:
            with open(folder / "in.bin", "rb") as source, open(folder / "out.bin", "wb") as sink:
                done = subprocess.run(
                    command_of(self.name, self._program, ["--tensors"]), stdin=source, stdout=sink,
                    stderr=subprocess.PIPE
                )
            said = done.stderr
        else:
            done = subprocess.run(
                command_of(self.name, self._program, ["in.bin", "out.bin"]), cwd=folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            said = done.stdout
        if done.returncode:
            raise RuntimeError(f"{BOARDS[self.name].emulator[0]} ended with exit code {done.returncode}: "
                               f"{said.decode(errors='replace').strip()[-500:]}")
        sizes = [
            int(np.prod(entry["shape"], dtype=np.int64)) * storage_dtype(entry).itemsize
            for entry in self.manifest["trace"]
        ]
        bytes = np.fromfile(folder / "out.bin", np.uint8)
        if len(bytes) != count * sum(sizes):
            raise RuntimeError(
                f"the program on {self.name} wrote {len(bytes)} bytes for {count} examples, expected "
                f"{count * sum(sizes)}"
            )
        parts = np.split(bytes.reshape(count, -1), np.cumsum(sizes)[:-1], axis=1)
        return {
            entry["tensor"]: np.ascontiguousarray(part).view(storage_dtype(entry)).reshape(count, *entry["shape"])
            for entry, part in zip(self.manifest["trace"], parts)
        }
