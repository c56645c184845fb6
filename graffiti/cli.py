"""The command line: the verbs of ``graffiti/api.py``, one subcommand each.

    graffiti quantize model.keras --calibration=images.npz --output=net.keras
    graffiti retrain net.keras --train=train.npz --epochs=3 --output=retrained.keras
    graffiti verify retrained.keras --data=images.npz --targets=reference,native,python,c
    graffiti export retrained.keras --format=c --output=net_c
    graffiti inspect net.keras

Every command exits with 0 only when it did what it says, never overwrites a file unless ``--overwrite``, and with ``--json``
prints one JSON object on standard output (progress and messages go to standard error).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from absl import app
from absl.flags import argparse_flags


def _positive(text: str) -> int:
    """A whole number of at least 1, for ``type=``."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


def _common(parser: argparse.ArgumentParser, *, output: str | None = None) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    if output:
        parser.add_argument("--output", required=True, help=output)
        parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def _data(parser: argparse.ArgumentParser, flag: str, help: str, *, required: bool = True) -> None:
    parser.add_argument(flag, required=required, help=f"{help}: .npy, .npz (images, labels) or a folder of TFRecords (folder:split)")
    parser.add_argument("--limit", type=_positive, help="use at most this many examples")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The subcommand and its options."""
    parser = argparse_flags.ArgumentParser(prog="graffiti", description="A Keras 3 model in, fixed point out, proven equal bit for bit.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    quantize = commands.add_parser("quantize", help="float Keras model → calibrated fake-quantized Keras model")
    quantize.add_argument("model", help="a .keras file, or a Keras 2 .h5 file")
    quantize.add_argument("--scheme", default="int8", help="a preset: int8, int8_per_channel, int4, w4a4, graffitist_int8, ...")
    quantize.add_argument("--keep_float", action="append", default=[], metavar="REGEX", help="leave layers whose path matches in float (repeatable)")
    _data(quantize, "--calibration", "calibration inputs")
    _common(quantize, output="the .keras file to write")
    quantize.set_defaults(run=_quantize)

    retrain = commands.add_parser("retrain", help="retrain weights and thresholds with ALT")
    retrain.add_argument("model", help="a quantized .keras file")
    _data(retrain, "--train", "training inputs and labels")
    retrain.add_argument("--validation", help="validation inputs and labels")
    retrain.add_argument("--epochs", type=_positive, default=3)
    retrain.add_argument("--batch_size", type=_positive, default=128)
    retrain.add_argument("--weight_learning_rate", type=float, help="default: ALT's")
    retrain.add_argument("--threshold_learning_rate", type=float, help="default: ALT's")
    retrain.add_argument("--from_logits", action="store_true", help="the outputs are logits (found out by itself: a model without softmax at its end)")
    retrain.add_argument("--seed", type=int, default=0)
    _common(retrain, output="the .keras file to write")
    retrain.set_defaults(run=_retrain)

    verify = commands.add_parser("verify", help="compare the Keras model and every executor, tensor by tensor")
    verify.add_argument("model", help="a quantized .keras file")
    verify.add_argument("--graph", help="a .graffiti file lowered from it; lowered anew by default")
    _data(verify, "--data", "inputs")
    verify.add_argument("--targets", default="reference,native,python", help="comma-separated: reference, native, ops, python, c")
    verify.add_argument("--report", help="also write the report to this JSON file")
    _common(verify)
    verify.set_defaults(run=_verify, overwrite=False)

    export = commands.add_parser("export", help="write the integer graph for another tool or chip")
    export.add_argument("model", help="a quantized .keras file or a .graffiti file")
    export.add_argument("--format", default="c", help="c, or graffiti for the integer graph itself")
    _data(export, "--test_inputs", "inputs stored as test vectors", required=False)
    _common(export, output="the folder or file to write")
    export.set_defaults(run=_export)

    inspect = commands.add_parser("inspect", help="say what a model holds, or what quantize would do with it")
    inspect.add_argument("model", help="a float or quantized .keras file, a Keras 2 .h5 file, or a .graffiti file")
    inspect.add_argument("--scheme", default="int8", help="for a float model: the scheme to try")
    _common(inspect)
    inspect.set_defaults(run=_inspect)
    return parser.parse_args(argv[1:])


# ---- the commands: each returns (what --json prints, text, exit code) -----------------------------------------------
def _quantize(args) -> tuple[dict[str, Any], str, int]:
    import graffiti

    _check_output(args)
    model = _load_model(args.model)
    rules = [graffiti.Rule(pattern, None) for pattern in args.keep_float]
    q = graffiti.quantize(model, args.scheme, calibration=_load_data(args.calibration, args.limit).inputs, rules=rules)
    _save_model(q, args)
    lines = [{"layer": line.layer, "what": line.what, "why": line.why} for line in q.quantization_report]
    return {"output": args.output, "scheme": args.scheme, "report": lines}, f"{q.quantization_report}\nwrote {args.output}", 0


def _retrain(args) -> tuple[dict[str, Any], str, int]:
    import keras

    import graffiti
    from graffiti.keras_io.read import read

    _check_output(args)
    q = _load_model(args.model)
    graph = read(q)
    if graph.stage != "fakequant":
        raise ValueError(f"{args.model} is a float model; quantize it first with graffiti quantize")
    ends = [node.op for node in graph.nodes if node.name in graph.outputs]
    from_logits = args.from_logits or "softmax" not in ends
    train = _labelled(_load_data(args.train, args.limit), "--train")
    validation = _labelled(_load_data(args.validation, None), "--validation") if args.validation else None
    keras.utils.set_random_seed(args.seed)
    rates = {k: v for k, v in (("weight_learning_rate", args.weight_learning_rate), ("threshold_learning_rate", args.threshold_learning_rate)) if v is not None}
    steps = -(-len(train) // args.batch_size)
    q.compile(
        graffiti.ALT(steps_per_epoch=steps, batch_size=args.batch_size, **rates),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), metrics=["accuracy"],
    )
    history = q.fit(
        train.inputs, train.labels, batch_size=args.batch_size, epochs=args.epochs, callbacks=graffiti.callbacks.alt(),
        validation_data=None if validation is None else (validation.inputs, validation.labels), verbose=0 if args.json else 2,
    ).history
    _save_model(q, args)
    history = {key: [float(v) for v in values] for key, values in history.items()}
    return {"output": args.output, "history": history}, f"wrote {args.output}", 0


def _verify(args) -> tuple[dict[str, Any], str, int]:
    import graffiti
    from graffiti import files

    if args.report:
        files.check_free(args.report)
    q = _load_model(args.model)
    graph = graffiti.IntegerGraph.load(args.graph) if args.graph else graffiti.to_integer(q)
    report = graffiti.verify(q, graph, _load_data(args.data, args.limit).inputs, args.targets.split(","))
    if args.report:
        report.save(args.report)
    return report.to_config(), str(report), 0 if report.ok else 1


def _export(args) -> tuple[dict[str, Any], str, int]:
    from graffiti import files

    files.check_free(args.output, overwrite=args.overwrite)
    graph = _load_graph(args.model)
    if args.format == "graffiti":
        graph.save(args.output, overwrite=args.overwrite)
        written = [args.output]
    else:
        options = {} if args.test_inputs is None else {"test_inputs": _load_data(args.test_inputs, args.limit).inputs}
        written = [str(path) for path in graph.export(args.output, format=args.format, overwrite=args.overwrite, **options)]
    return {"format": args.format, "files": written}, "\n".join(f"wrote {path}" for path in written), 0


def _inspect(args) -> tuple[dict[str, Any], str, int]:
    import graffiti
    from graffiti.keras_io.read import read
    from graffiti.transforms import pipelines

    if args.model.endswith(".graffiti"):
        integer = graffiti.IntegerGraph.load(args.model)
        summary: list[str] = []
        integer.summary(summary.append)
        return {"stage": "integer", "sha256": integer.digest(), "nodes": len(integer.graph.nodes)}, "\n".join(summary), 0
    graph = read(_load_model(args.model))
    if graph.stage == "float":
        report = graffiti.QuantizationReport(pipelines.place(pipelines.prepare(graph, training=True), graffiti.schemes.get_static(args.scheme), ())[1])
        lines = [{"layer": line.layer, "what": line.what, "why": line.why} for line in report]
        return {"stage": "float", "scheme": args.scheme, "would": lines}, f"a float model; under {args.scheme}:\n{report}", 0
    rows = []
    for node in graph.nodes:
        if node.op == "fake_quantize":
            log2 = node.attrs["log2_threshold"]
            shown = "not calibrated" if log2 is None else f"log2_threshold {min(log2):.3f}" + (f" … {max(log2):.3f}" if len(log2) > 1 else "")
            rows.append((node.name, node.attrs["role"], f"{'s' if node.attrs['signed'] else 'u'}{node.attrs['bits']}", shown))
    text = "\n".join(f"{name:<40} {role:<12} {bits:<5} {shown}" for name, role, bits, shown in rows)
    return {"stage": "fakequant", "quantizers": [dict(zip(("name", "role", "format", "threshold"), row)) for row in rows]}, text, 0


# ---- files ------------------------------------------------------------------------------------------------------------
def _load_model(path: str):
    import keras

    import graffiti

    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}; expected a .keras or .h5 model")
    if path.endswith(".graffiti"):
        raise ValueError(f"{path} is an integer graph; expected the .keras model that it was lowered from")
    try:
        return graffiti.tfmot.convert(path) if path.endswith(".h5") else keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged file makes zip, HDF5 or Keras raise
        raise ValueError(f"{path} does not load as a Keras model: {error}") from error


def _load_graph(path: str):
    import graffiti

    if path.endswith(".graffiti"):
        return graffiti.IntegerGraph.load(path)
    return graffiti.to_integer(_load_model(path))


def _check_output(args) -> None:
    """Before any work is done."""
    from graffiti import files

    if not args.output.endswith(".keras"):
        raise ValueError(f"--output names a .keras file, got {args.output}")
    files.check_free(args.output, overwrite=args.overwrite)


def _save_model(model, args) -> None:
    from graffiti import files

    with files.atomic_file(args.output, overwrite=args.overwrite) as temporary:
        model.save(temporary)


def _load_data(path: str, limit: int | None):
    from graffiti import data

    folder, _, split = path.rpartition(":")
    if folder and pathlib.Path(folder).is_dir():
        return data.load(folder, split=split, limit=limit)
    return data.load(path, limit=limit)


def _labelled(examples, flag: str):
    if examples.labels is None:
        raise ValueError(f"{flag} needs labels beside the inputs: an .npz with images and labels, or labelled TFRecords")
    return examples


def run(args: argparse.Namespace) -> int:
    """Run one parsed command; print; return the exit code."""
    args = args if isinstance(args, argparse.Namespace) else parse_arguments(args)
    try:
        result, text, code = args.run(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(json.dumps({"error": message}) if args.json else f"graffiti {args.command}: {message}", file=sys.stdout if args.json else sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if args.json else text)
    return code


def main() -> None:
    """Entry point of the ``graffiti`` command."""
    app.run(run, flags_parser=parse_arguments)


if __name__ == "__main__":
    main()
