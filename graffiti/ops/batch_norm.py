import tensorflow as tf


def batch_norm(x, gamma, beta, epsilon, *, relu=False):
    shape = tf.shape(x)
    flat = tf.reshape(x, [1, -1, 1, x.shape[-1]])
    y, mean, var, *_ = tf.raw_ops.FusedBatchNormV3(x=flat, scale=gamma, offset=beta, mean=tf.zeros([0]), variance=tf.zeros([0]), epsilon=epsilon, is_training=True)
    n = tf.cast(tf.size(flat) // x.shape[-1], tf.float32)
    var = var * (n - 1) / n
    y = tf.reshape(y, shape)
    return (tf.nn.relu(y) if relu else y), mean, var, tf.math.rsqrt(var + epsilon)
