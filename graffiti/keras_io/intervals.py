"""What the output of one Keras call can be, given its inputs: by the rules that read models and the intervals of
graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from graffiti.graph.functions import EVERYTHING, Interval
from graffiti.graph.intervals import intervals, of_dtype
from graffiti.graph.ir import TensorType
from graffiti.keras_io import compat, float_rules, functions
from graffiti.keras_io.read import Reader, Reading

L = keras.layers


def of_call(call: compat.Call, inputs: Sequence[Interval]) -> list[Interval]:
    """The interval of each output of a call, whatever its weights are trained to.

    Args:
        call: of a layer or an operation; a model's calls are asked one by one.
        inputs: of ``call.inputs``.
    """
    operation = call.operation
    if type(operation) in _ENDING_IN_ACTIVATION:
        return [of_activation(operation)] * len(call.outputs)
    if type(operation) in _LAYERS:
        return _LAYERS[type(operation)](operation, list(inputs), len(call.outputs))
    rule = float_rules.find(operation)
    if rule is not None:
        reader = _OneCall(call, inputs)
        try:
            rule(_Reading(reader, call, "call", 0, ""), operation)
        except _Unknown:
            return [EVERYTHING] * len(call.outputs)
        found = intervals(reader.graph, reader.known)
        return [found[reader.value(tensor)] for tensor in call.outputs]
    return [EVERYTHING] * len(call.outputs)


def of_activation(layer) -> Interval:
    """What a layer that ends in an activation can give; anything where it has none, or one that is not known."""
    meaning = functions.find(getattr(layer, "activation", None))
    return EVERYTHING if meaning is None else meaning.interval()


# ---- by the reader ---------------------------------------------------------------------------------------------------
class _Unknown(Exception):
    """The call has no form in a graph."""


class _OneCall(Reader):
    """A graph of nothing but one call."""

    def __init__(self, call: compat.Call, inputs: Sequence[Interval]) -> None:
        super().__init__(keras.Sequential(name="call"))
        self.known: dict[str, Interval] = {}
        for index, (tensor, interval) in enumerate(zip(call.inputs, inputs)):
            name = f"input_{index}"
            self.graph.inputs.append(name)
            self.graph.types[name] = TensorType(tuple(tensor.shape))
            self.known[name] = interval
            if id(tensor) not in self._values:
                self.bind(tensor, name)

    def constant(self, name: str, value, key=None, layer: str = "") -> str:
        """A weight may become anything; other numbers are what they are."""
        if not isinstance(value, keras.Variable):
            return self.graph.add_constant(name, np.array(keras.ops.convert_to_numpy(value), np.float32))
        stored = self.graph.add_constant(name, np.broadcast_to(np.float32(0), tuple(value.shape)))
        self.known[stored] = EVERYTHING
        return stored


class _Reading(Reading):
    def island(self, reason: str, operation=None) -> None:
        raise _Unknown(reason)

    def add_island(self, *args, **kwargs):
        raise _Unknown


# ---- layers that no graph has ----------------------------------------------------------------------------------------
Rule = Callable[[Any, list[Interval], int], list[Interval]]


def _hull(intervals: Sequence[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _with_zero(layer, inputs: list[Interval], outputs: int) -> list[Interval]:
    """Moves, means and zeros."""
    return [_hull([*inputs, (0.0, 0.0)])] * outputs


def _minimum(layer, inputs: list[Interval], outputs: int) -> list[Interval]:
    return [(min(low for low, _ in inputs), min(high for _, high in inputs))] * outputs


def _multiply(layer, inputs: list[Interval], outputs: int) -> list[Interval]:
    product = inputs[0]
    for other in inputs[1:]:
        corners = [0.0 if a == 0 or b == 0 else a * b for a in product for b in other]
        product = min(corners), max(corners)
    return [product] * outputs


def _recurrent(layer, inputs: list[Interval], outputs: int) -> list[Interval]:
    """The hidden state; zeros where a mask says so. The state of an LSTM's cell may be anything."""
    cell = layer.cell if type(layer) is L.RNN else layer
    rule = _CELLS.get(type(cell))
    hidden = EVERYTHING if rule is None else _hull([rule(cell, inputs[1:]), (0.0, 0.0)])
    return [hidden if index < 2 else EVERYTHING for index in range(outputs)]


def _lstm(cell, states: list[Interval]) -> Interval:
    """Output gate times the activation of the cell's state."""
    gate = functions.find(cell.recurrent_activation)
    (found,) = _multiply(None, [EVERYTHING if gate is None else gate.interval(), of_activation(cell)], 1)
    return found


def _gru(cell, states: list[Interval]) -> Interval:
    """Between the last state and the activation, where the gate is between 0 and 1."""
    gate = functions.find(cell.recurrent_activation)
    low, high = EVERYTHING if gate is None else gate.interval()
    return _hull([of_activation(cell), *states]) if 0 <= low and high <= 1 else EVERYTHING


def _bidirectional(layer, inputs: list[Interval], outputs: int) -> list[Interval]:
    found = _hull(
        [interval for part in (layer.forward_layer, layer.backward_layer) for interval in _wrapped(part, inputs)]
    )
    if layer.merge_mode in ("sum", "mul"):
        found = (2 * found[0], 2 * found[1]) if layer.merge_mode == "sum" else _multiply(layer, [found, found], 1)[0]
    return (
        [found] + [EVERYTHING] * (outputs - 1) if layer.merge_mode
        else [found if index < 2 else EVERYTHING for index in range(outputs)]
    )


def _wrapped(part, inputs: list[Interval]) -> list[Interval]:
    return _LAYERS[type(part)](part, inputs[:1], 1) if type(part) in _LAYERS else [of_activation(part)]


_ENDING_IN_ACTIVATION = (  # what is in front of it is trained
    L.Dense, L.EinsumDense, L.Conv1D, L.Conv2D, L.Conv3D, L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose,
    L.DepthwiseConv1D, L.DepthwiseConv2D,
    L.SeparableConv1D, L.SeparableConv2D,
)
_CELLS: dict[type, Callable[[Any, list[Interval]], Interval]] = {
    **dict.fromkeys((L.LSTM, L.LSTMCell), _lstm), **dict.fromkeys((L.GRU, L.GRUCell), _gru),
    **dict.fromkeys((L.SimpleRNN, L.SimpleRNNCell), lambda cell, states: of_activation(cell)),
}
_LAYERS: dict[type, Rule] = {
    **dict.fromkeys((
        L.Average, L.RepeatVector, L.Masking, L.MaxPooling3D, L.AveragePooling3D, L.GlobalMaxPooling3D,
        L.GlobalAveragePooling3D, L.UpSampling3D,
        L.Cropping3D, L.ZeroPadding3D, L.SpatialDropout3D,
    ), _with_zero),
    L.Minimum: _minimum, L.Multiply: _multiply,
    **dict.fromkeys((L.LSTM, L.GRU, L.SimpleRNN, L.RNN), _recurrent),
    L.Bidirectional: _bidirectional,
    L.TimeDistributed: lambda layer, inputs, outputs: _wrapped(layer.layer, inputs) * outputs,
}


__all__ = ["EVERYTHING", "Interval", "of_activation", "of_call", "of_dtype"]
