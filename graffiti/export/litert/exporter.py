"""The LiteRT exporter."""

from __future__ import annotations

import os
import pathlib

from graffiti import files
from graffiti.export import difference
from graffiti.export.base import Exporter, ExportError, Package, Problem, WriteOption
from graffiti.export.c.border import take_border_off
from graffiti.export.litert.emitter import ARITHMETICS, KERNELS
from graffiti.export.litert.program import Program, build
from graffiti.graph.ir import Graph

BORDERS = ("float", "codes")


class LiteRTExporter(Exporter):
    """One ``.tflite`` file: int8 operators with the graph's own power-of-two scales; the batch size is dynamic.

    No converter stands between: every scale, code and bias in the file is the graph's. Unsigned tensors are int8 with a
    zero-point, 16-bit ones int16. In LiteRT with XNNPACK (its default) every integer equals the graph's; see
    ``graffiti.export.litert`` for the exceptions.
    """

    name = "litert"
    target = "litert"
    description = "LiteRT (TensorFlow Lite) flatbuffer, int8, with the graph's own scales"
    suffix = ".tflite"
    options = {
        "border": WriteOption("float (default) or codes in and out"),
        "arithmetic": WriteOption("int8 (default), native, half_up or float32"),
    }
    packages = (Package("ai-edge-litert", "ai_edge_litert.schema_py_generated"),)

    def supports(self, graph: Graph) -> list[Problem]:
        """Every layer that LiteRT cannot hold exactly: float islands, unsigned 16-bit tensors, wide accumulators
        between 16-bit ones, unknown sizes.
        """
        return build(graph)[1]

    def write(
        self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False, border: str = "float",
        arithmetic: str = "int8",
    ) -> list[pathlib.Path]:
        """Write the file ``path``, whole or not at all.

        Args:
            graph: of stage ``integer``.
            path: a file that does not exist yet, by custom ``<name>.tflite``.
            overwrite: replace ``path`` where it exists.
            border: ``float``: float32 in and out, as the Keras model; ``codes``: int8 in and out, a softmax at the
                output left out.
            arithmetic: ``int8``: everything that LiteRT can do in int8, equal to the graph with XNNPACK. ``native``:
                the same, but sums and requantizes by LiteRT's own ``ADD``, ``SUB`` and ``QUANTIZE``, which round ties
                up: fewer operators, and a step of difference there. ``half_up``: for LiteRT's builtin kernels and
                LiteRT for Microcontrollers: what rounds half up is int8 (``quantize(model, "int8_half_up")``), what
                rounds otherwise is computed in float32; equal to the graph there, but not with XNNPACK, which rounds to
                even. ``float32``: int8 tensors and int8 weights, but products and sums computed in float32 between
                them, exactly: equal to the graph in every kernel of LiteRT, XNNPACK or not.

        Returns:
            The file.

        Raises:
            ExportError: lists every layer that stands against it. Nothing is written.
            FileExistsError: where ``path`` exists and ``overwrite`` is false.
            ImportError: where ``ai-edge-litert`` is not installed.
        """
        path = files.check_free(path, overwrite=overwrite)
        data = self.program(graph, border=border, arithmetic=arithmetic).data
        self.check_target(graph)
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(data)
        return [path]

    def program(
        self, graph: Graph, *, border: str = "float", arithmetic: str = "int8", every_tensor: bool = False
    ) -> Program:
        """The file's bytes and what they hold, see ``write``; with ``every_tensor`` all of the graph's tensors are
        outputs.
        """
        if border not in BORDERS:
            raise ValueError(f"a border is one of {', '.join(BORDERS)}, got {border!r}")
        if arithmetic not in ARITHMETICS:
            raise ValueError(f"the arithmetic is one of {', '.join(ARITHMETICS)}, got {arithmetic!r}")
        self.check_packages()
        problems: list[Problem] = []
        if border == "codes" and graph.stage == "integer":
            taken = take_border_off(graph)
            graph, problems = taken.graph, [
                *taken.problems,
                *(
                    Problem(
                        called, "output", f"it is the input {name} as it came, which has no codes",
                        "leave it out of the model, or export with border='float'"
                    )
                    for called, name in taken.passed.items()
                )
            ]
        program = None
        if not problems:
            program, problems = build(graph, arithmetic=arithmetic, every_tensor=every_tensor)
        if program is None:
            raise ExportError(self.name, graph, problems)
        return program

    def expected_difference(
        self, graph: Graph, *, runtime: str = "xnnpack", arithmetic: str = "int8"
    ) -> dict[str, int]:
        """Tensor of codes → the largest difference from the graph's in steps, for any input; tensors that are always
        equal are left out.

        Args:
            graph: of stage ``integer``.
            runtime: ``xnnpack`` (LiteRT's default on CPUs), ``builtin`` (its kernels without delegates) or ``micro``
                (LiteRT for Microcontrollers).
            arithmetic: as in ``write``.
        """
        if runtime not in KERNELS:
            raise ValueError(f"a LiteRT runtime is one of {', '.join(KERNELS)}, got {runtime!r}")
        program = self.program(graph, arithmetic=arithmetic)
        # an operator that rounds otherwise is off by one step at most (``rounding.py``)
        own = dict.fromkeys(program.inexact[KERNELS[runtime]], 1)
        steps = difference.bounds(graph, own)
        return {
            name: most for name, most in steps.items() if name in program.tensors and graph.format(name) is not None
        }
