"""Proves the exported C equal on emulated machines: every tensor of the three MLPerf Tiny networks, on real inputs.

    python tools/verify_targets.py --shared=../shared
    python tools/verify_targets.py --shared=../shared --models=resnet8_cifar10 --schemes=int8 --targets=c:cortex-m4 --count=50

Needs arm-none-eabi-gcc, aarch64-linux-gnu-gcc, riscv64-linux-gnu-gcc and QEMU for the targets that are asked for. Prints a
Markdown table; exit code 1 where one integer differs or a target could not be run.
"""

from __future__ import annotations

import pathlib
import sys
import time

import chip_models
from absl import app, flags

import graffiti

_SHARED = flags.DEFINE_string("shared", "../shared", "folder that holds models/ and data/")
_MODELS = flags.DEFINE_list("models", list(chip_models.MODELS), "which networks")
_SCHEMES = flags.DEFINE_list("schemes", ["int8", "int8_per_channel", "int4"], "which schemes")
_TARGETS = flags.DEFINE_list("targets", ["c:fused", "c:cortex-m3", "c:cortex-m4", "c:cortex-m55", "c:aarch64", "c:riscv64"], "as in graffiti.verify")
_COUNT = flags.DEFINE_integer("count", 500, "inputs for each network")


def main(_) -> None:
    print("| network | scheme | target | inputs | tensors | integers compared | unequal |\n|---|---|---|---|---|---|---|", flush=True)
    failed = False
    for name in _MODELS.value:
        calibration, inputs = chip_models.inputs(name, pathlib.Path(_SHARED.value), _COUNT.value)
        for scheme in _SCHEMES.value:
            ig = chip_models.integer_graph(name, scheme, pathlib.Path(_SHARED.value), calibration)
            start = time.perf_counter()
            report = graffiti.verify(None, ig, inputs, _TARGETS.value, batch_size=100, progress=False)
            for target in report.targets:
                results = [result for result in report.results if result.target == target]
                compared, unequal = sum(r.compared for r in results), sum(r.unequal for r in results)
                print(f"| {name} | {scheme} | {target} | {report.examples} | {len(results)} | {compared:,} | {unequal} |", flush=True)
            for target, why in report.skipped.items():
                print(f"{name}, {scheme}, {target}: {why}", file=sys.stderr)
            print(f"{name}, {scheme}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            failed |= not report.ok
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
