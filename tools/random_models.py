"""Small random Keras networks over every kind of layer that graffiti lowers: what the exporters must take without a
special case.
"""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers
COUNT = 10
IMAGE = (12, 10, 3)
KINDS = (
    "conv", "conv", "grouped", "dilated", "depthwise", "separable", "transpose", "dense", "norm", "relu", "relu6",
    "leaky", "add", "subtract", "maximum", "concat",
    "max_pool", "average_pool", "pad", "crop", "permute", "upsample", "reshape", "activation", "scale", "global_pool",
)
PAIRS = {"add": layers.Add, "subtract": layers.Subtract, "maximum": layers.Maximum}
FUNCTIONS = ("sigmoid", "tanh", "gelu", "silu", "softplus", "elu")


def network(number: int) -> keras.Model:
    """Of ``COUNT`` networks the one with this number: 8 to 16 layers in random order and topology. All numbers together
    hold every one of ``KINDS``.

    Args:
        number: 0 to ``COUNT - 1``; decides everything.
    """
    random = np.random.default_rng((7, number))
    inputs = keras.Input(IMAGE)
    values, used, size = [inputs], set(), int(random.integers(8, 17))
    wanted = list(KINDS[number::COUNT])
    kinds = wanted + [str(kind) for kind in random.choice(KINDS, size=max(0, size - len(wanted)))]
    random.shuffle(kinds)
    for index, kind in enumerate(kinds):
        x = values[-1] if random.random() < 0.7 else values[int(random.integers(len(values)))]
        same = [v for v in values if v.shape == x.shape]
        partner = same[int(random.integers(len(same)))]
        values.append(_layer(kind, x, partner, random, f"{kind}_{index}"))
        used |= {id(x)} | ({id(partner)} if kind in PAIRS else set())
    ends = [layers.GlobalAveragePooling2D(name=f"end_{i}")(v) for i, v in enumerate(values) if id(v) not in used]
    x = layers.Dense(6, name="logits")(ends[0] if len(ends) == 1 else layers.Concatenate(name="ends")(ends))
    model = keras.Model(
        inputs, layers.Softmax(name="probabilities")(x) if random.random() < 0.5 else x, name=f"random_{number}"
    )
    for variable in model.weights:
        values = random.normal(size=variable.shape) / np.sqrt(max(1.0, np.prod(variable.shape[:-1])))
        if variable.path.endswith(("gamma", "moving_variance")):
            values = random.uniform(0.5, 2.0, variable.shape)
        variable.assign(values.astype(np.float32))
    return model


def inputs(count: int, seed: int = 0) -> np.ndarray:
    """Images of smooth noise with a level of their own."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 4, 5, 3)).repeat(3, 1).repeat(2, 2)
    return (coarse + random.normal(0, 0.3, (count, *IMAGE)) + random.normal(size=(count, 1, 1, 1))).astype(np.float32)


def _layer(kind: str, x, partner, random, name: str):
    """One layer of a kind, or a 1x1 convolution where the tensor is too small for it."""
    height, width, channels = x.shape[1:]
    small, filters = min(height, width), int(random.integers(2, 7))
    stride = int(random.integers(1, 3)) if small > 4 else 1
    padding = str(random.choice(["same", "valid"])) if small > 4 else "same"
    bias = bool(random.random() < 0.8)
    if kind == "conv":
        return layers.Conv2D(filters, min(3, small), stride, padding, use_bias=bias, name=name)(x)
    if kind == "grouped" and channels % 2 == 0:
        return layers.Conv2D(2 * filters, min(3, small), stride, padding, groups=2, use_bias=bias, name=name)(x)
    if kind == "dilated" and small > 2:
        return layers.Conv2D(filters, 2, padding=padding, dilation_rate=2, use_bias=bias, name=name)(x)
    if kind == "depthwise":
        return layers.DepthwiseConv2D(
            min(3, small), stride, padding, depth_multiplier=int(random.integers(1, 3)), use_bias=bias, name=name
        )(x)
    if kind == "separable":
        return layers.SeparableConv2D(filters, min(3, small), stride, padding, use_bias=bias, name=name)(x)
    if kind == "transpose":
        return layers.Conv2DTranspose(filters, 3, stride if small < 8 else 1, padding, use_bias=bias, name=name)(x)
    if kind == "dense":
        return layers.Dense(filters, use_bias=bias, name=name)(x)
    if kind == "norm":
        return layers.BatchNormalization(name=name)(layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_conv")(x))
    if kind in ("relu", "relu6"):
        return layers.ReLU(6.0 if kind == "relu6" else None, name=name)(x)
    if kind == "leaky":
        return layers.LeakyReLU(float(random.choice([0.1, 0.3, 0.01])), name=name)(x)
    if kind in PAIRS:
        partner = layers.Conv2D(channels, 1, name=f"{name}_conv")(x) if partner is x else partner
        return PAIRS[kind](name=name)([x, partner])
    if kind == "concat":
        return layers.Concatenate(name=name)([x, layers.Conv2D(filters, 1, name=f"{name}_conv")(x)])
    if kind == "max_pool" and small > 2:
        return layers.MaxPooling2D(2, padding=padding, name=name)(x)
    if kind == "average_pool" and small > 2:
        return layers.AveragePooling2D(int(random.integers(2, 4)), stride, padding, name=name)(x)
    if kind == "pad" and small < 10:
        return layers.ZeroPadding2D(((1, 0), (0, 1)), name=name)(x)
    if kind == "crop" and small > 3:
        return layers.Cropping2D(((1, 0), (0, 1)), name=name)(x)
    if kind == "permute":
        return layers.Permute((2, 1, 3), name=name)(x)
    if kind == "upsample" and small < 6:
        return layers.UpSampling2D(2, name=name)(x)
    if kind == "reshape":
        return layers.Reshape((width, height, channels), name=name)(x)
    if kind == "activation":
        return layers.Activation(str(random.choice(FUNCTIONS)), name=name)(x)
    if kind == "scale":
        return layers.Rescaling(float(random.uniform(0.3, 2.0)), float(random.normal()), name=name)(x)
    if kind == "global_pool":
        pool = layers.GlobalMaxPooling2D if random.random() < 0.5 else layers.GlobalAveragePooling2D
        return layers.Concatenate(name=f"{name}_joined")(
            [x, layers.UpSampling2D((height, width), name=f"{name}_back")(pool(keepdims=True, name=name)(x))]
        )
    return layers.Conv2D(filters, 1, use_bias=bias, name=name)(x)
