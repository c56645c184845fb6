"""Integer graphs as files for other tools and chips. One exporter per target, listed in ``EXPORTERS``.

``IntegerGraph.export``, the command line, ``tools/`` and the executors that run exported files read that table.
"""

from __future__ import annotations

from graffiti import documents
from graffiti.export.base import Exporter, ExportError, Package, Problem, WriteOption
from graffiti.export.c.exporter import CExporter
from graffiti.export.litert.exporter import LiteRTExporter
from graffiti.export.onnx.exporter import OnnxExporter, QonnxExporter

EXPORTERS: dict[str, Exporter] = {
    exporter.name: exporter for exporter in (CExporter(), LiteRTExporter(), OnnxExporter(), QonnxExporter())
}


def get(format: str) -> Exporter:
    """The exporter called ``format``.

    Raises:
        ValueError: where there is none; it lists the ones there are.
    """
    if format not in EXPORTERS:
        raise ValueError(
            f"there is no export format {format!r}{documents.nearest(format, EXPORTERS)}; the formats are "
            f"{', '.join(EXPORTERS)}"
        )
    return EXPORTERS[format]


__all__ = ["EXPORTERS", "ExportError", "Exporter", "Package", "Problem", "WriteOption", "get"]
