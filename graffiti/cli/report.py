"""``graffiti report``: one self-contained HTML file about a quantized model."""

from __future__ import annotations

import argparse

from graffiti.cli import common

HELP = "write one self-contained HTML file: accuracies, layers, thresholds, costs, the certificate"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a quantized .keras file")
    common.add_data(parser, "--data", "inputs, with labels for the accuracies")
    parser.add_argument(
        "--float_model", help="the float .keras or .h5 file that it was quantized from, to compare with"
    )
    parser.add_argument("--history", help="a JSON file that graffiti retrain --history wrote")
    parser.add_argument(
        "--verification", help="a certificate (.json) that graffiti verify --out wrote; made anew by default"
    )
    parser.add_argument(
        "--nosensitivity", action="store_true",
        help="leave the sensitivity out: a run of the network in numpy for each quantizer"
    )
    common.add_output(parser, "the .html file to write")


def run(args: argparse.Namespace) -> common.Result:
    """Load everything, then ``graffiti.report``."""
    import os

    import graffiti

    common.check_output(args, ".html")
    history = None
    if args.history is not None:
        if not os.path.isfile(args.history):
            raise FileNotFoundError(
                f"there is no file {args.history}; expected one written by graffiti retrain --history"
            )
        history = graffiti.callbacks.ThresholdHistory()
        history.load(args.history)
    verification = None
    if args.verification is not None:
        if not os.path.isfile(args.verification):
            raise FileNotFoundError(
                f"there is no file {args.verification}; expected one written by graffiti verify --out"
            )
        verification = graffiti.VerificationReport.load(args.verification)
    q = common.load_model(args.model)
    float_model = None if args.float_model is None else common.load_model(args.float_model)
    examples = common.load_data(args.data, args.limit, q)
    with common.busy("report"):
        graffiti.report(
            q, examples.inputs, path=args.output, labels=examples.labels, float_model=float_model, history=history,
            verification=verification,
            sensitivity=not args.nosensitivity, overwrite=args.overwrite, progress=False,
        )
    size = os.path.getsize(args.output)
    return {"output": args.output, "bytes": size, "examples": len(examples)}, f"wrote {args.output} ({size:,} bytes)", 0
