"""Exports the three MLPerf Tiny networks to every format and proves the files equal to the integer graph: every tensor,
on real inputs.

    python tools/verify_targets.py --shared=../shared
    python tools/verify_targets.py --models=random --schemes=int8,int8_per_channel
    --targets=c:fused,onnx,qonnx,litert:float32 python tools/verify_targets.py --shared=../shared
    --models=resnet8_cifar10 --schemes=int8 --targets=c:cortex-m4 --count=50

Needs arm-none-eabi-gcc, aarch64-linux-gnu-gcc, riscv64-linux-gnu-gcc and QEMU for the emulated targets. Prints two
Markdown tables: integers, then bytes of the exported files and the seconds that each target took. Exit code 1 where a
verdict is ``failed``: an integer differs that no bound names, or a target could not be run.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time

import chip_models
import random_models
from absl import app, flags

import graffiti
from graffiti.export import EXPORTERS

_SHARED = flags.DEFINE_string("shared", "../shared", "folder that holds models/ and data/")
_MODELS = flags.DEFINE_list("models", list(chip_models.MODELS), "which networks; random stands for the ten of "
                                                                "random_models.py")
_SCHEMES = flags.DEFINE_list("schemes", ["int8", "int8_per_channel", "int4"], "which schemes")
_TARGETS = flags.DEFINE_list(
    "targets",
    [
        "native", "c:fused", "onnx", "qonnx", "litert:xnnpack", "litert:builtin", "litert:float32", "c:cortex-m3",
        "c:cortex-m4", "c:cortex-m55", "c:aarch64", "c:riscv64"
    ],
    "as in graffiti.verify"
)
_COUNT = flags.DEFINE_integer("count", 500, "inputs for each network")


def sizes(ig: graffiti.IntegerGraph) -> dict[str, int]:
    """Bytes of each export; of C the constants of the network (``.weights`` and biases as they lie in flash)."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, row in EXPORTERS.items():
            path = pathlib.Path(folder) / f"{format}{row.suffix}"
            ig.export(path, format=format)
            if row.suffix:
                found[format] = path.stat().st_size
    costs = graffiti.cost(ig)
    return {"c constants": round(costs.weight_bytes + costs.bias_bytes), **found}


def main(_) -> None:
    print("| network | scheme | target | inputs | tensors | integers compared | unequal | worst | same class | verdict "
          "|\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    failed, second = False, []
    for name in [
        n for given in _MODELS.value
        for n in ([f"random_{i}" for i in range(random_models.COUNT)] if given == "random" else [given])
    ]:
        calibration, inputs = chip_models.inputs(name, pathlib.Path(_SHARED.value), _COUNT.value)
        for scheme in _SCHEMES.value:
            ig = chip_models.integer_graph(name, scheme, pathlib.Path(_SHARED.value), calibration)
            begin = time.perf_counter()
            bytes_of = sizes(ig)
            seconds = {"export": time.perf_counter() - begin}
            for asked in _TARGETS.value:
                begin = time.perf_counter()
                report = graffiti.verify(None, ig, inputs, [asked], batch_size=100, progress=False)
                seconds[asked] = time.perf_counter() - begin
                for target in report.targets:
                    results = [result for result in report.results if result.target == target]
                    compared, unequal, worst = (
                        sum(r.compared for r in results), sum(r.unequal for r in results),
                        max(r.worst for r in results if ig.graph.format(r.tensor) is not None)
                    )
                    same = f"{report.top1[target] / report.examples:.2%}" if target in report.top1 else ""
                    print(f"| {name} | {scheme} | {target} | {report.examples} | {len(results)} | {compared:,} | "
                          f"{unequal:,} | {worst} | {same} | {report.verdict} |", flush=True)
                for target, why in report.skipped.items():
                    print(f"{name}, {scheme}, {target}: {why}", file=sys.stderr, flush=True)
                failed |= report.verdict == "failed"
            sized = ", ".join(f"{format} {count:,}" for format, count in bytes_of.items())
            second.append(
                f"| {name} | {scheme} | {sized} | "
                f"{', '.join(f'{target} {spent:.1f}' for target, spent in seconds.items())} |"
            )
    print(
        "\n| network | scheme | bytes | seconds (verify includes the export and the reference) |\n|---|---|---|---|\n"
        + "\n".join(second)
    )
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
