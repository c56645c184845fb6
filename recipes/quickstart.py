"""The main job in minutes, without a download: scikit-learn's digits, float → static int8 → ALT → integers → C.

    python recipes/quickstart.py --out=quickstart_out

Prints a table of accuracies and the number of unequal integers (0). Writes to --out: float.keras, quantized.keras,
retrained.keras, net.graffiti, verification.json, report.html and net_c/ (C99 with a main.c that checks itself on stored
vectors).
"""

import subprocess

import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits

import graffiti  # before keras.models.load_model, so that every class is registered
from graffiti import files

_OUT = flags.DEFINE_string("out", "quickstart_out", "folder to write; must not exist")
_FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 15, "epochs of float training")
_EPOCHS = flags.DEFINE_integer("epochs", 5, "epochs of ALT")
_SCHEME = flags.DEFINE_string("scheme", "int8", "a graffiti scheme preset")
_SEED = flags.DEFINE_integer("seed", 0, "seed of everything random")


def network() -> keras.Model:
    """A small residual network with batch norm and a depthwise layer, 8x8 images in, ten classes out."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(
        layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(y))])
    )
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(x)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(32, 1)(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="digits")


def scores(labels: np.ndarray, given: np.ndarray) -> str:
    """Accuracy and mean cross-entropy of predictions."""
    likely = np.clip(given[np.arange(len(labels)), labels], 1e-7, 1.0)
    return f"{100 * np.mean(given.argmax(-1) == labels):.2f} % | {-np.mean(np.log(likely)):.4f}"


def main(_) -> None:
    out = files.check_free(_OUT.value)
    graffiti.schemes.get(_SCHEME.value)  # before the work, not after it
    out.mkdir()
    keras.utils.set_random_seed(_SEED.value)
    digits = load_digits()
    order = np.random.RandomState(_SEED.value).permutation(len(digits.target))
    images, labels = digits.images[order][..., None].astype(np.float32), digits.target[order]
    train, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])

    print("1. a float model", flush=True)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, epochs=_FLOAT_EPOCHS.value, batch_size=32, verbose=2)
    model.save(out / "float.keras")

    print(f"2. static {_SCHEME.value}", flush=True)
    q = graffiti.quantize(model, _SCHEME.value, calibration=train[0][:200])
    print(q.quantization_report)
    q.save(out / "quantized.keras")
    static = q.predict(test[0], verbose=0)

    print("3. retrain weights and thresholds with ALT", flush=True)
    alt = graffiti.ALT(steps_per_epoch=-(-1400 // 32), batch_size=32)  # its own rates, brought to a run of this length
    q.compile(alt, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = graffiti.callbacks.ThresholdHistory()
    q.fit(*train, epochs=_EPOCHS.value, batch_size=32, verbose=2, callbacks=graffiti.callbacks.alt(history=history))
    q.save(out / "retrained.keras")

    print("4. integers, proven equal", flush=True)
    ig = graffiti.to_integer(q)
    ig.save(out / "net.graffiti")
    report = graffiti.verify(q, ig, test[0], ["reference", "native", "ops", "python", "c"])
    report.save(out / "verification.json")
    print(report)

    print("5. C99", flush=True)
    ig.export(out / "net_c", format="c", test_inputs=test[0][:16])
    subprocess.run(["make", "-s", "-C", str(out / "net_c"), "check"], check=True)

    print("6. the report", flush=True)
    graffiti.report(
        q, test[0], out / "report.html", labels=test[1], float_model=model, history=history, verification=report
    )

    rows = [
        ("float", model.predict(test[0], verbose=0)), (f"static {_SCHEME.value}", static),
        ("after ALT", q.predict(test[0], verbose=0)), ("integer graph", ig.predict(test[0])),
    ]
    print(f"\n| network | accuracy on {len(test[1])} digits | loss |\n|---|---|---|")
    print("\n".join(f"| {name} | {scores(test[1], given)} |" for name, given in rows))
    print(f"(one digit is {100 / len(test[1]):.2f} %; the loss, cross-entropy, tells smaller differences)")
    print(f"\nunequal integers: {report.mismatches} of {report.compared:,} over {', '.join(report.targets)}")
    print(f"look at {out}/report.html, {out}/net_c (C99), {out}/verification.json and {out}/net.graffiti")
    if not report.ok:
        raise SystemExit("the executors do not agree; see verification.json")


if __name__ == "__main__":
    app.run(main)
