"""The order of the place passes matters: each neighbour that depends on another, swapped, gives something else or an
error.
"""

import pytest
from networks import Network, mobilenet_block, resnet, short

from graffiti.transforms.place.begin import BeginFakequant
from graffiti.transforms.place.choose_signs import ChooseSigns
from graffiti.transforms.place.commute_relu import CommuteRelu
from graffiti.transforms.place.insert_rescale import InsertRescale
from graffiti.transforms.place.plan import make_plan
from graffiti.transforms.place.quantize_activations import QuantizeActivations
from graffiti.transforms.place.quantize_average_pool import QuantizeAveragePool
from graffiti.transforms.place.quantize_inputs import QuantizeInputs
from graffiti.transforms.place.quantize_layers import QuantizeLayers
from graffiti.transforms.place.quantize_leaky_relu import QuantizeLeakyRelu
from graffiti.transforms.place.share_scales import ShareScales

ORDER = [
    CommuteRelu, QuantizeLayers, QuantizeInputs, QuantizeLeakyRelu, QuantizeAveragePool, QuantizeActivations,
    InsertRescale, ChooseSigns, ShareScales
]


def mixed():
    """A concat of a ReLU and a linear layer, an add behind it, a leaky ReLU, a ReLU behind a pool."""
    net = Network()
    x = net.input((8, 8, 3))
    a = net.relu(net.max_pool(net.conv(x, "a", 4), "a_pool"), "a_relu")
    b = net.leaky_relu(net.conv(x, "b", 4, strides=2), "l")
    return net.output(net.average_pool(net.concat([a, net.conv(b, "c", 2)], "k"), "p", 4))


def place(graph, order):
    plan = make_plan(graph, "graffitist_int8")
    graph = BeginFakequant()(graph).graph
    for step in order:
        graph = step(plan)(graph).graph
    return short(graph)


@pytest.mark.parametrize("earlier, later, network", [
    (CommuteRelu, QuantizeActivations, mixed),           # the pool would be quantized signed in front of its ReLU
    (QuantizeInputs, InsertRescale, lambda: _sum_of_inputs()),
    (QuantizeLeakyRelu, QuantizeActivations, mixed),     # 8 bits inside
    (QuantizeAveragePool, QuantizeActivations, resnet),  # rounded to even instead of down
    (QuantizeActivations, InsertRescale, mobilenet_block),
    (InsertRescale, ShareScales, resnet),
    (ChooseSigns, ShareScales, mixed),
])
def test_swapping_dependent_passes_changes_the_result(earlier, later, network):
    order = [step for step in ORDER if step is not earlier]
    order.insert(order.index(later) + 1, earlier)
    expected = place(network(), ORDER)
    try:
        found = place(network(), order)
    except ValueError:
        return
    assert found != expected


def _sum_of_inputs():
    net = Network()
    return net.output(net.add(net.input((4,), "x"), net.input((4,), "y"), "s"))
