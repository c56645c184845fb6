"""Statistics over all replicas of ``tf.distribute``, so that every replica takes the same decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from graffiti.numerics.noise import GOLDEN

_apart = False


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, statistics are those of one replica: replicas may not talk inside a loop."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def count() -> int:
    """How many replicas compute this step and may talk about it; 1 outside ``tf.distribute`` and inside ``apart``."""
    return 1 if _apart else _in_sync()


def _in_sync() -> int:
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def _gathered(value: tf.Tensor) -> tf.Tensor | None:
    """The values of all replicas, one row each; ``None`` where there is one replica."""
    replicas = count()
    if replicas == 1:
        return None
    context = tf.distribute.get_replica_context()
    own = tf.equal(tf.range(replicas), tf.cast(context.replica_id_in_sync_group, tf.int32))
    own = tf.reshape(own, [replicas] + [1] * len(value.shape))
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(own, value[None], tf.zeros_like(value)[None]))


def maximum(value: tf.Tensor) -> tf.Tensor:
    """The largest over the replicas; NaN where one is NaN."""
    every = _gathered(value)
    return value if every is None else tf.reduce_max(every, 0)


def mean(value: tf.Tensor) -> tf.Tensor:
    """The mean over the replicas, which hold equally many examples."""
    every = _gathered(value)
    return value if every is None else tf.reduce_mean(every, 0)


def extremes(values: tf.Tensor) -> tf.Tensor:
    """``(min, max)`` over the replicas."""
    every = _gathered(values)
    return values if every is None else tf.stack([tf.reduce_min(every[:, 0]), tf.reduce_max(every[:, 1])])


def when(condition: tf.Tensor, compute: Callable[[], tuple], otherwise: tuple) -> tuple:
    """``compute()`` where a condition holds, else what was there.

    Replicas may not talk inside a branch, so with several of them each always computes and then chooses.

    Args:
        condition: bool scalar, the same on every replica.
        compute: gives as many tensors as ``otherwise``, of the same shapes and dtypes.
        otherwise: what holds where the condition does not.
    """
    if count() == 1:
        return tf.cond(
            condition, lambda: tuple(map(tf.convert_to_tensor, compute())),
            lambda: tuple(map(tf.convert_to_tensor, otherwise))
        )
    return tuple(tf.where(condition, new, old) for new, old in zip(compute(), otherwise))


def own_seed(seed: tf.Tensor) -> tf.Tensor:
    """A seed (two uint32) made different on every replica."""
    if _in_sync() == 1:
        return seed
    replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.uint32)
    return tf.stack([tf.bitwise.bitwise_xor(seed[0], replica * tf.constant(GOLDEN, tf.uint32)), seed[1]])
