"""``graffiti lower``: a quantized model as integers, with the proof that no accumulator overflows."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from graffiti.cli import common

HELP = "quantized Keras model → integer graph, with the proof that no accumulator overflows"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a quantized .keras file")
    parser.add_argument(
        "--target",
        help="what the graph is for: a target profile's name or the path of a YAML or JSON file; refuse what it "
             "cannot hold"
    )
    common.add_output(parser, "the .graffiti file to write")


def run(args: argparse.Namespace) -> common.Result:
    """Lower, check, save."""
    from graffiti import targets

    common.check_output(args, ".graffiti")
    if args.target is not None:
        targets.get(args.target)
    graph = common.lowered(common.load_model(args.model), args.target)
    graph.save(args.output, overwrite=args.overwrite)
    ops = Counter(node.op for node in graph.graph.nodes)
    size, digest = os.path.getsize(args.output), graph.digest()
    result = {
        "output": args.output, "bytes": size, "sha256": digest, "target": args.target, "nodes": sum(ops.values()),
        "islands": ops["island"]
    }
    floats = f", {ops['island']} of them in float" if ops["island"] else ""
    return result, f"{sum(ops.values())} nodes{floats}, sha256 {digest}\nwrote {args.output} ({size:,} bytes)", 0
