"""Who may import whom (ARCHITECTURE, last section), kept by reading the imports of every file."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "graffiti"

# package of graffiti -> what it may import from graffiti, and which libraries it must not know
RULES: dict[str, set[str]] = {
    "numerics": set(),
    "files": set(),
    "graph": {"numerics"},
    "training_config": set(),
    "training_schemes": {"training_config"},
    "config": {"numerics", "training_config"},
    "schemes": {"config", "numerics", "training_config", "training_schemes"},
    "transforms": {"graph", "numerics", "config", "schemes"},
    "documents": set(),
    "targets": {"graph", "numerics", "documents", "transforms"},
    "export": {"graph", "numerics", "files", "documents", "targets"},
    "runtime": {"graph", "numerics", "ops"},
    "ops": {"numerics"},
    "executors": {"graph", "numerics", "files", "export", "ops", "runtime"},
    "user_data": set(),
    "interface": {"graph", "user_data"},
    "integer_graph": {"executors", "export", "files", "graph", "interface", "keras_io", "ops", "runtime", "targets"},
    "verification": {"executors", "files", "graph", "integer_graph", "interface", "keras_io", "numerics"},
    "benchmark": {"executors", "export", "graph", "integer_graph", "runtime", "verification"},
    "quantizers": {"ops", "numerics"},
    "layers": {"quantizers", "ops", "numerics", "graph"},  # graph.functions: the table of activation functions
    "calibration": {"layers", "quantizers", "ops", "numerics", "config", "keras_io", "user_data"},  # keras_io.compat: the walk over calls
    "keras_io": {"graph", "layers", "quantizers", "numerics", "ops"},
    "low_bit": {  # keras_io.compat again, and calibration.data: what users pass as data
        "ops", "numerics", "quantizers", "keras_io", "calibration", "config", "schemes", "training_config", "reports", "files", "optimizers"},
}
PLAIN = ("numerics", "graph", "transforms", "export", "runtime", "executors", "interface", "user_data", "config", "schemes",
         "training_config", "training_schemes", "files", "documents", "targets")  # neither TensorFlow nor Keras
NOT_PLAIN = ("executors/tensorflow.py",)  # runs TensorFlow, in a plain package; the others import it inside functions
FORBIDDEN_EVERYWHERE = ("tensorflow.keras", "keras.src")


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def owner(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path):
    own = owner(path)
    for name in imports(path):
        assert not name.startswith(FORBIDDEN_EVERYWHERE), f"{path} imports {name}"
        if own in PLAIN and path.relative_to(PACKAGE).as_posix() not in NOT_PLAIN:
            assert name.split(".")[0] not in ("tensorflow", "keras", "tf_keras"), f"{path} must not know {name}"
        if name.split(".")[0] == "graffiti" and own in RULES:
            target = name.split(".")[1] if "." in name else ""
            assert target == own or target in RULES[own], f"{path}: {own} may not import graffiti.{target}"
        if name.split(".")[0] in ("tf_keras", "tensorflow_model_optimization"):
            assert own == "tfmot", f"{path}: only tfmot.py may import {name}"


def public_names() -> dict[str, set[str]]:
    """Module of graffiti -> its ``__all__``, read from the source."""
    found = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
                name = ".".join(("graffiti", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
                try:
                    found[name] = set(ast.literal_eval(node.value))
                except ValueError:  # a computed one, with what it unpacks
                    found[name] = {e.value for e in ast.walk(node.value) if isinstance(e, ast.Constant)}
    return found


def uses(path: pathlib.Path) -> set[str]:
    """Every dotted name that a file takes from graffiti: imports and attributes (``graffiti.callbacks.alt``)."""
    def dotted(node) -> str | None:
        if isinstance(node, ast.Attribute):
            front = dotted(node.value)
            return None if front is None else f"{front}.{node.attr}"
        return node.id if isinstance(node, ast.Name) else None

    names = {dotted(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return {name for name in {*names, *imports(path)} if name and name.startswith("graffiti.")}


def test_recipes_use_public_names_only():
    """What a recipe shows, a user can copy: each step of a dotted name is in the ``__all__`` of what stands before it."""
    public, seen = public_names(), 0
    for path in (ROOT / "recipes").glob("*.py"):
        for name in uses(path):
            parts = name.split(".")
            for index in range(1, len(parts)):
                module = ".".join(parts[:index])
                if module in public:
                    seen += 1
                    assert parts[index] in public[module], f"{path.name} uses {name}: {module} does not list {parts[index]}"
    assert seen > 20, "the test found no names to look at"


def test_tools_take_no_private_names():
    for path in (ROOT / "tools").glob("*.py"):
        private = {name for name in uses(path) if any(part.startswith("_") for part in name.split("."))}
        assert not private, f"{path} uses {private}"


def test_plain_packages_load_without_tensorflow():
    """The graph half works where TensorFlow and Keras are not installed."""
    loaded = ("numerics.reference", "graph.interpreter", "export.c.exporter", "runtime.runner", "executors", "files")
    names = [f"graffiti.{module}" for module in loaded]
    program = (
        "import sys, types, pathlib\n"
        f"package = types.ModuleType('graffiti'); package.__path__ = [{str(PACKAGE)!r}]; sys.modules['graffiti'] = package\n"
        + "".join(f"import {name}\n" for name in names)
        + "assert not {'tensorflow', 'keras'} & set(sys.modules), 'a plain package loaded TensorFlow or Keras'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
