"""``QuantizationReport``: what a conversion did, line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from graffiti.config import ReportLine


class QuantizationReport(tuple):
    """What ``quantize`` or ``quantize_training`` did, one ``ReportLine(layer, what, why)`` each; printing it gives a
    table.

    The model holds it as ``quantization_report``, and a ``.keras`` file keeps it. ``keras.models.clone_model`` copies
    layers only: its report is empty.
    """

    def of(self, what: str) -> QuantizationReport:
        """The lines of one kind: ``quantized``, ``folded``, ``shared``, ``float``, ``frozen``, ``dropped``,
        ``warning`` or ``training``.
        """
        return QuantizationReport(line for line in self if line.what == what)

    def to_config(self) -> list[list[str]]:
        """Plain values; ``from_config`` reads them back."""
        return [[line.layer, line.what, line.why] for line in self]

    @classmethod
    def from_config(cls, lines: Iterable[Sequence[str]]) -> QuantizationReport:
        """The inverse of ``to_config``."""
        return cls(ReportLine(*line) for line in lines)

    def __str__(self) -> str:
        counts = Counter(line.what for line in self)
        rows = [f"{line.what:<10} {line.layer:<32} {line.why}" for line in self]
        return "\n".join([*rows, ", ".join(f"{count} {what}" for what, count in counts.items())])
