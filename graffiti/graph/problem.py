"""One thing that keeps a graph from a target, as every check reports it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing a target cannot take: where it is, why, and what would fix it."""

    layer: str
    op: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.layer} ({self.op}): {self.reason}; {self.fix}"
