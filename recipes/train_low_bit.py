"""Train a network in low bits beside float32: one table, made in pieces and resumed from checkpoints.

    python recipes/train_low_bit.py --data_dir=DATA/cifar10_jpeg --network=resnet8 --scheme=float32,adaptive_precision
    --epochs=10 --out=OUT

DATA/cifar10_jpeg holds TFRecord shards ``train-*`` and ``validation-*``. Every run has the same initial weights,
batches, schedule and epochs for a seed; each epoch is a checkpoint in OUT/<network>/<scheme>-<seed>, and a run that was
stopped goes on to the same bits. The last line of work is a table of everything in OUT.
"""

import json
import pathlib

import keras
import networks
import numpy as np
import runs
from absl import app, flags

import graffiti
from graffiti import data

_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the TFRecord shards", required=True)
_NETWORK = flags.DEFINE_enum("network", "resnet8", sorted(networks.NETWORKS), "what to train")
_SCHEME = flags.DEFINE_list("scheme", ["float32", "adaptive_precision"], "training schemes, and float32 for the "
                                                                         "baseline")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of everything random, one run for each")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "epochs of every run")
_IMAGES = flags.DEFINE_integer("images", None, "the first so many training images; all by default")
_VALIDATION = flags.DEFINE_integer("validation_images", None, "the first so many validation images; all by default")
_BATCH = flags.DEFINE_integer("batch_size", 128, "training batch")
_RATE = flags.DEFINE_float("learning_rate", 0.1, "SGD's first rate; cosine decay to 0, momentum 0.9")
_ENGINE = flags.DEFINE_string("engine", "auto", "auto, native or emulated")
_STOP_AFTER = flags.DEFINE_integer("stop_after", None, "stop every run after so many epochs; the same command without "
                                                       "it goes on")
_OUT = flags.DEFINE_string("out", "low_bit_out", "folder of the runs")
_VERBOSE = flags.DEFINE_integer("verbose", 2, "of Keras' fit")

STATISTICS = 10_000  # training images for the batch statistics of a stripped network


class Batches(keras.utils.PyDataset):
    """Shuffled, flipped and shifted by up to four pixels; everything follows from seed and epoch."""

    def __init__(self, examples: data.Examples, seed: int, epoch: int) -> None:
        super().__init__()
        self.examples, self.seed = examples, seed
        self.padded = np.pad(examples.inputs, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
        self.start(epoch)

    def start(self, epoch: int) -> None:
        """Draw the order, shifts and flips of an epoch."""
        self.epoch, random = epoch, np.random.default_rng((self.seed, epoch))
        self.order, count = random.permutation(len(self.examples)), len(self.examples)
        self.shifts, self.flips = random.integers(0, 9, (2, count)), random.random(count) < 0.5

    def on_epoch_end(self) -> None:
        """The next epoch."""
        self.start(self.epoch + 1)

    def __len__(self) -> int:
        return len(self.examples) // _BATCH.value

    def __getitem__(self, index):
        picked = self.order[index * _BATCH.value:(index + 1) * _BATCH.value]
        images = np.empty((len(picked), *self.examples.inputs.shape[1:]), np.float32)
        for row, (i, dy, dx, flip) in enumerate(zip(picked, *self.shifts[:, picked], self.flips[picked])):
            crop = self.padded[i, dy:dy + images.shape[1], dx:dx + images.shape[2]]
            images[row] = crop[:, ::-1] if flip else crop
        return images, self.examples.labels[picked]


def prepare(scheme: str, seed: int, steps: int) -> keras.Model:
    """The compiled model of a run; the float network and its weights depend on the seed alone."""
    keras.utils.set_random_seed(seed)
    model = networks.NETWORKS[_NETWORK.value]()
    if scheme != "float32":
        model = graffiti.quantize_training(model, scheme, engine=_ENGINE.value, seed=seed)
    decay = keras.optimizers.schedules.CosineDecay(_RATE.value, _EPOCHS.value * steps)
    optimizer = graffiti.LowBitOptimizer(
        keras.optimizers.SGD(decay, momentum=0.9),
        scale_learning_rate=keras.optimizers.schedules.CosineDecay(1e-5, _EPOCHS.value * steps)
    )
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=False
    )
    return model


def run(scheme: str, seed: int, train: data.Examples, validation: data.Examples, folder: pathlib.Path) -> dict:
    """Train one row, or go on with it; returns what results.json holds."""
    inputs = validation.inputs.astype(np.float32)
    settings = {
        "scheme": scheme, "network": _NETWORK.value, "seed": seed, "images": len(train),
        "validation_images": len(validation), "batch_size": _BATCH.value,
        "learning_rate": _RATE.value, "engine": _ENGINE.value,
    }

    def fit(model, epoch):
        log = model.fit(
            Batches(train, seed, epoch), verbose=_VERBOSE.value, shuffle=False,
            callbacks=[graffiti.callbacks.LowBitSteps()]
        ).history
        return {"loss": log["loss"][0], "train_accuracy": 100 * log["accuracy"][0]}

    def accuracy(model):
        return 100 * float(np.mean(model.predict(inputs, batch_size=250, verbose=0).argmax(-1) == validation.labels))

    def evaluate(model):
        found = {"accuracy": accuracy(model)}
        return {**found, "steps_at_bits": graffiti.callbacks.shares(model)} if scheme == "adaptive_precision" else found

    def finish(model):
        typical = train.inputs[:STATISTICS].astype(np.float32)
        return {
            "stripped": accuracy(graffiti.strip(model, typical, batch_size=_BATCH.value)),
            "stripped_as_trained": accuracy(graffiti.strip(model))
        }

    return runs.train(
        folder, f"{scheme}, seed {seed}", settings, _EPOCHS.value,
        lambda: prepare(scheme, seed, len(train) // _BATCH.value), fit, evaluate, _STOP_AFTER.value,
        None if scheme == "float32" else finish)


def table(folder: pathlib.Path) -> str:
    """Everything in the folder, finished runs only: mean and spread over seeds, drop against float32 of the same
    network and settings.
    """
    found: dict[tuple, dict[str, list[dict]]] = {}
    for path in sorted(folder.glob("*/*/results.json")):
        r = json.loads(path.read_text())
        if len(r["history"]) == r.get("epochs"):
            found.setdefault((r["network"], r["epochs"], r["images"]), {}).setdefault(r["scheme"], []).append(r)
    lines = [
        "| network | epochs × images | scheme | seeds | top-1 | spread | drop "
        "| stripped, statistics anew / as trained | gradients at 8 / 16 / 24 bits |",
        "|---|---|---|---|---|---|---|---|---|"]
    for (network, epochs, images), rows in found.items():
        base = np.mean([r["accuracy"] for r in rows["float32"]]) if "float32" in rows else np.nan
        for scheme, records in sorted(rows.items(), key=lambda item: (item[0] != "float32", item[0])):
            values = [r["accuracy"] for r in records]
            widths = [r["steps_at_bits"] for r in records if r.get("steps_at_bits")]
            spent = (
                " / ".join(f"{np.mean([s.get(w, 0.0) for s in widths]):.1%}" for w in ("8", "16", "24")) if widths
                else ""
            )
            ends = [r["finished"] for r in records if "finished" in r]
            plain = (
                " / ".join(f"{np.mean([r[name] for r in ends]):.2f} %" for name in ("stripped", "stripped_as_trained"))
                if ends else ""
            )
            lines.append(
                f"| {network} | {epochs} × {images:,} | {scheme} | {len(values)} | {np.mean(values):.2f} % | "
                f"±{(max(values) - min(values)) / 2:.2f} "
                f"| {base - np.mean(values):.2f} | {plain} | {spent} |")
    return "\n".join(lines)


def main(_) -> None:
    schemes = runs.schemes_of(_SCHEME.value)
    train = data.load(_DATA_DIR.value, split="train", limit=_IMAGES.value)
    validation = data.load(_DATA_DIR.value, split="validation", limit=_VALIDATION.value)
    if len(train) < _BATCH.value:
        raise app.UsageError(
            f"{len(train)} training images are fewer than one batch of {_BATCH.value}; give a smaller --batch_size"
        )
    out = pathlib.Path(_OUT.value)
    for seed in map(int, _SEEDS.value):
        for scheme in schemes:
            run(scheme, seed, train, validation, out / _NETWORK.value / f"{scheme}-{seed}")
            keras.utils.clear_session()
    print(table(out))


if __name__ == "__main__":
    app.run(main)
