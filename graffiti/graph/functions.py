"""The activation functions: one row each. Everything that has to know one reads it here.

What hangs on a row: which Keras callables, operations and layers mean the function (``keras_io/functions.py``), the op
it becomes (``transforms/prepare/canonical_activation.py``), its float form in numpy (``graph/float_interpreter.py``),
its form on tensors (``layers/functions.py``), and the values it may take (``intervals.py``): that decides which tensors
are quantized without a sign. Adding a function is a row here and its case in ``tests/graph/test_functions.py``.

A function that ``activation`` nodes name is elementwise, and is computed by a table of all input codes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Interval = tuple[float, float]
NodeForm = tuple[str, dict[str, Any]]
EVERYTHING: Interval = (-math.inf, math.inf)
_FAR = 1e100  # stands for infinity: far beyond float32, and its square is still a number


@dataclasses.dataclass(frozen=True)
class Function:
    """One row.

    Attributes:
        name: what nodes and layers call it.
        values: ``values(x, **parameters)`` on float64 arrays; also what the interpreter of float graphs computes.
        keras: dotted names under ``keras`` that mean it: functions (the first one computes tables), or layers. An
            operation of ``keras.ops`` means what its function means.
        parameters: name → default, as Keras names them.
        fixed: arguments that the Keras names have beside the parameters, each with the value that makes them this row.
        turns: where the function stops rising, or falling; between two turns it is monotone. Empty: it never falls. May
            be a function of the parameters.
        node: ``node(parameters) -> (op, attributes)``; ``None``: an ``activation`` node.
        whole: its values where they are not taken elementwise (softmax).
    """

    name: str
    values: Callable[..., np.ndarray]
    keras: tuple[str, ...]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    turns: tuple[float, ...] | Callable[..., tuple[float, ...]] = ()
    node: Callable[[dict[str, Any]], NodeForm] | None = None
    whole: Interval | None = None

    def complete(self, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All parameters, defaults filled in.

        Raises:
            ValueError: for one that the function does not have.
        """
        unknown = sorted(set(parameters or ()) - set(self.parameters))
        if unknown:
            raise ValueError(
                f"the function {self.name!r} has no parameter {', '.join(unknown)}; it has "
                f"{', '.join(self.parameters) or 'none'}"
            )
        return {**self.parameters, **(parameters or {})}

    def monotone(self, parameters: Mapping[str, Any] | None = None) -> bool:
        """Whether it never falls."""
        return not self._turns(self.complete(parameters)) and self.whole is None

    def interval(
        self, low: float = -math.inf, high: float = math.inf, parameters: Mapping[str, Any] | None = None
    ) -> Interval:
        """The values it takes on ``low <= x <= high``."""
        if self.whole is not None:
            return self.whole
        complete = self.complete(parameters)
        turns = [turn for turn in self._turns(complete) if low < turn < high]
        points = np.clip(np.array([low, *turns, high], np.float64), -_FAR, _FAR)
        with np.errstate(over="ignore"):
            values = np.asarray(self.values(points, **complete), np.float64)
        ends = [
            float(value) if abs(value) < math.sqrt(_FAR) else math.copysign(math.inf, value)
            for value in (values.min(), values.max())
        ]
        return ends[0], ends[1]

    def as_node(self, parameters: Mapping[str, Any] | None = None) -> NodeForm:
        """The op and the attributes of the node that computes it in a float graph."""
        complete = self.complete(parameters)
        if self.node is not None:
            return self.node(complete)
        return _by_table(self.name, {key: value for key, value in complete.items() if value != self.parameters[key]})

    def _turns(self, parameters: Mapping[str, Any]) -> tuple[float, ...]:
        return self.turns(**parameters) if callable(self.turns) else self.turns


def _by_table(name: str, changed: dict[str, Any]) -> NodeForm:
    return "activation", {"function": name, **({"parameters": changed} if changed else {})}


# ---- values ----------------------------------------------------------------------------------------------------------
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def _softplus(x):
    return np.logaddexp(x, 0)


def _elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _relu(x, max_value=None, negative_slope=0.0, threshold=0.0):
    y = np.where(x > threshold, x, 0.0)
    if max_value is not None:
        y = np.clip(y, 0, max_value)
    return y - negative_slope * np.maximum(threshold - x, 0) if negative_slope else y


def _gelu_tanh(x):
    with np.errstate(over="ignore"):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _sparse_plus(x):
    return np.where(x <= -1, 0, np.where(x < 1, np.square(np.clip(x, -1, 1) + 1) / 4, x))


def _threshold(x, threshold, default_value) -> np.ndarray:
    return np.where(x > threshold, x, default_value)


def _shrink(x, threshold):
    return np.where(x > threshold, x - threshold, np.where(x < -threshold, x + threshold, 0.0))


# ---- nodes of functions with an op of their own ----------------------------------------------------------------------
def _relu_node(parameters: dict[str, Any]) -> NodeForm:
    maximum, slope, threshold = (parameters[key] for key in ("max_value", "negative_slope", "threshold"))
    if threshold or (slope and (maximum is not None or slope >= 1)) or (maximum is not None and maximum < 0):
        changed = {"max_value": maximum, "negative_slope": slope, "threshold": threshold}
        return _by_table("relu", {key: float(value) for key, value in changed.items() if value})
    if slope:
        return "leaky_relu", {"alpha": float(slope)}
    return "relu", {"max_value": None if maximum is None else float(maximum)}


def _leaky_node(parameters: dict[str, Any]) -> NodeForm:
    slope = float(parameters["negative_slope"])
    if slope >= 1:  # the op is max(x, alpha*x)
        return _by_table("leaky_relu", {"negative_slope": slope})
    return ("leaky_relu", {"alpha": slope}) if slope else ("relu", {"max_value": None})


def _clip_node(parameters: dict[str, Any]) -> NodeForm:
    low, high = float(parameters["x_min"]), float(parameters["x_max"])
    if low == 0 and high > 0:
        return "relu", {"max_value": high if math.isfinite(high) else None}
    return _by_table("clip", {"x_min": low, "x_max": high})


def _relu_turns(max_value, negative_slope, threshold) -> tuple[float, ...]:
    # behind the threshold it jumps from 0 to the threshold, down where that is negative and nothing clips it
    falls = negative_slope < 0 or (threshold < 0 and max_value is None)
    return (threshold, float(np.nextafter(threshold, math.inf))) if falls else ()


def _threshold_turns(threshold, default_value) -> tuple[float, ...]:
    return (threshold, float(np.nextafter(threshold, math.inf))) if default_value > threshold else ()


# ---- the table -------------------------------------------------------------------------------------------------------
FUNCTIONS: dict[str, Function] = {row.name: row for row in (
    # ops of their own
    Function("linear", lambda x: x, ("activations.linear",), node=lambda p: ("identity", {})),
    Function(
        "relu", _relu, ("activations.relu", "ops.relu", "layers.ReLU"),
        {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}, turns=_relu_turns, node=_relu_node
    ),
    Function(
        "relu6", lambda x: np.clip(x, 0, 6), ("ops.relu6", "activations.relu6"),
        node=lambda p: ("relu", {"max_value": 6.0})
    ),
    Function("leaky_relu", lambda x, negative_slope: np.maximum(x, 0) + negative_slope * np.minimum(x, 0),
             ("ops.leaky_relu", "activations.leaky_relu", "layers.LeakyReLU"), {"negative_slope": 0.2},
             turns=lambda negative_slope: (0.0,) if negative_slope < 0 else (), node=_leaky_node),
    Function(
        "clip", lambda x, x_min, x_max: np.clip(x, x_min, x_max), ("ops.clip",),
        {"x_min": -math.inf, "x_max": math.inf}, node=_clip_node
    ),
    Function("softmax", _softmax, ("ops.softmax", "activations.softmax", "layers.Softmax"), {"axis": -1},
             node=lambda p: ("softmax", {"axis": p["axis"]}), whole=(0.0, 1.0)),
    # by table
    Function("sigmoid", _sigmoid, ("ops.sigmoid", "activations.sigmoid")),
    Function("tanh", np.tanh, ("ops.tanh", "activations.tanh")),
    Function("hard_sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1), ("ops.hard_sigmoid", "activations.hard_sigmoid")),
    Function("hard_tanh", lambda x: np.clip(x, -1, 1), ("ops.hard_tanh", "activations.hard_tanh")),
    Function("log_sigmoid", lambda x: -np.logaddexp(0, -x), ("ops.log_sigmoid", "activations.log_sigmoid")),
    Function("gelu", lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), ("ops.gelu", "activations.gelu"),
             fixed={"approximate": False}, turns=(-0.7517915246935645,)),
    Function(
        "gelu_tanh", _gelu_tanh, ("ops.gelu", "activations.gelu"), fixed={"approximate": True},
        turns=(-0.7524614220710162,)
    ),
    Function("silu", lambda x: x * _sigmoid(x), ("ops.silu", "activations.silu"), turns=(-1.2784645427610738,)),
    Function(
        "hard_silu", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), ("ops.hard_silu", "activations.hard_silu"),
        turns=(-3.0, -1.5)
    ),
    Function("mish", lambda x: x * np.tanh(_softplus(x)), ("activations.mish",), turns=(-1.1924334712430437,)),
    Function("softplus", _softplus, ("ops.softplus", "activations.softplus")),
    Function(
        "squareplus", lambda x, b: (x + np.sqrt(np.square(x) + b)) / 2, ("ops.squareplus", "activations.squareplus"),
        {"b": 4}
    ),
    Function("softsign", lambda x: x / (1 + np.abs(x)), ("ops.softsign", "activations.softsign")),
    Function(
        "elu", _elu, ("ops.elu", "activations.elu", "layers.ELU"), {"alpha": 1.0},
        turns=lambda alpha: (0.0,) if alpha < 0 else ()
    ),
    Function(
        "celu", lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
        ("ops.celu", "activations.celu"), {"alpha": 1.0}, turns=lambda alpha: (0.0,) if alpha < 0 else ()
    ),
    Function("selu", lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772), ("ops.selu", "activations.selu")),
    Function("exp", np.exp, ("ops.exp", "activations.exponential")),
    Function("square", np.square, ("ops.square",), turns=(0.0,)),
    Function("abs", np.abs, ("ops.abs", "ops.absolute"), turns=(0.0,)),
    Function(
        "hard_shrink", lambda x, threshold: np.where(np.abs(x) > threshold, x, 0.0),
        ("ops.hard_shrink", "activations.hard_shrink"), {"threshold": 0.5}
    ),
    Function("soft_shrink", _shrink, ("ops.soft_shrink", "activations.soft_shrink"), {"threshold": 0.5}),
    Function("threshold", _threshold, ("ops.threshold", "activations.threshold"),
             {"threshold": 0.0, "default_value": 0.0}, turns=_threshold_turns),
    Function("tanh_shrink", lambda x: x - np.tanh(x), ("ops.tanh_shrink", "activations.tanh_shrink")),
    Function("sparse_plus", _sparse_plus, ("ops.sparse_plus", "activations.sparse_plus")),
    Function(
        "sparse_sigmoid", lambda x: np.clip((x + 1) / 2, 0, 1), ("ops.sparse_sigmoid", "activations.sparse_sigmoid")
    ),
)}


def get(name: str) -> Function:
    """The row called ``name``.

    Raises:
        ValueError: where there is none; it lists what there is.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"there is no activation function {name!r}; expected one of {', '.join(sorted(FUNCTIONS))}")
    return FUNCTIONS[name]
