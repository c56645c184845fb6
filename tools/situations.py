"""A hundred ordinary situations: layer, wiring, training setting and form of the data, each tried from model to proof.

    python tools/situations.py                                # prints the table; exit 1 where a result is wrong and
    nothing says so python tools/situations.py --only gru                     # those whose name contains a word python
    tools/situations.py --results=done.jsonl           # goes on where an earlier run with this file ended python
    tools/situations.py --results=done.jsonl --markdown=graffiti/docs/situations.md --overwrite   # the page of the
    documentation

A situation is right where each of these holds, or where the model is refused in one sentence before anything is
computed:

- the integer graph equals the quantized model, bit for bit, on every output, and two predictions are equal;
- names, order, nesting and dtypes of the outputs are those of the float model;
- the quantized model is near the float model (15 dB), or its report says what was lost;
- in training, what is frozen stays, losses keep their terms, and dropout drops.

All hundred take about half an hour on two cores.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import graffiti
from graffiti.files import atomic_file

L, ops = keras.layers, keras.ops
_MARKDOWN = flags.DEFINE_string("markdown", None, "Page to write, with the table in it.")
_RESULTS = flags.DEFINE_string(
    "results", None, "File that keeps results, a line of JSON each; what is in it is not run again."
)
_ONLY = flags.DEFINE_string("only", None, "Run the situations whose name contains this.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --markdown where it is there already.")
NEAR = 15.0  # dB


@keras.saving.register_keras_serializable("situations")
class Scale(L.Layer):
    """A user's layer that knows how it is saved."""

    def build(self, shape) -> None:
        """One factor for each channel."""
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        """Multiply."""
        return x * self.factor


def images(layer):
    """A layer on images behind a convolution."""
    return (8, 8, 3), lambda x: layer(L.Conv2D(6, 3, padding="same", name="before")(x))


def sequences(layer):
    """A layer on sequences behind a dense layer."""
    return (10, 4), lambda x: layer(L.Dense(6, name="before")(x))


def rows(layer):
    """A layer on rows behind a dense layer."""
    return (12,), lambda x: layer(L.Dense(8, name="before")(x))


# name -> (input shape, symbolic function) with arguments for the layer called "layer"; made anew for every situation
LAYERS = {
    "dense": lambda **k: rows(L.Dense(5, activation="relu", name="layer", **k)),
    "conv": lambda **k: images(L.Conv2D(4, 3, activation="relu6", name="layer", **k)),
    "conv_bn": lambda **k: images(
        lambda x: L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False, name="layer", **k)(x)))
    ),
    "causal": lambda **k: sequences(L.Conv1D(4, 3, padding="causal", activation="relu", name="layer", **k)),
    "depthwise": lambda **k: images(L.DepthwiseConv2D(3, name="layer", **k)),
    "separable": lambda **k: images(L.SeparableConv2D(4, 3, name="layer", **k)),
    "transposed": lambda **k: images(L.Conv2DTranspose(4, 3, strides=2, name="layer", **k)),
    "average_pool": lambda **k: images(lambda x: L.AveragePooling2D(3, padding="same")(L.ReLU()(x))),
    "global_pool": lambda **k: images(lambda x: L.Dense(4, name="layer", **k)(L.GlobalAveragePooling2D()(x))),
    "prelu": lambda **k: images(
        L.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.2), name="layer", **k)
    ),
    "gelu": lambda **k: rows(L.Dense(5, activation="gelu", name="layer", **k)),
    "softmax_inside": lambda **k: rows(lambda x: L.Dense(4, name="layer", **k)(L.Softmax()(x))),
    "slices": lambda **k: images(lambda x: L.Conv2D(3, 1, name="layer", **k)(x[:, ::2, ..., 1:5])),
    "gate": lambda **k: images(lambda x: x * ops.sigmoid(L.Conv2D(6, 1, name="layer", **k)(x))),
    "layer_norm": lambda **k: sequences(lambda x: L.Dense(4, name="layer", **k)(L.LayerNormalization()(x))),
    "gru": lambda **k: sequences(L.GRU(5, name="layer", **k)),
    "attention": lambda **k: sequences(lambda x: L.MultiHeadAttention(2, 3, name="layer", **k)(x, x)),
    "lambda": lambda **k: rows(lambda x: L.Dense(4, name="layer", **k)(L.Lambda(lambda t: t * 0.5 + 1.0)(x))),
    "own_layer": lambda **k: rows(lambda x: L.Dense(4, name="layer", **k)(Scale()(x))),
    "scaled_input": lambda **k: (
        (12,), lambda x: L.Dense(4, name="layer", **k)(L.Normalization(mean=[1e3, 5.0] * 6, variance=[1e4, 4.0] * 6)(x))
    ),
}


def straight(x, layer):
    """One path."""
    return layer(x)


def residual(x, layer):
    """The result and a convolution or dense layer of it meet in a sum."""
    y = layer(x)
    return L.Add()([y, L.Dense(y.shape[-1], name="branch")(y)])


def joined(x, layer):
    """Two results of other sizes in one output tensor."""
    y = layer(x)
    return L.Concatenate()(
        [L.Dense(2, activation="sigmoid", name="score")(y), L.Rescaling(50.0)(L.Dense(2, name="box")(y))]
    )


def named(x, layer):
    """A dict of outputs."""
    y = layer(x)
    return {"small": L.Dense(2, name="small")(y), "all": y}


def augmented(x, layer):
    """Dropout and noise on the way, a softmax at the end."""
    y = L.Dropout(0.5, name="drop")(layer(L.GaussianNoise(0.1)(x)))
    return L.Softmax()(L.Dense(3, name="last")(y))


WIRINGS = {f.__name__: f for f in (straight, residual, joined, named, augmented)}
TRAINING = ("plain", "frozen", "regularized", "whole_frozen")
DATA = ("array", "dataset", "dict", "bytes")
# what a layer calls the weight that "regularized" is about; else its kernel
WEIGHTS = {"depthwise": "depthwise", "separable": "depthwise", "prelu": "alpha"}
SITUATIONS = [
    (
        f"{layer}/{wiring}/{TRAINING[number % 4]}/{DATA[(number // 4 + number) % 4]}", layer, wiring,
        TRAINING[number % 4], DATA[(number // 4 + number) % 4]
    )
    for number, (layer, wiring) in enumerate(itertools.product(LAYERS, WIRINGS))
]


def make(layer: str, wiring: str, training: str, data: str) -> tuple[keras.Model, np.ndarray]:
    """The model of a situation and its examples."""
    keras.utils.set_random_seed(len(layer) + len(wiring))
    settings = {}
    if training == "regularized":
        name = WEIGHTS.get(layer, "kernel")
        settings = {
            f"{name}_regularizer": keras.regularizers.L2(0.01), f"{name}_constraint": keras.constraints.MaxNorm(1.0)
        }
    shape, function = LAYERS[layer](**settings)
    x = keras.Input(shape, name="an input", dtype="uint8" if data == "bytes" and layer != "scaled_input" else "float32")
    start = ops.cast(x, "float32") / 255.0 if x.dtype == "uint8" else x
    model = keras.Model(x, WIRINGS[wiring](start, function))
    rng = np.random.default_rng(0)
    if x.dtype == "uint8":
        examples = rng.integers(0, 256, (48, *shape)).astype("uint8")
    elif layer == "scaled_input":
        examples = (rng.standard_normal((48, *shape)) * np.sqrt([1e4, 4.0] * 6) + [1e3, 5.0] * 6).astype("float32")
    else:
        examples = rng.standard_normal((48, *shape)).astype("float32")
    target = next((part for part in model.layers if part.name == "layer"), None)
    if training == "frozen" and target is not None:
        target.trainable = False
    elif training == "whole_frozen":
        model.trainable = False
    return model, examples


def given(examples: np.ndarray, data: str):
    """The examples as a user passes them."""
    if data == "dataset":
        return tf.data.Dataset.from_tensor_slices(examples).batch(16)
    return {"an input": examples} if data == "dict" else examples


def flat(structure) -> list[np.ndarray]:
    """All arrays of a prediction."""
    return [np.asarray(part) for part in keras.tree.flatten(structure)]


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Signal to noise in dB."""
    noise = float(((a.astype(np.float64) - b) ** 2).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float((a.astype(np.float64) ** 2).sum()) / noise + 1e-30)


def trial(layer: str, wiring: str, training: str, data: str) -> tuple[str, str]:
    """``(verdict, remark)``: ``equal``, ``refused`` or ``WRONG``."""
    model, examples = make(layer, wiring, training, data)
    before = [variable.numpy().copy() for variable in model.variables]
    try:
        q = graffiti.quantize(model, "int8", calibration=given(examples, data), progress=False)
        ig = graffiti.to_integer(q)
    except (ValueError, TypeError) as error:
        text = str(error)
        return ("refused" if "\n" not in text and text else "WRONG"), f"{type(error).__name__}: {text[:150]}"
    faults = []
    if any(not np.array_equal(a, b) for a, b in zip(before, model.variables)):
        faults.append("the float model was changed")
    floats, quantized, integers = (
        model.predict(examples, verbose=0), q.predict(examples, verbose=0), ig.predict(given(examples, data))
    )
    if not all(np.array_equal(a, b) for a, b in zip(flat(quantized), flat(integers), strict=True)):
        worst = max(float(np.abs(a - b).max()) for a, b in zip(flat(quantized), flat(integers)))
        floating = layer in ("softmax_inside", "gru", "attention", "layer_norm", "gate") or wiring == "augmented"
        if worst > 1e-5 or not floating:  # float kernels behind equal integers add in other orders
            faults.append(f"integers and model differ by {worst:.2g}")
    if not all(np.array_equal(a, b) for a, b in zip(flat(integers), flat(ig.predict(examples)), strict=True)):
        faults.append("two predictions differ")
    kinds = [
        [type(part).__name__ for part in (floats, quantized, integers)],
        [sorted(p) if isinstance(p, dict) else None for p in (floats, quantized, integers)]
    ]
    if (
        any(len(set(map(str, kind))) > 1 for kind in kinds)
        or [a.dtype for a in flat(floats)] != [a.dtype for a in flat(integers)]
    ):
        faults.append(f"structures differ: {kinds}")
    if list(q.output_names) != list(model.output_names):
        faults.append(f"names differ: {q.output_names}")
    near = min(ratio(a, b) for a, b in zip(flat(floats), flat(quantized)))
    loud = [
        line for line in q.quantization_report if line.what not in ("quantized", "folded", "shared", "float", "dropped")
    ]
    if near < NEAR and not loud:
        faults.append(f"{near:.1f} dB, and no line")
    report = graffiti.verify(q, ig, examples, ["native"], progress=False)
    if report.mismatches or report.verdict == "failed":
        faults.append(f"verify: {report.mismatches} unequal, {report.verdict}")
    faults += train(model, q, examples, training)
    remark = f"{near:.1f} dB, {report.verdict}" + ("" if ig.is_integer_only else ", float inside")
    return ("WRONG", "; ".join(faults)) if faults else ("equal", remark)


def train(model: keras.Model, q: keras.Model, examples: np.ndarray, training: str) -> list[str]:
    """One epoch of retraining, and what it must not do."""
    if not q.trainable_variables:
        return [] if not model.trainable_variables else ["nothing is left to train"]
    faults = []
    if (
        len(q.losses) != len(model.losses)
        or not np.allclose(sorted(map(float, q.losses)), sorted(map(float, model.losses)), rtol=1e-4)
    ):
        faults.append(f"{len(q.losses)} terms of the loss in place of {len(model.losses)}")
    frozen = {
        path(v): v.numpy().copy() for v in q.variables
        if not v.trainable and v.name in ("kernel", "bias", "gamma", "beta")
    }
    targets = keras.tree.map_structure(lambda a: np.zeros(a.shape, "float32"), model.predict(examples, verbose=0))
    losses = {name: "mse" for name in targets} if isinstance(targets, dict) else "mse"
    q.compile(graffiti.ALT(steps_per_epoch=3), loss=losses)
    q.fit(examples, targets, batch_size=16, epochs=1, verbose=0)
    moved = [path(v) for v in q.variables if path(v) in frozen and not np.array_equal(v.numpy(), frozen[path(v)])]
    if moved:
        faults.append(f"frozen weights moved: {', '.join(moved)}")
    layer = next((part for part in q.layers if part.name == "layer"), None)
    if training == "frozen" and layer is not None and any(v.trainable and v.name == "kernel" for v in layer.variables):
        faults.append("the frozen layer trains")
    return faults


def path(variable) -> str:
    """A name for a variable within its model."""
    return f"{variable.path}:{id(variable)}"


PAGE = """# A hundred ordinary situations

Each row is a small network, from the float model to the proof: a layer, a wiring around it, a setting of training,
and a form in which the data comes. A row is `equal` where

- the integer graph gives the quantized model's integers on every output, in `predict` and in `verify`, twice alike;
- names, order, nesting and dtypes of the outputs are the float model's;
- the quantized model is within {near:.0f} dB of the float model, or its report says what was lost;
- an epoch of retraining leaves alone what is frozen and keeps every term of the loss.

`refused` means one sentence before anything was computed. Anything else would be `WRONG`, and there is none: `python
tools/situations.py` exits with 1 then.

    python tools/situations.py --results=done.jsonl --markdown=graffiti/docs/situations.md --overwrite

The wirings: `straight`, one path; `residual`, a sum with a branch; `joined`, two results of other sizes in one
output; `named`, a dict of two outputs; `augmented`, noise and dropout on the way, a softmax at the end. Training:
`plain`; `frozen`, the layer has `trainable=False`; `regularized`, it has a regularizer and a constraint;
`whole_frozen`, the model has `trainable=False`. Data: an `array`, a `tf.data.Dataset`, a `dict` by input name, or
`bytes`, which is a `uint8` input that the model divides by 255. dB is the quantized model's signal to noise against
the float one, of the worst output; `float inside` says that a layer stayed in float (an island, or a softmax that is
not the last thing), with its reason in the report. graffiti at scheme `int8`, {versions}.

"""


def known(path: str | None) -> dict[str, list[str]]:
    """Results of an earlier run: name → verdict and remark."""
    if path is None or not pathlib.Path(path).exists():
        return {}
    lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return {line["name"]: [line["verdict"], line["remark"]] for line in lines}


def page(results: dict[str, list[str]]) -> str:
    """The page of the documentation."""
    versions = f"tensorflow {tf.__version__}, keras {keras.__version__}"
    lines = ["| layer | wiring | training | data | result |", "|---|---|---|---|---|"]
    for name, *parts in SITUATIONS:
        if name in results:
            verdict, remark = results[name]
            lines.append(f"| {' | '.join(parts)} | {verdict}: {remark} |")
    return PAGE.format(near=NEAR, versions=versions) + "\n".join([*lines, "", summary(results), ""])


def summary(results: dict[str, list[str]]) -> str:
    """How many of each verdict."""
    verdicts = [verdict for verdict, _ in results.values()]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))


def main(_) -> int:
    """Run them all."""
    if _MARKDOWN.value and pathlib.Path(_MARKDOWN.value).exists() and not _OVERWRITE.value:
        raise app.UsageError(f"{_MARKDOWN.value} exists; choose another name, or pass --overwrite")
    warnings.simplefilter("ignore")
    done = known(_RESULTS.value)
    chosen = [s for s in SITUATIONS if _ONLY.value is None or _ONLY.value in s[0]]
    results: dict[str, list[str]] = {}
    start = time.time()
    for number, (name, *parts) in enumerate(chosen, 1):
        if name in done:
            results[name] = done[name]
            continue
        try:
            verdict, remark = trial(*parts)
        except Exception as error:  # a bug: no situation may end so
            verdict, remark = "WRONG", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        keras.backend.clear_session()
        results[name] = [verdict, remark]
        if _RESULTS.value:
            with pathlib.Path(_RESULTS.value).open("a") as file:
                file.write(json.dumps({"name": name, "verdict": verdict, "remark": remark}) + "\n")
        print(f"{number:>3}/{len(chosen)} {time.time() - start:5.0f} s  {verdict:<8} {name}: {remark}", flush=True)
    print(summary(results))
    if _MARKDOWN.value:
        with atomic_file(_MARKDOWN.value, overwrite=_OVERWRITE.value) as temporary:
            temporary.write_text(page(results))
    return 1 if any(verdict == "WRONG" for verdict, _ in results.values()) else 0


if __name__ == "__main__":
    app.run(main)
