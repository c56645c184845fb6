"""Every layer and operation with a rule: the graph computes what Keras computes, and builds into the same again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_checks import randomized, same_graph

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.verify import verify_graph
from graffiti.keras_io import float_rules
from graffiti.keras_io.build import build
from graffiti.keras_io.islands import IslandRunner
from graffiti.keras_io.read import read, read_with_tensors

L, K = keras.layers, keras.ops
IMAGE, ROW, FLAT, FILM = (8, 9, 6), (12, 6), (10,), (3, 6, 4, 2)

LAYERS = {  # name -> (layer, input shape, ops expected in the graph)
    "Conv2D": (lambda: L.Conv2D(4, 3, 2, "same", groups=2), IMAGE, "conv bias_add"),
    "Conv2D dilated relu": (
        lambda: L.Conv2D(4, (3, 2), dilation_rate=2, activation="relu"), IMAGE, "conv bias_add relu"
    ),
    "Conv2D no bias tanh": (lambda: L.Conv2D(4, 1, use_bias=False, activation="tanh"), IMAGE, "conv activation"),
    "Conv1D": (lambda: L.Conv1D(4, 3, dilation_rate=2, padding="same"), ROW, "conv bias_add"),
    "Conv1D causal tanh": (
        lambda: L.Conv1D(4, 3, padding="causal", activation="tanh"), ROW, "pad conv bias_add activation"
    ),
    "Conv1D causal no bias relu": (
        lambda: L.Conv1D(4, 3, padding="causal", groups=2, activation="relu", use_bias=False), ROW, "pad conv relu"
    ),
    "Conv1D causal": (lambda: L.Conv1D(4, 3, dilation_rate=2, padding="causal"), ROW, "pad conv bias_add"),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2), IMAGE, "depthwise_conv bias_add"),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, 2), ROW, "depthwise_conv bias_add"),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(5, 3, padding="same", depth_multiplier=2), IMAGE, "separable_conv bias_add"
    ),
    "SeparableConv1D": (lambda: L.SeparableConv1D(5, 3, use_bias=False), ROW, "separable_conv"),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(5, 4, 2, "same"), IMAGE, "conv_transpose bias_add"),
    "Conv2DTranspose output padding": (
        lambda: L.Conv2DTranspose(5, 3, 2, output_padding=1), IMAGE, "conv_transpose bias_add"
    ),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(5, 2, 3, use_bias=False), ROW, "conv_transpose"),
    "Dense": (lambda: L.Dense(5, activation="softmax"), FLAT, "dense bias_add softmax"),
    "Dense 3-D": (lambda: L.Dense(5, use_bias=False), ROW, "dense"),
    "BatchNormalization": (lambda: L.BatchNormalization(), IMAGE, "batch_norm"),
    "BatchNormalization plain": (
        lambda: L.BatchNormalization(scale=False, center=False, epsilon=0.1), FLAT, "batch_norm"
    ),
    "Normalization": (lambda: L.Normalization(mean=np.arange(6.0), variance=np.arange(1.0, 7.0)), IMAGE, "rescaling"),
    "Normalization per pixel": (
        lambda: L.Normalization(
            axis=(1, 2, 3), mean=np.arange(432.0).reshape(8, 9, 6) / 100, variance=np.full((8, 9, 6), 4.0)
        ),
        IMAGE, "rescaling"
    ),
    "Normalization inverted": (
        lambda: L.Normalization(mean=np.arange(6.0), variance=np.arange(1.0, 7.0), invert=True), IMAGE, "rescaling"
    ),
    "Normalization scalar": (lambda: L.Normalization(axis=None, mean=2.0, variance=4.0), IMAGE, "rescaling"),
    "Rescaling": (lambda: L.Rescaling(1 / 127.5, -1.0), IMAGE, "rescaling"),
    "ReLU": (lambda: L.ReLU(), IMAGE, "relu"), "ReLU6": (lambda: L.ReLU(6.0), IMAGE, "relu"),
    "ReLU slope": (lambda: L.ReLU(negative_slope=0.1), IMAGE, "leaky_relu"),
    "LeakyReLU": (lambda: L.LeakyReLU(0.2), IMAGE, "leaky_relu"),
    "ELU": (lambda: L.ELU(), IMAGE, "activation"), "ELU alpha": (lambda: L.ELU(0.5), IMAGE, "activation"),
    "ReLU slope and maximum": (lambda: L.ReLU(6.0, negative_slope=0.1), IMAGE, "activation"),
    "LeakyReLU 1.5": (lambda: L.LeakyReLU(1.5), IMAGE, "activation"), "Softmax": (lambda: L.Softmax(), FLAT, "softmax"),
    **{
        f"Activation {name}": (lambda name=name: L.Activation(name), FLAT, op)
        for name, op in {
            "linear": "identity", "relu": "relu", "relu6": "relu", "leaky_relu": "leaky_relu", "softmax": "softmax",
            "exponential": "activation",
            **dict.fromkeys(
                (
                    "sigmoid", "tanh", "gelu", "silu", "hard_silu", "hard_sigmoid", "softplus", "softsign", "elu",
                    "selu", "mish"
                ),
                "activation"
            ),
        }.items()
    },
    "MaxPooling2D": (lambda: L.MaxPooling2D(3, 2, "same"), IMAGE, "max_pool"),
    "MaxPooling1D": (lambda: L.MaxPooling1D(2), ROW, "max_pool"),
    "AveragePooling2D": (lambda: L.AveragePooling2D((3, 2), 2, "same"), IMAGE, "average_pool"),
    "AveragePooling1D": (lambda: L.AveragePooling1D(2), ROW, "average_pool"),
    "GlobalAveragePooling2D": (lambda: L.GlobalAveragePooling2D(), IMAGE, "mean"),
    "GlobalAveragePooling1D": (lambda: L.GlobalAveragePooling1D(keepdims=True), ROW, "mean"),
    "GlobalMaxPooling2D": (lambda: L.GlobalMaxPooling2D(keepdims=True), IMAGE, "global_max_pool"),
    "GlobalMaxPooling1D": (lambda: L.GlobalMaxPooling1D(), ROW, "global_max_pool"),
    "Flatten": (lambda: L.Flatten(), IMAGE, "reshape"), "Reshape": (lambda: L.Reshape((4, -1)), IMAGE, "reshape"),
    "Permute": (lambda: L.Permute((2, 3, 1)), IMAGE, "permute"),
    "ZeroPadding2D": (lambda: L.ZeroPadding2D(((1, 2), (0, 3))), IMAGE, "pad"),
    "ZeroPadding1D": (lambda: L.ZeroPadding1D((2, 1)), ROW, "pad"),
    "Cropping2D": (lambda: L.Cropping2D(((1, 2), (0, 3))), IMAGE, "crop"),
    "Cropping1D": (lambda: L.Cropping1D((2, 1)), ROW, "crop"),
    "CenterCrop": (lambda: L.CenterCrop(5, 6), IMAGE, "crop"),
    "RepeatVector": (lambda: L.RepeatVector(3), FLAT, "reshape take"),
    "UpSampling2D": (lambda: L.UpSampling2D((2, 3)), IMAGE, "upsample"),
    "UpSampling1D": (lambda: L.UpSampling1D(2), ROW, "upsample"),
    "Dropout": (lambda: L.Dropout(0.3), FLAT, "training_only"),
    "SpatialDropout2D": (lambda: L.SpatialDropout2D(0.3), IMAGE, "training_only"),
    "SpatialDropout1D": (lambda: L.SpatialDropout1D(0.3), ROW, "training_only"),
    "GaussianDropout": (lambda: L.GaussianDropout(0.3), FLAT, "training_only"),
    "AlphaDropout": (lambda: L.AlphaDropout(0.3), FLAT, "training_only"),
    "GaussianNoise": (lambda: L.GaussianNoise(0.3), FLAT, "training_only"),
    "SpatialDropout3D": (lambda: L.SpatialDropout3D(0.3), FILM, "training_only"),
    "ActivityRegularization": (lambda: L.ActivityRegularization(0.1), FLAT, "training_only"),
    "Identity": (lambda: L.Identity(), FLAT, "identity"),
    **{
        f"EinsumDense {equation}": (
            lambda equation=equation, out=out, bias=bias: L.EinsumDense(equation, out, bias_axes=bias), shape, ops
        )
        for equation, out, bias, shape, ops in (
            ("abc,cd->abd", (12, 5), "d", ROW, "dense bias_add"), ("abc,cd->adb", (5, 12), None, ROW, "dense permute"),
            ("...x,xy->...y", 5, "y", ROW, "dense bias_add"),
            ("abc,bd->adc", (5, 6), None, ROW, "permute dense permute"),
            ("abc,cde->abde", (12, 3, 2), "de", ROW, "dense bias_add reshape"),
            ("abc,bcd->ad", (5,), "d", ROW, "reshape dense bias_add"),
            ("abcd,cde->abe", (8, 5), "e", IMAGE, "reshape dense bias_add"),
            ("abc,cde->adbe", (3, 12, 2), "de", ROW, "dense bias_add reshape permute"),
            ("abc,bc->a", (), None, ROW, "reshape dense reshape"),
            ("abc,cde->aebd", (2, 12, 3), None, ROW, "dense reshape permute"),
            # no dense products
            ("abc,bcd->abd", (12, 5), None, ROW, "island"), ("abc,cd->abd", (12, 5), "b", ROW, "island"),
            ("abc,cde->abde", (12, 3, 2), "e", ROW, "island"),
        )
    },
    "EinsumDense softmax": (
        lambda: L.EinsumDense("abc,cde->abde", (12, 3, 2), activation="softmax"), ROW, "dense reshape softmax"
    ),
    **{
        f"TimeDistributed {name}": (lambda make=make: L.TimeDistributed(make()), shape, ops)
        for name, (make, shape, ops) in {
            "Dense": (lambda: L.Dense(3, activation="relu"), ROW, "dense bias_add relu"),
            "Dense of images": (lambda: L.Dense(3), IMAGE, "dense bias_add"),
            "Softmax": (lambda: L.Softmax(axis=1), IMAGE, "softmax"),
            "Softmax last": (lambda: L.Softmax(), ROW, "softmax"),
            "Flatten": (lambda: L.Flatten(), IMAGE, "reshape"),
            "BatchNormalization": (lambda: L.BatchNormalization(), ROW, "batch_norm"),
            "Conv1D": (lambda: L.Conv1D(4, 3, 2, "same"), IMAGE, "conv bias_add"),
            "Conv1D causal": (lambda: L.Conv1D(4, 3, padding="causal"), IMAGE, "pad conv bias_add"),
            "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, activation="relu"), IMAGE, "depthwise_conv bias_add relu"),
            "SeparableConv1D": (lambda: L.SeparableConv1D(3, 2), IMAGE, "separable_conv bias_add"),
            "MaxPooling1D": (lambda: L.MaxPooling1D(2, padding="same"), IMAGE, "max_pool"),
            "AveragePooling1D": (lambda: L.AveragePooling1D(3), IMAGE, "average_pool"),
            "GlobalMaxPooling1D": (lambda: L.GlobalMaxPooling1D(), IMAGE, "global_max_pool"),
            "GlobalAveragePooling1D": (lambda: L.GlobalAveragePooling1D(), IMAGE, "mean"),
            "Conv2D": (lambda: L.Conv2D(4, 3), FILM, "reshape pad conv bias_add reshape slice reshape"),
            "Conv2D same": (
                lambda: L.Conv2D(4, 3, 2, "same", activation="relu"), FILM,
                "reshape pad reshape pad conv bias_add reshape slice reshape relu"
            ),
            "Conv2D dilated": (
                lambda: L.Conv2D(4, (3, 2), dilation_rate=2, padding="same"), FILM,
                "reshape pad reshape pad conv bias_add reshape slice reshape"
            ),
            "Conv2D 1x1": (lambda: L.Conv2D(4, 1), FILM, "reshape conv bias_add reshape"),
            "Conv2D sparse": (lambda: L.Conv2D(4, 2, 3), FILM, "reshape conv bias_add reshape"),
            "DepthwiseConv2D": (
                lambda: L.DepthwiseConv2D(3, padding="same"), FILM,
                "reshape pad reshape pad depthwise_conv bias_add reshape slice reshape"
            ),
            "MaxPooling2D": (lambda: L.MaxPooling2D(2), FILM, "reshape max_pool reshape"),
            "MaxPooling2D odd": (lambda: L.MaxPooling2D(3, 2), FILM, "reshape pad max_pool reshape slice reshape"),
            "AveragePooling2D": (
                lambda: L.AveragePooling2D((4, 2)), FILM, "reshape pad reshape average_pool reshape slice reshape"
            ),
            "GlobalAveragePooling2D": (lambda: L.GlobalAveragePooling2D(), FILM, "mean"),
            "ZeroPadding2D": (lambda: L.ZeroPadding2D((1, 2)), FILM, "pad"),
            "Cropping1D": (lambda: L.Cropping1D((1, 2)), IMAGE, "crop"),
            "UpSampling2D": (lambda: L.UpSampling2D((1, 2)), FILM, "take"),
            "Permute": (lambda: L.Permute((2, 1)), IMAGE, "permute"),
            "MaxPooling2D same": (lambda: L.MaxPooling2D(3, 2, "same"), FILM, "island"),
            "LSTM": (lambda: L.LSTM(3), IMAGE, "island"),
        }.items()
    },
    "PReLU": (lambda: L.PReLU(), FLAT, "prelu"), "PReLU shared": (lambda: L.PReLU(shared_axes=[1, 2]), IMAGE, "prelu"),
    "PReLU per position": (lambda: L.PReLU(shared_axes=[3]), IMAGE, "prelu"),
    # islands, each with a reason
    "LayerNormalization": (lambda: L.LayerNormalization(), ROW, "island"),
    "LSTM": (lambda: L.LSTM(3), ROW, "island"),
    "UpSampling2D bilinear": (lambda: L.UpSampling2D(2, interpolation="bilinear"), IMAGE, "island"),
    "BatchNormalization axis 1": (lambda: L.BatchNormalization(axis=1), IMAGE, "island"),
    "ReLU threshold": (lambda: L.ReLU(threshold=0.5), FLAT, "activation"),
    "Conv2D channels first": (
        lambda: L.Conv2D(4, 1, data_format="channels_first", bias_initializer="ones"), IMAGE, "island"
    ),
    "Dense log_softmax": (lambda: L.Dense(4, activation="log_softmax"), FLAT, "dense bias_add island"),
    "CenterCrop that enlarges": (lambda: L.CenterCrop(9, 9), IMAGE, "island"),
    "Conv2DTranspose dilated": (lambda: L.Conv2DTranspose(2, 3, dilation_rate=2), IMAGE, "island"),
}
OPERATIONS = {
    "add": (lambda x: x + x * 0.5, IMAGE, "rescaling add"), "subtract": (lambda x: 3.0 - x, IMAGE, "rescaling"),
    "per channel": (lambda x: (x * np.arange(1.0, 7.0) + np.arange(6.0)) / 4.0, IMAGE, "rescaling rescaling rescaling"),
    "a map": (
        lambda x: x * np.arange(
            1.0, 10.0, dtype="float32"
        )[:, None] + np.arange(48, dtype="float32").reshape(1, 8, 1, 6),
        IMAGE, "rescaling rescaling"
    ),
    "negative": (lambda x: -x, FLAT, "rescaling"), "subtract two": (lambda x: x - K.relu(x), FLAT, "relu subtract"),
    "relu": (lambda x: K.relu6(K.relu(x)), FLAT, "relu relu"), "clip": (lambda x: K.clip(x, 0.0, 0.5), FLAT, "relu"),
    "clip both": (lambda x: K.clip(x, -1.0, 0.5), FLAT, "activation"),
    "maximum": (lambda x: K.maximum(x, 0.0), FLAT, "relu"),
    "maximum with 1": (lambda x: K.maximum(1.0, x), FLAT, "activation"),
    "minimum": (lambda x: K.minimum(x, -x), FLAT, "rescaling minimum"),
    "minimum with a half": (lambda x: K.minimum(x, np.float32(0.5)), FLAT, "activation"),
    "maximum with a map": (lambda x: K.maximum(x, np.arange(10, dtype=np.float32)), FLAT, "island"),
    "leaky by hand": (lambda x: K.maximum(x, 0.1 * x), FLAT, "rescaling maximum"),
    "leaky_relu": (lambda x: K.leaky_relu(x, 0.3), FLAT, "leaky_relu"),
    "gelu": (lambda x: K.gelu(x) + K.gelu(x, approximate=False), FLAT, "activation activation add"),
    **{
        name: (lambda x, name=name: getattr(K, name)(x), FLAT, "activation")
        for name in (
            "sigmoid", "tanh", "silu", "hard_silu", "hard_sigmoid", "softplus", "softsign", "elu", "selu", "exp",
            "square", "abs"
        )
    },
    "softmax": (lambda x: K.softmax(x), FLAT, "softmax"),
    "concatenate": (lambda x: K.concatenate([x, K.relu(x), x], axis=-1), IMAGE, "relu concat"),
    "reshape": (lambda x: K.reshape(x, (-1, 8, 54)), IMAGE, "reshape"),
    "transpose": (lambda x: K.transpose(x, (0, 3, 1, 2)), IMAGE, "permute"),
    "squeeze": (lambda x: K.squeeze(K.expand_dims(x, 1), 1), IMAGE, "reshape reshape"),
    "pad": (lambda x: K.pad(x, ((0, 0), (1, 2), (0, 0), (0, 1))), IMAGE, "pad"),
    "max_pool": (lambda x: K.max_pool(x, 2, padding="same"), IMAGE, "max_pool"),
    "average_pool": (lambda x: K.average_pool(x, (2, 3), 1), IMAGE, "average_pool"),
    "mean": (lambda x: K.mean(x, axis=(1, 2)), IMAGE, "mean"),
    "mean channels": (lambda x: K.mean(x, axis=-1, keepdims=True), IMAGE, "mean"),
    "sum": (lambda x: K.sum(x, axis=1), IMAGE, "mean"),
    "sum kept": (lambda x: K.sum(x, axis=(2, 3), keepdims=True), IMAGE, "mean"),
    "sum of the batch": (lambda x: K.sum(x, axis=0, keepdims=True), (4,), "island"),
    "average": (lambda x: K.average(x, axis=2), IMAGE, "mean"),
    "mean of the batch": (lambda x: K.mean(x, axis=0, keepdims=True), (4,), "island"),
    "max": (lambda x: K.max(x, axis=(1, 2)), IMAGE, "global_max_pool"),
    # moves
    "slice": (lambda x: x[:, 1:3], IMAGE, "slice"), "slice steps": (lambda x: x[:, ::2, 1::3], IMAGE, "slice"),
    "slice from the end": (lambda x: x[:, -3:-1, :-2], IMAGE, "slice"),
    "slice ellipsis": (lambda x: x[..., 2:4], IMAGE, "slice"),
    "slice integer": (lambda x: x[:, -2, ..., 1], IMAGE, "slice reshape"),
    "slice new axis": (lambda x: x[:, None, 1:, :, None], IMAGE, "slice reshape"),
    "slice backwards": (lambda x: x[:, 6:1:-2, :, ::-1], IMAGE, "take take"),
    "slice of nothing": (lambda x: x[:, :], IMAGE, "identity"),
    "slice operation": (lambda x: K.slice(x, (0, 1, 2, 0), (-1, 2, 7, 6)), IMAGE, "slice"),
    "split": (lambda x: K.add(*K.split(x, 2, axis=-1)), IMAGE, "slice slice add"),
    "split at": (lambda x: K.concatenate(K.split(x, [1, 3], axis=1)[::-1], axis=1), IMAGE, "slice slice slice concat"),
    "array_split": (lambda x: K.concatenate(K.array_split(x, 2, axis=2)[::-1], axis=2), IMAGE, "slice slice concat"),
    "flip": (lambda x: K.flip(x, 1), IMAGE, "take"), "flip both": (lambda x: K.flip(x, (1, -1)), IMAGE, "take take"),
    "repeat": (lambda x: K.repeat(x, 2, axis=1), IMAGE, "take"),
    "repeat each": (lambda x: K.repeat(x, [1, 0, 2], axis=-1), (5, 3), "take"),
    "tile": (lambda x: K.tile(x, (1, 2, 1, 3)), IMAGE, "take take"),
    "roll": (lambda x: K.roll(x, (2, -1), axis=(1, 2)), IMAGE, "take take"),
    "take": (lambda x: K.take(x, [3, -1, 3], axis=2), IMAGE, "take"),
    "take one": (lambda x: K.take(x, 2, axis=1), IMAGE, "take reshape"),
    "take a table": (lambda x: K.take(x, np.array([[0, 1], [1, 2]]), axis=1), IMAGE, "take reshape"),
    "rot90": (lambda x: K.rot90(x, 1, axes=(1, 2)), IMAGE, "take permute"),
    "rot270": (lambda x: K.rot90(x, 3, axes=(1, 2)), IMAGE, "take permute"),
    "rot180": (lambda x: K.rot90(x, 2, axes=(1, 2)), (5, 5, 2), "take take"),
    "rot0": (lambda x: K.rot90(x, 4, axes=(1, 2)), (5, 5, 2), "identity"),
    "swapaxes": (lambda x: K.swapaxes(x, 1, -1), IMAGE, "permute"),
    "moveaxis": (lambda x: K.moveaxis(x, (1, 2), (3, 1)), IMAGE, "permute"),
    "stack": (lambda x: K.stack([x, K.relu(x), x], axis=2), IMAGE, "relu reshape reshape concat"),
    "unstack": (
        lambda x: K.stack(K.unstack(x, axis=1), axis=-1), (2, 5), "slice reshape slice reshape reshape reshape concat"
    ),
    "hstack": (lambda x: K.hstack([x, K.relu(x)]), IMAGE, "relu concat"),
    "dstack": (lambda x: K.dstack([x, K.relu(x)]), IMAGE, "relu concat"),
    "depth_to_space": (lambda x: K.depth_to_space(x, 2), (3, 2, 12), "reshape permute reshape"),
    "space_to_depth": (lambda x: K.space_to_depth(x, 2), (4, 6, 3), "reshape permute reshape"),
    "crop_images": (lambda x: K.image.crop_images(x, 1, 2, target_height=5, target_width=6), IMAGE, "crop"),
    # moves that stay in float
    "slice of the batch": (lambda x: x[::2, 1:], (8, 6), "island"),
    "flip of the batch": (lambda x: K.flip(x), IMAGE, "island"),
    "tile of the batch": (lambda x: K.tile(x, (2, 1, 1, 1)), IMAGE, "island"),
    "roll of everything": (lambda x: K.roll(x, 1), FLAT, "island"),
    # islands
    "add more axes": (lambda x: x + np.ones((1, 2, 1, 1, 10), np.float32), FLAT, "island"),
    "multiply": (lambda x: x * K.sigmoid(x), FLAT, "activation island"),
    "sin": (lambda x: K.sin(x), FLAT, "island"),
    "matmul": (lambda x: K.matmul(x, np.ones((10, 3), np.float32)), FLAT, "island"),
}


def check(model: keras.Model, expected_ops: str) -> None:
    x = np.random.default_rng(1).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    before = [np.asarray(w) for w in model.get_weights()]
    try:
        right = model.predict(x, verbose=0)
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError) as error:
        # some layouts have kernels for some processors only
        pytest.skip(f"TensorFlow has no kernel for this layer on this processor: {str(error).splitlines()[0][:100]}")
    graph = read(model)
    verify_graph(graph)
    assert [node.op for node in graph.nodes] == expected_ops.split()
    assert all(node.attrs["reason"] for node in graph.nodes if node.op == "island")
    (got,) = run_float(graph, x, island=IslandRunner(graph))
    np.testing.assert_allclose(got, right, atol=2e-5, rtol=1e-4)
    again = build(graph)
    np.testing.assert_allclose(again.predict(x, verbose=0), right, atol=2e-5, rtol=1e-4)
    same_graph(read(again), graph)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)
    ), "reading must change nothing"


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str):
    make, shape, expected_ops = LAYERS[name]
    layer = make()
    layer.name = "the_layer"
    model = randomized(keras.Sequential([keras.Input(shape, name="x"), layer], name="m"))
    check(model, expected_ops)
    assert read(model).outputs == ["the_layer"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str):
    function, shape, expected_ops = OPERATIONS[name]
    x = keras.Input(shape, name="x")
    check(keras.Model(x, function(x), name="m"), expected_ops)


def test_every_rule_is_tested():
    tested = (
        {type(make()) for make, _, ops in LAYERS.values() if "island" not in ops}
        | {L.Add, L.Subtract, L.Maximum, L.Minimum, L.Average, L.Concatenate}
    )
    assert set(float_rules.LAYER_RULES) <= tested


@pytest.mark.parametrize(
    "merge, ops",
    [
        (L.Add, "add add"), (L.Subtract, "subtract"), (L.Maximum, "maximum maximum"), (L.Minimum, "minimum minimum"),
        (L.Average, "reshape reshape reshape concat mean reshape"), (L.Concatenate, "concat")
    ]
)
def test_merging_layers(merge, ops):
    x = keras.Input(IMAGE, name="x")
    parts = [L.ReLU(name="a")(x), L.LeakyReLU(name="b")(x), x][: 2 if merge is L.Subtract else 3]
    model = keras.Model(x, merge(name="merged")(parts))
    data = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype(np.float32)
    graph = read(model)
    assert [n.op for n in graph.nodes][2:] == ops.split() and graph.outputs == ["merged"]
    np.testing.assert_allclose(run_float(graph, data)[0], model.predict(data, verbose=0), atol=1e-6)
    same_graph(read(build(graph)), graph)


def test_tensors_by_name_are_the_models_own():
    x = keras.Input(FLAT, name="x")
    y = L.Dense(3, name="d")(x)
    z = L.ReLU(name="r")(y)
    graph, tensors = read_with_tensors(keras.Model(x, z))
    assert (
        set(tensors) == {"x", "d", "r"} and tensors["d"] is y and tensors["r"] is z and set(tensors) <= set(graph.types)
    )
