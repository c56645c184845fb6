"""Random small networks over every op that a prepared graph may hold."""

from __future__ import annotations

import numpy as np
from networks import Network

from graffiti.graph.ir import Graph

FUNCTIONS = ("sigmoid", "tanh", "gelu", "silu", "hard_silu", "softplus", "elu", "exp")


def random_network(seed: int, *, rank: int | None = None, islands: bool = True) -> Graph:
    """A few inputs or one, 6 to 16 layers in random order and topology, one to three outputs.

    Args:
        seed: decides everything.
        rank: 1 or 2 spatial axes; by the seed where left out.
        islands: whether layers in float may occur.
    """
    net = Network(seed)
    random = net.random
    axes = rank or int(random.choice([1, 2, 2]))
    size = (12,) if axes == 1 else (8, 6)
    values = [net.input((*size, int(random.integers(1, 5))))]
    if random.random() < 0.3:
        values.append(net.input((*size, int(random.integers(1, 5))), "second"))
    for index in range(int(random.integers(6, 17))):
        values.append(_layer(net, values, f"n{index}", islands))
    count = int(random.integers(1, 4))
    ends = list(dict.fromkeys([*random.choice(values[2:], size=count - 1, replace=False), values[-1]]))
    outputs = []
    for index, value in enumerate(map(str, ends)):
        if random.random() < 0.4:
            value = net.dense(net.flatten(value, f"flat{index}"), f"logits{index}", 4)
            value = net.softmax(value, f"probabilities{index}") if random.random() < 0.5 else value
        outputs.append(value)
    graph = net.output(*outputs)
    graph.prune()
    used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    graph.inputs = [name for name in graph.inputs if name in used]
    graph.types = {name: type for name, type in graph.types.items() if name in used or graph.producer(name)}
    return graph


def _layer(net: Network, values: list[str], name: str, islands: bool) -> str:
    random = net.random
    x = values[-1] if random.random() < 0.7 else str(random.choice(values))
    same = [v for v in values if net.graph.shape(v) == net.graph.shape(x)]
    partner = str(random.choice(same))
    spatial = net.graph.shape(x)[1:-1]
    small = min(spatial)
    options = {"bias": bool(random.random() < 0.8), "norm": bool(random.random() < 0.3)}
    stride = int(random.integers(1, 3)) if small > 2 else 1
    padding = str(random.choice(["same", "valid"])) if small > 4 else "same"
    filters = int(random.integers(1, 6))
    kind = str(random.choice([
        "conv", "conv", "conv", "grouped", "dilated", "depthwise", "transpose", "dense", "relu", "relu", "relu6",
        "leaky", "add", "add",
        "subtract", "maximum", "concat", "concat", "max_pool", "average", "average_same", "pad", "crop", "permute",
        "upsample", "reshape",
        "activation", "activation", "scale", "island", "global_max", "relu_behind_pool",
    ]))
    if kind == "conv":
        return net.conv(x, name, filters, min(3, small), strides=stride, padding=padding, **options)
    if kind == "grouped" and net.channels(x) % 2 == 0:
        return net.conv(x, name, 2 * filters, min(3, small), groups=2, **options)
    if kind == "dilated":
        return net.conv(x, name, filters, 2, dilation=2, **options)
    if kind == "depthwise":
        return net.depthwise(
            x, name, min(3, small), multiplier=int(random.integers(1, 3)), strides=stride, padding=padding, **options
        )
    if kind == "transpose" and small < 8:
        return net.transpose(x, name, filters, 3, strides=stride, padding=padding, **options)
    if kind == "dense":
        return net.dense(x, name, filters, **options)
    if kind in ("relu", "relu6"):
        return net.relu(x, name, 6.0 if kind == "relu6" else None)
    if kind == "leaky":
        return net.leaky_relu(x, name, float(random.choice([0.1, 0.3, 0.01])))
    if kind in ("add", "subtract", "maximum"):
        return net.emit(kind, (x, partner), name)
    if kind == "concat":
        shape = net.graph.shape(x)[:-1]
        others = [v for v in values if net.graph.shape(v)[:-1] == shape]
        return net.concat([x, *(str(v) for v in random.choice(others, size=int(random.integers(1, 3))))], name)
    if kind == "max_pool" and small > 2:
        return net.max_pool(x, name, 2, padding=str(random.choice(["same", "valid"])))
    if kind == "relu_behind_pool" and small > 2:
        return net.relu(net.max_pool(x, f"{name}/pool", 3, strides=2, padding="same"), name)
    if kind == "average" and small > 2:
        return net.average_pool(x, name, int(random.integers(2, min(small, 4) + 1)), strides=stride)
    if kind == "average_same":
        return net.average_pool_same(x, name, min(3, small))
    if kind == "pad" and small < 8:
        return net.emit("pad", (x,), name, pads=(*((1, int(random.integers(0, 2))) for _ in spatial), (0, 0)))
    if kind == "crop" and small > 3:
        return net.emit("crop", (x,), name, crops=(*((1, 0) for _ in spatial), (0, 0)))
    if kind == "permute" and len(spatial) == 2:
        return net.emit("permute", (x,), name, dims=(2, 1, 3))
    if kind == "upsample" and small < 4:
        return net.emit("upsample", (x,), name, size=(2,) * len(spatial))
    if kind == "reshape":
        return net.emit("reshape", (x,), name, shape=(*reversed(spatial), net.channels(x)))
    if kind == "activation":
        return net.activation(x, name, str(random.choice(FUNCTIONS)))
    if kind == "scale":
        constant = net.graph.add_constant(
            f"{name}/scale", np.float32(random.normal()) * np.ones((1,) * len(net.graph.shape(x)), np.float32)
        )
        return net.emit("multiply", (x, constant), name)
    if kind == "island" and islands:
        return net.island(x, name)
    if kind == "global_max":
        return net.emit("global_max_pool", (x,), name, axes=tuple(range(1, len(spatial) + 1)), keepdims=True)
    return net.conv(x, name, filters, 1, **options)
