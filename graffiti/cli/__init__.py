"""The command line: the verbs of ``graffiti/api.py``, one subcommand and one file each.

    graffiti quantize model.keras --calibration=images.npz --output=net.keras
    graffiti retrain net.keras --train=train.npz --epochs=3 --output=retrained.keras
    graffiti lower retrained.keras --output=net.graffiti
    graffiti verify retrained.keras --data=images.npz --targets=reference,native,python,c --out=certificate.json
    graffiti export retrained.keras --format=c --output=net_c
    graffiti inspect model.keras --target=cortex_m
    graffiti report retrained.keras --data=images.npz --output=report.html
    graffiti bench retrained.keras --keras=model.keras

Every command exits with 0 only when it did what it says (1: it ran, and the answer is no; 2: it could not), never
overwrites a file unless ``--overwrite``, and with ``--json`` prints one JSON object on standard output (progress and
messages go to standard error). ``graffiti/docs/cli`` has a page for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from types import ModuleType

from absl import app
from absl.flags import argparse_flags

from graffiti.cli import bench, export, inspect, lower, quantize, report, retrain, verify
from graffiti.graph.passes import PassError

# A command is a module with HELP (one line), add_options(parser) and run(arguments) -> (what --json prints, text, exit
# code).
COMMANDS: dict[str, ModuleType] = {
    "quantize": quantize,
    "retrain": retrain,
    "lower": lower,
    "verify": verify,
    "export": export,
    "inspect": inspect,
    "report": report,
    "bench": bench,
}


def make_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse_flags.ArgumentParser(
        prog="graffiti", description="A Keras 3 model in, fixed point out, proven equal bit for bit.",
        allow_abbrev=False
    )
    # Only the program itself has absl's flags: a recipe that imports this may define a --scheme as well.
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False, inherited_absl_flags=None
        )
        module.add_options(command)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        command.set_defaults(run=module.run)
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The subcommand and its options."""
    return make_parser().parse_args(argv[1:])


def run(args: argparse.Namespace) -> int:
    """Run one parsed command; print; return the exit code."""
    try:
        result, text, code = args.run(args)
    except PassError:  # a mistake in graffiti, which its traceback helps to find; so are a TypeError and its like
        raise
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        message = " ".join(str(error).split())
        problems = [
            {"layer": p.layer, "op": p.op, "reason": p.reason, "fix": p.fix} for p in getattr(error, "problems", ())
        ]
        if args.json:
            print(json.dumps({"error": message, **({"problems": problems} if problems else {})}))
        else:
            print(f"graffiti {args.command}: {str(error) if problems else message}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if args.json else text)
    return code


def main() -> None:
    """Entry point of the ``graffiti`` command."""
    app.run(run, flags_parser=parse_arguments)
