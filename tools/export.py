"""A model or graph file in, any format out: ``graffiti export`` from a checkout.

    python tools/export.py retrained.keras --format=onnx --output=net.onnx
    python tools/export.py net.graffiti --format=c --output=net_c --test_inputs=images.npz --limit=4
    python tools/export.py net.graffiti --format=onnx --exact=anywhere --weights=int8 --output=chip.onnx

Takes a quantized ``.keras`` file or a ``.graffiti`` file; ``--help`` lists the formats and their options
(``graffiti/docs/cli/export.md``).
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from graffiti import cli  # noqa: E402


def main() -> int:
    """The exit code of ``graffiti export``."""
    return cli.run(cli.parse_arguments(["graffiti", "export", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
