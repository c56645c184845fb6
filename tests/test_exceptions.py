"""The exceptions that are public: what they are, what they hold, and that the page of them says so."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

import graffiti
from graffiti import exceptions
from graffiti.graph.ir import Graph
from graffiti.graph.verify import verify_graph

RAISED = [name for name in exceptions.__all__ if issubclass(getattr(exceptions, name), BaseException)]


@pytest.mark.parametrize("name", RAISED)
def test_the_page_names_class_base_and_attributes(name):
    kind = getattr(exceptions, name)
    (row,) = [line for line in exceptions.__doc__.splitlines() if line.startswith(f"| `{name}`")]
    assert f"({kind.__bases__[0].__name__})" in row
    documented = re.findall(r"^        (\w+): ", (kind.__doc__ or "").partition("Attributes:")[2], re.MULTILINE)
    assert all(f"`{attribute}`" in row for attribute in documented)
    assert bool(documented) == ("none" not in row)


@pytest.mark.parametrize("name", ["AccumulatorOverflow", "ExportError", "TargetError", "Unavailable"])
def test_the_common_ones_are_at_the_top(name):
    assert getattr(graffiti, name) is getattr(exceptions, name)


def network(width: int = 4) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((width,))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(inputs))


def test_what_they_hold():
    model, x = network(), np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    wide = graffiti.QuantizerSpec(16)
    with pytest.raises(graffiti.TargetError) as target:
        graffiti.quantize(model, graffiti.Scheme(wide, wide), x, target="cortex_m", progress=False)
    assert target.value.target == "cortex_m" and target.value.problems
    assert all(
        isinstance(problem, exceptions.Problem) and problem.layer and problem.fix for problem in target.value.problems
    )

    with pytest.raises(graffiti.ExportError) as export:
        graffiti.to_integer(
            graffiti.quantize(model, graffiti.Scheme(wide, wide), x, progress=False)
        ).export("never", format="litert")
    assert (
        export.value.format == "litert"
        and all(isinstance(problem, exceptions.Problem) for problem in export.value.problems) and export.value.problems
    )

    large = graffiti.quantize(
        network(40_000), graffiti.Scheme(wide, wide), np.ones((4, 40_000), np.float32), progress=False
    )
    large.get_layer("head").kernel.assign(np.full((40_000, 3), 0.05, np.float32))
    with pytest.raises(graffiti.AccumulatorOverflow) as overflow:
        graffiti.to_integer(large)
    (found,) = overflow.value.overflows
    assert overflow.value.bits == 32 and found.layer == "head" and found.bound > 2**31

    with pytest.raises(exceptions.GraphError) as graph:
        verify_graph(Graph("integer", inputs=["x"], outputs=["nothing"]))
    assert graph.value.faults and all(isinstance(fault, str) for fault in graph.value.faults)
