"""The exceptions of graffiti, all in one place. Everything else it raises is Python's own, with one sentence.

| exception | raised by | attributes |
|---|---|---|
| `AccumulatorOverflow` (ValueError) | `to_integer` | `overflows`: `Overflow(layer, op, bound)` each; `bits` |
| `TargetError` (ValueError) | `quantize`, `to_integer` with `target=` | `target`; `problems`, see `Problem` |
| `ExportError` (ValueError) | `IntegerGraph.export` | `format`; `problems`, see `Problem` |
| `GraphError` (ValueError) | what makes or takes a graph that breaks an invariant | `faults`: one sentence each |
| `KernelError` (ValueError) | a call into the native library | none: the message is the library's |
| `KernelsNotAvailable` (ImportError) | the native runner without its library | none: the message says how to build |
| `OpsNotAvailable` (ImportError) | TensorFlow ops without their library | none: the message says how to build |
| `Unavailable` (Exception) | an executor that cannot run here | none: the message says what is missing |

`verify` and `bench` call an executor that raises `Unavailable` skipped. A `Problem` has `layer`, `op`, `reason` and
`fix`.
"""

from graffiti.executors import Unavailable
from graffiti.export.base import ExportError
from graffiti.graph.problem import Problem
from graffiti.graph.verify import GraphError
from graffiti.ops.loader import OpsNotAvailable
from graffiti.runtime.library import KernelError, KernelsNotAvailable
from graffiti.targets import TargetError
from graffiti.transforms.lower.prove_accumulators import AccumulatorOverflow, Overflow

__all__ = [
    "AccumulatorOverflow", "ExportError", "GraphError", "KernelError", "KernelsNotAvailable", "OpsNotAvailable",
    "Overflow", "Problem",
    "TargetError", "Unavailable",
]
