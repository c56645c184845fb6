"""Target profiles: what a chip, runtime or tool can hold, one YAML file each; a new target is a new file.

    profile = graffiti.targets.get("cortex_m")            # or the path of your own YAML or JSON file
    graffiti.quantize(model, target="cortex_m", calibration=images)
    graffiti.inspect(model, target="my_chip.yaml")

The same profile steers quantization (the scheme, and what it may not ask for), lowering (the width that accumulators
are proven for), export (checked before anything is written) and ``inspect``.
"""

from __future__ import annotations

import os
import pathlib

from graffiti import documents
from graffiti.targets.check import TargetError, problems
from graffiti.targets.profile import TargetProfile, TensorLimits

CATALOG = documents.Catalog(pathlib.Path(__file__).resolve().parent, TargetProfile, "target", "target profile")


def names() -> tuple[str, ...]:
    """The profiles that come with graffiti."""
    return CATALOG.names()


def load(path: str | os.PathLike) -> TargetProfile:
    """A profile from a YAML or JSON file; raises as ``documents.Catalog.load``."""
    return CATALOG.load(path)


def get(target: str | os.PathLike | TargetProfile) -> TargetProfile:
    """A profile from its name, the path of a file, or a profile (returned as it is); raises as
    ``documents.Catalog.get``.
    """
    return CATALOG.get(target)


__all__ = ["TargetError", "TargetProfile", "TensorLimits", "get", "load", "names", "problems"]
