"""What all layers with a kernel share: quantized kernel, bias, folded batch norm, and the exact inference path.

A subclass says what its kernel's shape is and how one product is computed; see ``layers/convolution.py`` and
``layers/dense.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from graffiti import quantizers
from graffiti.layers import exact, fold, settings


class QuantizedProduct(keras.layers.Layer):
    """``product(x, q(kernel)) + q(bias)`` in real units, every sum exact at inference.

    Forward, with batch norm folded: ``kernel' = kernel * gamma/sqrt(v+eps)``, ``bias' = beta + (bias-mu) *
    gamma/sqrt(v+eps)`` with the moving ``mu, v``. In training, while ``batch_norm_frozen`` is 0: ``product(x,
    q(kernel')) * sqrt(v+eps)/sqrt(v_b+eps) + q(beta - gamma*mu_b/sqrt(v_b+eps))`` with ``mu_b, v_b`` of ``product(x,
    kernel)``, and the moving averages follow; when it is 1, and always at inference, the first form. The bias is
    rounded to ``e_x + e_kernel``; with an ``accumulator_quantizer`` that one quantizer rounds product and bias instead.
    Backward: straight through the roundings, the kernel quantizer's own gradient for its threshold.

    At inference the layer checks from the actual weights whether float32 holds every partial sum; where it may not, it
    computes in float64 and returns by round to odd. In training it is always float32.

    Args:
        kernel_quantizer: a ``Quantizer``, its name or config; ``None`` leaves the layer in float.
        use_bias: whether there is a bias (always, with batch norm).
        accumulator_quantizer: shared by product and bias (``graffitist_*``); ``None`` for a 32-bit accumulator.
        batch_norm: ``{"epsilon": ..., "momentum": ...}`` of a batch norm to fold, or ``None``.
        input_bits: width of the input's codes; ``None`` where unknown, then inference is always in float64.
        input_signed: whether the input's codes are signed.
        kernel_trainable: false for numbers of the model that no training changes: a rescaling, the reciprocals of an
            average pool. The bias is the same.
        weight_settings: how training treats the layer's weights, where that is not as usual: ``kernel``, ``bias``,
            ``gamma``, ``beta`` → ``trainable``, ``regularizer``, ``constraint`` as in ``add_weight``; ``statistics`` →
            ``trainable``, false where those of the batch norm do not move. In a layer with ``trainable=False`` they do
            not move either.
        ties: ``(name of a float layer, number of its weight, kernel or bias ...)``: that weight is this layer's
            variable. ``QuantizedModel`` joins them.
        node_names: names of the graph nodes that this layer's calls are, see ``Quantize``.
        value_names: node name → role → name, for inner graph values that are not called ``node/role``.

    Input: ``[x, exponent]``, the two outputs of a ``Quantize`` layer; only ``x`` where the layer is in float.

    References: Jain et al., arXiv 1903.08066, sections 3 to 5.
    """

    op = ""             # the op in graph/ops.py
    channel_axis: int | str = -1   # output channels of the kernel

    def __init__(
        self, *, kernel_quantizer=None, use_bias: bool = True, accumulator_quantizer=None,
        batch_norm: dict[str, float] | None = None, input_bits: int | None = None, input_signed: bool = True,
        kernel_trainable: bool = True, weight_settings: dict[str, dict[str, Any]] | None = None,
        ties: list[tuple[str, int, str]] | None = None, node_names: list[str] | None = None,
        value_names: dict[str, dict[str, str]] | None = None, **kwargs,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_jit = False  # XLA may contract the folding into fused multiply-adds, which round differently
        self.kernel_quantizer: Any = quantizers.get(kernel_quantizer)
        self.accumulator_quantizer: Any = quantizers.get(accumulator_quantizer)
        self.use_bias = bool(use_bias or batch_norm)
        self.batch_norm = dict(batch_norm) if batch_norm else None
        self.input_bits, self.input_signed, self.kernel_trainable = input_bits, input_signed, kernel_trainable
        self.weight_settings = settings.restored(weight_settings)
        self.ties = settings.ties(ties)
        self.node_names = list(node_names or [self.name])
        self.value_names = {node: dict(names) for node, names in (value_names or {}).items()}
        if kwargs.get("trainable") is False:
            self.trainable = False  # its quantizers too

    # ---- what a subclass says -----------------------------------------------------------------------------------
    def kernel_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """The kernel's shape for an input's shape."""
        raise NotImplementedError

    def product(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """One product in the dtype of its arguments."""
        raise NotImplementedError

    def product_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The output's shape for an input's shape."""
        raise NotImplementedError

    def graph_attributes(self) -> dict[str, Any]:
        """Attributes of the product's node in a graph."""
        return {}

    def per_channel(self, values: tf.Tensor) -> tf.Tensor:
        """One value per output channel, shaped to broadcast against the kernel."""
        return values

    @property
    def reduced_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that one output channel sums over."""
        return tuple(range(len(self.kernel.shape) - 1))

    # ---- state --------------------------------------------------------------------------------------------------
    def build(self, input_shape) -> None:
        """Create the weights."""
        shape = _shape_of_x(input_shape)
        kernel_shape = self.kernel_shape(shape)
        set_of = {
            role: settings.arguments(self.weight_settings.get(role, {})) for role in ("kernel", "bias", "gamma", "beta")
        }
        for role in ("kernel", "bias"):
            set_of[role]["trainable"] &= self.kernel_trainable
        self.kernel = self.add_weight(
            name="kernel", shape=kernel_shape, initializer="glorot_uniform", **set_of["kernel"]
        )
        channels = (self.product_shape(shape)[-1],)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=channels, initializer="zeros", **set_of["bias"])
        if self.batch_norm:
            self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones", **set_of["gamma"])
            self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros", **set_of["beta"])
            self.moving_mean = self.add_weight(name="moving_mean", shape=channels, initializer="zeros", trainable=False)
            self.moving_variance = self.add_weight(
                name="moving_variance", shape=channels, initializer="ones", trainable=False
            )
            self.batch_norm_frozen = self.add_weight(
                name="batch_norm_frozen", shape=(), initializer="zeros", trainable=False
            )
        if self.kernel_quantizer is not None and not self.kernel_quantizer.built:
            self.kernel_quantizer.build(kernel_shape)
        if self.accumulator_quantizer is not None and not self.accumulator_quantizer.built:
            self.accumulator_quantizer.build(self.product_shape(shape))

    # ---- inference form -----------------------------------------------------------------------------------------
    def fold(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Kernel and bias with the moving statistics folded in; as they are where there is no batch norm."""
        kernel = tf.convert_to_tensor(self.kernel)
        if not self.batch_norm:
            return kernel, tf.convert_to_tensor(self.bias) if self.use_bias else None
        multiplier = fold.fold_multiplier(
            self.gamma, tf.convert_to_tensor(self.moving_variance), self.batch_norm["epsilon"]
        )
        return (
            fold.fold_kernel(kernel, self.per_channel(multiplier)),
            fold.fold_bias(self.bias, self.beta, self.moving_mean, multiplier)
        )

    def folded_kernel(self) -> tf.Tensor:
        """What the kernel quantizer sees, also in training."""
        return self.fold()[0]

    def quantized_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """A folded kernel through the quantizer."""
        return kernel if self.kernel_quantizer is None else self.kernel_quantizer(kernel)

    def accumulator_exponent(self, exponent: tf.Tensor) -> tf.Tensor:
        """``e_x + e_kernel``: scalar, or one per output channel."""
        return tf.stop_gradient(exponent + self.kernel_quantizer.exponent())

    def quantized_bias(self, bias: tf.Tensor, exponent: tf.Tensor | None) -> tf.Tensor:
        """The folded bias as it is added: by the accumulator's quantizer, at ``e_x + e_kernel``, or in float."""
        if self.accumulator_quantizer is not None:
            return self.accumulator_quantizer(bias)
        if self.kernel_quantizer is None:
            return bias
        return exact.round_at(bias, self.accumulator_exponent(exponent))

    def finish(self, product: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """Product (float32 or float64) → float32 output: round to odd where needed, accumulator quantizer, bias."""
        if self.accumulator_quantizer is None:
            total = product if bias is None else product + tf.cast(bias, product.dtype)
            return exact.round_to_odd(total) if total.dtype == tf.float64 else total
        narrow = exact.round_to_odd(product) if product.dtype == tf.float64 else product
        rounded = self.accumulator_quantizer(narrow)
        return rounded if bias is None else rounded + bias

    def infer(self, x: tf.Tensor, exponent: tf.Tensor | None) -> tf.Tensor:
        """The exact forward pass with moving statistics."""
        kernel, bias = self.fold()
        kernel = self.quantized_kernel(kernel)
        if bias is not None:
            bias = self.quantized_bias(bias, exponent)

        def narrow():
            return self.finish(self.product(x, kernel), bias)

        def wide():
            return self.finish(self.product(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64)), bias)

        if self.kernel_quantizer is None:
            return narrow()
        if self.input_bits is None:
            return wide()
        largest = 2.0 ** (self.input_bits - int(self.input_signed))
        summed = None if self.accumulator_quantizer is not None else bias
        if summed is None and largest * self.largest_kernel_sum() < exact.EXACT:
            return narrow()
        fits = exact.fits_float32(
            tf.reshape(tf.reduce_sum(tf.abs(kernel), self.reduced_axes), [-1]), summed, largest, exponent,
            self.kernel_quantizer.exponent(),
        )
        return tf.cond(fits, narrow, wide)

    def largest_kernel_sum(self) -> float:
        """Upper bound of the sum of kernel codes of one output channel, whatever the weights are."""
        count = math.prod(self.kernel.shape[axis] for axis in self.reduced_axes)
        return count * 2.0 ** (self.kernel_quantizer.bits - int(self.kernel_quantizer.signed))

    @property
    def statistics_trainable(self) -> bool:
        """Whether training moves the statistics of a folded batch norm, until ``batch_norm_frozen`` says otherwise."""
        return bool(self.trainable and self.weight_settings.get("statistics", {}).get("trainable", True))

    # ---- training form ------------------------------------------------------------------------------------------
    def train(self, x: tf.Tensor, exponent: tf.Tensor | None) -> tf.Tensor:
        """The float32 forward pass for training; with live batch norm it also moves the averages."""
        def frozen():
            kernel, bias = self.fold()
            if bias is not None:
                bias = self.quantized_bias(bias, exponent)
            return self.finish(self.product(x, self.quantized_kernel(kernel)), bias)

        if not self.batch_norm or not self.statistics_trainable:
            return frozen()

        def live():
            raw = self.product(x, tf.convert_to_tensor(self.kernel))
            mean, variance = tf.nn.moments(raw, list(range(len(raw.shape) - 1)))
            kernel, _ = self.fold()
            correction, bias = fold.batch_correction(
                self.gamma, self.beta, mean, variance, tf.convert_to_tensor(self.moving_variance),
                self.batch_norm["epsilon"],
            )
            corrected = self.product(x, self.quantized_kernel(kernel)) * correction
            bias += 0.0 * self.bias  # batch statistics cancel it: its gradient is zero, which is not the same as none
            return self.finish(corrected, self.quantized_bias(bias, exponent)), mean + self.bias, variance

        def keep():
            return frozen(), tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)

        is_frozen = tf.convert_to_tensor(self.batch_norm_frozen) > 0
        output, mean, variance = tf.cond(is_frozen, keep, live)
        momentum = self.batch_norm["momentum"]
        for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = tf.convert_to_tensor(average)
            average.assign(tf.where(is_frozen, old, old * momentum + tf.stop_gradient(new) * (1.0 - momentum)))
        return output

    def call(self, inputs, training=None, node: str | None = None):
        """Product plus bias; ``node`` only says which node of the graph this call is."""
        x, exponent = inputs if isinstance(inputs, (list, tuple)) else (inputs, None)
        if exponent is None and self.kernel_quantizer is not None:
            raise ValueError(
                f"layer {self.name!r} takes [x, exponent], the two outputs of a Quantize layer; got x alone"
            )
        return self.train(x, exponent) if training else self.infer(x, exponent)

    # ---- calibration --------------------------------------------------------------------------------------------
    def calibration_inputs(self, inputs) -> Iterator[tuple[Any, list[tf.Tensor]]]:
        """Pairs of a quantizer and what it sees, in order; set each threshold before taking the next pair.

        Args:
            inputs: ``[x, exponent]`` of the calibration data.
        """
        kernel, bias = self.fold()
        if self.kernel_quantizer is not None:
            yield self.kernel_quantizer, [kernel]
        if self.accumulator_quantizer is not None:
            product = self.product(tf.convert_to_tensor(inputs[0]), self.quantized_kernel(kernel))
            yield self.accumulator_quantizer, [product] if bias is None else [product, bias]

    # ---- Keras --------------------------------------------------------------------------------------------------
    def compute_output_shape(self, input_shape):
        """As ``product_shape``; ``input_shape`` is that of ``[x, exponent]``."""
        return self.product_shape(_shape_of_x(input_shape))

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(),
            "kernel_quantizer": quantizers.serialize(self.kernel_quantizer),
            "use_bias": self.use_bias,
            "accumulator_quantizer": quantizers.serialize(self.accumulator_quantizer),
            "batch_norm": dict(self.batch_norm) if self.batch_norm else None,
            "input_bits": self.input_bits, "input_signed": self.input_signed, "kernel_trainable": self.kernel_trainable,
            "weight_settings": settings.serialized(self.weight_settings),
            **({"ties": [list(tie) for tie in self.ties]} if self.ties else {}),
            "node_names": list(self.node_names),
            "value_names": {node: dict(names) for node, names in self.value_names.items()},
        }


def _shape_of_x(input_shape) -> tuple:
    """The shape of ``x`` alone or in ``[x, exponent]``; a saved model has lists in the places of tuples."""
    first = input_shape[0]
    return tuple(first if isinstance(first, (list, tuple)) else input_shape)
