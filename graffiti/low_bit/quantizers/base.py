"""``TensorQuantizer``: one tensor of one layer on its way into low-bit products. The methods are beside this file."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from graffiti import checks
from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.numerics.noise import GOLDEN

ROLES = ("weights", "activations", "gradients", "bias", "weight_gradients", "stored_weights")
KINDS = ("convolution", "depthwise", "dense", "recurrent", "batch_norm")


@dataclasses.dataclass(frozen=True)
class Moment:
    """A time step of a loop.

    Attributes:
        time: int32, its number.
        state: a quantizer's ``state()`` before the loop.
    """

    time: tf.Tensor
    state: dict[int, tf.Tensor]


class TensorQuantizer(keras.layers.Layer):
    """Quantizes one tensor: a layer's weights, its input, its bias, or the gradient that arrives at its output.

    A subclass gives ``encode`` and, where the gradient of its input is not the upstream one unchanged, ``gradient``. It
    is a Keras layer so that its state is tracked, saved and loaded with the layer that holds it. What it changes in
    training it changes once per call with ``training=True``; otherwise it only reads.

    Args:
        role: ``weights``, ``activations``, ``gradients`` or ``bias``.
        kind: of the layer: ``convolution``, ``depthwise``, ``dense``, ``recurrent`` or ``batch_norm``.
        signed: false where the tensor is known not to be negative.
        layer_name: for messages.
        seed: of stochastic rounding.

    Raises:
        ValueError: where an argument is out of its range.
    """

    def __init__(
        self, *, role: str = "gradients", kind: str = "dense", signed: bool = True, layer_name: str = "", seed: int = 0,
        name: str | None = None,
        dtype: Any = "float32", trainable: bool = True,
    ) -> None:
        if role not in ROLES:
            raise ValueError(f"role of a tensor quantizer is one of {', '.join(ROLES)}, got {role!r}")
        if kind not in KINDS:
            raise ValueError(f"kind of a tensor quantizer's layer is one of {', '.join(KINDS)}, got {kind!r}")
        super().__init__(name=name or f"{role}_quantizer", dtype="float32", trainable=trainable)
        self.role, self.kind, self.signed, self.layer_name, self.seed = role, kind, bool(signed), layer_name, int(seed)
        self.supports_jit = False
        self._moment: Moment | None = None

    # ---- what a method says -------------------------------------------------------------------------------------
    def encode(self, x: tf.Tensor, training: bool, parameters: tuple[tf.Tensor, ...] = ()) -> Quantized:
        """The quantized tensor; in training the state moves on.

        Args:
            x: float32, any shape.
            training: whether this is a training step.
            parameters: the values of ``parameters()``.
        """
        raise NotImplementedError

    def use(
        self, x: tf.Tensor, training: bool, consume: Callable[[Quantized], Any], parameters: tuple[tf.Tensor, ...] = ()
    ):
        """``consume(encode(x))``; a quantizer whose type of codes changes over time calls ``consume`` in each
        branch.
        """
        return consume(self.encode(x, training, parameters))

    def prepare(self, x: tf.Tensor, training: bool) -> None:
        """First values of the parameters from the first tensor; called before ``parameters``."""

    def parameters(self) -> list[Any]:
        """Trainable variables of the quantizer, in the order of ``gradient``."""
        return []

    def gradient(
        self, x: tf.Tensor, upstream: tf.Tensor, parameters: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Gradients of ``x`` and of the parameters; straight through, without a mask, unless a method says
        otherwise.
        """
        return upstream, []

    def weight_gradient_factor(self) -> tf.Tensor | None:
        """What the layer's weight gradient is multiplied by, ``None`` for nothing (gradient quantizers only)."""
        return None

    # ---- helpers ------------------------------------------------------------------------------------------------
    def read(self, variable) -> tf.Tensor:
        """The value of a variable of the state: now, or inside ``at`` what it was when ``state`` was called."""
        return tf.convert_to_tensor(variable) if self._moment is None else self._moment.state[id(variable)]

    def state(self) -> dict[int, tf.Tensor]:
        """The values of all variables, by ``id``."""
        return {id(variable): tf.convert_to_tensor(variable) for variable in self.variables}

    @contextlib.contextmanager
    def at(self, moment: Moment) -> Iterator[None]:
        """Inside, the state is read as it was before a loop, random numbers differ from time step to time step, and
        each replica is on its own. Nothing may be written.
        """
        self._moment = moment
        try:
            with replicas.apart():
                yield
        finally:
            self._moment = None

    def add_state(self, name: str, value, dtype: str = "float32", shape: tuple[int, ...] = ()) -> Any:
        """A variable that is saved and not trained; every replica computes the same value for it."""
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer=keras.initializers.Constant(value), trainable=False,
            aggregation="only_first_replica"
        )

    def add_noise(self) -> None:
        """The state of the generator behind stochastic rounding: a key and a counter, saved like a weight (a Keras
        ``SeedGenerator`` is not).
        """
        self.noise = self.add_weight(
            name="noise", shape=(2,), dtype="uint32", initializer="zeros", trainable=False,
            aggregation="only_first_replica"
        )
        self.noise.assign([self.seed & 0xFFFFFFFF, 0])

    def next_seed(self) -> tf.Tensor:
        """Two uint32 that no other call and no other replica gets."""
        state = tf.identity(self.read(self.noise))
        if self._moment is not None:
            return replicas.own_seed(
                tf.stack(
                    [state[0] + tf.constant(GOLDEN, tf.uint32) * (tf.cast(self._moment.time, tf.uint32) + 1), state[1]]
                )
            )
        self.noise.assign(state + tf.constant([0, 1], tf.uint32))
        return replicas.own_seed(state)

    def finite_scale(self, scale: tf.Tensor, extremes: tf.Tensor) -> tf.Tensor:
        """``scale``, or NaN where the tensor held a NaN or Inf; that step is then reported with the layer's name."""
        broken = tf.math.is_nan(extremes[0])

        def report():
            tf.print(
                "graffiti: NaN or Inf in the", self.role, "of layer", f"'{self.layer_name}';",
                "they are passed on as NaN, as in float training"
            )
            return tf.constant(float("nan"))

        return tf.cond(broken, report, lambda: scale)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "dtype": "float32", "role": self.role, "kind": self.kind, "signed": self.signed,
            "layer_name": self.layer_name,
            "seed": self.seed,
        }


def check_number(name: str, value, low: float, high: float) -> float:
    """A real argument, checked.

    Args:
        name: of the argument, for the sentence.
        value: what arrived.
        low, high: both included.

    Raises:
        ValueError: where it is no number from ``low`` to ``high``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is a number from {low} to {high}, got {value!r}")
    return value


def check_bits(name: str, bits, low: int, high: int) -> int:
    """A width, checked.

    Args:
        name: for the sentence.
        bits: what arrived.
        low: the narrowest.
        high: the widest.

    Raises:
        ValueError: where it is no whole number from ``low`` to ``high``.
    """
    return checks.whole(name, bits, low, high, of="bits")


def check_choice(name: str, value, choices: tuple) -> Any:
    """One of a few values, checked.

    Args:
        name: of the argument, for the sentence.
        value: what arrived.
        choices: the values, ``None`` perhaps among them.

    Raises:
        ValueError: where it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
