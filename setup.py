"""Metadata, and one build step that compiles the native libraries against the installed TensorFlow.

    pip install --no-build-isolation -e .

``GRAFFITI_SKIP_OPS=1`` leaves the libraries out on purpose; graffiti then runs on pure TensorFlow.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import platform

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = pathlib.Path(__file__).resolve().parent
COMMAND = "pip install --no-build-isolation -e ."
KERNEL_LIBRARY = "graffiti_kernels.so"


def load_by_path(path: pathlib.Path):
    """A module of the package without importing the package (which needs what is about to be built)."""
    spec = importlib.util.spec_from_file_location(f"graffiti_build_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildNativeLibraries(build_ext):
    """Builds ``graffiti_kernels.so`` and ``graffiti_ops_tf<major>_<minor>.so`` into ``graffiti/ops``.

    Beside the sources for an editable install, into the build folder for a wheel. Incremental in both.
    """

    def run(self) -> None:
        if os.environ.get("GRAFFITI_SKIP_OPS") == "1":
            print("GRAFFITI_SKIP_OPS=1: the native libraries are left out", flush=True)
            return
        if platform.system() == "Windows":
            raise SetupError(
                "the native libraries build on Linux and macOS; set GRAFFITI_SKIP_OPS=1 to install without them"
            )
        try:
            import tensorflow  # noqa: F401  only inside the build step
        except ImportError as error:
            raise SetupError(
                f"building graffiti's ops needs the installed TensorFlow, which pip's isolated build does not see "
                f"({error}); "
                f"install TensorFlow and run: {COMMAND}"
            ) from None
        target = self._target()
        target.mkdir(parents=True, exist_ok=True)
        kernels = load_by_path(ROOT / "graffiti" / "ops" / "kernels" / "build.py")
        operations = load_by_path(ROOT / "graffiti" / "ops" / "cc" / "build.py")
        try:
            objects = ROOT / "build" / "native"  # not build_temp: pip gives an editable install a new one each time
            print("building the kernels and the TensorFlow ops (a minute or two the first time)", flush=True)
            print(f"built {kernels.build(target, build_dir=objects / 'kernels')}", flush=True)
            print(f"built {operations.build(target, build_dir=objects / 'ops')}", flush=True)
        except (RuntimeError, OSError) as error:
            raise SetupError(str(error)) from error

    def _target(self) -> pathlib.Path:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        return (ROOT if in_place else pathlib.Path(self.build_lib).absolute()) / "graffiti" / "ops"

    def get_outputs(self) -> list[str]:
        """The libraries as they lie in the build folder."""
        folder = self._target()
        return [str(path) for path in sorted(folder.glob("graffiti_*.so"))] if folder.is_dir() else []

    def get_output_mapping(self) -> dict[str, str]:
        """Empty: an editable install uses the libraries beside the sources, nothing is copied."""
        return {}


setup(
    name="graffiti-keras",  # the distribution; the import is graffiti (another package has that name on the index)
    version="0.1.0",
    description="Keras 3 models in, fixed point out: power-of-two scales, no zero-points, integers only",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["graffiti", "graffiti.*"]),
    package_data={
        "graffiti": [
            "*.md",
            "**/*.md",
            "recipes/*.yaml",
            "targets/*.yaml",
            "ops/**/*.h",
            "ops/**/*.cc",
            "ops/**/*.inc",
            "export/**/*.h",
            "export/**/*.c",
            "export/**/*.ld",
            "export/**/*.cmake",
            "export/**/*.in",
            "html_report/*.css",
            "html_report/*.in",
        ]
    },
    install_requires=[
        "tensorflow>=2.20,<2.22",  # the op library is built for one minor version; these two are supported
        "keras>=3.12",
        "tensorflow-model-optimization>=0.8",
        "numpy>=1.26",
        "absl-py",
        "tqdm>=4.60",
        "pyyaml>=6",  # recipes and target profiles; JSON needs nothing
    ],
    extras_require={
        # opset 21; the exporter writes its own IR version, whatever onnx's is
        "onnx": ["onnx>=1.16", "onnxruntime>=1.20", "qonnx"],
        "litert": ["ai-edge-litert", 'tflite-micro; sys_platform == "linux" and platform_machine == "x86_64"'],
        "hls4ml": ["hls4ml>=1.3"],
        "report": ["matplotlib"],
        "recipes": ["sacrebleu", "scikit-learn"],
        "dev": ["pytest", "hypothesis", "ruff", "mypy", "pytest-xdist", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["graffiti=graffiti.cli:main"]},
    ext_modules=[
        Extension("graffiti.ops._native", sources=[])
    ],  # makes the wheel a platform wheel; see BuildNativeLibraries
    cmdclass={"build_ext": BuildNativeLibraries},
    zip_safe=False,
)
