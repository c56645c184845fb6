"""Writing files so that nothing is ever half written or overwritten by accident."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


def check_free(path: str | os.PathLike, *, overwrite: bool = False) -> pathlib.Path:
    """``path`` as a Path, if it may be written.

    Raises:
        FileExistsError: where something is there already and ``overwrite`` is false.
        FileNotFoundError: where its parent folder does not exist.
    """
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another path or pass overwrite=True")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist; create it first")
    return path


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside ``path``; it becomes ``path`` when the block ends without an error, else it goes.

    The temporary name keeps the suffix, because some writers decide by it.
    """
    path = check_free(path, overwrite=overwrite)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.absolute().parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        check_free(path, overwrite=overwrite)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield an empty temporary folder beside ``path``; it becomes ``path`` when the block ends without an error."""
    path = check_free(path, overwrite=overwrite)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        yield temporary
        check_free(path, overwrite=overwrite)
        if path.exists():
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.absolute().parent))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
