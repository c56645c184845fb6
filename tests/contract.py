"""What every executor keeps, for any test: its integers are the reference's, with ``==``, and it shows what it says."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti import executors
from graffiti.executors import EVERY, Unavailable
from graffiti.export.base import ExportError
from graffiti.export.litert.runner import NotTaken
from graffiti.graph import interpreter
from graffiti.verification.values import EXACT, FLOAT, SOFTMAX_ERROR, Values, comparable

STORED = ("quantize", "requantize", "lookup", "average_pool")  # what comes out of them lies in a runtime's memory ...
FUSING = ("native", "c")  # ... but of these, which make a rounding a part of the step before it


class Refused(Exception):
    """An executor has no form for a graph, and said so before anything ran."""


def start(word, graph, threads=None):
    """The row, the option and the running graph of a target; skips where it cannot run here.

    Raises:
        Refused: with the words of an executor that does not take the graph.
    """
    row, option = executors.split(word)
    try:
        return row, option, row.run(graph, None, option, threads)
    except Unavailable as why:
        if isinstance(why.__cause__, (ExportError, NotTaken)):
            raise Refused(str(why)) from why
        pytest.skip(f"{word}: {why}")


def assert_equal(graph, got, expected, who="", bounds=()):
    """An executor's tensors are the reference's.

    Args:
        graph: of stage ``integer``.
        got: name → array.
        expected: the reference's values, by name.
        who: for messages.
        bounds: tensor of codes → steps that it may be off, stated before anything ran.

    Returns:
        Tensor → the largest difference in steps, of all codes that were compared.
    """
    values, worst = Values.of(graph), {}
    bounds = dict(bounds)
    for name, array in got.items():
        kind = values.kinds.get(name)
        if name not in expected or name in graph.inputs or kind == FLOAT:
            continue
        behind = any(code in bounds for code in values.ends.get(name, ()))
        if kind != EXACT:  # a softmax: its exponential is each runtime's own
            off = np.abs(array - expected[name]).max(initial=0)
            assert behind or off <= SOFTMAX_ERROR, f"{who} {name}: the softmax is off by {off}"
            continue
        want, have = comparable(graph.format(name), expected[name], array)
        assert want.shape == have.shape, f"{graph.name} {who} {name}: shape {have.shape}, expected {want.shape}"
        if graph.format(name) is None and behind:
            continue
        far = np.abs(want.astype(np.float64) - have)
        if graph.format(name) is not None:
            worst[name] = int(far.max(initial=0))
        unequal = np.argwhere(far > bounds.get(name, 0))
        place = tuple(unequal[0]) if len(unequal) else ()
        assert not len(unequal), (
            f"{graph.name} {who} {name}: {len(unequal)} differ by more than {bounds.get(name, 0)}, first at {place}: "
            f"expected {want[place]}, got {have[place]}")
    assert worst, f"{graph.name} {who}: nothing was compared"
    return worst


def assert_contract(word, graph, inputs, expected=None):
    """One target on one graph: equal within what it stated, complete as its row says, and the outputs are its tensors.

    Args:
        word: a target, as for ``verify``.
        graph: of stage ``integer``.
        inputs: in the order of the graph's.
        expected: the reference's values, where they are known already.

    Returns:
        As ``assert_equal``.

    Raises:
        Refused: as ``start``.
    """
    row, option, running = start(word, graph)
    expected = interpreter.run(graph, inputs, values=True) if expected is None else expected
    bounds = {} if row.bounds is None else {tensor: steps for tensor, (steps, _) in row.bounds(graph, option).items()}
    shown = running.run_all(inputs)
    worst = assert_equal(graph, shown, expected, word, bounds)
    values = Values.of(graph)
    unproven = [output for output in graph.outputs if values.uncompared(output, {*shown})]
    assert not unproven, f"{word}: {unproven} do not follow from what it shows"
    everything = {out for node in graph.nodes for out in node.outputs}
    stored = {node.output for node in graph.nodes if node.op in STORED}
    assert (everything if row.shown(option) == EVERY else set() if row.name in FUSING else stored) <= {*shown}
    if row.predicts:
        for name, array in zip(graph.outputs, running.run(inputs), strict=True):
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
    return worst
