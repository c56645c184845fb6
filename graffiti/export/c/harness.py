"""Runs an exported network on this machine: compiles the folder with the host's C compiler and calls it from numpy.

The proof that the C computes the same integers goes through here: the very files that are exported, with a few lines of
C around them that loop over examples and collect traced tensors.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from graffiti.export.c.exporter import CExporter
from graffiti.export.c.types import type_of
from graffiti.graph.ir import Graph
from graffiti.numerics.formats import QFormat

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
# without -march: on the CPUs measured, wider vectors lose more in the tails of short rows than they win
FLAGS = ("-O3",)


def compiler() -> list[str]:
    """The command of the host's C compiler: ``$CC``, else the first of cc, gcc, clang.

    Raises:
        RuntimeError: where there is none.
    """
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    raise RuntimeError("no C compiler was found; install gcc or clang, or name one in the environment variable CC")


def compile_c(arguments: Sequence[str | os.PathLike]) -> None:
    """Run the host's compiler; a RuntimeError with its messages where it fails."""
    command = [*compiler(), *(os.fspath(argument) for argument in arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(
            f"the C compiler {command[0]!r} cannot be run ({error}); check the environment variable CC"
        ) from error
    if done.returncode:
        raise RuntimeError(f"the C compiler failed with {' '.join(command)}:\n{done.stderr[-4000:]}")


@functools.lru_cache(maxsize=8)
def _runtime_object(command: tuple[str, ...], texts: tuple[tuple[str, str], ...]) -> pathlib.Path:
    """The compiled runtime: the same for every network, so it is compiled once for each compiler, flags and text."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="graffiti-runtime-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in texts:
        (folder / name).write_text(text)
    compile_c([*command[len(compiler()) :], "-c", folder / "graffiti_runtime.c", "-o", folder / "graffiti_runtime.o"])
    return folder / "graffiti_runtime.o"


class CModel:
    """An exported network as a Python object.

    Args:
        source: an integer graph (exported to a temporary folder first) or a folder that the C exporter wrote.
        flags: of the compiler, beside ``WARNINGS``.
        fused: with a graph, see ``CExporter.write``; false makes every tensor visible to ``run_all``.

    Attributes:
        manifest: the interface as in ``<name>.json``.

    Raises:
        RuntimeError: where there is no compiler, or it fails.
        ExportError: where the graph cannot be exported.
        ValueError: where the folder is none of the C exporter's.
    """

    def __init__(self, source: Graph | str | os.PathLike, flags: Sequence[str] = FLAGS, fused: bool = True) -> None:
        compiler()
        with tempfile.TemporaryDirectory(prefix="graffiti-c-") as build:
            if isinstance(source, Graph):
                folder = pathlib.Path(build) / "export"
                CExporter().write(source, folder, fused=fused)
            else:
                folder = pathlib.Path(source)
            self.manifest = read_manifest(folder)
            name = self.manifest["name"]
            driver, library = pathlib.Path(build) / "driver.c", pathlib.Path(build) / f"{name}.so"
            driver.write_text(_driver(self.manifest))
            options = (*WARNINGS, *flags, "-fPIC")
            texts = tuple((path.name, path.read_text()) for path in sorted(folder.glob("graffiti_*.[ch]")))
            runtime = _runtime_object((*compiler(), *options), texts)
            debug = ("-DGRAFFITI_TRACE", "-DGRAFFITI_FLOAT_HELPERS")
            compile_c(
                [
                    *options, "-shared", *debug, f"-I{folder}", driver, folder / f"{name}.c", runtime, "-o", library,
                    "-lm"
                ]
            )
            self._library = ctypes.CDLL(os.fspath(library))
        self._lock = threading.Lock()  # the network has one static arena
        self.inputs: list[dict] = self.manifest["inputs"]
        self.outputs: list[dict] = self.manifest["outputs"]

    # ---- running -------------------------------------------------------------------------------------------------
    def quantize(self, inputs) -> list[np.ndarray]:
        """Real inputs as codes, by the helpers in the exported header.

        Args:
            inputs: ``(batch, ...)`` real values: an array, a list in the order of the graph's inputs, or a dict by
                input name.
        """
        sources = self.manifest.get("model_inputs") or list(dict.fromkeys(port["source"] for port in self.inputs))
        if not isinstance(inputs, Mapping):
            arrays = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(arrays) != len(sources):
                raise ValueError(f"the network has the inputs {', '.join(sources)}, got {len(arrays)} arrays")
            inputs = dict(zip(sources, arrays))
        codes = []
        for index, port in enumerate(self.inputs):
            if port["source"] not in inputs:
                raise ValueError(f"the network has the inputs {', '.join(sources)}; {port['source']!r} is missing")
            real = np.ascontiguousarray(inputs[port["source"]], np.float32)
            self._check_shape(port, real)
            if np.isnan(real).any():
                raise ValueError(f"input {port['source']!r} holds NaN, which has no code; clean the data first")
            out = np.empty(real.shape, storage_dtype(port))
            self._library.driver_quantize(ctypes.c_int(index), _pointer(real), _pointer(out), ctypes.c_long(len(real)))
            codes.append(out)
        return codes

    def run(self, inputs, *, codes: bool = False) -> list[np.ndarray]:
        """Output codes, one array ``(batch, ...)`` for each output.

        Args:
            inputs: real values as for ``quantize``; or, with ``codes``, one integer array for each input port.
            codes: whether ``inputs`` are codes.
        """
        return self._run(inputs, codes, [])

    def run_all(self, inputs, *, codes: bool = False) -> dict[str, np.ndarray]:
        """Every tensor that exists in the C program by its name in the graph: codes ``(batch, ...)``."""
        batch = self._ports(inputs, codes)
        tensors = [np.empty((len(batch[0]), *entry["shape"]), storage_dtype(entry)) for entry in self.manifest["trace"]]
        self._run(batch, True, tensors)
        return {entry["tensor"]: array for entry, array in zip(self.manifest["trace"], tensors)}

    def dequantize(self, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Output codes as float32, by the helpers in the exported header."""
        real = []
        for index, (port, codes) in enumerate(zip(self.outputs, outputs, strict=True)):
            codes = np.ascontiguousarray(codes, storage_dtype(port))
            self._check_shape(port, codes)
            out = np.empty(codes.shape, np.float32)
            self._library.driver_dequantize(
                ctypes.c_int(index), _pointer(codes), _pointer(out), ctypes.c_long(len(codes))
            )
            real.append(out)
        return real

    def _ports(self, inputs, codes: bool) -> list[np.ndarray]:
        if not codes:
            return self.quantize(inputs)
        arrays = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(arrays) != len(self.inputs):
            raise ValueError(f"the C function takes {len(self.inputs)} arrays of codes, got {len(arrays)}")
        checked = []
        for port, array in zip(self.inputs, arrays):
            array, format = np.asarray(array), QFormat.parse(port["format"])
            self._check_shape(port, array)
            if (
                array.dtype.kind not in "iu"
                or (array.size and not format.qmin <= array.min() <= array.max() <= format.qmax)
            ):
                raise ValueError(f"input {port['source']!r} takes integer codes from {format.qmin} to {format.qmax}, "
                                 f"got dtype {array.dtype} or values outside")
            checked.append(np.ascontiguousarray(array, storage_dtype(port)))
        return checked

    def _run(self, inputs, codes: bool, tensors: list[np.ndarray]) -> list[np.ndarray]:
        batch = self._ports(inputs, codes)
        counts = {len(array) for array in batch}
        if len(counts) != 1:
            raise ValueError(f"all inputs hold as many examples, got {sorted(counts)}")
        count = counts.pop()
        outputs = [np.empty((count, *port["shape"]), storage_dtype(port)) for port in self.outputs]
        with self._lock:
            collected = self._library.driver_run(
                _pointers(batch), _pointers(outputs), _pointers(tensors), ctypes.c_long(len(tensors)),
                ctypes.c_long(count)
            )
        if tensors and collected != len(tensors) and count:
            raise RuntimeError(f"the exported C traced {collected} tensors, its manifest lists {len(tensors)}; export "
                               "it again")
        return outputs

    @staticmethod
    def _check_shape(port: dict, array: np.ndarray) -> None:
        if list(array.shape[1:]) != port["shape"]:
            raise ValueError(f"{port['source']!r} has shape (batch, {', '.join(map(str, port['shape']))}), got "
                             f"{array.shape}")


def read_manifest(folder: pathlib.Path) -> dict:
    """The ``<name>.json`` of an exported folder."""
    for path in sorted(folder.glob("*.json")):
        manifest = json.loads(path.read_text())
        if isinstance(manifest, dict) and manifest.get("format") == "graffiti-c":
            return manifest
    raise ValueError(f"{folder} holds no network that graffiti exported as C; expected a <name>.json beside <name>.c")


def storage_dtype(entry: dict) -> np.dtype:
    """numpy's type of a tensor in the manifest."""
    return type_of(QFormat.parse(entry["format"])).dtype


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _pointers(arrays: Sequence[np.ndarray]):
    return (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))


def _driver(manifest: dict) -> str:
    """C around the exported network: loops over examples, collects traced tensors by the order they come in."""
    name, upper = manifest["name"], manifest["name"].upper()
    inputs, outputs = manifest["inputs"], manifest["outputs"]

    def example(array: str, port: dict) -> str:
        return f"{array} + i * {upper}_{port['argument'].upper()}_COUNT"

    arguments = [example(f"(const {p['type']} *)inputs[{k}]", p) for k, p in enumerate(inputs)]
    arguments += [example(f"({p['type']} *)outputs[{k}]", p) for k, p in enumerate(outputs)]
    quantize, dequantize = [], []
    for k, p in enumerate(inputs):
        call = f"{name}_quantize_{p['argument']}({example('real', p)}, {example('(' + p['type'] + ' *)codes', p)});"
        quantize.append(f"    if (port == {k}) for (long i = 0; i < count; i++) {call}")
    for k, p in enumerate(outputs):
        call = (
            f"{name}_dequantize_{p['argument']}({example('(const ' + p['type'] + ' *)codes', p)}, "
            f"{example('real', p)});"
        )
        dequantize.append(f"    if (port == {k}) for (long i = 0; i < count; i++) {call}")
    bodies = "\n".join(quantize), "\n".join(dequantize)
    return f"""#include "{name}.h"

#include <string.h>

static unsigned char *const *destinations;
static long expected, seen, current;

static void collect(const char *tensor, const void *data, size_t count, int bytes) {{
    const size_t size = count * (size_t)bytes;
    (void)tensor;
    if (seen < expected) memcpy(destinations[seen] + (size_t)current * size, data, size);
    seen++;
}}

long driver_run(const void *const *inputs, void *const *outputs, void *const *tensors, long tensor_count, long count) {{
    destinations = (unsigned char *const *)tensors;
    expected = tensor_count;
    {name}_trace(tensor_count > 0 ? collect : NULL);
    for (long i = 0; i < count; i++) {{
        seen = 0;
        current = i;
        {name}_run({', '.join(arguments)});
    }}
    return seen;
}}

void driver_quantize(int port, const float *real, void *codes, long count) {{
{bodies[0]}
}}

void driver_dequantize(int port, const void *codes, float *real, long count) {{
{bodies[1]}
}}
"""
