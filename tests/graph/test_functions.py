"""The table of activation functions: every row against Keras, its values inside its interval, its turns where it
says.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti.graph.functions import FUNCTIONS, Function, get
from graffiti.keras_io import compat
from graffiti.keras_io import functions as keras_functions
from graffiti.keras_io.read import read
from graffiti.layers import functions as tensor_functions

NONE: list[dict] = [{}]
CASES: dict[str, list[dict]] = {  # row -> parameters to try; a row without a case fails
    **dict.fromkeys((
        "linear", "relu6", "sigmoid", "tanh", "hard_sigmoid", "hard_tanh", "log_sigmoid", "gelu", "gelu_tanh", "silu",
        "hard_silu", "mish",
        "softplus", "softsign", "selu", "exp", "square", "abs", "tanh_shrink", "sparse_plus", "sparse_sigmoid",
    ), NONE),
    "relu": [
        {}, {"max_value": 6.0}, {"negative_slope": 0.1}, {"threshold": 0.5}, {"threshold": -0.5},
        {"max_value": 2.0, "negative_slope": 0.25},
        {"max_value": 3.0, "negative_slope": 0.1, "threshold": 1.0}, {"max_value": 3.0, "threshold": -1.0},
    ],
    "leaky_relu": [{}, {"negative_slope": 0.01}, {"negative_slope": 1.5}, {"negative_slope": 0.0}],
    "clip": [
        {"x_min": 0.0, "x_max": 0.5}, {"x_min": -1.0, "x_max": 2.0}, {"x_min": 0.25, "x_max": 8.0},
        {"x_min": -3.0, "x_max": -1.0}
    ],
    "softmax": [{}, {"axis": 0}],
    "squareplus": [{}, {"b": 1.0}], "elu": [{}, {"alpha": 0.5}, {"alpha": 2.0}], "celu": [{}, {"alpha": 0.5}],
    "hard_shrink": [{}, {"threshold": 1.0}], "soft_shrink": [{}, {"threshold": 0.125}],
    "threshold": [{}, {"threshold": 1.0, "default_value": -2.0}, {"threshold": -1.0, "default_value": 0.5}],
}
ALL = [
    pytest.param(name, parameters, id="-".join([name, *(f"{k}={v}" for k, v in parameters.items())]))
    for name, cases in CASES.items() for parameters in cases
]
EXTREME = [-3e38, -1e30, -1e4, -88.0, -20.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 20.0, 88.0, 1e4, 1e30, 3e38]
LARGEST = {"squareplus": 1e15}  # its square overflows in Keras


def points(seed: int, largest: float = np.inf) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [EXTREME, np.linspace(-12, 12, 2001), generator.normal(size=400) * 4, generator.normal(size=50) * 1e3]
    ).clip(-largest, largest).astype(np.float32)


def on_tensors(row: Function, parameters: dict, x: np.ndarray) -> np.ndarray:
    return np.asarray(tensor_functions.get(row.name, parameters)(tf.constant(x)))


def test_every_row_has_a_case():
    assert set(CASES) == set(FUNCTIONS)
    assert all(
        set().union(*CASES[name]) == set(row.parameters) for name, row in FUNCTIONS.items()
    ), "a parameter that no case sets"


@pytest.mark.parametrize("name, parameters", ALL)
def test_values_are_those_of_keras(name: str, parameters: dict):
    row, x = get(name), points(1, 1e4)
    with np.errstate(over="ignore"):
        ours = row.values(x.astype(np.float64), **row.complete(parameters))
        ours32 = np.float32(ours)
    np.testing.assert_allclose(ours, on_tensors(row, parameters, x.astype(np.float64)), rtol=1e-6, atol=1e-9)
    x = np.abs(x) <= (1e2 if name == "squareplus" else 1e4)  # which loses its digits by cancellation
    right32 = on_tensors(row, parameters, points(1, 1e4))
    np.testing.assert_allclose(ours32[x], right32[x], rtol=3e-6, atol=1e-5)


@pytest.mark.parametrize("name, parameters", ALL)
def test_every_keras_name_means_the_row(name: str, parameters: dict):
    """In a layer, as a layer, and as an operation of a functional model."""
    row, x = get(name), np.linspace(-4, 4, 24, dtype=np.float32).reshape(4, 6)
    for spelled in row.keras:
        thing = tensor_functions.resolve(spelled)
        if isinstance(thing, type):
            try:
                found = [keras_functions.find(thing(**row.complete(parameters)))]
            except ValueError:  # the layer refuses what the function takes
                continue
        else:
            known = {
                key: value for key, value in {**row.fixed, **row.complete(parameters)}.items()
                if key in thing.__code__.co_varnames
            }
            if parameters and not set(parameters) <= set(known):
                continue  # keras.ops.relu takes none
            inputs = keras.Input((6,))
            try:
                outputs = thing(inputs, **known)
            except ValueError:  # no symbolic form (keras.activations.mish)
                outputs = keras.layers.Activation(thing)(inputs)
            found = [] if outputs is inputs else [keras_functions.find(compat.calls([inputs], [outputs])[0].operation)]
            model = keras.Model(inputs, outputs)
            op, attrs = row.as_node(parameters)
            if outputs is not inputs and parameters.get("axis") != 0:
                (node,) = read(model).nodes
                assert (node.op, {k: v for k, v in node.attrs.items()}) == (op, attrs), spelled
                np.testing.assert_allclose(model(x), on_tensors(row, parameters, x), rtol=1e-6, atol=1e-6)
            defaults = {k: p for k, p in row.parameters.items()}
            if row.complete(parameters) == defaults and not row.fixed and name not in ("clip", "threshold"):
                found.append(keras_functions.find(thing))
        for meaning in found:
            assert meaning is not None and meaning.row is row, spelled
            assert row.complete(meaning.parameters) == pytest.approx(row.complete(parameters)), spelled


@pytest.mark.parametrize("name, parameters", ALL)
def test_intervals_hold(name: str, parameters: dict):
    row, generator = get(name), np.random.default_rng(2)
    ends = np.unique(
        np.concatenate(
            [np.float32(EXTREME), generator.normal(size=20).astype(np.float32) * 3, [-1.5, -0.75, -0.5, 0.5]]
        )
    )
    pairs = [(-math.inf, math.inf), (-math.inf, 0.0), (0.0, math.inf), (0.0, 0.0)]
    largest = LARGEST.get(name, math.inf)
    pairs += [tuple(sorted(generator.choice(ends, 2, replace=False).tolist())) for _ in range(60)]
    for low, high in pairs:
        low, high = (float(np.clip(end, -largest, largest)) for end in (low, high))
        below, above = row.interval(low, high, parameters)
        assert below <= above, (low, high)
        x = np.concatenate(
            [
                np.clip(points(3), max(low, -3e38), min(high, 3e38)),
                np.linspace(max(low, -50), min(high, 50), 999) if max(low, -50) < min(high, 50)
                else [low if low > -math.inf else high]
            ]
        )
        x = np.float32(x)
        x = x[(x >= low) & (x <= high)]
        if row.whole is not None:
            x = x.reshape(1, -1) if parameters.get("axis") != 0 else x.reshape(-1, 1)
        y = on_tensors(row, parameters, x).astype(np.float64)
        assert not np.isnan(y).any(), (low, high)
        slack = (
            (1e-3 if name == "squareplus" else 1e-5)
            * max([1.0, *(abs(end) for end in (below, above) if math.isfinite(end))])
        )
        below, above = (end if abs(end) < 3.4e38 else math.copysign(math.inf, end) for end in (below, above))
        assert y.min() >= below - slack and y.max() <= above + slack, (low, high, below, above, y.min(), y.max())
        assert below < 0 or y.min() >= 0, "what is said to be without a sign has none, to the last bit"
        if row.whole is None and -50 <= low and high <= 50 and low < high:  # and they are no wider than they must be
            assert (
                y.min() <= below + 1e-3 + 0.02 * (above - below) and y.max() >= above - 1e-3 - 0.02 * (above - below)
            ), (low, high, below, above)


@pytest.mark.parametrize("name, parameters", ALL)
def test_monotone_where_it_says_so(name: str, parameters: dict):
    row = get(name)
    if row.whole is not None:
        assert not row.monotone(parameters)
        return
    x = np.sort(points(4).astype(np.float64))
    with np.errstate(over="ignore"):
        y = row.values(x, **row.complete(parameters))
    falls = (np.diff(y) < -1e-12).any()
    assert falls == (not row.monotone(parameters))


def test_a_function_of_the_same_name_does_not_count():
    def relu(x):
        return -x

    assert keras_functions.find(relu) is None
    assert keras_functions.find(keras.layers.Activation(relu)) is None

    class ReLU(keras.layers.Layer):
        max_value, negative_slope, threshold = None, 0.0, 0.0

        def call(self, x):
            return -x

    assert keras_functions.find(ReLU()) is None


def test_layers_as_activations_and_defaults():
    assert keras_functions.find(None).row.name == "linear"
    assert keras_functions.find(keras.layers.Activation(keras.layers.ReLU(6.0))).interval() == (0.0, 6.0)
    assert (
        keras_functions.find(keras.ops.gelu).row.name == "gelu_tanh"
        and keras_functions.find(keras.activations.gelu).row.name == "gelu"
    )
    assert keras_functions.find(keras.activations.exponential).row.name == "exp"


def test_intervals_as_people_know_them():
    assert (
        get("sigmoid").interval() == (0.0, 1.0) and get("tanh").interval() == (-1.0, 1.0)
        and get("relu").interval() == (0.0, math.inf)
    )
    assert (
        get("relu").interval(parameters={"max_value": 6.0}) == (0.0, 6.0) and get("relu").interval(-2, 3) == (0.0, 3.0)
    )
    assert get("silu").interval()[0] == pytest.approx(-0.27846, abs=1e-5) and get("silu").interval(0.0)[0] == 0.0
    assert get("square").interval(-2, 1) == (0.0, 4.0) and get("elu").interval() == (-1.0, math.inf)


def test_errors():
    with pytest.raises(ValueError, match="no activation function 'sinh'; expected one of abs, "):
        get("sinh")
    with pytest.raises(ValueError, match="'elu' has no parameter beta; it has alpha"):
        get("elu").complete({"beta": 1.0})
