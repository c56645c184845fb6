"""``RecurrentProduct``: a product that is repeated at every time step of a loop, with one state of its quantizers
for all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from graffiti.low_bit import observation
from graffiti.low_bit.product_layer import Backward, LowBitProduct, multiply
from graffiti.low_bit.products import Product
from graffiti.low_bit.quantized import Quantized, as_real
from graffiti.low_bit.quantizers.base import Moment


@dataclasses.dataclass(frozen=True)
class Given:
    """A tensor that was quantized before the loop, in the place of a quantizer.

    Attributes:
        quantized: what ``encode`` gives.
        value: the float tensor that was quantized; its gradient is the sum over the time steps, finished as the product
            finishes weight gradients.
    """

    quantized: Quantized
    value: tf.Tensor

    def encode(self, x, training, parameters=()) -> Quantized:
        """What was given."""
        return self.quantized

    def prepare(self, x, training) -> None:
        """Nothing."""

    def parameters(self) -> list[Any]:
        """None."""
        return []

    def gradient(self, x, upstream, parameters):
        """Unchanged."""
        return upstream, []


class RecurrentProduct(LowBitProduct):
    """``y_t = q(x_t)·q(w)`` for ``t = 0, 1, …``: the kernel is quantized once, ``x`` and ``dy`` at each time step.

    Before the loop ``quantize_outside`` takes the kernel; inside, ``step`` reads the states of the quantizers of
    ``x_t`` and ``dy_t`` and writes nothing; after the loop ``after`` moves the state of ``x`` on, once, by all time
    steps together. So one step size holds for a whole sequence (Su et al., the LSTM of dynamic fixed point). The
    quantizer of ``dy`` belongs to the product in front of the loop, which sees the gradients of all time steps at once
    and moves its state.
    """

    roles = ("weights", "activations", "bias", "weight_gradients", "stored_weights")

    def quantize_outside(self, role: str, tensor, training: bool, gradients=None) -> Given:
        """Quantize the kernel or the bias once.

        Args:
            role: ``weights`` or ``bias``.
            tensor: the variable.
            training: whether the state moves on.
            gradients: the quantizer of ``dy``, for the factor of the weight gradient.
        """
        quantizer = self.quantizer(role)
        tensor = tf.cast(tf.convert_to_tensor(tensor), tf.float32)
        if quantizer is not None:
            quantizer.prepare(tensor, training)
        parameters = () if quantizer is None else tuple(tf.convert_to_tensor(p) for p in quantizer.parameters())
        still = tf.stop_gradient(tensor)
        quantized = (
            as_real(still) if quantizer is None
            else quantizer.encode(still, training, tuple(tf.stop_gradient(p) for p in parameters))
        )

        @tf.custom_gradient
        def value(x, *own):
            def gradient(upstream):
                upstream = self.finish_weight_gradient(upstream, training, gradients) if role == "weights" else upstream
                dx, of_parameters = (upstream, []) if quantizer is None else quantizer.gradient(x, upstream, own)
                return (dx, *of_parameters)

            return tf.identity(x) if role == "weights" else quantized.real(), gradient

        return Given(quantized, value(tensor, *parameters))

    def states(self, gradients) -> tuple[dict, dict]:
        """The states of the quantizers of ``x_t`` and ``dy_t``, read before the loop: a gradient inside a loop
        cannot read variables.
        """
        return tuple(
            {} if quantizer is None else quantizer.state() for quantizer in (self.activations_quantizer, gradients)
        )

    def step(
        self, product: Product, x: tf.Tensor, kernel: Given, time: tf.Tensor, gradients, states: tuple[dict, dict]
    ) -> tf.Tensor:
        """One time step.

        Args:
            product: the geometry.
            x: float32 of this time step.
            kernel: of ``quantize_outside``.
            time: int32.
            gradients: the quantizer of ``dy``, ``None`` for float gradients.
            states: of ``states``.
        """
        def quantize(dy, consume):
            if gradients is None:
                return consume(as_real(dy))
            with gradients.at(Moment(time, states[1])):
                return gradients.use(dy, False, consume)

        operands = [(self.activations_quantizer, x), (kernel, kernel.value)]
        backward = Backward(quantize, lambda dw: dw)
        if self.activations_quantizer is None:
            return multiply(product, operands, self.settings, False, backward)
        with self.activations_quantizer.at(Moment(time, states[0])):
            return multiply(product, operands, self.settings, False, backward)

    def prepare(self, likely: tf.Tensor, training: bool) -> None:
        """First values of the parameters of ``x``'s quantizer, before there is any ``x``.

        Args:
            likely: a tensor of about the size of ``x``.
        """
        if self.activations_quantizer is not None:
            self.activations_quantizer.prepare(tf.stop_gradient(likely), training)

    def after(self, xs: tf.Tensor, kernel: Given, training: bool) -> None:
        """Move on the state of ``x``'s quantizer.

        Args:
            xs: all time steps of ``x``.
            kernel: of ``quantize_outside``; for the record.
        """
        if not training and not observation.active():
            return
        quantizer, xs = self.activations_quantizer, tf.stop_gradient(xs)
        if quantizer is None:
            quantized = as_real(xs)
        else:
            quantized = quantizer.encode(xs, training, tuple(tf.convert_to_tensor(p) for p in quantizer.parameters()))
        observation.record(self, [quantized, kernel.quantized], [xs, kernel.value])
