"""``check``: everything that must hold of one pass on one hand-written graph."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult, snapshot
from graffiti.graph.printer import parse, to_text
from graffiti.graph.verify import verify_graph


def _same_function(
    before: Graph, after: Graph, tolerance: float = 1e-5, *, count: int = 3, scale: float = 1.0, island=None
) -> None:
    rng = np.random.RandomState(7)
    inputs = [
        scale * rng.normal(size=(count, *(6 if n is None else n for n in before.shape(name)[1:])))
        for name in before.inputs
    ]
    assert after.inputs == before.inputs and after.interface == before.interface
    results = run_float(before, inputs, island=island), run_float(after, inputs, island=island)
    for name, expected, got in zip(before.outputs, *results, strict=True):
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * largest, err_msg=f"output {name}")


@pytest.fixture
def same_function():
    """``same_function(before, after)``: both graphs give the same outputs on random inputs."""
    return _same_function


@pytest.fixture
def check():
    """``check(pass, before, after=None)``: text in, text out; ``after=None`` for a graph the pass leaves alone.

    The input graph stays as it is, the result is valid and as written, ``modified`` is honest, a second run changes
    nothing, and the function is the same.
    """
    def run(
        step: Pass, before: str, after: str | None = None, constants: dict[str, np.ndarray] | None = None
    ) -> PassResult:
        graph = parse(before)
        verify_graph(graph)
        original = snapshot(graph)
        result = step(graph)
        assert snapshot(graph) == original, "the pass changed its input"
        verify_graph(result.graph)
        expected = graph if after is None else parse(after, constants)
        assert _lines(result.graph) == _lines(expected)
        assert snapshot(result.graph) == snapshot(expected)
        assert result.modified == (after is not None)
        again = step(result.graph)
        assert not again.modified and snapshot(again.graph) == snapshot(result.graph)
        assert again.notes == result.notes
        _same_function(graph, result.graph)
        return result

    def _lines(graph: Graph) -> list[str]:
        lines = to_text(graph).splitlines()
        declared = [line for line in lines if line.startswith("const ")]
        return [line for line in lines if line not in declared] + sorted(declared)

    return run
