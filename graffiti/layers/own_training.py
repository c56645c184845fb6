"""A quantized model that trains as its user's own class does: ``train_step``, losses and metrics of a subclass of
``keras.Model``.

The methods are taken over into a class of their own, each level of the user's classes one class, so that ``super()`` in
them means what it meant. What they read from ``self`` beside what every ``keras.Model`` has is copied. Nothing of it
plays a part at inference.
"""

from __future__ import annotations

import json
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras

METHODS = ("train_step", "test_step", "compute_loss", "compute_metrics", "metrics", "compile")


class CannotTakeOver(ValueError):
    """The methods read what a quantized model does not have; the message says what."""


def methods(kind: type) -> list[str]:
    """What a model's class has of its own for training."""
    return [name for name in METHODS if any(name in vars(level) for level in _levels(kind))]


def take_over(model: keras.Model, original: keras.Model) -> None:
    """Let a quantized model train as the class of the model it was made from does.

    Args:
        model: a ``QuantizedModel``; it becomes one of a derived class.
        original: the float model; it stays as it is.

    Raises:
        CannotTakeOver: where the methods use layers of the float model by attribute; nothing is changed then.
    """
    state = _state(model, original, type(model))
    model.__class__ = derived(type(model), type(original), state)
    _give(model, state)


def hand_on(copy: keras.Model, original: keras.Model) -> None:
    """Give a copy of a model, which is of the same class, what the class's methods for training read.

    Args:
        copy: made anew from the layers; it lacks what users set on the model.
        original: it stays as it is.

    Raises:
        CannotTakeOver: where they read layers of the original, or where the copy is of another class; nothing is
            changed then.
    """
    if methods(type(original)) and type(copy) is not type(original):
        raise CannotTakeOver(
            f"its class does not take inputs and outputs as keras.Model does (the copy is a {type(copy).__name__})"
        )
    _give(copy, _state(copy, original, keras.Model))


def _state(model: keras.Model, original: keras.Model, base: type) -> dict[str, Any]:
    """What the methods read of the original and the model has not."""
    names = _read(type(original), base)
    state = {
        name: value
        for name, value in vars(original).items()
        if name in names and name not in vars(model) and not hasattr(base, name)
        and not isinstance(value, keras.optimizers.Optimizer)
    }
    for name, value in state.items():
        if any(isinstance(part, keras.layers.Layer) for part in keras.tree.flatten(value)):
            raise CannotTakeOver(f"it uses {name!r}, a layer of the float model")
    return state


def derived(base: type, kind: type | str, state: dict[str, Any]) -> type:
    """``QuantizedModel`` with the training of a user's class.

    Args:
        base: ``QuantizedModel``.
        kind: the user's class, or its name where it is not known here: then only what it keeps.
        state: attributes that its methods read; every model of the class gets copies.
    """
    result = base
    for level in reversed([] if isinstance(kind, str) else _levels(kind)):
        cell = types.CellType()
        taken = {
            name: _rebound(member, cell, {}) for name, member in vars(level).items()
            if name in METHODS or not hasattr(base, name) and not (name.startswith("__") and name.endswith("__"))
        }
        result = type(base.__name__, (result,), {**taken, "__module__": base.__module__, "__doc__": base.__doc__})
        cell.cell_contents = result

    class Trained(result):  # type: ignore[valid-type, misc]
        __doc__ = base.__doc__
        trained_by = (kind, state)

        def __init__(self, inputs, outputs, name=None, **kwargs) -> None:
            super().__init__(inputs, outputs, name=name, **kwargs)
            _give(self, state)

    Trained.__name__, Trained.__qualname__, Trained.__module__ = base.__name__, base.__qualname__, base.__module__
    register = keras.saving.register_keras_serializable("graffiti", base.__name__)
    register(Trained)  # a file names the class that everybody has ...
    register(base)     # ... which is what the name means
    return Trained


def config(model: keras.Model) -> dict[str, Any]:
    """What a file holds of a model of a derived class: the name of the user's class, and those attributes that are
    plain values, variables or objects of Keras.
    """
    kind, state = model.trained_by
    called = kind if isinstance(kind, str) else keras.saving.get_registered_name(kind)
    found: dict[str, Any] = {"class": called, "attributes": {}, "variables": {}, "left_out": []}
    for name, value in ((name, getattr(model, name, value)) for name, value in state.items()):
        if isinstance(value, keras.Variable):
            found["variables"][name] = {
                "shape": list(value.shape), "dtype": str(value.dtype), "trainable": bool(value.trainable),
                "name": value.name
            }
            continue
        try:
            found["attributes"][name] = json.loads(
                json.dumps(value if _is_plain(value) else {"object": _serialized(value)})
            )
        except Exception:  # a function, a user's object: a file holds no code
            found["left_out"].append(name)
    return found


def restored(base: Any, given: dict[str, Any]) -> Any:
    """The class that ``config`` tells of; one that trains plainly, with a warning, where the user's is not known here.

    Args:
        base: ``QuantizedModel``.
        given: what ``config`` returned.
    """
    kind = keras.saving.get_registered_object(given["class"])
    if kind is None:
        warnings.warn(
            f"this model was trained by methods of the class {given['class']!r}, which is not registered here; it "
            "predicts as it did and trains as any keras.Model does "
            "(keras.saving.register_keras_serializable, and import the class before loading)", stacklevel=3,
        )
    elif given["left_out"]:
        warnings.warn(
            f"{given['class']!r} reads {', '.join(map(repr, given['left_out']))} in training, which a file does not "
            "hold; set it on the loaded model before fit",
            stacklevel=3
        )
    state: dict[str, Any] = {
        name: keras.Variable(keras.ops.zeros(v["shape"], v["dtype"]), trainable=v["trainable"], name=v["name"])
        for name, v in given["variables"].items()
    }
    for name, value in given["attributes"].items() if kind is not None else ():
        is_object = isinstance(value, dict) and set(value) == {"object"}
        state[name] = keras.saving.deserialize_keras_object(value["object"]) if is_object else value
    return derived(base, given["class"] if kind is None else kind, state)


# ---- classes and functions -------------------------------------------------------------------------------------------
def _levels(kind: type) -> list[type]:
    """The user's classes that a model's class is made of, nearest first."""
    return [
        level for level in kind.__mro__
        if level is not object and not level.__module__.startswith(("keras.", "graffiti.", "tensorflow."))
    ]


def _read(kind: type, base: type) -> set[str]:
    """Names that the methods mention, and the user's methods that they call."""
    found: set[str] = set()
    queue: list[str] = list(METHODS)
    while queue:
        name = queue.pop()
        members = (
            [vars(level)[name] for level in _levels(kind) if name in vars(level)]
            if name in METHODS or not hasattr(base, name) else []
        )
        for function in (function for member in members for function in _functions(member)):
            new = {word for code in _codes(function.__code__) for word in code.co_names} - found
            found |= new
            queue.extend(new)
    return found


def _functions(member) -> list[types.FunctionType]:
    if isinstance(member, property):
        return [function for function in (member.fget, member.fset) if isinstance(function, types.FunctionType)]
    # of a tf.function; of a static or class method
    function = getattr(member, "python_function", getattr(member, "__func__", member))
    if not isinstance(function, types.FunctionType):
        return []
    inner = [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
    return [function, *(other for other in inner if isinstance(other, types.FunctionType))]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _rebound(member, cell: types.CellType, memo: dict[int, Any]):
    """A member of a class for another class: its functions' ``super()`` goes by ``cell``."""
    if isinstance(member, property):
        get, put, drop = (
            None if part is None else _rebound(part, cell, memo) for part in (member.fget, member.fset, member.fdel)
        )
        return property(get, put, drop, member.__doc__)
    if isinstance(member, (staticmethod, classmethod)):
        return type(member)(_rebound(member.__func__, cell, memo))
    function = getattr(member, "python_function", member)
    if not isinstance(function, types.FunctionType):
        return member
    if id(function) in memo or function.__closure__ is None:
        return memo.get(id(function), function)
    cells = [
        cell if variable == "__class__" else types.CellType()
        if _is_set(old) and isinstance(old.cell_contents, types.FunctionType) else old
        for variable, old in zip(function.__code__.co_freevars, function.__closure__)
    ]
    new = memo[id(function)] = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    new.__kwdefaults__, new.__doc__, new.__dict__ = function.__kwdefaults__, function.__doc__, dict(function.__dict__)
    for old, made in zip(function.__closure__, cells):
        if made is not cell and made is not old:
            made.cell_contents = _rebound(old.cell_contents, cell, memo)
    return new


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not filled yet
        return False


# ---- what the methods read -------------------------------------------------------------------------------------------
def _give(model: keras.Model, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, keras.Variable):
            copy = model.add_weight(
                shape=value.shape, dtype=value.dtype, initializer="zeros", trainable=value.trainable, name=value.name
            )
            copy.assign(value)
        else:
            copy = keras.tree.map_structure(_copied, value)
        setattr(model, name, copy)


def _copied(value):
    own = isinstance(value, (keras.metrics.Metric, keras.random.SeedGenerator))
    return type(value).from_config(value.get_config()) if own else value


def _is_plain(value) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _serialized(value):
    if not hasattr(value, "get_config") and not isinstance(value, (list, tuple, dict)):
        raise TypeError(f"{type(value).__name__} is no object of Keras")
    return keras.saving.serialize_keras_object(value)
