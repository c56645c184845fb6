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
    "checks": set(),
    "numerics": set(),
    "files": set(),
    "graph": {"numerics"},
    "training_config": set(),
    "training_schemes": {"training_config"},
    "config": {"checks", "numerics", "training_config"},
    "schemes": {"config", "documents", "numerics", "training_config", "training_schemes"},
    "transforms": {"graph", "numerics", "config", "schemes"},
    "documents": set(),
    "targets": {"graph", "numerics", "documents", "transforms"},
    "export": {"checks", "graph", "numerics", "files", "documents", "targets"},
    "runtime": {"checks", "graph", "numerics", "ops"},
    "ops": {"numerics"},
    "executors": {"graph", "numerics", "files", "export", "ops", "runtime"},
    "user_data": set(),
    "interface": {"checks", "graph", "user_data"},
    "integer_graph": {"executors", "export", "files", "graph", "interface", "keras_io", "ops", "runtime", "targets"},
    "verification": {"executors", "files", "graph", "integer_graph", "interface", "keras_io", "numerics"},
    "benchmark": {"executors", "export", "graph", "integer_graph", "runtime", "verification"},
    "quantizers": {"checks", "ops", "numerics"},
    # graph.functions: the table of activation functions
    "layers": {"quantizers", "ops", "numerics", "graph", "reports"},
    # keras_io.compat: the walk over calls
    "calibration": {"checks", "layers", "quantizers", "ops", "numerics", "config", "keras_io", "user_data"},
    "keras_io": {"graph", "layers", "quantizers", "numerics", "ops"},
    "reports": {"config"},
    "optimizers": {"checks", "keras_io"},  # compat again, as in tfmot
    "low_bit": {  # compat again, and calibration.data: what users pass as data
        "checks", "ops", "numerics", "quantizers", "keras_io", "calibration", "config", "schemes", "training_config",
        "reports", "files", "optimizers"},
    "callbacks": {"checks", "files", "keras_io", "low_bit", "optimizers", "quantizers"},
    "data": {"checks"},
    "tfmot": {"keras_io", "layers", "quantizers"},
    "cost": {"export", "graph", "integer_graph", "keras_io", "low_bit", "transforms"},
    "api": {
        "calibration", "config", "graph", "integer_graph", "keras_io", "reports", "schemes", "targets", "transforms"
    },
    "exceptions": {"executors", "export", "graph", "ops", "runtime", "targets", "transforms"},
    "inspection": {
        "config", "export", "graph", "integer_graph", "keras_io", "reports", "schemes", "targets", "transforms"
    },
    "html_report": {"api", "callbacks", "cost", "files", "graph", "interface", "keras_io", "numerics", "verification"},
    # the package itself, for its verbs
    "recipes": {"calibration", "config", "documents", "files", "numerics", "schemes", "targets", ""},
    "cli": {"benchmark", "data", "documents", "executors", "export", "files", "graph", "keras_io", "targets", ""},
}
PLAIN = (  # neither TensorFlow nor Keras
    "checks", "numerics", "graph", "transforms", "export", "runtime", "executors", "interface", "user_data", "config",
    "schemes", "training_config", "training_schemes", "files", "documents", "targets")
NOT_PLAIN = ("executors/tensorflow.py",)  # runs TensorFlow, in a plain package; the others import it inside functions
COMPAT = PACKAGE / "keras_io" / "compat.py"  # the one file that takes what Keras does not document
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


def test_every_module_has_a_row():
    found = {owner(path) for path in modules()} - {"__init__"}
    assert (
        found == set(RULES)
    ), f"without a row: {sorted(found - set(RULES))}; no longer there: {sorted(set(RULES) - found)}"


@pytest.fixture(scope="module")
def private_in_keras() -> set[str]:
    """Every name with one underscore in front that an object of Keras has."""
    import keras

    inputs = keras.Input((3,))
    functional = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    functional.compile(
        keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(keras.optimizers.Adam(), {"none": keras.optimizers.SGD()})
        ),
        "mse"
    )
    functional(keras.ops.zeros((1, 3)))
    sequential = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    objects = (
        inputs, functional, sequential, functional.layers[-1], functional.optimizer, keras.optimizers.Adam(),
        functional.trainable_variables[0],
        keras.ops.relu(inputs)._keras_history.operation, keras.random.SeedGenerator(0), keras.callbacks.Callback(),
        functional.layers[-1]._inbound_nodes[0],
        keras.layers.LSTM(1), keras.layers.MultiHeadAttention(1, 1), keras.initializers.GlorotUniform())
    names = {name for value in objects for name in dir(value) if name.startswith("_") and not name.startswith("__")}
    assert {"_flatten_layers", "_keras_history", "_trainable_variables", "_inbound_nodes", "_layers"} <= names
    return names


def own_names(tree: ast.AST) -> set[str]:
    """What a file defines or sets on its own objects: functions, classes, variables, ``self._name = ...``."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if (
            isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return found


def taken_privately(text: str, foreign: set[str]) -> list[str]:
    """Every use of an attribute among ``foreign``, written out or by ``getattr``, that the file does not define
    itself.
    """
    tree, found = ast.parse(text), []
    own = own_names(tree)
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "hasattr", "delattr") and len(node.args) > 1
        ):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
        if name in foreign and name not in own:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("planted", [
    "for layer in model._flatten_layers(): pass", "tensor._keras_history.operation", "getattr(layer, "
                                                                                     "'_inbound_nodes', None)",
                                                                                     "self._get_variable_index(v)",
    "optimizer._trainable_variables", "setattr(layer, '_tracker', None)",
])
def test_private_keras_is_seen(planted, private_in_keras):
    assert taken_privately(planted, private_in_keras)


def test_what_keras_does_not_document_is_behind_compat(private_in_keras):
    paths = [*modules(), *(ROOT / "recipes").glob("*.py"), *(ROOT / "tools").glob("*.py")]
    found = {
        str(path.relative_to(ROOT)): taken_privately(path.read_text(), private_in_keras) for path in paths
        if path != COMPAT
    }
    assert not any(found.values()), {path: uses for path, uses in found.items() if uses}


def test_private_names_are_those_of_graffiti():
    """Outside ``compat.py``, an attribute with an underscore in front is one that graffiti defines."""
    trees = {path: ast.parse(path.read_text()) for path in modules()}
    known = set().union(*(own_names(tree) for tree in trees.values()))
    for path, tree in trees.items():
        used = {
            node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        }
        assert path == COMPAT or used <= known, f"{path} uses {sorted(used - known)} of somebody else"


def public_names() -> dict[str, set[str]]:
    """Module of graffiti -> its ``__all__``, read from the source."""
    found = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
            ):
                name = ".".join(
                    ("graffiti", *path.relative_to(PACKAGE).with_suffix("").parts)
                ).removesuffix(".__init__")
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
    """What a recipe shows, a user can copy: each step of a dotted name is in the ``__all__`` of what stands before
    it.
    """
    public, seen = public_names(), 0
    for path in (ROOT / "recipes").glob("*.py"):
        for name in uses(path):
            parts = name.split(".")
            for index in range(1, len(parts)):
                module = ".".join(parts[:index])
                if module in public:
                    seen += 1
                    assert (
                        parts[index] in public[module]
                    ), f"{path.name} uses {name}: {module} does not list {parts[index]}"
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
        f"package = types.ModuleType('graffiti'); package.__path__ = [{str(PACKAGE)!r}]; sys.modules['graffiti'] = "
        "package\n"
        + "".join(f"import {name}\n" for name in names)
        + "assert not {'tensorflow', 'keras'} & set(sys.modules), 'a plain package loaded TensorFlow or Keras'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
