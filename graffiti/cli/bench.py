"""``graffiti bench``: the native runner beside float Keras, LiteRT and ONNX Runtime, checked before it is timed."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import tempfile

from graffiti import executors
from graffiti.cli import common

HELP = "time the native runner beside the float model, LiteRT and ONNX Runtime; the answers are compared first"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a .graffiti file or a quantized .keras file")
    parser.add_argument("--keras", help="the float .keras or .h5 file to run beside it, in a tf.function")
    parser.add_argument("--tflite", help="a .tflite file of somebody else to run beside it, int8 or float in and out")
    timed = [name for name, row in executors.EXECUTORS.items() if row.timed is not None]
    parser.add_argument(
        "--engines", default=",".join(timed),
        help=f"comma-separated: what the graph itself is exported to and run in, where installed: {', '.join(timed)}; "
             "none for neither"
    )
    parser.add_argument(
        "--batches", type=common.positive_list, default=[1, 32], help="batch sizes, comma-separated; default: 1,32"
    )
    parser.add_argument(
        "--threads", type=common.positive_list, default=[1],
        help="thread counts, comma-separated, each in a process of its own, pinned; default: 1"
    )
    parser.add_argument(
        "--rounds", type=common.positive, default=15, help="timed rounds, the engines take turns in each; default: 15"
    )
    tiers = ", ".join(["auto", *executors.EXECUTORS["native"].options])
    parser.add_argument("--tier", default="auto", help=f"of the native runner: {tiers}")


def run(args: argparse.Namespace) -> common.Result:
    """Compare, time, print the table; 1 where an engine's answer differs."""
    from graffiti import benchmark

    for flag in ("keras", "tflite"):
        path = getattr(args, flag)
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}; --{flag} names a model to run")
    engines = [] if args.engines == "none" else args.engines.split(",")
    unknown = [name for name in engines if name not in benchmark.EXPORTED]
    if unknown:
        raise ValueError(
            f"--engines takes {', '.join(benchmark.EXPORTED)} or none, got {', '.join(map(repr, unknown))}"
        )
    with contextlib.ExitStack() as stack:
        graph = common.load_graph(args.model)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        graph.save(folder / "net.graffiti")
        keras_path = args.keras
        if keras_path is not None and not keras_path.endswith(".keras"):
            keras_path = str(folder / "float.keras")
            common.load_model(args.keras).save(keras_path)
        stack.enter_context(common.busy("timing"))
        rows, skipped = benchmark.in_processes(
            args.threads, graph=str(folder / "net.graffiti"), keras=keras_path, tflite=args.tflite, engines=engines,
            batches=args.batches, rounds=args.rounds, tier=args.tier,
        )
    notes = [f"{engine}: not timed: {why}" for engine, why in skipped.items()]
    failed = [why for why in skipped.values() if benchmark.DIFFERS in why]
    text = "\n".join(
        [
            benchmark.table(rows), *notes,
            "medians of rounds in which the engines take turns; a ratio above 1 means that graffiti is faster"
        ]
    )
    return (
        {"sha256": graph.digest(), "rounds": args.rounds, "tier": args.tier, "rows": rows, "skipped": skipped}, text,
        1 if failed else 0
    )
