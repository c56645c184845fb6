"""The networks of the recipes and benchmarks for 32x32 images with values 0-255, as plain Keras models."""

import keras

L2 = 1e-4
layers = keras.layers


def _conv(x, filters, size, strides=1, **kwargs):
    return layers.Conv2D(
        filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(L2), **kwargs
    )(x)


def _conv_bn_relu(x, filters, size, strides=1):
    return layers.ReLU()(layers.BatchNormalization()(_conv(x, filters, size, strides)))


def _residual(x, filters, strides, shortcut):
    y = layers.BatchNormalization()(_conv(_conv_bn_relu(x, filters, 3, strides), filters, 3))
    if shortcut:
        x = layers.BatchNormalization()(_conv(x, filters, 1, strides))
    return layers.ReLU()(layers.Add()([x, y]))


def _head(x, inputs, classes, name):
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)), name=name)


def resnet(blocks_per_stage: int, name: str, input_shape=(32, 32, 3), classes: int = 10) -> keras.Model:
    """Three stages of 16, 32 and 64 channels."""
    inputs = keras.Input(input_shape)
    x = _conv_bn_relu(layers.Rescaling(1 / 128, -1)(inputs), 16, 3)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(blocks_per_stage):
            down = stage > 0 and block == 0
            x = _residual(x, filters, 2 if down else 1, down)
    return _head(x, inputs, classes, name)


def resnet8(**shape) -> keras.Model:
    """One residual block a stage (MLPerf Tiny's network, with batch norm in the shortcuts)."""
    return resnet(1, "resnet8", **shape)


def resnet20(**shape) -> keras.Model:
    """Three residual blocks a stage (He et al., CIFAR-10)."""
    return resnet(3, "resnet20", **shape)


def mobilenet_v2_small(input_shape=(32, 32, 3), classes: int = 10) -> keras.Model:
    """Inverted residuals with linear bottlenecks, 24 to 80 channels."""
    inputs = keras.Input(input_shape)
    x = _conv_bn_relu(layers.Rescaling(1 / 128, -1)(inputs), 24, 3, 2)
    for filters, strides in ((24, 1), (40, 2), (40, 1), (80, 2), (80, 1)):
        y = _conv_bn_relu(x, 4 * x.shape[-1], 1)
        y = layers.ReLU()(
            layers.BatchNormalization()(
                layers.DepthwiseConv2D(3, strides, "same", use_bias=False, depthwise_initializer="he_normal")(y)
            )
        )
        y = layers.BatchNormalization()(_conv(y, filters, 1))
        x = layers.Add()([x, y]) if strides == 1 and filters == x.shape[-1] else y
    return _head(_conv_bn_relu(x, 320, 1), inputs, classes, "mobilenet_v2_small")


NETWORKS = {"resnet8": resnet8, "resnet20": resnet20, "mobilenet_v2_small": mobilenet_v2_small}
