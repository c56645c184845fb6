"""Random networks: the fakequant graph in float64 and the integer graph are the same integers on every tensor."""

import networks
import numpy as np
import pytest
from random_networks import random_network

from graffiti import schemes
from graffiti.graph.verify import verify_graph
from graffiti.transforms import pipelines


def island(node, arrays):
    return [(np.tanh(arrays[0]) * np.float32(1.7)).astype(np.float32)]


def data(graph, seed, batch=3):
    random = np.random.default_rng(seed)
    return [
        (random.normal(size=(batch, *graph.shape(name)[1:])) * random.choice([0.3, 1, 4])).astype(np.float32)
        for name in graph.inputs
    ]


def differential(seed: int, scheme: str) -> tuple[int, dict[str, int]]:
    graph = random_network(seed)
    placed, _ = pipelines.place(graph, scheme, unsigned_inputs=graph.inputs[:seed % 2])
    fakequant = networks.calibrate(placed, data(graph, seed), seed, island=island)
    integer = pipelines.lower(fakequant)
    verify_graph(integer)
    kept = [[node.name for node in g.nodes if node.op == "island"] for g in (graph, integer)]
    assert kept[0] == kept[1], f"seed {seed}, {scheme}: layers fell back to float, {kept[1]}"
    wild = [array * 3 for array in data(graph, seed + 1)]  # other data than calibrated on: much saturates
    return networks.unequal(fakequant, integer, wild, island=island)


@pytest.mark.parametrize("scheme", schemes.names())
@pytest.mark.parametrize("block", range(4))
def test_random_networks_agree_on_every_tensor(scheme, block):
    compared = 0
    for seed in range(1000 + 5 * block, 1005 + 5 * block):
        count, differing = differential(seed, scheme)
        assert differing == {}, f"seed {seed}, {scheme}: unequal integers in {differing}"
        compared += count
    assert compared > 50


@pytest.mark.slow
@pytest.mark.parametrize("scheme", schemes.names())
def test_many_random_networks(scheme):
    for seed in range(100):
        _, differing = differential(seed, scheme)
        assert differing == {}, f"seed {seed}, {scheme}: unequal integers in {differing}"
