"""The ONNX and QONNX exporters: one file each."""

from __future__ import annotations

import os
import pathlib

from graffiti import files
from graffiti.export.base import Exporter, Problem
from graffiti.export.onnx.model import OnnxGraph, build, problems
from graffiti.export.onnx.styles import QdqStyle, QonnxStyle, Style
from graffiti.graph.ir import Graph


class _OnnxFile(Exporter):
    """What both have in common."""

    style: Style
    fixed_sizes = False

    def supports(self, graph: Graph) -> list[Problem]:
        """Every layer that has no exact form: float islands, softmax inside, exponents beyond float32, kernels that are no constants."""
        if graph.stage != "integer":
            raise ValueError(f"{self.name} is exported from an integer graph, got stage {graph.stage!r}; lower it with graffiti.to_integer first")
        return problems(graph, fixed_sizes=self.fixed_sizes)

    def write(self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False, batch: int | None = None) -> list[pathlib.Path]:
        """Write one file, whole or not at all.

        Args:
            graph: of stage ``integer``.
            path: a file that does not exist yet, ``<name>.onnx`` by custom.
            overwrite: replace ``path`` where it exists.
            batch: size of the batch axis; by default any (``onnx``) or 1 (``qonnx``, whose tools want fixed shapes).

        Returns:
            The file.

        Raises:
            ExportError: lists every layer that stands against it. Nothing is written.
            FileExistsError: where ``path`` exists and ``overwrite`` is false. Nothing is written.
            ImportError: where onnx is not installed.
            ValueError: for another stage, or a batch below 1.
        """
        path = files.check_free(path, overwrite=overwrite)
        model = self.build(graph, batch=batch).model
        self.check_target(graph)
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        return [path]

    def build(self, graph: Graph, *, batch: int | None = None, show: str = "outputs") -> OnnxGraph:
        """The model in memory, see ``model.build``."""
        self.check(graph)
        if batch is not None and batch < 1:
            raise ValueError(f"batch is a size of at least 1, or None for the format's default; got {batch}")
        try:
            import onnx  # noqa: F401
        except ImportError as error:
            raise ImportError(f"the export format {self.name!r} needs the package onnx ({error}); install graffiti[onnx]") from error
        return build(graph, self.style, batch=batch or (1 if self.fixed_sizes else None), show=show)


class OnnxExporter(_OnnxFile):
    """ONNX, opset 21, in QDQ form: int8 (int4 up to 4 bits) weights, ``QuantizeLinear`` / ``DequantizeLinear`` at powers of two, float32 between.

    Every float is ``code * 2**exponent`` and exact (``products.py`` says why), so the codes are those of the integer graph on any
    runtime whose float32 is IEEE 754, whether it runs the floats or puts int8 kernels in their place. Inputs and outputs are
    float32 in the Keras layout; a value that the graph returns as codes comes out as integers. The metadata property
    ``graffiti.formats`` holds the format of every tensor that is in the file.

    A softmax at the output is float32 and may differ in its last bits. In ONNX Runtime on an x86 CPU *without* VNNI set the session
    option ``session.x64quantprecision`` to ``1``: its fast int8 kernels saturate at 16 bits there. Reduced float precision
    (TF32, float16) breaks the promise.
    """

    name = "onnx"
    target = "onnx"
    description = "ONNX in QDQ form, opset 21, one .onnx file: int8 and int4 weights, equal codes in ONNX Runtime"
    style = QdqStyle()


class QonnxExporter(_OnnxFile):
    """QONNX: ``Quant`` nodes with the very bit widths, floats between, opset 18; for FPGA tools.

    Rounding modes other than half to even and floor are standard nodes in front of their ``Quant``, because QONNX' own
    ``HALF_UP`` is another function. An accumulator beyond 2**24 travels in float64, which the executor runs and hardware tools
    may not take. All shapes are fixed; the batch is 1 unless ``write(batch=)`` says otherwise.
    """

    name = "qonnx"
    target = "qonnx_fpga"
    description = "QONNX, one .onnx file: Quant nodes with arbitrary bit widths, for FPGA tools"
    style = QonnxStyle()
    fixed_sizes = True
