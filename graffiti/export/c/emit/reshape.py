"""Reshape: the same bytes under another shape, no code."""

from __future__ import annotations

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer


class Reshape(Emitter):
    """A view; the exporter gives its output the address of its input."""

    ops = ("reshape",)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        return []
