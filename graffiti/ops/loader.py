"""Find, check and load the op library; say in one sentence what is wrong where that fails.

``GRAFFITI_OPS`` chooses: ``native`` (an error where there is no library), ``python`` (never load it), ``auto`` (the
default: native where the library loads, else pure TensorFlow with one warning). Importing this module loads nothing,
TensorFlow included.
"""

from __future__ import annotations

import functools
import mmap
import os
import pathlib
import re
import warnings

from graffiti.ops.kernels import tables

MODES = ("auto", "native", "python")
TIERS = tables.tier_names()  # instruction sets of every native op
BUILD_COMMAND = "pip install --no-build-isolation -e ."
FOLDER = pathlib.Path(__file__).resolve().parent
_MARKER = re.compile(rb"graffiti_ops built for tensorflow ([0-9A-Za-z.+-]+);")


class OpsNotAvailable(ImportError):
    """The op library is missing, broken, or built for another TensorFlow."""


def mode() -> str:
    """The value of ``GRAFFITI_OPS``, ``auto`` where it is not set."""
    value = os.environ.get("GRAFFITI_OPS", "auto")
    if value not in MODES:
        raise ValueError(f"GRAFFITI_OPS is one of {', '.join(MODES)}, got {value!r}")
    return value


def check_tier(tier: str) -> None:
    """Refuse a tier that does not exist; one that this processor lacks is refused by the op itself.

    Raises:
        ValueError: for another name than those of ``TIERS``.
    """
    if tier not in TIERS:
        raise ValueError(f"a tier is one of {', '.join(TIERS)}, got {tier!r}")


def library_path(folder: str | os.PathLike = FOLDER) -> pathlib.Path:
    """Where the op library for the installed TensorFlow belongs."""
    major, minor = _tensorflow_version().split(".")[:2]
    return pathlib.Path(folder) / f"graffiti_ops_tf{major}_{minor}.so"


def check_library(path: str | os.PathLike) -> pathlib.Path:
    """Look at the file without loading it.

    Returns:
        The path of a library that was built for the installed TensorFlow.

    Raises:
        OpsNotAvailable: with what was found and the command that builds the library.
    """
    path = pathlib.Path(path)
    installed = _tensorflow_version()
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("graffiti_ops_tf*.so"))
        found = f" (found {', '.join(others)}, built for another TensorFlow)" if others else ""
        raise OpsNotAvailable(
            f"there is no op library {path.name} for TensorFlow {installed} in {path.parent}{found}; "
            f"build it with: {BUILD_COMMAND}"
        )
    built_for = built_for_tensorflow(path)
    if built_for is None:
        raise OpsNotAvailable(
            f"{path} is not a graffiti op library or is damaged; build it again with: {BUILD_COMMAND}"
        )
    if built_for.split(".")[:2] != installed.split(".")[:2]:
        raise OpsNotAvailable(
            f"{path.name} was built for TensorFlow {built_for}, but TensorFlow {installed} is installed; "
            f"build it again with: {BUILD_COMMAND}"
        )
    return path


def built_for_tensorflow(path: str | os.PathLike) -> str | None:
    """The TensorFlow version embedded in a library file, ``None`` where the file holds none. Nothing is loaded."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = _MARKER.search(content) if content[:4] == b"\x7fELF" else None
            return match.group(1).decode() if match else None


def load_library(path: str | os.PathLike):
    """Load one op library and register its gradients.

    Returns:
        The module of generated ops, as ``tf.load_op_library`` gives it.

    Raises:
        OpsNotAvailable: where it is missing, built for another TensorFlow, or cannot be loaded.
    """
    path = check_library(path)
    import tensorflow as tf

    try:
        return tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "undefined symbol" in reason:
            reason = "its symbols do not fit this TensorFlow or these kernels"
        elif "cannot open shared object file" in reason:
            reason = f"a library it needs is missing: {reason.split(':')[0].rsplit('/', 1)[-1]}"
        raise OpsNotAvailable(f"{path} cannot be loaded ({reason}); build it again with: {BUILD_COMMAND}") from error


@functools.cache
def load():
    """The generated ops of the installed library, loaded on the first call.

    Raises:
        OpsNotAvailable: see ``load_library``.
    """
    module = load_library(library_path())
    from graffiti.ops import gradients

    gradients.register()
    return module


def available() -> bool:
    """Whether the library loads; no warning, no error."""
    return problem() is None


@functools.cache
def problem() -> str | None:
    """Why the library does not load, ``None`` where it does."""
    try:
        load()
    except OpsNotAvailable as error:
        return str(error)
    return None


def engine() -> str:
    """``native`` or ``python``: what ``GRAFFITI_OPS`` and the library allow.

    Raises:
        OpsNotAvailable: where ``GRAFFITI_OPS=native`` and the library does not load.
    """
    chosen = mode()
    if chosen == "native":
        load()
    elif chosen == "auto":
        chosen = "native" if available() else "python"
        if chosen == "python":
            _warn_once(problem())
    return chosen


def engine_of(requested: str) -> str:
    """``native`` or ``python`` for an op's ``engine`` argument; ``auto`` is what ``GRAFFITI_OPS`` says."""
    if requested not in MODES:
        raise ValueError(f"an engine is one of {', '.join(MODES)}, got {requested!r}")
    if requested == "native":
        load()
    return engine() if requested == "auto" else requested


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"graffiti runs on pure TensorFlow, which is slower: {reason} (GRAFFITI_OPS=python silences this)",
        RuntimeWarning,
        stacklevel=3,
    )


def _tensorflow_version() -> str:
    import tensorflow as tf

    return tf.__version__
