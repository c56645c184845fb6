"""CIFAR-10 end to end: float model → static fixed point → ALT → integer graph, proven → C99.

    python recipes/cifar10_resnet8.py --data_dir=DATA/cifar10_jpeg --model=resnet8.keras --scheme=int8 --out=cifar_int8

DATA/cifar10_jpeg holds TFRecord shards ``train-*`` and ``validation-*`` with ``image/encoded`` and
``image/class/label``. Without --model a ResNet8 is trained from scratch first (--float_epochs). Prints a Markdown table
and writes everything to --out: quantized.keras, retrained.keras, net.graffiti, verification.json, net_c/, results.json.
Float weights retrained for the same extra epochs stand beside ALT, as in the paper.
"""

import json
import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import graffiti  # before keras.models.load_model, so that every class is registered
from graffiti import data, files

_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the TFRecord shards", required=True)
_MODEL = flags.DEFINE_string("model", None, "a float .keras model to start from; trained here when absent")
_SCHEME = flags.DEFINE_string("scheme", "int8", "a graffiti scheme preset")
_OUT = flags.DEFINE_string("out", "cifar10_out", "folder to write; must not exist")
_FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 30, "epochs of float training when there is no --model")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "epochs of ALT retraining, and of the float model beside it")
_BATCH = flags.DEFINE_integer("batch_size", 128, "training batch")
_WEIGHT_RATE = flags.DEFINE_float(
    "weight_learning_rate", 1e-4, "Adam's rate for weights, in ALT and in the float retraining"
)
_THRESHOLD_RATE = flags.DEFINE_float("threshold_learning_rate", 1e-2, "Adam's rate for thresholds")
_CALIBRATION = flags.DEFINE_integer("calibration_images", 200, "images for calibration")
_LIMIT = flags.DEFINE_integer("limit", None, "use only so many training and validation images (for a quick look)")
_FLOAT_RETRAIN = flags.DEFINE_bool("float_retrain", True, "also retrain the float weights for the same epochs")
_TARGETS = flags.DEFINE_list("targets", ["reference", "native", "ops", "python", "c"], "what to prove equal")
_SEED = flags.DEFINE_integer("seed", 0, "seed of everything random")


def resnet8() -> keras.Model:
    """The MLPerf Tiny ResNet8: three stages of 16, 32, 64 channels, inputs 0-255."""
    layers = keras.layers

    def conv(x, filters, size, strides=1):
        return layers.Conv2D(
            filters, size, strides, "same", kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(1e-4)
        )(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 128, -1)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(conv(x, 16, 3)))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, 3, strides)))
        y = layers.BatchNormalization()(conv(y, filters, 3))
        x = x if strides == 1 else conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="resnet8")


def batches(examples: data.Examples, seed: int) -> tf.data.Dataset:
    """Shuffled, flipped and shifted by up to four pixels; the order and the noise follow from the seed."""
    def augment(index, image, label):
        image = tf.image.stateless_random_flip_left_right(image, (seed, index))
        image = tf.image.stateless_random_crop(
            tf.pad(image, ((4, 4), (4, 4), (0, 0)), "REFLECT"), (32, 32, 3), (seed + 1, index)
        )
        return tf.cast(image, tf.float32), label

    numbers = tf.data.Dataset.counter()
    stream = tf.data.Dataset.from_tensor_slices(
        (examples.inputs, examples.labels)
    ).shuffle(len(examples), seed).repeat()
    stream = tf.data.Dataset.zip(numbers, stream).map(
        lambda i, pair: augment(i, *pair), num_parallel_calls=2, deterministic=True
    )
    return stream.batch(_BATCH.value, drop_remainder=True).prefetch(4)


def accuracy(model: keras.Model, examples: data.Examples) -> float:
    """Top-1 accuracy, in percent."""
    outputs = model.predict(examples.inputs.astype(np.float32), batch_size=250, verbose=0)
    return 100 * float(np.mean(outputs.reshape(len(examples), -1).argmax(-1) == examples.labels))


def fit(model: keras.Model, optimizer, train: data.Examples, epochs: int, callbacks=()) -> None:
    """Cross-entropy training with the recipe's batches."""
    from_logits = (
        getattr(model.layers[-1], "activation", None) is not keras.activations.softmax
        and not isinstance(model.layers[-1], keras.layers.Softmax)
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), metrics=["accuracy"])
    model.fit(
        batches(train, _SEED.value), epochs=epochs, steps_per_epoch=len(train) // _BATCH.value,
        callbacks=list(callbacks), shuffle=False, verbose=2
    )


def main(_) -> None:
    out = files.check_free(_OUT.value)
    graffiti.schemes.get(_SCHEME.value)  # before the work, not after it
    keras.utils.set_random_seed(_SEED.value)
    train = data.load(_DATA_DIR.value, split="train", limit=_LIMIT.value)
    validation = data.load(_DATA_DIR.value, split="validation", limit=_LIMIT.value)
    steps = len(train) // _BATCH.value
    if not steps:
        raise app.UsageError(
            f"{len(train)} training images are fewer than one batch of {_BATCH.value}; give a smaller --batch_size"
        )
    out.mkdir()
    if _MODEL.value:
        model = keras.models.load_model(_MODEL.value, compile=False)
    else:
        model = resnet8()
        fit(
            model, keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, _FLOAT_EPOCHS.value * steps)),
            train, _FLOAT_EPOCHS.value
        )
        model.save(out / "float.keras")
    rows = {"float": accuracy(model, validation)}

    calibration = train.inputs[
        np.random.RandomState(_SEED.value).permutation(len(train))[: _CALIBRATION.value]
    ].astype(np.float32)
    q = graffiti.quantize(model, _SCHEME.value, calibration=calibration)
    print(q.quantization_report)
    q.save(out / "quantized.keras")
    rows[f"static {_SCHEME.value}"] = accuracy(q, validation)
    print(rows)

    decay = keras.optimizers.schedules.CosineDecay(_WEIGHT_RATE.value, max(1, _EPOCHS.value * steps))
    if _EPOCHS.value and _FLOAT_RETRAIN.value:
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        fit(again, keras.optimizers.Adam(decay), train, _EPOCHS.value)
        rows[f"float, {_EPOCHS.value} more epochs"] = accuracy(again, validation)
    if _EPOCHS.value:
        alt = graffiti.ALT(
            weight_learning_rate=decay, threshold_learning_rate=_THRESHOLD_RATE.value, steps_per_epoch=steps,
            batch_size=_BATCH.value
        )
        fit(q, alt, train, _EPOCHS.value, graffiti.callbacks.alt())
        q.save(out / "retrained.keras")
        rows[f"ALT {_SCHEME.value}, {_EPOCHS.value} epochs"] = accuracy(q, validation)
    print(rows)

    ig = graffiti.to_integer(q)
    ig.save(out / "net.graffiti")
    rows["integer graph"] = 100 * ig.evaluate(validation.inputs.astype(np.float32), validation.labels)["accuracy"]
    report = graffiti.verify(q, ig, validation.inputs.astype(np.float32), _TARGETS.value)
    report.save(out / "verification.json")
    print(report)
    ig.export(out / "net_c", format="c", test_inputs=validation.inputs[:8].astype(np.float32))
    results = {
        "scheme": _SCHEME.value, "model": _MODEL.value and pathlib.Path(_MODEL.value).name, "seed": _SEED.value,
        "epochs": _EPOCHS.value, "training_images": len(train), "validation_images": len(validation), "accuracy": rows,
        "unequal_integers": report.mismatches, "compared_integers": report.compared
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n| network | top-1 on {len(validation)} images |\n|---|---|")
    print("\n".join(f"| {name} | {value:.2f} % |" for name, value in rows.items()))
    print(f"\nunequal integers: {report.mismatches} of {report.compared:,} over {', '.join(report.targets)}")
    if not report.ok:
        raise SystemExit("the executors do not agree; see verification.json")


if __name__ == "__main__":
    app.run(main)
