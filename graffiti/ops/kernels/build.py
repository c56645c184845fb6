"""Compile the kernel library ``graffiti_kernels.so``: ``python -m graffiti.ops.kernels.build`` or ``build(folder)``.

A file's name gives its flags (``x86_avx2.cc`` gets ``-mavx2``); which file runs is decided by the CPU at run time, so the library
can be given to others. Incremental: an object is made again when its source, a header or its command changed. Knows nothing
of the rest of the package, so that ``setup.py`` can load it by path.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = "graffiti_kernels.so"
_COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-DNDEBUG"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512"]
_NO_FALSE_ALARM = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # of GCC 12's own AVX-512 header
FLAGS_OF_NAME = {  # a file's name gives its flags; all else is built for the oldest CPU
    "x86_avx2": ["-O3", "-mavx2", "-mfma"],
    "x86_avx512vnni": ["-O3", *_AVX512, *_NO_FALSE_ALARM],
    "scalar": ["-O3"],
}


def sources() -> list[pathlib.Path]:
    """The files to compile on this machine."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return [path for path in sorted([*HERE.glob("*.cc"), *HERE.glob("*/*.cc")]) if x86 or not path.stem.startswith("x86_")]


def build(output_dir: str | os.PathLike | None = None, *, build_dir: str | os.PathLike | None = None, jobs: int | None = None,
          extra_flags: tuple[str, ...] = ()) -> pathlib.Path:
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
    objects = pathlib.Path(build_dir) if build_dir is not None else HERE.parent / "_build" / "kernels"
    output.mkdir(parents=True, exist_ok=True)
    objects.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    commands = {}
    for source in sources():
        family = "" if source.parent == HERE else f"{source.parent.name}_"
        target = objects / f"{family}{source.stem}.o"
        commands[target] = [*compiler, *_COMMON, *FLAGS_OF_NAME.get(source.stem, ["-O2"]), *extra_flags, f"-I{HERE}",
                            "-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
    stale = [target for target, command in commands.items() if not _is_fresh(target, command)]
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(lambda target: _run(commands[target], target), stale))
    library = output / LIBRARY
    soname = ["-Wl,-soname," + LIBRARY, "-Wl,-z,defs"] if sys.platform == "linux" and not extra_flags else []
    link = [*compiler, "-shared", "-pthread", *extra_flags, *map(str, commands), *soname, "-o", str(library)]
    record = objects / "link.command"
    newest = max(target.stat().st_mtime_ns for target in commands)
    if not (library.is_file() and library.stat().st_mtime_ns >= newest and record.is_file() and record.read_text() == shlex.join(link)):
        with tempfile.TemporaryDirectory(dir=output) as temporary:  # a process that has the old one open keeps it
            partial = os.path.join(temporary, LIBRARY)
            _run([*link[:-1], partial])
            os.replace(partial, library)
        record.write_text(shlex.join(link))
    return library


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
        raise RuntimeError(f"there is no C++ compiler {command[0]!r}; install g++ or clang++, or name one in the environment variable CXX") from None
    if result.returncode:
        raise RuntimeError(f"the compiler failed ({result.returncode}):\n{shlex.join(command)}\n{result.stderr[-8000:]}")
    if result.stderr.strip():
        print(result.stderr, file=sys.stderr)
    if target is not None:
        target.with_suffix(".command").write_text(shlex.join(command))


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
