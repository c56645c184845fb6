"""Recurrent layers of low-bit training: ``LSTM``, ``GRU``, ``SimpleRNN``, and ``RNN`` over one of their cells.

All time steps of the input are multiplied by the input kernel at once; only the product of the state with the recurrent
kernel is inside the loop. Each of the two products has quantizers of its own for its kernel and its input; the gradient
of the gates has one for both (dynamic fixed point, section 5.4). The arithmetic of the gates is float.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf

from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.product_layer import LowBitProduct
from graffiti.low_bit.products import MatrixProduct
from graffiti.low_bit.recurrent_product import RecurrentProduct

Step = Callable[[tf.Tensor, list, tf.Tensor], tuple[tf.Tensor, list, list]]


class Cell(Protocol):
    """The arithmetic of the gates at one time step, in float."""

    def __call__(
        self, cell: Any, gates: tf.Tensor, states: list[tf.Tensor], recur: Callable[[int, tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One step.

        Args:
            cell: the Keras cell; its activations count, and ``reset_after`` of a GRU.
            gates: ``[batch, units]`` for each gate, side by side: the input times its kernel, with the bias.
            states: each ``[batch, units]``, in the order of Keras.
            recur: ``(part, h) ->`` the quantized product of ``h`` with a part of the recurrent kernel, with the bias
                of its own where there is one. Part 0 is all of it, but for the candidate of ``GRU(reset_after=False)``,
                which is part 1.

        Returns:
            The output and the new states.
        """
        ...


def _lstm(cell, gates, states, recur):
    """``i, f, c, o = gates + h·W``, ``c' = f*c + i*act(c)``, ``h' = o*act(c')``."""
    h, c = states
    i, f, g, o = tf.split(gates + recur(0, h), 4, axis=-1)
    inner = cell.recurrent_activation
    c = inner(f) * c + inner(i) * cell.activation(g)
    h = inner(o) * cell.activation(c)
    return h, [h, c]


def _gru(cell, gates, states, recur):
    """``z, r`` from ``gates + h·W``; the candidate from ``r*(h·W)`` or, with ``reset_after=False``, ``(r*h)·W``.

    ``h' = z*h + (1 - z)*candidate``.
    """
    h, inner = states[0], cell.recurrent_activation
    xz, xr, xh = tf.split(gates, 3, axis=-1)
    if cell.reset_after:
        hz, hr, hh = tf.split(recur(0, h), 3, axis=-1)
        z, r = inner(xz + hz), inner(xr + hr)
        candidate = cell.activation(xh + r * hh)
    else:
        hz, hr = tf.split(recur(0, h), 2, axis=-1)
        z, r = inner(xz + hz), inner(xr + hr)
        candidate = cell.activation(xh + recur(1, r * h))
    h = z * h + (1.0 - z) * candidate
    return h, [h]


def _simple(cell, gates, states, recur):
    """``h' = act(gates + h·W)``."""
    h = gates + recur(0, states[0])
    h = h if cell.activation is None else cell.activation(h)
    return h, [h]


CELLS: dict[type, Cell] = {
    keras.layers.LSTMCell: _lstm, keras.layers.GRUCell: _gru, keras.layers.SimpleRNNCell: _simple,
}


def over_time(
    step: Step, inputs: tf.Tensor, states: list, mask: tf.Tensor | None, *, backwards: bool, zero_output: bool,
    unroll: bool, products: int
):
    """The loop of a recurrent layer, as Keras defines it.

    Args:
        step: ``(input, states, time) -> (output, states, seen)``; ``seen`` are tensors to collect.
        inputs: ``[batch, time, n]``.
        states: first states, each ``[batch, m]``.
        mask: bool ``[batch, time]``: where false, states stay and the output is the one before.
        backwards: from the last time step to the first; outputs are in the order of computation.
        zero_output: zeros as output where the mask is false.
        unroll: write the steps out; the number of time steps is known then.
        products: how many tensors ``step`` collects, each of the shape of the first state.

    Returns:
        ``(last output, outputs [batch, time, …], last states, seen, each [time, batch, …])``.
    """
    def time_major(x):
        x = tf.transpose(x, [1, 0, *range(2, len(x.shape))])
        return tf.reverse(x, [0]) if backwards else x

    xs, masks = time_major(inputs), None if mask is None else time_major(tf.cast(mask, tf.bool))
    steps = xs.shape[0] if unroll else tf.shape(xs)[0]

    def one(time, x, mask_now, output, states):
        new, new_states, seen = step(x, states, time)
        if mask_now is None:
            return new, new_states, seen
        keep = tf.expand_dims(mask_now, -1)
        other = tf.zeros_like(new) if zero_output or output is None else output
        return tf.where(keep, new, other), [tf.where(keep, n, o) for n, o in zip(new_states, states)], seen

    if unroll:
        output, outputs, collected = None, [], []
        for time in range(steps):
            output, states, seen = one(
                tf.constant(time), xs[time], None if masks is None else masks[time], output, states
            )
            outputs.append(output)
            collected.append(seen)
        return output, tf.stack(outputs, 1), states, [tf.stack(part) for part in zip(*collected)]

    def array(x):
        return tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]).unstack(x)

    input_array, mask_array = array(xs), None if masks is None else array(masks)
    arrays = [tf.TensorArray(states[0].dtype, steps, element_shape=states[0].shape) for _ in range(1 + products)]
    output = tf.zeros_like(states[0])

    def body(time, output, states, arrays):
        mask_now = None if mask_array is None else mask_array.read(time)
        output, states, seen = one(time, input_array.read(time), mask_now, output, states)
        return time + 1, output, states, [a.write(time, x) for a, x in zip(arrays, (output, *seen))]

    _, output, states, arrays = tf.while_loop(
        lambda time, *_: time < steps, body, (tf.constant(0), output, list(states), arrays)
    )
    outputs, *collected = (a.stack() for a in arrays)
    outputs.set_shape([inputs.shape[1], *states[0].shape])
    return output, tf.transpose(outputs, [1, 0, 2]), states, collected


class _Recurrent(LowBitLayer):
    """An input product over all time steps, then the loop with its recurrent products."""

    low_bit_kind = "recurrent"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.use_cudnn = False  # Keras' fused loops know nothing of quantizers

    @classmethod
    def covers(cls, layer) -> bool:
        """Whether the layer's cell is one of ``CELLS``."""
        return type(layer.cell) in CELLS

    def build(self, input_shape) -> None:
        """The cell's weights, then the state of the products."""
        super(LowBitLayer, self).build(input_shape)
        cell = self.cell
        # noise of their own
        recurrent, candidate = (
            dataclasses.replace(self.low_bit, signed=True, seed=self.low_bit.seed + (n << 20)) for n in (1, 2)
        )
        bias_shape = cell.recurrent_kernel.shape[-1:] if cell.use_bias else None
        self.input_product = LowBitProduct(self.low_bit, "recurrent", f"{self.name}/input", name="low_bit_input")
        self.input_product.build(tuple(cell.kernel.shape), bias_shape)
        self.input_product.constrain(cell.kernel)
        self.recurrent_product = RecurrentProduct(
            recurrent, "recurrent", f"{self.name}/recurrent", name="low_bit_recurrent"
        )
        units, outputs = cell.recurrent_kernel.shape
        own_candidate = isinstance(cell, keras.layers.GRUCell) and not cell.reset_after
        self.recurrent_product.build((units, 2 * units if own_candidate else outputs), bias_shape)
        self.recurrent_product.constrain(cell.recurrent_kernel)
        self.candidate_product = None
        if own_candidate:
            self.candidate_product = RecurrentProduct(
                candidate, "recurrent", f"{self.name}/candidate", name="low_bit_candidate"
            )
            self.candidate_product.build((units, units), (units,))

    def low_bit_products(self):
        """Input, state, and for ``GRU(reset_after=False)`` the candidate."""
        return (
            [self.input_product, self.recurrent_product]
            + ([self.candidate_product] if self.candidate_product is not None else [])
        )

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """What Keras' ``RNN.call`` asks for: ``(last output, outputs, states)``."""
        cell, training = self.cell, bool(training)
        # GRU(reset_after=True) has one for the input and one for the state
        split_bias = cell.use_bias and len(cell.bias.shape) == 2
        bias = None if not cell.use_bias else tf.convert_to_tensor(cell.bias)
        inputs = tf.cast(tf.convert_to_tensor(sequences), tf.float32)
        if training and (dropped := _mask_of(cell.get_dropout_mask(sequences[:, 0]))) is not None:
            inputs *= tf.expand_dims(dropped, 1)
        gates = self.input_product.compute(
            MatrixProduct(*cell.kernel.shape), inputs, cell.kernel, training, bias[0] if split_bias else bias
        )
        gradients = self.input_product.gradients_quantizer
        parts = self._recurrent_parts(training, gradients)
        recurrent_bias = (
            self.recurrent_product.quantize_outside("bias", bias[1], training).value if split_bias else None
        )
        states = [tf.cast(state, tf.float32) for state in initial_state]
        state_dropped = _mask_of(cell.get_recurrent_dropout_mask(states[0])) if training else None
        for product, _, _ in parts:  # a state looks like its activation of a gate
            product.prepare(
                gates[..., : cell.units] if cell.activation is None else cell.activation(gates[..., : cell.units]),
                training
            )

        quantizer_states = [product.states(gradients) for product, _, _ in parts]

        def step(gates_now, states, time):
            seen = []

            def recur(index, h):
                product, geometry, kernel = parts[index]
                h = h if state_dropped is None else h * state_dropped
                seen.append(h)
                y = product.step(geometry, h, kernel, time, gradients, quantizer_states[index])
                y = tf.ensure_shape(y, [*h.shape[:-1], geometry.outputs])
                return y if recurrent_bias is None else y + recurrent_bias

            output, states = CELLS[type(cell)](cell, gates_now, states, recur)
            return output, states, seen

        last, outputs, states, collected = over_time(
            step, gates, states, mask, backwards=self.go_backwards, zero_output=self.zero_output_for_mask,
            unroll=self.unroll, products=len(parts)
        )
        for (product, _, kernel), seen in zip(parts, collected):
            product.after(seen, kernel, training)
        return last, outputs if self.return_sequences else tf.expand_dims(last, 1), states

    def _recurrent_parts(self, training: bool, gradients) -> list:
        """``(product, geometry, kernel)`` of each product with the state."""
        kernel, units = tf.convert_to_tensor(self.cell.recurrent_kernel), self.cell.units
        if self.candidate_product is None:
            return [
                (
                    self.recurrent_product, MatrixProduct(*kernel.shape),
                    self.recurrent_product.quantize_outside("weights", kernel, training, gradients)
                )
            ]
        pairs = ((self.recurrent_product, kernel[:, : 2 * units]), (self.candidate_product, kernel[:, 2 * units:]))
        return [
            (product, MatrixProduct(*part.shape), product.quantize_outside("weights", part, training, gradients))
            for product, part in pairs
        ]


def _mask_of(mask):
    """Of dropout: Keras' ``implementation=1`` has one for each gate; here the first is for all gates, as in
    ``implementation=2``.
    """
    return mask[0] if isinstance(mask, (list, tuple)) else mask


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitLSTM(_Recurrent, keras.layers.LSTM):
    """``LSTM`` with low-bit products."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitGRU(_Recurrent, keras.layers.GRU):
    """``GRU`` with low-bit products, with both values of ``reset_after``."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitSimpleRNN(_Recurrent, keras.layers.SimpleRNN):
    """``SimpleRNN`` with low-bit products."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitRNN(_Recurrent, keras.layers.RNN):
    """``RNN`` over an ``LSTMCell``, ``GRUCell`` or ``SimpleRNNCell`` with low-bit products."""
