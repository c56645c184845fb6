"""``prepare`` on every model of the zoo and on real models: same function, and what place builds on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.ops import OPS
from graffiti.graph.passes import snapshot
from graffiti.graph.verify import verify_graph
from graffiti.keras_io.islands import IslandRunner
from graffiti.keras_io.read import read
from graffiti.transforms.pipelines import prepare


def promised(graph, islands: bool = False) -> None:
    """What place builds on."""
    verify_graph(graph)
    for node in graph.nodes:
        assert "fakequant" in OPS[node.op].stages, node
        assert node.op not in ("identity", "batch_norm") and (islands or node.op != "island")
    assert not graph.copy().prune(), "something dead is left"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("factory", zoo.ZOO, ids=lambda factory: factory.__name__)
def test_zoo(same_function, factory, training):
    graph = read(zoo.make(factory))
    before = snapshot(graph)
    after = prepare(graph, training=training)
    assert snapshot(graph) == before
    promised(after, islands=factory is zoo.islands)
    same_function(graph, after, 2e-5, island=IslandRunner(graph))
    again = prepare(after, training=training)
    assert snapshot(again) == snapshot(after)


@pytest.mark.parametrize(
    "name, batch_norms", [("resnet8_cifar10_jpeg.keras", 7), ("mobilenet_v2_small_cifar10_jpeg.keras", 17)]
)
def test_real_models(shared_dir, same_function, name, batch_norms):
    model = keras.models.load_model(shared_dir / "models" / name, compile=False)
    graph = read(model)
    assert sum(node.op == "batch_norm" for node in graph.nodes) == batch_norms
    for training in (True, False):
        after = prepare(graph, training=training)
        promised(after)
        same_function(graph, after, 1e-4, count=2, scale=60.0)
    images = np.random.RandomState(0).randint(0, 256, (2, *model.input_shape[1:])).astype(np.float32)
    (got,) = run_float(prepare(graph), [images])
    np.testing.assert_allclose(got, model.predict(images, verbose=0), atol=1e-3, rtol=1e-3)
