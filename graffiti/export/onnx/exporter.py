"""The ONNX and QONNX exporters: one file each."""

from __future__ import annotations

import os
import pathlib

from graffiti import checks, files
from graffiti.export import difference
from graffiti.export.base import Exporter, Package, Problem, WriteOption
from graffiti.export.onnx.model import OnnxGraph, build, problems
from graffiti.export.onnx.qdq import QdqStyle
from graffiti.export.onnx.styles import QonnxStyle, Style
from graffiti.graph.ir import Graph

SESSIONS = ("default", "plain")


ONNX = Package("onnx", "onnx")
BATCH = WriteOption("a fixed batch size", "size")


class _OnnxFile(Exporter):
    """What both have in common."""

    suffix = ".onnx"
    packages = (ONNX,)
    fixed_sizes = False

    def supports(self, graph: Graph) -> list[Problem]:
        """Every layer that has no exact form: float islands, softmax inside, exponents beyond float32, kernels that
        are no constants.
        """
        if graph.stage != "integer":
            raise ValueError(
                f"{self.name} is exported from an integer graph, got stage {graph.stage!r}; lower it with "
                "graffiti.to_integer first"
            )
        return problems(graph, fixed_sizes=self.fixed_sizes)

    def _write(
        self, graph: Graph, path: str | os.PathLike, style: Style, overwrite: bool, batch: int | None
    ) -> list[pathlib.Path]:
        path = files.check_free(path, overwrite=overwrite)
        model = self._build(graph, style, batch, "outputs").model
        self.check_target(graph)
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        return [path]

    def _build(self, graph: Graph, style: Style, batch: int | None, show: str) -> OnnxGraph:
        self.check(graph)
        batch = None if batch is None else checks.whole("batch", batch, 1, of="examples")
        self.check_packages()
        return build(graph, style, batch=batch or (1 if self.fixed_sizes else None), show=show)


class OnnxExporter(_OnnxFile):
    """ONNX, opset 21, in QDQ form: 8-bit (int4 up to 4 bits) weights, ``QuantizeLinear`` / ``DequantizeLinear`` at
    powers of two, float32 between.

    Every float is ``code * 2**exponent``. In a default session of ONNX Runtime the codes are those of the integer
    graph, on any CPU; ``qdq.py`` and ``products.py`` say why, and ``write(exact="anywhere")`` makes it so on any
    runtime whose float32 is IEEE 754, whether it runs the floats or puts int8 kernels in their place. Inputs and
    outputs have the Keras model's names, order, layout and dtypes; a value that the graph returns as codes comes out as
    integers. The metadata property ``graffiti.formats`` holds the format of every tensor that is in the file.

    A softmax at the output is float32 and may differ in its last bits. Reduced float precision (TF32, float16,
    bfloat16) breaks the promise.
    """

    name = "onnx"
    target = "onnx"
    description = "ONNX in QDQ form, opset 21, one .onnx file: 8-bit and int4 weights, equal codes in ONNX Runtime"
    options = {
        "exact": WriteOption(
            "runtime (default: exact in ONNX Runtime's default session) or anywhere (wide sums spelled out, slower)"),
        "weights": WriteOption("auto (default) or int8 (without zero-points, for chips and CPUs with VNNI)"),
        "batch": BATCH,
    }

    def write(
        self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False, batch: int | None = None,
        exact: str = "runtime", weights: str = "auto",
    ) -> list[pathlib.Path]:
        """Write one file, whole or not at all.

        Args:
            graph: of stage ``integer``.
            path: a file that does not exist yet, ``<name>.onnx`` by custom.
            overwrite: replace ``path`` where it exists.
            batch: size of the batch axis; any by default.
            exact: ``runtime``: what ONNX Runtime's default session computes exactly. Signed 8-bit activations are
                stored as uint8 with the zero-point 128, and a layer whose worst-case sum leaves what float32 holds is
                plain wherever its output's bits and its shift are at most 24 together; run in floats (optimizations
                off, another runtime) such a layer may round, by what ``expected_difference`` says. ``anywhere``: such
                sums are spelled out in digits, which is exact in floats too and many times slower, and activations keep
                their own types without a zero-point.
            weights: ``auto``: stored as uint8 with the zero-point 128 where ONNX Runtime's int8 kernels on x86 CPUs
                without VNNI would saturate, else as int8. ``int8``: always int8 without a zero-point, as tools for
                chips want them and as CPUs with VNNI compute fastest; on x86 CPUs without VNNI the session option
                ``session.x64quantprecision`` must then be ``1``.

        Returns:
            The file.

        Raises:
            ExportError: lists every layer that stands against it. Nothing is written.
            FileExistsError: where ``path`` exists and ``overwrite`` is false. Nothing is written.
            ImportError: where onnx is not installed.
            ValueError: for another stage, a batch below 1, or an unknown word.
        """
        return self._write(graph, path, QdqStyle(exact, weights), overwrite, batch)

    def build(
        self, graph: Graph, *, batch: int | None = None, show: str = "outputs", exact: str = "runtime",
        weights: str = "auto",
    ) -> OnnxGraph:
        """The model in memory, see ``write`` and ``model.build``."""
        return self._build(graph, QdqStyle(exact, weights), batch, show)

    def expected_difference(self, graph: Graph, *, session: str = "default", exact: str = "runtime") -> dict[str, int]:
        """Tensor → the largest difference from the graph's in steps, for any input; tensors that are always equal are
        left out.

        Args:
            graph: of stage ``integer``.
            session: ``default``, or ``plain``: optimizations off, so that products are computed in float32.
            exact: as in ``write``.
        """
        if session not in SESSIONS:
            raise ValueError(f"an ONNX Runtime session is one of {', '.join(SESSIONS)}, got {session!r}")
        if session == "default":
            return {}
        exported = self.build(graph, exact=exact)
        return {
            name: steps for name, steps in difference.bounds(graph, exported.rounded).items()
            if name in exported.tensors
        }


class QonnxExporter(_OnnxFile):
    """QONNX: ``Quant`` nodes with the very bit widths, floats between, opset 18; for FPGA tools.

    Rounding modes other than half to even and floor are standard nodes in front of their ``Quant``, because QONNX' own
    ``HALF_UP`` is another function. An accumulator beyond 2**24 travels in float64, which the executor runs and
    hardware tools may not take. All shapes are fixed; the batch is 1 unless ``write(batch=)`` says otherwise.
    """

    name = "qonnx"
    target = "qonnx_fpga"
    description = "QONNX, one .onnx file: Quant nodes with arbitrary bit widths, for FPGA tools"
    options = {"batch": BATCH}
    fixed_sizes = True

    def write(
        self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False, batch: int | None = None
    ) -> list[pathlib.Path]:
        """Write one file, whole or not at all; raises what ``OnnxExporter.write`` does.

        Args:
            graph, path, overwrite: as ``OnnxExporter.write``.
            batch: size of the batch axis; 1 by default, because its tools want fixed shapes.
        """
        return self._write(graph, path, QonnxStyle(), overwrite, batch)

    def build(self, graph: Graph, *, batch: int | None = None, show: str = "outputs") -> OnnxGraph:
        """The model in memory, see ``model.build``."""
        return self._build(graph, QonnxStyle(), batch, show)
