"""``graffiti inspect``: what a model holds, what quantize would do with it, and what of it a target cannot take."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from graffiti.cli import common

HELP = "say what a model holds, what quantize would do with it, and what of it will not map to a target"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a float or quantized .keras file, a Keras 2 .h5 file, or a .graffiti file")
    parser.add_argument(
        "--target",
        help="a target profile's name or the path of a YAML or JSON file: list what will not map to it, why, and what "
             "would fix it"
    )
    parser.add_argument("--scheme", help="for a float model: the scheme to try; default: the target's, else int8")
    parser.add_argument(
        "--recipe",
        help="for a float model: a recipe's name or file, instead of --scheme; its rules and target hold too"
    )


def run(args: argparse.Namespace) -> common.Result:
    """Look; 1 where a target is given and something does not map to it."""
    import graffiti
    from graffiti.keras_io.read import read

    scheme, rules, target = args.scheme, None, args.target
    if args.recipe is not None:
        if args.scheme is not None:
            raise ValueError("--recipe names a scheme already; give --recipe or --scheme, not both")
        recipe = graffiti.recipes.get(args.recipe)
        scheme, rules, target = recipe.scheme, recipe.rules, target if target is not None else recipe.target
    if target is not None:
        graffiti.targets.get(target)
    if args.model.endswith(".graffiti"):
        integer = graffiti.IntegerGraph.load(args.model)
        summary: list[str] = []
        integer.summary(summary.append)
        return _finish(
            graffiti.inspect(integer, target), {"sha256": integer.digest(), "nodes": len(integer.graph.nodes)},
            "\n".join(summary)
        )
    model = common.load_model(args.model)
    with common.busy("inspecting"):
        inspection = graffiti.inspect(model, target, scheme=scheme, rules=rules)
        graph = read(model)
    if inspection.stage == "float":
        lines = [dataclasses.asdict(line) for line in inspection.lines]
        text = f"a float model; under {inspection.scheme}:\n{graffiti.QuantizationReport(inspection.lines)}"
        return _finish(inspection, {"scheme": inspection.scheme, "would": lines}, text)
    rows = list(_quantizers(graph))
    text = "\n".join(f"{name:<40} {role:<12} {bits:<5} {shown}" for name, role, bits, shown in rows)
    return _finish(
        inspection, {"quantizers": [dict(zip(("name", "role", "format", "threshold"), row)) for row in rows]}, text
    )


def _quantizers(graph):
    for node in graph.nodes:
        if node.op == "fake_quantize":
            log2 = node.attrs["log2_threshold"]
            shown = (
                "not calibrated" if log2 is None
                else f"log2_threshold {min(log2):.3f}" + (f" … {max(log2):.3f}" if len(log2) > 1 else "")
            )
            yield node.name, node.attrs["role"], f"{'s' if node.attrs['signed'] else 'u'}{node.attrs['bits']}", shown


def _finish(inspection, holds: dict[str, Any], text: str) -> common.Result:
    """The target's part behind what the model holds."""
    result = {"stage": inspection.stage, **holds}
    if inspection.target is None:
        return result, text, 0
    result.update({
        "target": inspection.target, "ok": inspection.ok,
        "problems": [dataclasses.asdict(problem) for problem in inspection.problems],
        "unchecked": list(inspection.unchecked),
    })
    return result, f"{text}\n\n{dataclasses.replace(inspection, lines=())}", 0 if inspection.ok else 1
