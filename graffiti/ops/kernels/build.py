"""Compile the kernel library ``graffiti_kernels.so``: ``python -m graffiti.ops.kernels.build`` or ``build(folder)``.

The file ``each_tier.cc`` of a kernel family is compiled once for each instruction set, with the flags of
``tiers.inc``; all else is built for the oldest CPU. Which of them runs is decided by the CPU at run time, so the
library can be given to others. Incremental: an object is made again when its source, a header or its command changed.
Knows nothing of the rest of the package, so that ``setup.py`` can load it by path.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = "graffiti_kernels.so"
_COMMON = [
    "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread", "-ffp-contract=off",
    "-fno-math-errno", "-fno-trapping-math", "-DNDEBUG"
]
_EACH_TIER = "each_tier"  # the name of a file that is compiled once for each tier


def objects() -> dict[str, tuple[pathlib.Path, list[str]]]:
    """What to compile on this machine: the object's name, its source and its flags."""
    found = {}
    for source in sorted([*HERE.glob("*.cc"), *HERE.glob("*/*.cc")]):
        family = "" if source.parent == HERE else f"{source.parent.name}_"
        if source.stem != _EACH_TIER:
            found[f"{family}{source.stem}.o"] = (source, ["-O2"])
            continue
        for tier in _tables().tiers():
            if tier.is_built:
                found[f"{family}{tier.name}.o"] = (source, [*tier.flags, *_defines(tier)])
    return found


def build(
    output_dir: str | os.PathLike | None = None, *, build_dir: str | os.PathLike | None = None, jobs: int | None = None,
    extra_flags: tuple[str, ...] = ()
) -> pathlib.Path:
    """Compile and link the kernels.

    Args:
        output_dir: where ``graffiti_kernels.so`` goes; the package's ``ops`` folder by default.
        build_dir: for object files, kept between builds; ``graffiti/ops/_build/kernels`` by default.
        jobs: compilers at a time; as many as there are processors by default.
        extra_flags: appended to every compile and link command (sanitizers).

    Returns:
        The library's path.

    Raises:
        RuntimeError: where the compiler is missing or fails; the message holds its output.
    """
    output = pathlib.Path(output_dir) if output_dir is not None else HERE.parent
    folder = pathlib.Path(build_dir) if build_dir is not None else HERE.parent / "_build" / "kernels"
    output.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    commands = {}
    for name, (source, flags) in objects().items():
        target = folder / name
        commands[target] = [*compiler, *_COMMON, *flags, *extra_flags, f"-I{HERE}",
                            "-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
    stale = [target for target, command in commands.items() if not _is_fresh(target, command)]
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(lambda target: _run(commands[target], target), stale))
    library = output / LIBRARY
    soname = ["-Wl,-soname," + LIBRARY, "-Wl,-z,defs"] if sys.platform == "linux" and not extra_flags else []
    link = [*compiler, "-shared", "-pthread", *extra_flags, *map(str, commands), *soname, "-o", str(library)]
    record = folder / "link.command"
    newest = max(target.stat().st_mtime_ns for target in commands)
    if (
        not (
            library.is_file() and library.stat().st_mtime_ns >= newest and record.is_file()
            and record.read_text() == shlex.join(link)
        )
    ):
        with tempfile.TemporaryDirectory(dir=output) as temporary:  # a process that has the old one open keeps it
            partial = os.path.join(temporary, LIBRARY)
            _run([*link[:-1], partial])
            os.replace(partial, library)
        record.write_text(shlex.join(link))
    return library


def _defines(tier) -> list[str]:
    """What ``this_tier.h`` wants to know."""
    number = f"GRAFFITI_TIER_{tier.constant}"
    return [f"-DGRAFFITI_TIER={number}", f"-DGRAFFITI_TIER_IS_{tier.constant}", f'-DGRAFFITI_VECTORS="{tier.vectors}"']


def _tables():
    """``tables.py`` beside this file, loaded by path."""
    spec = importlib.util.spec_from_file_location("graffiti_kernel_tables", HERE / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _is_fresh(target: pathlib.Path, command: list[str]) -> bool:
    """Whether an object exists, was made by the same command, and is newer than everything it was made from."""
    depends, record = target.with_suffix(".d"), target.with_suffix(".command")
    if not (target.is_file() and depends.is_file() and record.is_file() and record.read_text() == shlex.join(command)):
        return False
    sources = shlex.split(depends.read_text().replace("\\\n", " ").split(":", 1)[1])
    made = target.stat().st_mtime_ns
    return all(os.path.isfile(source) and os.stat(source).st_mtime_ns <= made for source in sources)


def _run(command: list[str], target: pathlib.Path | None = None) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(
            f"there is no C++ compiler {command[0]!r}; install g++ or clang++, or name one in the environment "
            "variable CXX"
        ) from None
    if result.returncode:
        raise RuntimeError(
            f"the compiler failed ({result.returncode}):\n{shlex.join(command)}\n{result.stderr[-8000:]}"
        )
    if result.stderr.strip():
        print(result.stderr, file=sys.stderr)
    if target is not None:
        target.with_suffix(".command").write_text(shlex.join(command))


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
