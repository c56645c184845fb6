"""``graffiti.cost`` against numbers worked out by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.export import EXPORTERS

L = keras.layers


def network() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)     # 8*8*4 outputs of 27 terms
    x = L.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)        # 4*4*4 outputs of 9 terms
    # 4*4*4 inputs that meet 2*2*2 weights
    x = L.Conv2DTranspose(2, 2, strides=2, name="transposed")(x)
    return keras.Model(inputs, L.Dense(5, name="dense")(L.Flatten()(x)))            # 128 -> 5


EXPECTED = {"conv": 8 * 8 * 4 * 27, "depthwise": 4 * 4 * 4 * 9, "transposed": 4 * 4 * 4 * 8, "dense": 640}
WEIGHTS = {"conv": 108, "depthwise": 36, "transposed": 32, "dense": 640}


def test_float_model():
    found = graffiti.cost(network())
    assert {row.layer: row.macs for row in found.layers} == EXPECTED
    assert found.macs == sum(EXPECTED.values()) and found.bops == 1024 * found.macs
    assert {row.layer: row.weight_bytes for row in found.layers} == {name: 4 * count for name, count in WEIGHTS.items()}
    assert found.bias_bytes == 4 * (4 + 4 + 2 + 5)
    assert found.peak_activation_bytes >= 4 * (8 * 8 * 3 + 8 * 8 * 4)
    assert str(found).count("\n") == 6 and found.to_dict()["macs"] == found.macs


def test_quantized_model_and_integer_graph_agree():
    q = graffiti.quantize(
        network(), "int4", calibration=np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    )
    model, graph = graffiti.cost(q), graffiti.cost(graffiti.to_integer(q))
    assert model == graph
    assert {row.layer: row.macs for row in graph.layers} == EXPECTED
    assert (
        {row.layer: row.bits for row in graph.layers}
        == {"conv": (8, 8), "depthwise": (8, 4), "transposed": (8, 4), "dense": (8, 8)}
    )
    assert (
        {row.layer: row.weight_bytes for row in graph.layers}
        == {"conv": 108, "depthwise": 18, "transposed": 16, "dense": 640}
    )
    assert graph.bias_bytes == 4 * 15


def test_low_bit_training_counts_three_products():
    model = graffiti.quantize_training(
        network(), graffiti.schemes.get("large_gradients_int4").replace(weight_gradient=False)
    )
    found = graffiti.cost(model)
    assert found.macs == 3 * sum(EXPECTED.values())
    bits = {(row.layer, row.product): row.bits for row in found.layers}
    assert (
        bits["depthwise", "forward"] == bits["depthwise", "input_gradient"] == (4, 4)
        and bits["depthwise", "weight_gradient"] == (32, 32)
    )
    assert bits["conv", "forward"] == (32, 32)  # the first layer stays in float
    adaptive = graffiti.cost(graffiti.quantize_training(network(), "adaptive_precision"))
    assert {row.bits for row in adaptive.layers} == {(8, 8)}
    small = {
        row.layer: row.bits
        for row in graffiti.cost(graffiti.quantize_training(network(), "multi_level_scaling")).layers
    }
    assert small["transposed"] == (4, 4) and small["dense"] == (32, 32)


def test_recurrent_and_attention_layers():
    layers = keras.layers
    inputs = keras.Input((6, 5))
    x = layers.TimeDistributed(layers.Dense(6, name="each"), name="steps")(
        layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    )
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True, name="lstm"), name="both")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(layers.GRU(7, name="gru")(x)))
    plain = {row.layer: row.macs for row in graffiti.cost(model).layers}
    cell = {"input": 6 * 6 * 32, "recurrent": 6 * 8 * 32}
    assert (plain == {
        **{f"attention/{name}": 6 * 5 * 8 for name in ("query", "key", "value", "attention_output")},
        "attention/scores": 6 * 6 * 8, "attention/mixture": 6 * 6 * 8,
        "steps": 6 * 5 * 6,
        **{f"both/{way}_lstm/{name}": macs for way in ("forward", "backward") for name, macs in cell.items()},
        "gru/input": 6 * 16 * 21, "gru/recurrent": 6 * 7 * 21, "last": 7 * 3})
    found = graffiti.cost(graffiti.quantize_training(model, "dynamic_fixed_point"))
    assert found.macs == 3 * sum(plain.values())
    assert {row.bits for row in found.layers if row.layer.split("/")[-1] not in ("scores", "mixture")} == {(8, 8)}
    assert {row.bits for row in found.layers if row.layer.split("/")[-1] in ("scores", "mixture")} == {(32, 32)}


def test_layers_in_float_are_counted():
    """What has no integer form yet is counted all the same, by hand: outputs times terms."""
    volume = keras.Input((4, 4, 4, 2))
    rows, line = keras.Input((5, 6)), keras.Input((7, 6))
    frames = keras.Input((3, 5, 5, 2))
    cases = [
        (volume, L.Conv3D(8, 3, padding="same")(volume), 4**3 * 27 * 2 * 8),
        (volume, L.Conv3DTranspose(3, 2, strides=2)(volume), 4**3 * 2 * 8 * 3),
        (rows, L.EinsumDense("abc,cde->abde", (None, 2, 3))(rows), 5 * 6 * 2 * 3),
        ([rows, line], L.Dot(axes=2)([rows, line]), 5 * 7 * 6),
        ([rows, line], keras.ops.matmul(rows, keras.ops.transpose(line, (0, 2, 1))), 5 * 7 * 6),
        ([rows, line], L.Attention()([rows, line]), 2 * 5 * 7 * 6),
        (frames, L.ConvLSTM2D(4, 3, padding="same")(frames), 3 * 25 * (9 * 2 * 16 + 9 * 4 * 16)),
    ]
    for inputs, outputs, macs in cases:
        found = graffiti.cost(keras.Model(inputs, outputs))
        assert (found.macs, found.uncounted) == (macs, ()), outputs.name


def test_what_is_not_counted_is_named():
    @keras.saving.register_keras_serializable("test_cost")
    class Own(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

        def call(self, x):
            return keras.ops.sin(keras.ops.matmul(x, self.kernel))

    inputs = keras.Input((6,))
    found = graffiti.cost(keras.Model(inputs, L.Dense(2)(Own(name="own")(L.Dense(4)(inputs)))))
    assert found.macs == 24 + 8 and found.uncounted == ("own",)
    assert "not counted: own" in str(found) and found.to_dict()["uncounted"] == ["own"]


def test_memory_is_the_planned_arena():
    x = inputs = keras.Input((64, 3))
    for filters in (16, 32):
        x = L.Conv1D(filters, 3, strides=2, activation="relu")(x)
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(x)))
    ig = graffiti.to_integer(
        graffiti.quantize(
            model, "int8", calibration=np.random.default_rng(0).normal(size=(16, 64, 3)).astype(np.float32)
        )
    )
    found = graffiti.cost(ig).peak_activation_bytes
    assert found == EXPORTERS["c"].plan(ig.graph).arena_bytes
    # the float network: the second layer's input and output, no accumulators
    assert graffiti.cost(model).peak_activation_bytes == 4 * (31 * 16 + 15 * 32)


def test_resnet8_is_what_mlperf_tiny_says(shared_dir):
    found = graffiti.cost(graffiti.tfmot.convert(str(shared_dir / "models" / "resnet8_cifar10.h5")))
    assert 12.4e6 < found.macs < 12.6e6


def test_what_is_refused():
    with pytest.raises(TypeError, match="cost takes a Keras 3 model or an IntegerGraph, got list"):
        graffiti.cost([])
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="cost needs sizes that are known"):
        graffiti.cost(keras.Model(inputs, L.Conv2D(2, 3)(inputs)))
