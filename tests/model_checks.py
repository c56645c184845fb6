"""What tests of Keras models share."""

from __future__ import annotations

import keras
import numpy as np


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype:
            low = 0.5 if "variance" in weight.path else -0.5
            weight.assign(rng.uniform(low, 1.5 if low > 0 else 0.5, weight.shape))
    return model


def same_graph(got, expected) -> None:
    """Equal nodes up to order and the text of islands, equal constants, equal ends."""
    def nodes(graph):
        return {
            n.name: (
                n.op, n.inputs, n.outputs, {} if n.op == "island" else {k: v for k, v in n.attrs.items() if k != "seed"}
            )
            for n in graph.nodes
        }

    assert (
        (got.stage, got.name, got.inputs, got.outputs, got.interface)
        == (expected.stage, expected.name, expected.inputs, expected.outputs, expected.interface)
    )
    assert nodes(got) == nodes(expected)
    assert got.constants.keys() == expected.constants.keys()
    assert all(np.array_equal(got.constants[name], expected.constants[name]) for name in expected.constants)


def assert_same(got, expected) -> None:
    """Equal arrays, one by one: two lists, or two dicts by name."""
    assert len(got) == len(expected)
    for name in expected if isinstance(expected, dict) else range(len(expected)):
        np.testing.assert_array_equal(got[name], expected[name], err_msg=str(name))
