"""What the loader says of a library that is missing, broken or for another TensorFlow; the modes of GRAFFITI_OPS."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import tensorflow as tf
from engines import needs_library

from graffiti.ops import loader

BUILD = re.escape("pip install --no-build-isolation -e .")
NAME = "graffiti_ops_tf{}_{}.so".format(*tf.__version__.split(".")[:2])


def test_missing(tmp_path):
    with pytest.raises(loader.OpsNotAvailable, match=f"there is no op library {NAME} .*build it with: {BUILD}"):
        loader.load_library(tmp_path / NAME)


def test_missing_beside_one_for_another_tensorflow(tmp_path):
    (tmp_path / "graffiti_ops_tf2_15.so").write_bytes(b"")
    with pytest.raises(loader.OpsNotAvailable, match="found graffiti_ops_tf2_15.so, built for another TensorFlow"):
        loader.load_library(tmp_path / NAME)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"not a library at all" * 100, b"\x7fELF" + bytes(5000)],
    ids=["empty", "byte", "text", "header"],
)
def test_garbage(tmp_path, content):
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(
        loader.OpsNotAvailable, match=f"is not a graffiti op library or is damaged; build it again with: {BUILD}"
    ):
        loader.load_library(path)


def test_built_for_another_tensorflow(tmp_path):
    """The embedded version counts, whatever the file is called."""
    path = tmp_path / NAME
    path.write_bytes(b"\x7fELF" + bytes(100) + b"graffiti_ops built for tensorflow 2.15.1;" + bytes(100))
    with pytest.raises(
        loader.OpsNotAvailable,
        match=f"{NAME} was built for TensorFlow 2.15.1, but TensorFlow {tf.__version__} is installed",
    ):
        loader.load_library(path)


def test_truncated(tmp_path):
    """The marker is there, the rest is not: one sentence, never the linker's."""
    path = tmp_path / NAME
    path.write_bytes(b"\x7fELF" + bytes(100) + f"graffiti_ops built for tensorflow {tf.__version__};".encode())
    with pytest.raises(loader.OpsNotAvailable, match=f"cannot be loaded .*build it again with: {BUILD}") as caught:
        loader.load_library(path)
    assert "\n" not in str(caught.value)


@needs_library
def test_undefined_symbol_and_missing_kernels_read_well(tmp_path):
    """The library itself, where its kernels are missing or are other ones."""
    copy = tmp_path / NAME
    copy.write_bytes(loader.library_path().read_bytes())
    script = f"""
from graffiti.ops import loader
try: loader.load_library({str(copy)!r})
except ImportError as error: print(error)
"""
    said = run(script).stdout
    assert "a library it needs is missing: graffiti_kernels.so" in said and "pip install" in said, said
    subprocess.run(
        ["cc", "-shared", "-o", str(tmp_path / "graffiti_kernels.so"), "-x", "c", "-"],
        input=b"int nothing;",
        check=True,
    )
    said = run(script).stdout
    assert "its symbols do not fit" in said and "pip install" in said and "undefined symbol" not in said, said


def run(script: str, **environment) -> subprocess.CompletedProcess:
    """A fresh Python without the package's top level, so that only ``graffiti.ops`` is imported."""
    root = loader.FOLDER.parent
    header = f"""
import sys, types
package = types.ModuleType("graffiti")
package.__path__ = [{str(root)!r}]
sys.modules["graffiti"] = package
"""
    result = subprocess.run([sys.executable, "-c", header + script], capture_output=True, text=True, timeout=120,
                            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment})
    assert result.returncode == 0, result.stderr
    return result


def test_importing_ops_loads_nothing():
    script = """
import graffiti.ops, graffiti.ops.loader
print("tensorflow" in sys.modules, any("graffiti_" in line for line in open("/proc/self/maps")))
"""
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs /proc to list what is loaded")
    assert run(script).stdout.split() == ["False", "False"]


def test_modes(tmp_path):
    """One process walks all modes with a folder that holds no library."""
    script = f"""
import os, pathlib, warnings
from graffiti.ops import loader
loader.library_path = lambda: pathlib.Path({str(tmp_path)!r}) / {NAME!r}
import graffiti.ops as ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(loader.engine(), ops.relu([-1, 2]).numpy().tolist(), loader.engine(), len(caught), caught[0].message)
    os.environ["GRAFFITI_OPS"] = "python"
    print(loader.engine(), len(caught))
os.environ["GRAFFITI_OPS"] = "native"
for call in (loader.engine, lambda: ops.relu([1])):
    try: call()
    except ops.OpsNotAvailable as error: print("error:", error)
"""
    lines = run(script, GRAFFITI_OPS="auto").stdout.splitlines()
    assert lines[0].startswith(
        "python [0, 2] python 1 graffiti runs on pure TensorFlow, which is slower: there is no op library"
    )
    assert "pip install --no-build-isolation -e ." in lines[0]
    assert lines[1] == "python 1"
    assert len(lines) == 4 and all(line.startswith("error: there is no op library") for line in lines[2:])


def test_unknown_mode(monkeypatch):
    monkeypatch.setenv("GRAFFITI_OPS", "fast")
    with pytest.raises(ValueError, match="GRAFFITI_OPS is one of auto, native, python, got 'fast'"):
        loader.engine()


@needs_library
def test_installed_library(monkeypatch):
    assert loader.library_path().name == NAME
    assert loader.built_for_tensorflow(loader.library_path()) == tf.__version__
    assert hasattr(loader.load(), "graffiti_fake_quantize")
    for mode, engine in (("auto", "native"), ("native", "native"), ("python", "python")):
        monkeypatch.setenv("GRAFFITI_OPS", mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert loader.engine() == engine
