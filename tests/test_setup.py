"""The build step: what it says without TensorFlow, what it leaves out when asked, and what a wheel holds."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMAND = "pip install --no-build-isolation -e ."


def run_setup(folder: pathlib.Path, *arguments: str, before: str = "", **environment) -> subprocess.CompletedProcess:
    """``setup.py`` in a fresh Python, after the statements ``before``."""
    script = f"""
import runpy, sys
{before}
sys.argv = ["setup.py", *{list(arguments)!r}]
runpy.run_path("setup.py", run_name="__main__")
"""
    clean = {name: value for name, value in os.environ.items() if name != "GRAFFITI_SKIP_OPS"}
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=550,
                          env={**clean, "TF_CPP_MIN_LOG_LEVEL": "3", **environment})


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """A copy of what a build reads, without anything built."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "graffiti", folder / "graffiti", ignore=shutil.ignore_patterns("*.so", "_build", "__pycache__")
    )
    return folder


def libraries(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.so"))


def test_without_tensorflow_it_says_the_command(tree):
    """pip's isolated build does not see TensorFlow: the documented command is the answer."""
    result = run_setup(tree, "build_ext", "--inplace", before="sys.modules['tensorflow'] = None")
    assert result.returncode != 0 and COMMAND in result.stderr and "isolated build" in result.stderr, result.stderr
    assert libraries(tree) == []


def test_skipping_is_explicit(tree):
    result = run_setup(tree, "build_ext", "--inplace", before="sys.modules['tensorflow'] = None", GRAFFITI_SKIP_OPS="1")
    assert result.returncode == 0, result.stderr
    assert "GRAFFITI_SKIP_OPS=1: the native libraries are left out" in result.stdout + result.stderr
    assert libraries(tree) == []


def test_metadata(tree):
    result = run_setup(tree, "--name", "--version", before="sys.modules['tensorflow'] = None")
    assert result.stdout.split()[-2:] == ["graffiti-keras", "0.1.0"], result.stderr


def test_extras_pin_nothing_from_above(tree):
    """A ceiling needs a reason beside it; the export to ONNX writes its own IR version, so that no onnx is too new."""
    result = run_setup(tree, "egg_info", before="sys.modules['tensorflow'] = None")
    assert result.returncode == 0, result.stderr
    (requires,) = tree.rglob("requires.txt")
    onnx = requires.read_text().partition("[onnx]")[2].partition("[")[0]
    assert "onnxruntime" in onnx and "qonnx" in onnx and "<" not in onnx


def test_the_package_holds_its_data(tree, tmp_path):
    """Recipes, target profiles and pages are installed too."""
    result = run_setup(
        tree, "build_py", "--build-lib", str(tmp_path / "lib"), before="sys.modules['tensorflow'] = None"
    )
    assert result.returncode == 0, result.stderr
    for pattern in ("recipes/*.yaml", "targets/*.yaml", "docs/*.md", "docs/cli/*.md"):
        expected = {path.relative_to(ROOT) for path in (ROOT / "graffiti").glob(pattern)}
        assert (
            expected
            and {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib/graffiti").glob(pattern)} == expected
        )


def test_compiler_errors_are_shown(tree):
    """Nothing half built stays behind, and the compiler's own words come through."""
    (tree / "graffiti/ops/kernels/build.py").write_text(
        "import pathlib\n"
        "def build(output_dir, build_dir):\n"
        "    path = pathlib.Path(output_dir) / 'graffiti_kernels.so'\n"
        "    path.write_bytes(b'')\n"
        "    return path\n"
    )
    for source in (tree / "graffiti/ops/cc").rglob("*.cc"):
        source.unlink()
    (tree / "graffiti/ops/cc/fake_quantize.cc").write_text("this is not C++\n")
    result = run_setup(tree, "build_ext", "--inplace")
    assert result.returncode != 0 and "the compiler failed" in result.stderr and "this is not C++" in result.stderr, (
        result.stderr
    )
    assert libraries(tree) == ["graffiti_kernels.so"]


@pytest.mark.slow
def test_in_place_build_is_incremental_and_loads(tree):
    first = run_setup(tree, "build_ext", "--inplace")
    assert first.returncode == 0, first.stderr
    built = {path: path.stat().st_mtime_ns for path in (tree / "graffiti/ops").glob("*.so")}
    assert len(built) == 2
    objects = {path: path.stat().st_mtime_ns for path in tree.rglob("*.o")}
    assert objects
    assert run_setup(tree, "build_ext", "--inplace").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in objects} == objects and {
        path: path.stat().st_mtime_ns for path in built
    } == built
    changed = tree / "graffiti/ops/kernels/fake_quantize/each_tier.cc"
    changed.write_text(changed.read_text() + "\n// changed\n")
    assert run_setup(tree, "build_ext", "--inplace").returncode == 0
    redone = {path.name for path, time in objects.items() if path.stat().st_mtime_ns != time}
    assert redone == {"fake_quantize_scalar.o", "fake_quantize_avx2.o", "fake_quantize_avx512vnni.o"}, redone


@pytest.mark.slow
def test_wheel_holds_the_libraries(tree, tmp_path):
    result = run_setup(tree, "bdist_wheel", "--dist-dir", str(tmp_path / "dist"))
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert not wheel.name.endswith("none-any.whl"), "a platform wheel"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert (
        "graffiti/ops/graffiti_kernels.so" in names
        and "graffiti/ops/kernels/c_api.h" in names
        and "graffiti/numerics/README.md" in names
    )
    script = f"""
import sys, types
package = types.ModuleType("graffiti")
package.__path__ = [{str(tmp_path / "installed/graffiti")!r}]
sys.modules["graffiti"] = package
from graffiti.ops import loader, integer_ops
print(loader.library_path(), integer_ops.add([1], [2], engine="native").numpy())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and str(tmp_path / "installed") in result.stdout and "[3]" in result.stdout, (
        result.stderr
    )
