"""What a model says about its training holds for the quantized one: frozen layers, regularizers, constraints,
dropout.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.graph import printer
from graffiti.graph.passes import snapshot
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read
from graffiti.transforms import pipelines

L, R, C = keras.layers, keras.regularizers, keras.constraints
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((16, 6, 6, 4)).astype(np.float32)
ROWS = RNG.standard_normal((16, 6, 4)).astype(np.float32)
FLAT = RNG.standard_normal((16, 6)).astype(np.float32)

KINDS = {  # a layer with a kernel, its input, and what Keras calls its weights
    "Dense": (lambda **k: L.Dense(5, **k), FLAT, ("kernel", "bias")),
    "Dense relu": (lambda **k: L.Dense(5, activation="relu", **k), FLAT, ("kernel", "bias")),
    "Conv1D": (lambda **k: L.Conv1D(5, 3, **k), ROWS, ("kernel", "bias")),
    "Conv2D": (lambda **k: L.Conv2D(5, 3, **k), IMAGES, ("kernel", "bias")),
    "DepthwiseConv2D": (lambda **k: L.DepthwiseConv2D(3, **k), IMAGES, ("depthwise", "bias")),
    "SeparableConv2D": (lambda **k: L.SeparableConv2D(5, 3, **k), IMAGES, ("depthwise", "pointwise", "bias")),
    "Conv2DTranspose": (lambda **k: L.Conv2DTranspose(5, 3, **k), IMAGES, ("kernel", "bias")),
}


def _network(layer, x, *, norm=None) -> keras.Model:
    i = keras.Input(x.shape[1:], name="x")
    t = layer(i)
    if norm is not None:
        t = L.ReLU(name="rectified")(norm(t))
    return keras.Model(i, L.Dense(3, name="head")(L.Flatten()(t)))


def _quantized(model, x) -> keras.Model:
    return graffiti.quantize(model, "int8", calibration=x, progress=False)


def _losses(model, x) -> list[float]:
    model(x)
    return sorted(float(loss) for loss in model.losses)


def _fit(q, x, steps: int = 2, optimizer=None) -> None:
    q.compile(optimizer or graffiti.ALT(steps_per_epoch=steps, weight_learning_rate=0.05), "mse")
    q.fit(x, RNG.standard_normal((len(x), 3)), batch_size=len(x) // steps, epochs=1, verbose=0)


def _round_trip(q, tmp_path) -> None:
    """``read(build(g))`` is ``g`` with its settings, through text, files and clones too; lowering drops them."""
    graph = read(q)
    q.save(tmp_path / "q.keras")
    for other in (build(graph), keras.models.load_model(tmp_path / "q.keras"), keras.models.clone_model(q)):
        got = read(other)
        assert got.training == graph.training
        assert [(n.op, n.name, n.inputs, n.attrs.get("trainable"), n.attrs.get("config")) for n in got.nodes] == [
            (n.op, n.name, n.inputs, n.attrs.get("trainable"), n.attrs.get("config")) for n in graph.nodes]
        assert [(v.name, v.shape) for v in other.trainable_weights] == [(v.name, v.shape) for v in q.trainable_weights]
    assert snapshot(printer.parse(printer.to_text(graph), graph.constants)) == snapshot(graph)
    lowered = pipelines.lower(graph)
    assert not lowered.training and not any(node.op == "training_only" for node in lowered.nodes)


@pytest.mark.parametrize("kind, folded", [
    pytest.param(
        kind, folded,
        marks=[] if folded and kind in ("Dense", "Conv2D", "SeparableConv2D") or kind == "Dense relu"
        else pytest.mark.slow
    )
    for kind in KINDS for folded in (False, True)
])
def test_regularizers_and_constraints(kind, folded, tmp_path):
    make, x, weights = KINDS[kind]
    if folded and kind == "Dense relu":
        pytest.skip("an activation stands between the layer and the batch norm")
    settings = (
        {f"{role}_regularizer": R.L2(0.01 * (n + 1)) for n, role in enumerate(weights)}
        | {f"{weights[0]}_constraint": C.MaxNorm(0.3)}
    )
    norm = L.BatchNormalization(gamma_regularizer=R.L1(0.2), beta_constraint=C.NonNeg()) if folded else None
    model = _network(make(name="layer", **settings), x, norm=norm)
    q = _quantized(model, x)
    assert len(model.losses) == len(weights) + folded
    assert _losses(q, x) == pytest.approx(_losses(model, x), rel=1e-5)
    _round_trip(q, tmp_path)
    _fit(q, x)
    held = [v for v in q.trainable_weights if v.constraint is not None]
    assert len(held) == 1 + folded
    for variable in held:
        assert np.allclose(variable.constraint(variable), variable, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "relu", "softmax"])
@pytest.mark.parametrize("how", ["argument", "layer"])
def test_activity_regularizers(how, activation, tmp_path):
    i = keras.Input((6,), name="x")
    t = L.Dense(
        5, activation=activation, activity_regularizer=R.L1(0.1) if how == "argument" else None, name="layer"
    )(i)
    t = L.ActivityRegularization(l1=0.1, name="activity")(t) if how == "layer" else t
    model = keras.Model(i, L.Dense(3, name="head")(L.ReLU()(t)))
    q = _quantized(model, FLAT)
    assert len(_losses(q, FLAT)) == 1 and _losses(q, FLAT) == pytest.approx(_losses(model, FLAT), rel=0.03)
    _round_trip(q, tmp_path)


TRAINING_ONLY = {
    "Dropout": lambda **k: L.Dropout(0.5, **k), "SpatialDropout1D": lambda **k: L.SpatialDropout1D(0.5, **k),
    "GaussianDropout": lambda **k: L.GaussianDropout(0.5, **k),
    "AlphaDropout": lambda **k: L.AlphaDropout(0.5, **k), "GaussianNoise": lambda **k: L.GaussianNoise(0.5, **k),
}
WIRINGS = {
    "behind relu": lambda t, d: d(L.ReLU(name="r")(L.Conv1D(8, 3, name="c")(t))),
    "before relu": lambda t, d: L.ReLU(name="r")(d(L.Conv1D(8, 3, name="c")(t))),
    "before batch norm": lambda t, d: L.ReLU(name="r")(L.BatchNormalization(name="n")(d(L.Conv1D(8, 3, name="c")(t)))),
    "at the input": lambda t, d: L.Conv1D(8, 3, name="c")(d(t)),
    "in a branch": lambda t, d: L.Add(name="a")([L.Conv1D(4, 1, name="c")(t), d(L.Conv1D(4, 1, name="c2")(t))]),
    "beside another reader": lambda t, d: L.Add(name="a")([t, L.Conv1D(4, 1, name="c2")(d(t))]),
    "before a table": lambda t, d: L.Activation("tanh", name="r")(d(L.Conv1D(8, 3, name="c")(t))),
}


QUICK = (("Dropout", "before batch norm"), ("GaussianNoise", "behind relu"), ("Dropout", "beside another reader"))
PLACES = [
    *((kind, "behind relu") for kind in TRAINING_ONLY),
    *(("Dropout", wiring) for wiring in WIRINGS if wiring != "behind relu")
]


@pytest.mark.parametrize(
    "kind, wiring", [pytest.param(*place, marks=[] if place in QUICK else pytest.mark.slow) for place in PLACES]
)
def test_dropout_and_noise_act_in_training_and_nowhere_else(kind, wiring, tmp_path):
    def network(d):
        i = keras.Input((6, 4), name="x")
        return keras.Model(i, L.Dense(3, name="head")(L.Flatten(name="flat")(WIRINGS[wiring](i, d))))

    model, without = network(TRAINING_ONLY[kind](name="drop")), network(lambda t: t)
    without.set_weights(model.get_weights())
    q, plain = _quantized(model, ROWS), _quantized(without, ROWS)
    assert isinstance(q.get_layer("drop"), type(TRAINING_ONLY[kind]()))
    assert np.array_equal(q(ROWS), plain(ROWS)) and np.array_equal(q(ROWS), q.predict(ROWS, verbose=0))
    assert not np.array_equal(q(ROWS, training=True), q(ROWS, training=True))
    ig, other = graffiti.to_integer(q), graffiti.to_integer(plain)
    assert {n.name for n in ig.graph.nodes} == {n.name for n in other.graph.nodes}, "the same quantizers"
    assert np.array_equal(ig.predict(ROWS, engine="reference"), q.predict(ROWS, verbose=0))
    _round_trip(q, tmp_path)
    _fit(q, ROWS)


def test_dropout_that_is_called_with_training_true_is_said_to_act_in_training_only():
    i = keras.Input((6,))
    q = _quantized(
        keras.Model(i, L.Dense(3, name="head")(L.Dropout(0.5, name="always")(L.Dense(5)(i), training=True))), FLAT
    )
    assert [line.layer for line in q.quantization_report.of("training")] == ["always"]
    assert np.array_equal(q(FLAT), q(FLAT)) and not np.array_equal(q(FLAT, training=True), q(FLAT, training=True))


# ---- frozen ----------------------------------------------------------------------------------------------------------
def _base_and_head(frozen: str) -> keras.Model:
    i = keras.Input((6, 6, 4), name="x")
    inner = keras.Input((6, 6, 4))
    t = L.Conv2D(5, 3, use_bias=False, name="conv")(inner)
    t = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(t))
    base = keras.Model(inner, L.Conv2D(5, 1, name="conv2")(t), name="base")
    model = keras.Model(i, L.Dense(3, name="head")(L.Flatten()(L.ReLU(name="r")(base(i)))))
    for name in {
        "nothing": [], "layer": ["conv2"], "norm": ["norm"], "conv": ["conv"], "base": ["base"], "model": [""]
    }[frozen]:
        {"": model, "base": base}.get(name, None if name in ("", "base") else base.get_layer(name)).trainable = False
    return model


FROZEN = {  # what is frozen -> layers whose weights train; layers whose thresholds train
    "nothing": (
        {"base>conv", "base>conv2", "head"}, {"x_q", "base>conv", "base>relu_q", "base>conv2", "r_q", "head", "head_q"}
    ),
    "layer": ({"base>conv", "head"}, {"x_q", "base>conv", "base>relu_q", "r_q", "head", "head_q"}),
    "norm": (
        {"base>conv", "base>conv2", "head"}, {"x_q", "base>conv", "base>relu_q", "base>conv2", "r_q", "head", "head_q"}
    ),
    "conv": (
        {"base>conv", "base>conv2", "head"}, {"x_q", "base>conv", "base>relu_q", "base>conv2", "r_q", "head", "head_q"}
    ),
    "base": ({"head"}, {"head", "head_q"}),
    "model": (set(), set()),
}


@pytest.mark.parametrize("frozen", FROZEN)
def test_frozen_stays_frozen(frozen, tmp_path):
    model = _base_and_head(frozen)
    before = [np.array(w) for w in model.weights]
    q = _quantized(model, IMAGES)
    weights, thresholds = FROZEN[frozen]
    paths = {v.path for v in q.trainable_weights}
    assert {p.split("/")[0] for p in paths if not p.endswith("log2_threshold")} == weights
    assert {p.split("/")[0] for p in paths if p.endswith("log2_threshold")} == thresholds
    _round_trip(q, tmp_path)
    values = {v.path: np.array(v) for v in q.weights}
    _fit(q, IMAGES)
    moved = {v.path for v in q.weights if not np.array_equal(v, values[v.path])}
    assert {p for p in moved if not p.split("/")[-1].startswith(("moving", "frozen"))} <= paths
    conv = q.get_layer("base>conv")
    assert ("base>conv/moving_mean" in moved) == (frozen in ("nothing", "layer", "conv"))
    if frozen == "norm":
        assert conv.trainable and "base>conv/kernel" in paths and not {"base>conv/gamma", "base>conv/beta"} & paths
    if frozen == "conv":
        assert not {"base>conv/kernel", "base>conv/bias"} & paths and {"base>conv/gamma", "base>conv/beta"} <= paths
    if frozen == "base":
        for layer in q.layers:
            layer.trainable = True
        assert (
            {
                "base>conv/kernel", "base>conv/gamma", "base>conv/kernel_quantizer/log2_threshold",
                "base>relu_q/quantizer/log2_threshold"
            }
            <= {v.path for v in q.trainable_weights}
        ), "and can be thawed"
    assert all(np.array_equal(a, b) for a, b in zip(before, model.weights)), "the float model is never changed"


def test_a_frozen_batch_norm_uses_its_moving_statistics_in_training():
    model = _base_and_head("norm")
    q = _quantized(model, IMAGES)
    assert np.allclose(q(IMAGES, training=True), q(IMAGES), atol=1e-5)
    assert not np.allclose(_quantized(_base_and_head("nothing"), IMAGES)(IMAGES, training=True), q(IMAGES), atol=1e-5)


def test_a_run_goes_on_from_a_file_with_its_settings(tmp_path):
    model = _network(L.Dense(5, kernel_regularizer=R.L2(0.1), kernel_constraint=C.MaxNorm(0.5), name="layer"), FLAT)
    y = FLAT[:, :3]
    q = _quantized(model, FLAT)
    q.compile(graffiti.ALT(steps_per_epoch=2, weight_learning_rate=0.05), "mse")
    q.fit(FLAT, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    q.save(tmp_path / "q.keras")
    other = keras.models.load_model(tmp_path / "q.keras")
    for one in (q, other):
        one.fit(FLAT, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(q.weights, other.weights))
    assert np.linalg.norm(other.get_layer("layer").kernel, axis=0).max() <= 0.5 + 1e-6


class Base(keras.Model):
    """A user's class: another loss, a counter, a metric of its own."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.factor * super().compute_loss(x, y, y_pred, sample_weight, training)


@keras.saving.register_keras_serializable("settings")
class OwnStep(Base):
    @property
    def metrics(self):
        return [*super().metrics, self.seen]

    def train_step(self, data):
        self.steps.assign_add(1.0)
        logs = super().train_step(data)
        self.seen.update_state(self.steps)
        return {**logs, "seen": self.seen.result(), "more": self.helper(logs["loss"])}

    def helper(self, loss):
        return loss + 1.0

    def call(self, x):
        raise AssertionError("the quantized model has its own call")


def _own(kind=OwnStep) -> keras.Model:
    i = keras.Input((6,))
    model = kind(i, L.Dense(3, name="head")(L.Dense(5, activation="relu")(i)), name="own")
    model.factor, model.seen = 3.0, keras.metrics.Mean(name="seen")
    model.steps = model.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
    return model


def test_a_train_step_of_the_user_trains_the_quantized_model_too(tmp_path):
    model, y = _own(), FLAT[:, :3]
    q = _quantized(model, FLAT)
    (line,) = q.quantization_report.of("training")
    assert (
        line.layer == "own" and "train_step" in line.why
        and "of OwnStep: the quantized model trains by it too" in line.why
    )
    q.compile(graffiti.ALT(steps_per_epoch=2), "mse")
    plain = np.square(q.predict(FLAT, verbose=0) - y).mean()
    logs = q.train_on_batch(FLAT, y, return_dict=True)
    assert (
        logs["loss"] == pytest.approx(3.0 * plain, rel=1e-3) and logs["more"] == pytest.approx(logs["loss"] + 1)
        and float(q.steps) == 1
    )
    assert float(model.steps) == 0 and model.seen is not q.seen and q.seen in q.metrics
    q.save(tmp_path / "q.keras")
    loaded, clone = keras.models.load_model(tmp_path / "q.keras"), keras.models.clone_model(q)
    assert np.array_equal(loaded.predict(FLAT, verbose=0), q.predict(FLAT, verbose=0)) and float(loaded.steps) == 1
    for other in (q, loaded):
        history = other.fit(FLAT, y, batch_size=8, epochs=1, shuffle=False, verbose=0).history
        assert float(other.steps) == 3 and "more" in history
    assert all(np.array_equal(a, b) for a, b in zip(q.weights, loaded.weights, strict=True))
    clone.compile("sgd", "mse")
    assert "more" in clone.train_on_batch(FLAT, y, return_dict=True) and float(clone.steps) == 1
    assert graffiti.to_integer(loaded).predict(FLAT).shape == (16, 3)


def test_a_file_loads_where_the_class_that_trained_it_is_not_known(tmp_path):
    class Unregistered(OwnStep):
        pass

    q = _quantized(_own(Unregistered), FLAT)
    q.save(tmp_path / "q.keras")
    with pytest.warns(UserWarning, match="'Unregistered', which is not registered here; it predicts as it did"):
        loaded = keras.models.load_model(tmp_path / "q.keras")
    assert np.array_equal(loaded.predict(FLAT, verbose=0), q.predict(FLAT, verbose=0))
    loaded.compile("sgd", "mse")
    loaded.fit(FLAT, FLAT[:, :3], verbose=0)


class OwnLayers(keras.Model):
    """What cannot be taken over: a step that calls the float layers by name."""

    def __init__(self):
        super().__init__()
        self.body, self.head = L.Dense(5, activation="relu"), L.Dense(3)

    def call(self, x):
        return self.head(self.body(x))

    def train_step(self, data):
        return {"loss": self.encode(data[0])}

    def encode(self, x):
        return keras.ops.mean(self.body(x))


def test_what_is_not_taken_over_is_said():
    model = OwnLayers()
    model(FLAT)
    q = _quantized(model, FLAT)
    (line,) = q.quantization_report.of("training")
    assert (
        "train_step of OwnLayers stays with the float model, because it uses 'body', a layer of the float model"
        in line.why
    )
    _fit(q, FLAT)
    i = keras.Input((6,))
    half = keras.Model(i, L.Dense(3, name="head", dtype="mixed_float16")(i), name="half")
    q = _quantized(half, FLAT)
    (line,) = q.quantization_report.of("training")
    assert "mixed_float16 are read as float32" in line.why
    assert np.allclose(q.predict(FLAT, verbose=0), half.predict(FLAT, verbose=0), atol=0.13)  # two steps
    _fit(q, FLAT)
    assert not _quantized(keras.Model(i, L.Dense(3)(i)), FLAT).quantization_report.of("training")
