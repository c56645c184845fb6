"""The C99 exporter."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from graffiti import files
from graffiti.export.base import Exporter, ExportError, Problem, WriteOption
from graffiti.export.c.border import Border, InputPort
from graffiti.export.c.build_files import FIRMWARE
from graffiti.export.c.program import Program, build, prepare
from graffiti.export.c.render import render
from graffiti.export.c.selftest import Vectors
from graffiti.graph import interpreter
from graffiti.graph.ir import Graph, TensorType

RUNTIME = pathlib.Path(__file__).with_name("runtime")
RUNTIME_FILES = (
    "graffiti_runtime.c", "graffiti_runtime.h", "graffiti_rows_plain.h", "graffiti_rows_dsp.h", "graffiti_rows_mve.h"
)
FIRMWARE_FOLDER = pathlib.Path(__file__).with_name("firmware")


class CExporter(Exporter):
    """Plain C99: ``void <name>_run(const int8_t *input, int8_t *output)`` over codes, with all memory static.

    The folder holds ``<name>.c`` and ``<name>.h`` (weights as constants, one call per fused step),
    ``graffiti_runtime.c`` and ``.h`` (the kernels; the same for every network) with ``graffiti_rows_*.h`` (the inner
    products for plain C, the DSP extension and Helium), ``main.c`` with ``vectors.h`` (a self-test), ``Makefile`` and
    ``CMakeLists.txt``, ``firmware`` (the self-test for Cortex-M boards), ``arena_map.txt`` (where every tensor lies)
    and ``<name>.json`` (the interface for programs). A softmax at the output is left out: the largest code is the
    largest probability.
    """

    name = "c"
    target = "c99"
    description = "C99 without dependencies, heap or floats: one .c/.h pair and a small runtime"
    options = {
        "test_inputs": WriteOption("inputs stored as test vectors", "data"),
        "name": WriteOption("prefix of all symbols"),
    }

    def supports(self, graph: Graph) -> list[Problem]:
        """Every layer that has no C form: float islands, float ops inside, unknown sizes, 3-D windows, unsigned
        32-bit codes.
        """
        return prepare(graph)[1]

    def write(
        self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False, test_inputs=None,
        name: str | None = None, fused: bool = True,
    ) -> list[pathlib.Path]:
        """Write the folder ``path``, all files or none.

        Args:
            graph: of stage ``integer``, with fixed sizes.
            path: a folder that does not exist yet.
            overwrite: replace ``path`` where it exists.
            test_inputs: real inputs of the network, ``(examples, ...)``: an array, a list, or a dict by input name.
                They and the outputs that the numpy reference computes are stored as test vectors for ``make check``.
            name: prefix of all symbols, instead of the graph's name.
            fused: false gives every node a step and a tensor of its own, for debugging.

        Returns:
            The files, the model's own first.

        Raises:
            ExportError: lists every layer that stands against it.
            FileExistsError: where ``path`` exists and ``overwrite`` is false.
        """
        border = self.border(graph)
        path = files.check_free(path, overwrite=overwrite)
        if name is not None:
            graph = graph.copy()
            graph.name = name
        self.check_target(graph)
        program = build(graph, border, fused=fused)
        vectors = None if test_inputs is None else reference_vectors(graph, border, test_inputs)
        texts = render(program, vectors)
        with files.atomic_folder(path, overwrite=overwrite) as folder:
            (folder / "firmware").mkdir()
            for file, text in texts.items():
                (folder / file).write_text(text, encoding="ascii", newline="\n")
            copies = {source: RUNTIME / source for source in RUNTIME_FILES}
            copies |= {f"firmware/{source}": FIRMWARE_FOLDER / source for source in FIRMWARE}
            for target, copied in copies.items():
                shutil.copyfile(copied, folder / target)
            written = [*texts, *copies]
        return [path / file for file in written]

    def border(self, graph: Graph) -> Border:
        """The ports of the exported function; an ExportError where the graph cannot be exported."""
        border, problems = prepare(graph)
        if problems:
            raise ExportError(self.name, graph, problems)
        return border

    def plan(self, graph: Graph, *, fused: bool = True) -> Program:
        """The program that ``write`` would render: steps, addresses, arena."""
        return build(graph, self.border(graph), fused=fused)


def reference_vectors(graph: Graph, border: Border, inputs) -> Vectors:
    """Codes of the inputs and, from the numpy reference, of the outputs.

    Args:
        graph: the graph with its float borders.
        border: the same without.
        inputs: real values, ``(examples, ...)``: an array, a list, or a dict by input name.
    """
    graph, codes_graph = any_batch(graph), any_batch(border.graph)
    codes = port_codes(graph, border.inputs, inputs)
    if any(len(array) == 0 for array in codes):
        raise ValueError("test_inputs holds no example; give at least one, or leave it out")
    return Vectors(codes, interpreter.run(codes_graph, codes))


def any_batch(graph: Graph) -> Graph:
    """The graph with its batch size free: the C function takes one example, whatever batch the model was built for."""
    freed = graph.copy()
    for value, type in graph.types.items():
        if value not in graph.constants and type.shape:
            freed.types[value] = TensorType((None, *type.shape[1:]), type.format)
    return freed


def port_codes(graph: Graph, ports: Sequence[InputPort], inputs) -> list[np.ndarray]:
    """Real inputs as the codes of every input port, by the reference.

    Args:
        graph: the graph with its float borders.
        ports: of its border.
        inputs: real values, ``(examples, ...)``: an array, a list, or a dict by input name.
    """
    if not isinstance(inputs, Mapping):
        inputs = dict(zip(graph.inputs, inputs if isinstance(inputs, (list, tuple)) else [inputs], strict=True))
    real = interpreter.bind_inputs(graph, inputs)
    return [port.codes(real[port.source]) for port in ports]
