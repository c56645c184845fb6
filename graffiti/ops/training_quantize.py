import tensorflow as tf


def quantize(x, inverse_step, *, low, high, rounding="half_even", seed=None):
    v = x * inverse_step
    if rounding == "half_even": v = tf.round(v)
    else: v = tf.floor(v + tf.random.stateless_uniform(tf.shape(x), tf.cast(seed, tf.int32)))
    dtype = tf.int8 if low >= -128 and high <= 127 else tf.uint8 if low >= 0 and high <= 255 else tf.int16
    return tf.cast(tf.clip_by_value(v, float(low), float(high)), dtype), extremes(x)
def extremes(x):
    e = tf.stack([tf.reduce_min(x), tf.reduce_max(x)])
    bad = tf.reduce_any(~tf.math.is_finite(x))
    e = tf.where(tf.equal(tf.size(x), 0), tf.zeros(2), e)
    return tf.where(bad, tf.fill([2], float("nan")), e)
