"""``graffiti export``: the integer graph as files for another tool or chip."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from graffiti import documents
from graffiti.cli import common

if TYPE_CHECKING:
    from graffiti.export import WriteOption

HELP = "write the integer graph for another tool or chip"
GRAPH = "graffiti"  # the integer graph itself


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of ``write`` come from the exporters' rows."""
    from graffiti.export import EXPORTERS

    folders = [f"{name} (a folder)" if not row.suffix else name for name, row in EXPORTERS.items()]
    parser.add_argument("model", help="a quantized .keras file or a .graffiti file")
    parser.add_argument("--format", default="c", help=f"{', '.join(folders)}, or {GRAPH} for the integer graph itself")
    parser.add_argument("--target", help="also hold the graph against a target profile: a name or the path of a YAML "
                                         "or JSON file")
    for name, (formats, option) in write_options().items():
        help = f"{', '.join(formats)}: {option.help}"
        if option.kind == "data":
            common.add_data(parser, f"--{name}", help, required=False)
        else:
            parser.add_argument(f"--{name}", type=common.positive if option.kind == "size" else str, help=help)
    common.add_output(parser, "the folder or file to write")


def write_options() -> dict[str, tuple[list[str], WriteOption]]:
    """Keyword of ``write`` → the formats that have it, and how it is offered."""
    from graffiti.export import EXPORTERS

    found: dict[str, tuple[list[str], WriteOption]] = {}
    for row in EXPORTERS.values():
        for name, option in row.options.items():
            found.setdefault(name, ([], option))[0].append(row.name)
    return found


def run(args: argparse.Namespace) -> common.Result:
    """Lower, check, write."""
    from graffiti import export, files, targets

    formats = [*export.EXPORTERS, GRAPH]
    if args.format not in formats:
        raise ValueError(
            f"there is no export format {args.format!r}{documents.nearest(args.format, formats)}; the formats are "
            f"{', '.join(formats)}"
        )
    files.check_free(args.output, overwrite=args.overwrite)
    suffix = f".{GRAPH}" if args.format == GRAPH else export.get(args.format).suffix
    if not args.output.endswith(suffix):
        raise ValueError(f"--output of the format {args.format} names a {suffix} file, got {args.output}")
    known = write_options()
    options = _options(args, known)
    if args.target is not None:
        targets.get(args.target)
        if args.format == GRAPH:
            raise ValueError("--target is for the formats of other tools; a .graffiti file holds any graph")
    graph = common.load_graph(args.model)
    for name in options:
        if known[name][1].kind == "data":
            options[name] = common.load_data(options[name], args.limit, graph).inputs
    with common.busy(f"exporting {args.format}"):
        if args.format == GRAPH:
            graph.save(args.output, overwrite=args.overwrite)
            written = [args.output]
        else:
            written = [
                str(path)
                for path in graph.export(
                    args.output, format=args.format, target=args.target, overwrite=args.overwrite, **options
                )
            ]
    sizes = {path: os.path.getsize(path) for path in written}
    result = {"format": args.format, "target": args.target, "sha256": graph.digest(), "files": written, "bytes": sizes}
    return result, "\n".join(f"wrote {path} ({size:,} bytes)" for path, size in sizes.items()), 0


def _options(args: argparse.Namespace, known: dict[str, tuple[list[str], WriteOption]]) -> dict[str, Any]:
    """The exporter's own options; those of another format are refused."""
    given = {name: getattr(args, name) for name in known if getattr(args, name) is not None}
    for name in given:
        if args.format not in known[name][0]:
            formats = " and ".join(known[name][0])
            raise ValueError(f"--{name} is an option of the format {formats}, not of {args.format}")
    return given
