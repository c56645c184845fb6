"""What wrote the files beside it, with the package as it was at commit 8d56d3f: ``python write.py FOLDER``.
``tests/test_old_files.py`` reads them.
"""

import pathlib
import sys
import zipfile

import keras
import numpy as np

import graffiti

L = keras.layers
OUT = pathlib.Path(sys.argv[1])
RNG = np.random.default_rng(0)
IMAGES = np.round(RNG.standard_normal((8, 6, 6, 3)), 2).astype("float16").astype("float32")
SERIES = np.round(RNG.standard_normal((8, 5, 4)), 2).astype("float16").astype("float32")


def vision():
    i = keras.Input((6, 6, 3), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False, name="c1")(i)))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)))
    x = L.Concatenate()([L.Add()([x, y]), L.LeakyReLU(0.1)(L.Conv2D(2, 1, name="c2")(y))])
    x = L.GlobalAveragePooling2D()(L.AveragePooling2D(3, padding="same")(x))
    return keras.Model(
        i, L.Dense(3, activation="softmax", name="head")(L.Dense(4, activation="tanh", name="table")(x)), name="vision"
    )


def series():
    i = keras.Input((5, 4), name="series")
    x = L.GRU(3, name="gru")(L.Dense(4, activation="relu", name="d")(i))
    return keras.Model(
        i, {"small": L.Dense(2, name="small")(x), "all": L.Dense(3, activation="sigmoid", name="all")(x)}, name="series"
    )


def save(model, name):
    """A ``.keras`` file, made small."""
    model.save(OUT / "large.keras")
    with zipfile.ZipFile(OUT / "large.keras") as large, zipfile.ZipFile(
        OUT / f"{name}.keras", "w", zipfile.ZIP_DEFLATED
    ) as small:
        for entry in large.namelist():
            small.writestr(entry, large.read(entry))
    (OUT / "large.keras").unlink()


def arrays(prefix, result):
    return {f"{prefix}{k}": np.asarray(a) for k, a in enumerate(keras.tree.flatten(result))}


for name, make, x, scheme in (
    ("vision", vision, IMAGES, "int8"), ("vision_channels", vision, IMAGES, "int4_per_channel"),
    ("vision_published", vision, IMAGES, "graffitist_int8"), ("series", series, SERIES, "int8"),
):
    keras.utils.set_random_seed(1)
    model = make()
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(np.full(variable.shape, 0.1 if "mean" in variable.path else 1.5))
    q = graffiti.quantize(model, scheme, calibration=x, progress=False)
    if name == "vision":
        q.compile(graffiti.ALT(steps_per_epoch=2), "sparse_categorical_crossentropy")
        q.fit(x, np.arange(8) % 3, batch_size=4, epochs=2, verbose=0, callbacks=graffiti.callbacks.alt())
    ig = graffiti.to_integer(q)
    save(q, name)
    ig.save(OUT / f"{name}.graffiti")
    np.savez_compressed(
        OUT / f"{name}.npz", x=x.astype("float16"), **arrays("q", q.predict(x, verbose=0)), **arrays("i", ig.predict(x))
    )

for scheme in ("adaptive_precision", "multi_level_scaling"):
    keras.utils.set_random_seed(1)
    i = keras.Input((6, 6, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, name="c")(i)))
    x = L.Conv2D(4, 3, activation="relu", name="c2")(x)
    t = graffiti.quantize_training(keras.Model(i, L.Dense(3, name="head")(L.Flatten()(x))), scheme)
    t.compile("sgd", "mse")
    t.fit(IMAGES, np.zeros((8, 3)), batch_size=4, epochs=1, verbose=0)
    save(t, f"low_bit_{scheme}")
    found = {**arrays("q", t.predict(IMAGES, verbose=0)), **arrays("f", graffiti.strip(t).predict(IMAGES, verbose=0))}
    t.fit(IMAGES, np.zeros((8, 3)), batch_size=4, epochs=1, verbose=0, shuffle=False)
    np.savez_compressed(
        OUT / f"low_bit_{scheme}.npz", x=IMAGES.astype("float16"), **found, **arrays("w", t.get_weights())
    )
print("done")
