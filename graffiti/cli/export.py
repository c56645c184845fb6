"""``graffiti export``: the integer graph as files for another tool or chip."""

from __future__ import annotations

import argparse
import os
from typing import Any

from graffiti import documents
from graffiti.cli import common

HELP = "write the integer graph for another tool or chip"
GRAPH = "graffiti"  # the integer graph itself
SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "qonnx": ".onnx", GRAPH: ".graffiti"}  # c writes a folder
# option -> the formats that have it
OPTIONS: dict[str, tuple[str, ...]] = {
    "test_inputs": ("c",), "name": ("c",), "border": ("litert",), "arithmetic": ("litert",), "batch": ("onnx", "qonnx"),
    "exact": ("onnx",), "weights": ("onnx",),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a quantized .keras file or a .graffiti file")
    parser.add_argument("--format", default="c", help="c (a folder), litert, onnx, qonnx, or graffiti for the integer graph itself")
    parser.add_argument("--target", help="also hold the graph against a target profile: a name or the path of a YAML or JSON file")
    common.add_data(parser, "--test_inputs", "c: inputs stored as test vectors", required=False)
    parser.add_argument("--name", help="c: prefix of all symbols")
    parser.add_argument("--border", help="litert: float (default) or codes in and out")
    parser.add_argument("--arithmetic", help="litert: int8 (default), native, half_up or float32")
    parser.add_argument("--exact", help="onnx: runtime (default: exact in ONNX Runtime's default session) or anywhere (wide sums spelled out, slower)")
    parser.add_argument("--weights", help="onnx: auto (default) or int8 (without zero-points, for chips and CPUs with VNNI)")
    parser.add_argument("--batch", type=common.positive, help="onnx, qonnx: a fixed batch size")
    common.add_output(parser, "the folder or file to write")


def run(args: argparse.Namespace) -> common.Result:
    """Lower, check, write."""
    from graffiti import export, files, targets

    formats = [*export.EXPORTERS, GRAPH]
    if args.format not in formats:
        raise ValueError(f"there is no export format {args.format!r}{documents.nearest(args.format, formats)}; the formats are {', '.join(formats)}")
    files.check_free(args.output, overwrite=args.overwrite)
    suffix = SUFFIXES.get(args.format)
    if suffix is not None and not args.output.endswith(suffix):
        raise ValueError(f"--output of the format {args.format} names a {suffix} file, got {args.output}")
    options = _options(args)
    if args.target is not None:
        targets.get(args.target)
        if args.format == GRAPH:
            raise ValueError("--target is for the formats of other tools; a .graffiti file holds any graph")
    graph = common.load_graph(args.model)
    if "test_inputs" in options:
        options["test_inputs"] = common.load_data(args.test_inputs, args.limit, graph).inputs
    with common.busy(f"exporting {args.format}"):
        if args.format == GRAPH:
            graph.save(args.output, overwrite=args.overwrite)
            written = [args.output]
        else:
            written = [str(path) for path in graph.export(args.output, format=args.format, target=args.target, overwrite=args.overwrite, **options)]
    sizes = {path: os.path.getsize(path) for path in written}
    result = {"format": args.format, "target": args.target, "sha256": graph.digest(), "files": written, "bytes": sizes}
    return result, "\n".join(f"wrote {path} ({size:,} bytes)" for path, size in sizes.items()), 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The exporter's own options; those of another format are refused."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    for name in given:
        if args.format not in OPTIONS[name]:
            raise ValueError(f"--{name} is an option of the format {' and '.join(OPTIONS[name])}, not of {args.format}")
    return given
