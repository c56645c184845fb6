"""``graffiti quantize``: float Keras model → calibrated fake-quantized Keras model."""

from __future__ import annotations

import argparse
import dataclasses

from graffiti import documents
from graffiti.cli import common

HELP = "float Keras model → calibrated fake-quantized Keras model"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", help="a .keras file, or a Keras 2 .h5 file")
    parser.add_argument("--recipe", help="a recipe's name (int8, int4, ...) or the path of a YAML or JSON file; "
                                         "default: int8")
    parser.add_argument("--scheme", help="instead of a recipe: a preset (int8, int8_per_channel, int4, w4a4, "
                                         "graffitist_int8, ...)")
    parser.add_argument("--target", help="a target profile's name (cortex_m, litert, ...) or the path of a YAML or "
                                         "JSON file: refuse what it cannot hold")
    parser.add_argument("--keep_float", action="append", default=[], metavar="REGEX", help="leave layers whose path "
                                                                                           "matches in float "
                                                                                           "(repeatable)")
    common.add_data(parser, "--calibration", "calibration inputs")
    common.add_output(parser, "the .keras file to write")


def run(args: argparse.Namespace) -> common.Result:
    """Quantize, calibrate, save."""
    import graffiti

    common.check_output(args, ".keras")
    recipe = recipe_of(args)
    model = common.load_model(args.model)
    q = recipe.quantize(model, common.load_data(args.calibration, args.limit, model).inputs)
    common.save_model(q, args)
    scheme = recipe.scheme or (graffiti.targets.get(recipe.target).scheme if recipe.target else "int8")
    lines = [dataclasses.asdict(line) for line in q.quantization_report]
    result = {
        "output": args.output, "scheme": scheme if isinstance(scheme, str) else scheme.name, "recipe": recipe.name,
        "target": recipe.target, "report": lines
    }
    return result, f"{q.quantization_report}\nwrote {args.output}", 0


def recipe_of(args: argparse.Namespace):
    """The recipe of ``--recipe``, or one made of ``--scheme``; with ``--target`` and ``--keep_float`` put in."""
    import graffiti

    if args.recipe is not None and args.scheme is not None:
        raise ValueError("--recipe names a scheme already; give --recipe or --scheme, not both")
    if args.recipe is not None:
        recipe = graffiti.recipes.get(args.recipe)
    else:
        scheme = args.scheme if args.scheme is not None or args.target is not None else "int8"
        if scheme is not None:
            known = graffiti.schemes.names()
            if scheme not in known:
                hint = (
                    "; that one is for low-bit training, graffiti.quantize_training"
                    if scheme in graffiti.schemes.names("low_bit") else ""
                )
                raise ValueError(
                    f"there is no scheme {scheme!r}{documents.nearest(scheme, known)}{hint}; the presets are "
                    f"{', '.join(known)}"
                )
        recipe = graffiti.recipes.Recipe(name="options", scheme=scheme)
    if args.target is not None:
        graffiti.targets.get(args.target)
        recipe = dataclasses.replace(recipe, target=args.target)
    kept = tuple(graffiti.Rule(pattern, None) for pattern in args.keep_float)
    return dataclasses.replace(recipe, rules=(*kept, *recipe.rules))
