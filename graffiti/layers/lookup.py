"""``LookupActivation``: sigmoid, tanh, GELU ... by a table of all input codes."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti.layers import functions as activations
from graffiti.numerics.formats import QFormat

MAX_BITS = 16
SMALL_BITS = 8  # up to here tables are part of the graph that TensorFlow makes
EXPONENTS = range(-48, 25)  # every scale a table exists for; steps beyond are flat or linear in any function here


@keras.saving.register_keras_serializable(package="graffiti")
class LookupActivation(keras.layers.Layer):
    """An elementwise function of codes, the same bits in every way of running it.

    Forward: ``table[code - qmin]``, the table being float32 of the function in float64 on all input codes. Tables of
    every exponent are computed once, when the layer is built, so no graph optimizer ever sees the function. Tables of
    more than 8 bits (19 MB of 16) are shared by all layers of one function and format. Backward: the true derivative at
    ``x``.

    Args:
        function: a name in ``graph/functions.py``.
        bits: width of the input codes, at most 16.
        signed: whether they are signed.
        narrow: whether their lowest code is left out.
        parameters: of the function, where they are not its defaults.
        node_names: name of the graph node; the layer's name by default.

    Input: ``[x, exponent]``, the two outputs of a ``Quantize`` layer with these bits. Output: the shape of ``x``.
    """

    def __init__(
        self, function: str, bits: int = 8, signed: bool = True, narrow: bool = False, *,
        parameters: dict[str, Any] | None = None,
        node_names: list[str] | None = None, **kwargs,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if bits > MAX_BITS:
            raise ValueError(f"a table has at most {1 << MAX_BITS} entries: layer {self.name!r} wants {bits}-bit "
                             f"input, expected at most {MAX_BITS}")
        self.supports_masking = True
        self.function, self.node_names = function, list(node_names or [self.name])
        self.parameters, self._function = dict(parameters or {}), activations.get(function, parameters)
        self.format = QFormat(bits, signed, 0, narrow)

    def build(self, input_shape=None) -> None:
        """Evaluate the function on every code at every scale."""
        self._tables = _tables(
            self.function, tuple(sorted(self.parameters.items())), self.format.qmin, self.format.qmax
        )

    def table_values(self, exponent: int) -> np.ndarray:
        """float32 outputs for every input code, ascending, at one exponent of the input.

        Raises:
            ValueError: for an exponent that no table was made for.
        """
        if not self.built:
            self.build()
        if int(exponent) not in EXPONENTS:
            raise ValueError(
                f"layer {self.name!r}: no table for input exponent {exponent}, expected {EXPONENTS[0]} to "
                f"{EXPONENTS[-1]}; "
                "calibrate its input with typical data"
            )
        return np.asarray(self._tables[int(exponent) - EXPONENTS[0]])

    def call(self, inputs):
        """Gather."""
        x, exponent = inputs

        @tf.custom_gradient
        def lookup(x):
            row = tf.clip_by_value(tf.cast(exponent, tf.int32) - EXPONENTS[0], 0, len(EXPONENTS) - 1)
            table = tf.gather(self._tables if self.format.bits > SMALL_BITS else tf.constant(self._tables), row)
            scale = tf.constant(np.ldexp(np.float32(1), -np.asarray(EXPONENTS)).astype(np.float32))
            code = tf.cast(tf.round(x * tf.gather(scale, row)), tf.int32) - self.format.qmin

            def gradient(upstream):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = self._function(x)
                return tape.gradient(y, x, output_gradients=upstream)

            # dropout lifts values off the grid in training
            code = tf.clip_by_value(code, 0, self.format.qmax - self.format.qmin)
            return tf.gather(table, code), gradient

        return lookup(x)

    def compute_mask(self, inputs, previous_mask=None):
        """The mask of ``x`` stays with it."""
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def compute_output_shape(self, input_shape):
        """That of ``x``."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        format = self.format
        return {
            **super().get_config(), "function": self.function, "bits": format.bits, "signed": format.signed,
            "narrow": format.narrow,
            "node_names": list(self.node_names), **({"parameters": self.parameters} if self.parameters else {}),
        }


@functools.lru_cache(maxsize=32)
def _tables(function: str, parameters: tuple[tuple[str, Any], ...], qmin: int, qmax: int):
    """Of every exponent: a numpy array, which a traced graph holds as a constant; a tensor where that would bloat
    the graph.
    """
    codes = np.arange(qmin, qmax + 1, dtype=np.float64)
    with tf.init_scope():  # eagerly, also while a graph is being traced
        of = activations.get(function, dict(parameters))
        rows = [
            keras.ops.convert_to_numpy(of(tf.constant(np.ldexp(codes, exponent), tf.float64))) for exponent in EXPONENTS
        ]
        with np.errstate(over="ignore"):  # exp of the largest scales is infinite, as it should be
            values = np.stack(rows).astype(np.float32)
        return values if len(codes) <= 1 << SMALL_BITS else tf.constant(values)


@keras.saving.register_keras_serializable(package="graffiti")
class Elementwise(keras.layers.Layer):
    """An elementwise function of ``graph/functions.py`` in float.

    Args:
        function: its name.
        parameters: of the function, where they are not its defaults.
    """

    def __init__(self, function: str, *, parameters: dict[str, Any] | None = None, **kwargs) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_masking = True
        self.function, self.parameters, self._function = (
            function, dict(parameters or {}), activations.get(function, parameters)
        )

    def call(self, x):
        """Apply it."""
        return self._function(x)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "function": self.function,
            **({"parameters": self.parameters} if self.parameters else {})
        }
