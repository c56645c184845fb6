"""Compile the TensorFlow op library ``graffiti_ops_tf<major>_<minor>.so`` with the installed TensorFlow's own flags.

It links to ``graffiti_kernels.so`` beside it (``ops/kernels/build.py``) through the run path ``$ORIGIN``. Incremental:
an object is compiled again when its source, a header it includes or its command changed. Knows nothing of the rest of
the package, so that ``setup.py`` can load it by path.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KERNEL_LIBRARY = "graffiti_kernels.so"
_COMMON = ["-fPIC", "-fvisibility=hidden", "-Wall"]


def library_name(tensorflow_version: str) -> str:
    """The library's file name for a TensorFlow version: ``graffiti_ops_tf2_21.so`` for ``2.21.0``."""
    major, minor = tensorflow_version.split(".")[:2]
    return f"graffiti_ops_tf{major}_{minor}.so"


def build(output_dir: str | os.PathLike, build_dir: str | os.PathLike, *, jobs: int | None = None) -> pathlib.Path:
    """Compile and link the op library.

    Args:
        output_dir: where the library goes; ``graffiti_kernels.so`` must be there already.
        build_dir: for object files; kept between builds.
        jobs: compilers at a time; as many as there are processors by default.

    Returns:
        The path of the library.

    Raises:
        ImportError: where there is no TensorFlow to build against.
        FileNotFoundError: where the kernel library is missing.
        RuntimeError: where the compiler fails; the message holds its output.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    output_dir, build_dir = pathlib.Path(output_dir), pathlib.Path(build_dir)
    if not (output_dir / KERNEL_LIBRARY).is_file():
        raise FileNotFoundError(
            f"{output_dir / KERNEL_LIBRARY} is missing; build the kernels first (graffiti/ops/kernels/build.py)"
        )
    build_dir.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    # TensorFlow's headers are system headers to us: their warnings are not ours.
    op_flags = [f"-isystem{flag[2:]}" if flag.startswith("-I") else flag for flag in tf.sysconfig.get_compile_flags()]
    op_flags += ["-O2", "-DNDEBUG", f'-DGRAFFITI_TENSORFLOW_VERSION="{tf.__version__}"']
    commands = {}
    for source in sorted(HERE.glob("*.cc")):
        target = build_dir / f"{source.stem}.o"
        commands[target] = [
            *compiler,
            *op_flags,
            *_COMMON,
            f"-I{HERE}",
            f"-I{HERE.parent / 'kernels'}",
            "-MMD",
            "-MF",
            str(target.with_suffix(".d")),
            "-c",
            str(source),
            "-o",
            str(target),
        ]
    stale = [target for target, command in commands.items() if not _is_fresh(target, command)]
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        for _ in pool.map(lambda target: _run(commands[target], target), stale):
            pass
    library = output_dir / library_name(tf.__version__)
    link = [*compiler, "-shared", *map(str, commands), "-o", str(library), f"-L{output_dir}", f"-l:{KERNEL_LIBRARY}",
            *tf.sysconfig.get_link_flags(), "-Wl,-rpath,$ORIGIN", "-Wl,-z,defs" if sys.platform == "linux" else ""]
    link = [word for word in link if word]
    newest = max(path.stat().st_mtime_ns for path in [*commands, output_dir / KERNEL_LIBRARY])
    record = build_dir / f"{library.name}.command"
    if (
        stale
        or not library.is_file()
        or library.stat().st_mtime_ns < newest
        or not record.is_file()
        or record.read_text() != shlex.join(link)
    ):
        with tempfile.TemporaryDirectory(dir=output_dir) as temporary:  # a process that has the old one open keeps it
            partial = os.path.join(temporary, library.name)
            _run([partial if word == str(library) else word for word in link])
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
