"""Executors: everything that can run an integer graph, one row each.

``verify``, ``IntegerGraph.predict``, ``benchmark`` and the command line read this table, and
``tests/executors/test_contract.py`` runs every op's cases through every row. A new executor is a function in
``rows.py`` and a row here.
"""

from __future__ import annotations

from graffiti.executors import rows, timed
from graffiti.executors.executor import EVERY, STORED, Executor, Option, Package, Running, Unavailable, known
from graffiti.export import EXPORTERS
from graffiti.export.c.boards import BOARDS
from graffiti.runtime import library

_MICRO = Package("tflite-micro", "tflite_micro.python.tflite_micro.runtime")
_TIERS = library.TIERS[1:]  # without auto

EXECUTORS: dict[str, Executor] = {row.name: row for row in (
    Executor("reference", "the numpy reference", rows.reference, shows=EVERY, predicts=True),
    Executor("native", "the program runner", rows.native, dict.fromkeys(_TIERS, Option()), rows.tiers, predicts=True),
    Executor("ops", "the TensorFlow op library", rows.ops, dict.fromkeys(_TIERS, Option()), shows=EVERY, predicts=True),
    Executor("python", "pure TensorFlow", rows.python, shows=EVERY, predicts=True),
    Executor(
        "c", "the exported C", rows.c, dict.fromkeys(("fused", "unfused", *BOARDS), Option()),
        lambda: ("fused", "unfused")
    ),
    Executor(
        "litert", "LiteRT", rows.litert,
        {name: Option((_MICRO,) if name == "micro" else ()) for name in rows.LITERT_FILES},
        lambda: ("xnnpack",), (*EXPORTERS["litert"].packages, Package("ai-edge-litert", "ai_edge_litert.interpreter")),
        bounds=rows.litert_bounds, timed=timed.litert),
    Executor(
        "onnx", "ONNX Runtime", rows.onnx, dict.fromkeys(rows.ONNX_FILES, Option()), lambda: ("plain", "optimized"),
        (*EXPORTERS["onnx"].packages, Package("onnxruntime", "onnxruntime")),
        bounds=rows.onnx_bounds, timed=timed.onnx),
    Executor(
        "qonnx", "the qonnx executor", rows.qonnx,
        packages=(*EXPORTERS["qonnx"].packages, Package("qonnx", "qonnx.core.onnx_exec"))),
)}


def words() -> list[str]:
    """Every target's name, options included."""
    return [word for row in EXECUTORS.values() for word in row.words]


def split(target: str) -> tuple[Executor, str]:
    """The row and the option of ``executor`` or ``executor:option``.

    Raises:
        ValueError: lists the names where there is none such.
    """
    name, colon, option = target.partition(":")
    if target not in words():
        raise ValueError(f"verify knows the targets {', '.join(words())}, got {target!r}")
    return EXECUTORS[name], option


__all__ = [
    "EVERY", "EXECUTORS", "STORED", "Executor", "Option", "Package", "Running", "Unavailable", "known", "split", "words"
]
