"""``LowBitProduct``: the three products of a compute layer with their quantizers, one custom gradient around them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import engine as engines
from graffiti.low_bit import observation, quantizers
from graffiti.low_bit.products import Product
from graffiti.low_bit.quantized import Quantized, as_real
from graffiti.training_config import TrainingScheme

ROLES = ("weights", "activations", "gradients", "bias", "weight_gradients", "stored_weights")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How one layer is trained; what a layer's config holds under ``low_bit``.

    Attributes:
        scheme: the quantizers and switches.
        engine: ``auto``, ``native`` or ``emulated``.
        signed: false where the layer's input cannot be negative.
        seed: of its stochastic rounding.
        plain_dtype: the dtype policy of the Keras layer, where that is another than ``float32``: low bits take the
            place of half precision, so the layer itself computes in ``float32``, and ``strip`` gives the policy back.
    """

    scheme: TrainingScheme
    engine: str = "auto"
    signed: bool = True
    seed: int = 0
    plain_dtype: Any = None

    def to_config(self) -> dict[str, Any]:
        """Plain values."""
        config = {"scheme": self.scheme.to_config(), "engine": self.engine, "signed": self.signed, "seed": self.seed}
        return config if self.plain_dtype is None else {**config, "plain_dtype": self.plain_dtype}

    @classmethod
    def get(cls, value: Settings | Mapping[str, Any]) -> Settings:
        """From settings or their plain values."""
        if isinstance(value, Settings):
            return value
        return cls(
            TrainingScheme.from_config(value["scheme"]), value["engine"], value["signed"], value["seed"],
            value.get("plain_dtype"),
        )

    def low_bit_config(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """The config of the low-bit layer in the place of a Keras layer with the config ``plain``."""
        policy = keras.dtype_policies.get(plain["dtype"])
        if policy.name == "float32":
            return {**plain, "low_bit": self.to_config()}
        settings = dataclasses.replace(self, plain_dtype=plain["dtype"])
        return {**plain, "dtype": "float32", "low_bit": settings.to_config()}

    def plain_config(self, low_bit: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of ``low_bit_config``."""
        plain = {key: value for key, value in low_bit.items() if key != "low_bit"}
        return plain if self.plain_dtype is None else {**plain, "dtype": self.plain_dtype}


class LowBitProduct(keras.layers.Layer):
    """``y = q(x)·q(w)``, backward ``dx = q(dy)·q(w)ᵀ`` and ``dw = q(x)ᵀ·q(dy)`` with one and the same ``q(dy)``.

    The three quantizers are sub-layers, so that their state is saved with the layer. Each product can be in float on
    its own (``scheme.forward``, ``input_gradient``, ``weight_gradient``). Then each quantizer's own backward rule
    follows for ``x`` and ``w``.

    Args:
        settings: see ``Settings``.
        kind: of the layer, see ``TensorQuantizer``.
        layer_name: for messages.
    """

    roles: tuple[str, ...] = ROLES

    def __init__(self, settings: Settings, kind: str, layer_name: str, name: str = "low_bit") -> None:
        super().__init__(name=name, dtype="float32")
        self.settings, self.kind, self.layer_name = settings, kind, layer_name
        self.supports_jit = False
        # a layer of several products has bits of its own for each; quantizers count in eighths of 32 bits
        seed = settings.seed if name == "low_bit" else (settings.seed + zlib.crc32(name.encode())) & 0x0FFFFFFF
        for index, role in enumerate(ROLES):
            spec = getattr(settings.scheme, role) if role in self.roles else None
            made = None if spec is None else quantizers.get(
                spec.quantizer, **spec.arguments, role=role, kind=kind, layer_name=layer_name, seed=seed * 8 + index,
                signed=settings.signed if role == "activations" else True, name=f"{role}_quantizer")
            setattr(self, f"{role}_quantizer", made)

    def quantizer(self, role: str):
        """The quantizer of a role, ``None`` where that tensor stays in float."""
        return getattr(self, f"{role}_quantizer")

    def build(self, w_shape, bias_shape=None) -> None:
        """Create the quantizers' state for a kernel of this shape."""
        for role in ("weights", "activations", "gradients", "weight_gradients", "stored_weights"):
            if (quantizer := self.quantizer(role)) is not None:
                quantizer.build(w_shape)
        if self.bias_quantizer is not None:
            self.bias_quantizer.build(bias_shape)
        if self.settings.scheme.error_feedback:
            self.residual = self.add_weight(
                name="residual", shape=tuple(w_shape), initializer="zeros", trainable=False, aggregation="mean"
            )
        self.built = True

    def constrain(self, variable) -> None:
        """Let every optimizer store the updated ``variable`` in few bits (``scheme.stored_weights``)."""
        if self.stored_weights_quantizer is not None:
            before = variable.constraint
            variable.constraint = lambda w: self.stored_weights_quantizer.encode(
                before(w) if before else tf.convert_to_tensor(w), True
            ).real()

    def compute(self, product: Product, x, w, training: bool | None, bias=None) -> tf.Tensor:
        """``y``, with the bias added.

        Args:
            product: the geometry.
            x: the input, any float type.
            w: the kernel.
            training: whether the states move on.
            bias: ``[outputs]`` or ``None``.
        """
        training = bool(training)
        x, w = tf.cast(tf.convert_to_tensor(x), tf.float32), tf.cast(tf.convert_to_tensor(w), tf.float32)
        bias = None if bias is None else tf.cast(tf.convert_to_tensor(bias), tf.float32)
        inside = bias is not None and self.bias_quantizer is not None
        operands = (
            [(self.activations_quantizer, x), (self.weights_quantizer, w)]
            + ([(self.bias_quantizer, bias)] if inside else [])
        )
        y = multiply(product, operands, self.settings, training, Backward(
            lambda dy, consume: consume(
                as_real(dy)
            ) if self.gradients_quantizer is None else self.gradients_quantizer.use(dy, training, consume),
            lambda dw: self.finish_weight_gradient(dw, training, self.gradients_quantizer)), observer=self)
        return y if bias is None or inside else tf.nn.bias_add(y, bias)

    def finish_weight_gradient(self, dw: tf.Tensor, training: bool, gradients) -> tf.Tensor:
        """The learning rate's factor of the ``gradients`` quantizer, rounding, and error feedback."""
        factor = None if gradients is None else gradients.weight_gradient_factor()
        dw = dw if factor is None else dw * factor
        if self.weight_gradients_quantizer is None:
            return dw
        if not self.settings.scheme.error_feedback:
            return self.weight_gradients_quantizer.encode(dw, training).real()
        total = dw + self.residual
        rounded = self.weight_gradients_quantizer.encode(total, training).real()
        if training:
            self.residual.assign(total - rounded)
        return rounded


@dataclasses.dataclass(frozen=True)
class Backward:
    """How the backward products of one call go.

    Attributes:
        quantize: ``(dy, consume) -> consume(q(dy))``.
        finish: the weight gradient's last change.
    """

    quantize: Callable[[tf.Tensor, Callable[[Quantized], Any]], Any]
    finish: Callable[[tf.Tensor], tf.Tensor]


def multiply(
    product: Product, operands: list, settings: Settings, training: bool, backward: Backward,
    observer: LowBitProduct | None = None
) -> tf.Tensor:
    """``q(x)·q(w)`` (and ``+ q(bias)``) with the gradients of low-bit training.

    Args:
        product: the geometry.
        operands: pairs of a quantizer (or ``None``) and a float32 tensor: ``x``, ``w`` and perhaps the bias.
        settings: scheme and engine.
        training: whether the states of the operands' quantizers move on.
        backward: see there.
        observer: whose records are kept while someone looks.
    """
    scheme, engine = settings.scheme, settings.engine
    static_x, count, parameters = operands[0][1].shape, len(operands), []
    for quantizer, tensor in operands:
        if quantizer is not None:
            quantizer.prepare(tensor, training)
        parameters.append(() if quantizer is None else tuple(tf.convert_to_tensor(p) for p in quantizer.parameters()))

    @tf.custom_gradient
    def run(*arguments):
        tensors, rest, given = arguments[:count], list(arguments[count:]), []
        for own in parameters:
            given.append(tuple(rest[: len(own)]))
            del rest[: len(own)]
        quantized = [
            as_real(tensor) if quantizer is None else quantizer.encode(tensor, training, own)
            for (quantizer, _), tensor, own in zip(operands, tensors, given)
        ]
        if observer is not None:
            observation.record(observer, quantized, tensors)
        x, w = tensors[:2]
        xq, wq = quantized[:2]
        x_shape = tf.shape(x)
        y = engines.forward(product, xq, wq, engine) if scheme.forward else product.forward(x, w)
        if count == 3:
            y += quantized[2].real()

        def gradient(dy):
            def consume(dyq: Quantized):
                if observer is not None:
                    observation.record_gradient(observer, dyq, dy)
                if scheme.input_gradient:
                    dx = engines.input_gradient(product, dyq, wq, x_shape, static_x, engine)
                else:
                    dx = product.input_gradient(dy, w, x_shape)
                dw = (
                    engines.weight_gradient(product, xq, dyq, engine) if scheme.weight_gradient
                    else product.weight_gradient(x, dy)
                )
                return (dx, dw) if count == 2 else (dx, dw, engines.bias_gradient(dyq, engine))

            results = [
                tf.reshape(result, tf.shape(tensor)) for result, tensor in zip(backward.quantize(dy, consume), tensors)
            ]
            results[1] = backward.finish(results[1])
            own_gradients = []
            for index, ((quantizer, _), tensor, own) in enumerate(zip(operands, tensors, given)):
                if quantizer is not None:
                    results[index], of_parameters = quantizer.gradient(tensor, results[index], own)
                    own_gradients += of_parameters
            return (*results, *own_gradients)

        return y, gradient

    return run(*(tensor for _, tensor in operands), *(p for own in parameters for p in own))
