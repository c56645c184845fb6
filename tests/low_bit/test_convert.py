"""quantize_training and strip: what they change, what they leave, what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from low_bit.models import compiled, convnet, examples, mlp

import graffiti
from graffiti import Rule
from graffiti.low_bit.callbacks import tensor_quantizers
from graffiti.low_bit.convert import apply, decide, report
from graffiti.training_config import TensorSpec, TrainingScheme


def kinds(model) -> dict[str, str]:
    return {layer.name: type(layer).__name__ for layer in model.layers}


def test_conversion_keeps_weights_names_and_the_original():
    plain = convnet()
    before = [w.copy() for w in plain.get_weights()]
    model = graffiti.quantize_training(plain, "adaptive_precision")
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    found = kinds(model)
    assert (
        found["first"] == "LowBitConv2D" and found["bn"] == "FusedBatchNormalization"
        and found["relu"] == "AbsorbedReLU"
    )
    assert (
        found["sum"] == "ResidualBatchNormalization" and found["bn_linear"] == "AbsorbedBatchNormalization"
        and found["joined"] == "AbsorbedReLU"
    )
    assert model.get_layer("sum").relu and model.get_layer("bn").relu and model.get_layer("sum").normalized == 1
    for layer in plain.layers:
        if layer.weights:
            holder = "sum" if layer.name == "bn_linear" else layer.name
            np.testing.assert_array_equal(layer.weights[0], model.get_layer(holder).weights[0])
    assert all(np.array_equal(a, b) for a, b in zip(before, plain.get_weights())) and kinds(plain)["first"] == "Conv2D"
    assert (
        [line.layer for line in model.quantization_report.of("quantized")]
        == ["first", "conv", "depthwise", "transposed", "separable", "last"]
    )


def test_decide_says_what_apply_does_and_touches_nothing():
    plain = convnet()
    weights, config = [w.copy() for w in plain.get_weights()], plain.get_config()
    nodes = [len(layer._inbound_nodes) for layer in plain.layers]
    decisions = decide(plain, "adaptive_precision", [Rule("conv", None)])
    assert plain.get_config() == config and nodes == [len(layer._inbound_nodes) for layer in plain.layers]
    assert all(np.array_equal(a, b) for a, b in zip(weights, plain.get_weights()))
    assert ({d.path: d.action for d in decisions} == {
        "first": "low_bit", "bn": "fused_norm", "relu": "absorbed_relu", "conv": "float", "bn_linear": "absorbed_norm",
        "sum": "residual_norm",
        "joined": "absorbed_relu", "depthwise": "low_bit", "transposed": "low_bit", "separable": "low_bit",
        "last": "low_bit",
    })
    by_path = {d.path: d for d in decisions}
    assert (
        by_path["sum"].partner is plain.get_layer("bn_linear") and by_path["sum"].normalized == 1
        and by_path["sum"].relu
    )
    assert by_path["conv"].why == "a rule keeps it in float" and by_path["conv"].scheme is None
    model = apply(plain, decisions, seed=3)
    assert (
        model.quantization_report == report(decisions)
        == graffiti.quantize_training(plain, "adaptive_precision", rules=[Rule("conv", None)]).quantization_report
    )
    assert kinds(model) == kinds(graffiti.quantize_training(plain, "adaptive_precision", rules=[Rule("conv", None)]))
    fewer = apply(plain, [d for d in decisions if d.path == "last"])
    assert {name: kind for name, kind in kinds(fewer).items() if kinds(plain)[name] != kind} == {"last": "LowBitDense"}
    with pytest.raises(ValueError, match="these rules match no layer: 'nothing' → float"):
        decide(plain, "adaptive_precision", [Rule("nothing", None)])
    with pytest.raises(
        ValueError, match="'last' is no layer of model 'mlp'; decide about the model that they are applied to"
    ):
        apply(mlp(), [by_path["last"]])


def test_a_layer_inside_a_wrapper_has_a_decision_of_its_own():
    inputs = keras.Input((5, 6))
    x = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(inputs)
    plain = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2, name="dense"), name="steps")(x))
    found = [(d.path, d.part, d.target.name) for d in decide(plain, "min_max_int8")]
    assert (
        found
        == [
            ("both/forward_lstm", "forward_layer", "forward_lstm"),
            ("both/backward_lstm", "backward_layer", "backward_lstm"), ("steps/dense", "layer", "dense")
        ]
    )


@pytest.mark.parametrize(
    "make",
    [mlp, convnet, lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="last")], name="row")]
)
def test_the_report_is_in_the_file_and_strip_gives_the_models_class_back(make, tmp_path):
    plain = make()
    model = compiled(graffiti.quantize_training(plain, "min_max_int8"))
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert type(again) is type(model) and isinstance(model, keras.Sequential) == isinstance(plain, keras.Sequential)
    assert again.quantization_report == model.quantization_report and model.quantization_report.of("quantized")
    assert type(graffiti.strip(again)) is type(plain)
    assert not getattr(keras.models.clone_model(again), "quantization_report", ())
    assert (
        compiled(plain) and graffiti.quantize_training(plain, "min_max_int8").compiled
    ), "Keras' clone of a compiled model is compiled"


def test_strip_gives_the_trained_network_back():
    x, y = examples(plain := convnet())
    model = compiled(graffiti.quantize_training(plain, "min_max_int8"))
    model.fit(x, y, epochs=1, verbose=0)
    stripped = graffiti.strip(model)
    assert kinds(stripped) == kinds(plain)
    for layer in stripped.layers:
        holder = model.get_layer("sum" if layer.name == "bn_linear" else layer.name)
        for own, trained in zip(layer.weights, holder.weights[: len(layer.weights)], strict=True):
            np.testing.assert_array_equal(own, trained)
    assert stripped.count_params() == plain.count_params()
    graffiti.quantize(stripped, "int8", calibration=x)  # and the main line takes it
    with pytest.raises(ValueError, match="holds no layer of low-bit training"):
        graffiti.strip(stripped)


def test_strip_takes_the_batch_statistics_anew_from_data():
    """Of the network without quantizers, each batch norm behind those in front of it; nothing else changes."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="first_bn", momentum=0.9)(keras.layers.Conv2D(4, 3, name="first")(inputs))
    x = keras.layers.BatchNormalization(name="last_bn")(
        keras.layers.BatchNormalization(name="frozen_bn")(keras.layers.Conv2D(4, 3, name="second")(x))
    )
    outputs = keras.layers.Dense(3, name="last")(keras.layers.Flatten()(keras.layers.Dropout(0.5, name="dropout")(x)))
    plain = keras.Model(inputs, outputs)
    plain.get_layer("frozen_bn").trainable = False
    x, y = examples(plain, 80)
    model = compiled(graffiti.quantize_training(plain, "min_max_int4"))
    model.fit(x, y, epochs=1, verbose=0)
    trained = [np.asarray(v) for v in model.variables]
    kept, anew = graffiti.strip(model), graffiti.strip(model, x, batch_size=32)
    assert all(np.array_equal(a, b) for a, b in zip(trained, model.variables, strict=True))

    values = [np.asarray(kept.get_layer("first")(batch), np.float64) for batch in (x[:32], x[32:64], x[64:])]
    norm, before = (net.get_layer("first_bn") for net in (anew, kept))
    for own, measure in (("moving_mean", np.mean), ("moving_variance", np.var)):
        wanted = np.average([measure(v, (0, 1, 2)) for v in values], axis=0, weights=[32, 32, 16])
        np.testing.assert_allclose(getattr(norm, own), wanted, rtol=1e-4, atol=1e-5)
        assert np.abs(getattr(before, own) - wanted).max() > 1e-3
    assert norm.momentum == 0.9
    changed = {v.path for v, w in zip(anew.weights, kept.weights, strict=True) if not np.array_equal(v, w)}
    assert (
        {path.rsplit("/", 2)[-2] for path in changed} == {"first_bn", "last_bn"}
        and all("moving" in path for path in changed)
    ), changed
    np.testing.assert_array_equal(
        graffiti.strip(model, x, steps=1).predict(x, verbose=0), graffiti.strip(model, x[:32]).predict(x, verbose=0)
    )


def test_strip_takes_data_of_several_named_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    x = keras.layers.Add()([keras.layers.Dense(5, name="one")(a), keras.layers.Dense(5, name="two")(b)])
    plain = keras.Model({"b": b, "a": a}, keras.layers.Dense(2)(keras.layers.BatchNormalization(name="bn")(x)))
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(3, 1, (40, 4)).astype(np.float32), "b": rng.normal(size=(40, 6)).astype(np.float32)}
    stripped = graffiti.strip(graffiti.quantize_training(plain, "min_max_int8"), data)
    wanted = np.asarray(stripped.get_layer("one")(data["a"]) + stripped.get_layer("two")(data["b"])).mean(0)
    np.testing.assert_allclose(stripped.get_layer("bn").moving_mean, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("data", "options", "message"), [
    (np.zeros((4, 5, 8, 3), np.float32), {}, r"has shape \(batch"),
    (np.full((4, 8, 8, 3), np.nan, np.float32), {}, "NaN or Inf"),
    (
        np.zeros((4, 8, 8, 3), np.float32), {"batch_size": 0},
        "batch_size is a whole number of examples, at least 1, got 0"
    ),
])
def test_strip_refuses_data_that_the_model_cannot_take(data, options, message):
    with pytest.raises(ValueError, match=message):
        graffiti.strip(graffiti.quantize_training(convnet(), "min_max_int8"), data, **options)


def test_only_sums_of_one_batch_norm_and_a_tensor_of_its_shape_are_computed_with_it():
    """Residual sums in nested models, in either order, without a ReLU; and what stays as it is."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 4))

    def conv(x, name):
        return layers.BatchNormalization(name=f"{name}_bn")(layers.Conv2D(4, 3, padding="same", name=name)(x))

    inner_in = keras.Input((6, 6, 4))
    inner = keras.Model(inner_in, layers.Add(name="linear")([conv(inner_in, "inner"), inner_in]), name="nested")
    x = layers.ReLU(name="relu_1")(layers.Add(name="two_norms")([conv(inner(inputs), "a"), conv(inputs, "b")]))
    shown = conv(x, "shown")
    x = layers.ReLU(name="relu_2")(layers.Add(name="of_an_output")([x, shown]))
    row = layers.BatchNormalization(name="row_bn")(layers.Conv2D(4, (6, 6), name="row")(x))
    x = layers.Add(name="broadcast")([x, row])
    plain = keras.Model(inputs, [layers.Dense(3, name="last")(layers.GlobalAveragePooling2D()(x)), shown])
    for layer in plain._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([np.random.default_rng(len(layer.name)).uniform(0.5, 1.5, 4) for _ in range(4)])
    plain.get_layer("a_bn").trainable = False
    model = graffiti.quantize_training(plain, "min_max_int8")
    found = {layer.name: type(layer).__name__ for layer in model._flatten_layers()}
    fused = {name for name, kind in found.items() if kind == "ResidualBatchNormalization"}
    assert fused == {"linear", "two_norms"} and found["relu_1"] == "AbsorbedReLU" and found["relu_2"] == "ReLU"
    assert (
        found["inner_bn"] == found["a_bn"] == "AbsorbedBatchNormalization"
        and found["b_bn"] == found["shown_bn"] == found["row_bn"] == "FusedBatchNormalization"
    )
    assert not model.get_layer("two_norms").trainable and not model.get_layer("nested").get_layer("linear").relu
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype(np.float32)
    stripped = graffiti.strip(model)
    assert [type(layer) for layer in stripped._flatten_layers()] == [type(layer) for layer in plain._flatten_layers()]
    assert not stripped.get_layer("a_bn").trainable
    for a, b in zip(stripped(images), plain(images)):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model(images), keras.models.clone_model(model)(images)):  # a copy has its own weights
        assert a.shape == b.shape
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    again.set_weights(model.get_weights())
    for a, b in zip(model(images), again(images)):
        np.testing.assert_array_equal(a, b)


def test_stripped_float_frame_predicts_the_same():
    plain = convnet()
    x, _ = examples(plain)
    stripped = graffiti.strip(graffiti.quantize_training(plain, "dynamic_fixed_point"))
    np.testing.assert_array_equal(stripped(x), plain(x))


def test_first_and_last_layers():
    report = graffiti.quantize_training(convnet(), "large_gradients_int4").quantization_report
    assert {line.layer for line in report.of("float")} == {"first", "last"}
    report = graffiti.quantize_training(convnet(), "multi_level_scaling").quantization_report
    assert {line.layer for line in report.of("float")} == {"first", "last"}
    assert "leaves dense layers in float" in next(line.why for line in report if line.layer == "last")


def test_signs_come_from_the_network():
    model = graffiti.quantize_training(convnet(), "large_gradients_int4")
    signed = {layer.name: layer.low_bit.signed for layer in model.layers if hasattr(layer, "low_bit")}
    assert signed == {"conv": False, "depthwise": False, "transposed": True, "separable": False}


def test_rules():
    rules = [
        Rule("conv", None), Rule(keras.layers.DepthwiseConv2D, "min_max_int4"),
        Rule(lambda layer: layer.path == "last", graffiti.schemes.get("dorefa"))
    ]
    model = graffiti.quantize_training(convnet(), "adaptive_precision", rules=rules)
    report = {line.layer: line.why for line in model.quantization_report}
    assert report["conv"] == "a rule keeps it in float" and "min_max_int4" in report["depthwise"]
    assert type(model.get_layer("conv")) is keras.layers.Conv2D
    assert model.get_layer("last").low_bit.scheme.name == "dorefa"
    with pytest.raises(ValueError, match="these rules match no layer: 'nothing' → float"):
        graffiti.quantize_training(convnet(), "adaptive_precision", rules=[Rule("nothing", None)])


def test_nested_and_sequential_models():
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="relu", name="dense")], name="inner")
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, keras.layers.Dense(2, name="head")(inner(inputs)))
    model = graffiti.quantize_training(plain, "adaptive_precision", rules=[Rule("inner/dense", "min_max_int8")])
    assert [line.layer for line in model.quantization_report] == ["inner/dense", "head"]
    assert (
        model.get_layer("inner").get_layer("dense").low_bit.scheme.name == "min_max_int8"
        and model.get_layer("head").low_bit.signed is False
    )
    assert len(list(tensor_quantizers(model))) == 6
    x = np.ones((2, 6), np.float32)
    np.testing.assert_array_equal(graffiti.strip(model)(x), plain(x))


def test_shared_layers_stay_shared():
    dense, a, b = keras.layers.Dense(4, name="shared"), keras.Input((6,)), keras.Input((6,))
    plain = keras.Model([a, b], keras.layers.Add()([dense(a), dense(b)]))
    model = graffiti.quantize_training(plain, "min_max_int8")
    assert sum(type(layer).__name__ == "LowBitDense" for layer in model.layers) == 1
    assert len(model.trainable_variables) == 2


def test_what_is_refused():
    with pytest.raises(TypeError, match="is a scheme of graffiti.quantize"):
        graffiti.quantize_training(mlp(), "int8")
    with pytest.raises(TypeError, match="that is a scheme of graffiti.quantize_training"):
        graffiti.quantize(mlp(), "adaptive_precision", calibration=np.zeros((4, 6)))
    with pytest.raises(ValueError, match="there is no training scheme 'int3'"):
        graffiti.quantize_training(mlp(), "int3")
    with pytest.raises(ValueError, match="engine is one of auto, native, emulated, got 'fast'"):
        graffiti.quantize_training(mlp(), "min_max_int8", engine="fast")
    with pytest.raises(ValueError, match="holds no layer that adaptive_precision trains in low bits"):
        graffiti.quantize_training(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]), "adaptive_precision")
    with pytest.raises(ValueError, match="is subclassed"):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(2)

            def call(self, x):
                return self.dense(x)

        own = Own()
        own(np.zeros((1, 3), np.float32))
        graffiti.quantize_training(own, "min_max_int8")
    with pytest.raises(ValueError, match="update of dynamic fixed point is"):
        graffiti.schemes.training_schemes.get("dynamic_fixed_point", update="slow")
    with pytest.raises(ValueError, match="error_feedback keeps what the rounding"):
        TrainingScheme(error_feedback=True)
    with pytest.raises(ValueError, match="kinds of a TrainingScheme are of"):
        TrainingScheme(kinds=("dense", "graph"))


@pytest.mark.parametrize("name", graffiti.schemes.training_names())
def test_presets_round_trip(name):
    scheme = graffiti.schemes.get(name)
    assert (
        TrainingScheme.from_config(scheme.to_config()) == scheme
        and graffiti.schemes.get_training(scheme.to_config()) == scheme
    )


@pytest.mark.parametrize("product", ["forward", "input_gradient", "weight_gradient"])
def test_each_product_can_be_float_alone(product):
    """The switched product equals the plain layer's; the two others are those of the quantized one."""
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, use_bias=False)])
    scheme = graffiti.schemes.training_schemes.get("min_max_int8").replace(
        gradients=TensorSpec("min_max", {"bits": 8, "rounding": "half_even"})
    )
    rng = np.random.default_rng(0)
    x, c = tf.constant(rng.normal(size=(5, 6)), tf.float32), rng.normal(size=(5, 3)).astype(np.float32)

    def products(model):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            loss = tf.reduce_sum(y * c)
        dx, dw = tape.gradient(loss, [x, model.layers[-1].kernel.value])
        return {"forward": y.numpy(), "input_gradient": dx.numpy(), "weight_gradient": dw.numpy()}

    exact, low = products(plain), products(graffiti.quantize_training(plain, scheme))
    mixed = products(graffiti.quantize_training(plain, scheme.replace(**{product: False})))
    for name in exact:
        assert not np.array_equal(exact[name], low[name])
        np.testing.assert_allclose(mixed[name], exact[name] if name == product else low[name], rtol=1e-6, atol=1e-6)


def noise_of(model) -> dict[str, int]:
    return {
        f"{layer.path}/{part.role}": part.seed for layer in model._flatten_layers() for part in layer._layers
        if hasattr(part, "seed") and hasattr(part, "role")
    }


def test_random_bits_follow_from_the_seed_and_the_path_alone():
    """Another line in the report (a layer that stays in float) moves no other layer's bits; another seed moves all."""
    plain = convnet()
    whole = noise_of(graffiti.quantize_training(plain, "adaptive_precision"))
    part = noise_of(
        graffiti.quantize_training(plain, "adaptive_precision", rules=[Rule("first", None), Rule("conv", None)])
    )
    other = noise_of(graffiti.quantize_training(plain, "adaptive_precision", seed=1))
    assert len(set(whole.values())) == len(whole) == 21, "two tensors of one seed"
    assert 0 < len(part) < len(whole) and part == {path: whole[path] for path in part}
    assert set(other) == set(whole) and all(other[path] != seed for path, seed in whole.items())


class OwnStep(keras.Model):
    """A user's class that trains by itself."""

    def train_step(self, data):
        self.steps.assign_add(1.0)
        logs = super().train_step(data)
        return {**logs, "weighted": logs["loss"] * self.factor}


class OwnInit(OwnStep):
    """One that Keras cannot make again from inputs and outputs."""

    def __init__(self, inputs, width):
        super().__init__(inputs, keras.layers.Dense(width)(inputs))


def test_a_train_step_of_the_user_has_what_it_reads():
    inputs, x = keras.Input((6,)), np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    model = OwnStep(inputs, keras.layers.Dense(3)(keras.layers.Dense(8, activation="relu")(inputs)))
    model.factor, model.steps = 2.0, model.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
    t = graffiti.quantize_training(model, "adaptive_precision")
    t.compile("sgd", "mse")
    logs = t.train_on_batch(x, np.zeros((16, 3)), return_dict=True)
    assert logs["weighted"] == pytest.approx(2 * logs["loss"]) and float(t.steps) == 1 and float(model.steps) == 0
    plain = graffiti.strip(t)
    plain.compile("sgd", "mse")
    assert "weighted" in plain.train_on_batch(x, np.zeros((16, 3)), return_dict=True)


def test_a_train_step_that_cannot_go_along_is_said():
    with pytest.warns(
        UserWarning,
        match="train_step of OwnInit stays with the model .*, because its class does not take inputs and outputs"
    ):
        graffiti.quantize_training(OwnInit(keras.Input((6,)), 3), "adaptive_precision")
