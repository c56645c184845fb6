"""``graffiti verify``: the proof, as a certificate."""

from __future__ import annotations

import argparse
import pathlib

from graffiti import executors
from graffiti.cli import common

HELP = "compare the Keras model and every executor, tensor by tensor"
_SUFFIXES = (".json", ".txt")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a quantized .keras file, or a .graffiti file (then the executors only)")
    parser.add_argument("--graph", help="a .graffiti file lowered from the model; lowered anew by default")
    common.add_data(parser, "--data", "inputs")
    parser.add_argument(
        "--targets", default="reference,native,python",
        help=f"comma-separated: {', '.join(executors.EXECUTORS)}, ... (an unknown one lists all)")
    parser.add_argument(
        "--out", "--output", "--report", dest="out",
        help="also write the certificate to this file: .json, or .txt for its text form"
    )
    parser.add_argument("--timestamp", action="store_true", help="write the time (UTC) into the certificate")
    parser.add_argument("--overwrite", action="store_true", help="replace the certificate where it exists")


def run(args: argparse.Namespace) -> common.Result:
    """Verify; 1 where anything differs or could not be compared."""
    import datetime

    import graffiti
    from graffiti import files

    if args.out:
        if not args.out.endswith(_SUFFIXES):
            raise ValueError(f"--out names a {' or '.join(_SUFFIXES)} file, got {args.out}")
        files.check_free(args.out, overwrite=args.overwrite)
    if args.model.endswith(".graffiti"):
        if args.graph:
            raise ValueError(
                f"{args.model} is an integer graph already; give the .keras model with --graph, or no --graph"
            )
        q, graph = None, graffiti.IntegerGraph.load(args.model)
    else:
        q = common.load_model(args.model)
        graph = graffiti.IntegerGraph.load(args.graph) if args.graph else common.lowered(q)
    examples = common.load_data(args.data, args.limit, graph)
    stamp = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds") if args.timestamp else ""
    report = graffiti.verify(
        q, graph, examples.inputs, [target.strip() for target in args.targets.split(",")], timestamp=stamp
    )
    if args.out:
        if args.out.endswith(".txt"):
            with files.atomic_file(args.out, overwrite=args.overwrite) as temporary:
                pathlib.Path(temporary).write_text(f"{report}\n", encoding="utf-8")
        else:
            report.save(args.out, overwrite=args.overwrite)
    return report.to_config(), str(report) + (f"\nwrote {args.out}" if args.out else ""), 0 if report.ok else 1
