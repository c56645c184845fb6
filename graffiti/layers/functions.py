"""The elementwise functions by name: what ``activation`` nodes, tables and the reader mean by them."""

from __future__ import annotations

from collections.abc import Callable

import keras

FUNCTIONS: dict[str, Callable] = {
    "sigmoid": keras.ops.sigmoid,
    "tanh": keras.ops.tanh,
    "gelu": lambda x: keras.ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: keras.ops.gelu(x, approximate=True),
    "silu": keras.ops.silu,
    "hard_silu": keras.ops.hard_silu,
    "hard_sigmoid": keras.ops.hard_sigmoid,
    "softplus": keras.ops.softplus,
    "softsign": keras.ops.softsign,
    "elu": keras.ops.elu,
    "selu": keras.ops.selu,
    "mish": lambda x: x * keras.ops.tanh(keras.ops.softplus(x)),
    "exp": keras.ops.exp,
    "square": keras.ops.square,
    "abs": keras.ops.abs,
}


def get(name: str) -> Callable:
    """The function called ``name``, on tensors of any float dtype.

    Raises:
        ValueError: where there is none; it lists what there is.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"there is no elementwise function {name!r}; expected one of {', '.join(sorted(FUNCTIONS))}")
    return FUNCTIONS[name]
