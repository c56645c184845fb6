"""Target profiles: what a chip, runtime or tool can hold, one YAML file each; a new target is a new file.

    profile = graffiti.targets.get("cortex_m")            # or the path of your own YAML or JSON file
    graffiti.quantize(model, target="cortex_m", calibration=images)
    graffiti.inspect(model, target="my_chip.yaml")

The same profile steers quantization (the scheme, and what it may not ask for), lowering (the width that accumulators are proven
for), export (checked before anything is written) and ``inspect``.
"""

from __future__ import annotations

import os
import pathlib

from graffiti import documents
from graffiti.targets.check import TargetError, problems
from graffiti.targets.profile import TargetProfile, TensorLimits

FOLDER = pathlib.Path(__file__).resolve().parent
_loaded: dict[str, TargetProfile] = {}


def names() -> tuple[str, ...]:
    """The profiles that come with graffiti."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(path: str | os.PathLike) -> TargetProfile:
    """A profile from a YAML or JSON file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is no profile; one sentence says which key is wrong and what is expected there.
    """
    return TargetProfile.from_config(documents.read(path), f"the target profile {pathlib.Path(path).name}")


def get(target: str | os.PathLike | TargetProfile) -> TargetProfile:
    """A profile from its name, the path of a file, or a profile (returned as it is).

    Raises:
        ValueError: where there is no such profile, or the file is none.
        FileNotFoundError: where there is no such file.
        TypeError: for something else.
    """
    if isinstance(target, TargetProfile):
        return target
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(f"a target is a profile's name, a path or a TargetProfile, got {target!r}")
    name = os.fspath(target)
    if name in names():
        if name not in _loaded:
            _loaded[name] = load(FOLDER / f"{name}.yaml")
        return _loaded[name]
    if os.sep in name or name.endswith(documents.SUFFIXES):
        return load(name)
    raise ValueError(
        f"there is no target {name!r}{documents.nearest(name, names())}; the targets are {', '.join(names())}, or the path of a YAML or JSON file"
    )


__all__ = ["TargetError", "TargetProfile", "TensorLimits", "get", "load", "names", "problems"]
