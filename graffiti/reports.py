"""``QuantizationReport``: what a conversion did, line by line."""

from __future__ import annotations

from collections import Counter


class QuantizationReport(tuple):
    """What ``quantize`` or ``quantize_training`` did, one ``ReportLine(layer, what, why)`` each; printing it gives a table."""

    def of(self, what: str) -> QuantizationReport:
        """The lines of one kind: ``quantized``, ``folded``, ``shared``, ``float``, ``frozen``, ``dropped``, ``warning`` or ``training``."""
        return QuantizationReport(line for line in self if line.what == what)

    def __str__(self) -> str:
        counts = Counter(line.what for line in self)
        rows = [f"{line.what:<10} {line.layer:<32} {line.why}" for line in self]
        return "\n".join([*rows, ", ".join(f"{count} {what}" for what, count in counts.items())])
