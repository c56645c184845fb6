import tensorflow as tf


def uniform(shape, seed):
    return tf.random.stateless_uniform(shape, tf.cast(seed, tf.int32))
