"""``graffiti retrain``: ALT on a quantized model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from graffiti.cli import common

HELP = "retrain weights and thresholds with ALT"
_ALT_OPTIONS = ("epochs", "batch_size", "weight_learning_rate", "threshold_learning_rate")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a quantized .keras file")
    common.add_data(parser, "--train", "training inputs and labels")
    parser.add_argument("--validation", help="validation inputs and labels")
    parser.add_argument(
        "--recipe", help="a recipe's name or file whose alt: options hold where no option below is given"
    )
    parser.add_argument("--epochs", type=common.positive, help="passes over the data; default: 3")
    parser.add_argument("--batch_size", type=common.positive, help="examples in a step; default: 128")
    parser.add_argument("--weight_learning_rate", type=float, help="default: ALT's")
    parser.add_argument("--threshold_learning_rate", type=float, help="default: ALT's")
    parser.add_argument(
        "--from_logits", action="store_true",
        help="the outputs are logits (found out by itself: a model without softmax at its end)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of shuffling and dropout")
    parser.add_argument(
        "--history", help="also write the thresholds' way through training to this JSON file, for graffiti report"
    )
    common.add_output(parser, "the .keras file to write")


def run(args: argparse.Namespace) -> common.Result:
    """Compile with ALT, fit, save."""
    import keras

    import graffiti
    from graffiti import files
    from graffiti.keras_io.read import read

    common.check_output(args, ".keras")
    if args.history:
        files.check_free(args.history, overwrite=args.overwrite)
    alt = options(args)
    q = common.load_model(args.model)
    graph = read(q)
    if graph.stage != "fakequant":
        raise ValueError(f"{args.model} is a float model; quantize it first with graffiti quantize")
    ends = [node.op for node in graph.nodes if node.name in graph.outputs]
    train = common.labelled(common.load_data(args.train, args.limit, q), "--train")
    validation = (
        common.labelled(common.load_data(args.validation, None, q), "--validation") if args.validation else None
    )
    steps = -(-len(train) // alt.batch_size)
    keras.utils.set_random_seed(args.seed)
    q.compile(
        graffiti.recipes.Recipe(alt=alt).optimizer(steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=args.from_logits or "softmax" not in ends),
        metrics=["accuracy"],
    )
    thresholds = (
        graffiti.callbacks.ThresholdHistory(interval=max(1, steps * alt.epochs // 100)) if args.history else None
    )
    history = q.fit(
        train.inputs, train.labels, batch_size=alt.batch_size, epochs=alt.epochs,
        callbacks=[*graffiti.callbacks.alt(history=thresholds), _bar(alt.epochs * steps)],
        validation_data=None if validation is None else (validation.inputs, validation.labels), verbose=0,
    ).history
    common.save_model(q, args)
    if thresholds is not None:
        thresholds.save(args.history)
    history = {key: [float(v) for v in values] for key, values in history.items()}
    rows = [
        f"epoch {epoch + 1}: " + ", ".join(f"{key} {values[epoch]:.4f}" for key, values in history.items())
        for epoch in range(alt.epochs)
    ]
    return (
        {"output": args.output, "alt": dataclasses.asdict(alt), "history": history},
        "\n".join([*rows, f"wrote {args.output}"]), 0
    )


def options(args: argparse.Namespace):
    """ALT's options: the command line's, else the recipe's, else the defaults."""
    import graffiti

    alt = graffiti.recipes.get(args.recipe).alt if args.recipe else graffiti.recipes.AltOptions()
    given = {key: getattr(args, key) for key in _ALT_OPTIONS if getattr(args, key) is not None}
    return graffiti.recipes.AltOptions.from_config({**dataclasses.asdict(alt), **given}, "the options of retrain")


def _bar(steps: int) -> Any:
    """A callback with one bar over all steps, on standard error, where training takes longer than two seconds."""
    import keras
    from tqdm import tqdm

    class Bar(keras.callbacks.Callback):
        """One step of the bar for each step of training."""

        def on_train_begin(self, logs=None):
            """Show it from two seconds on."""
            self.bar = tqdm(total=steps, desc="retrain", unit="step", delay=common.PATIENCE, file=sys.stderr)

        def on_train_batch_end(self, batch, logs=None):
            """One step on."""
            self.bar.set_postfix({key: f"{float(value):.4f}" for key, value in (logs or {}).items()}, refresh=False)
            self.bar.update()

        def on_train_end(self, logs=None):
            """Leave it as it stands."""
            self.bar.close()

    return Bar()
