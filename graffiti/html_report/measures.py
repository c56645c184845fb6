"""The numbers of a report."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from graffiti.graph import interpreter
from graffiti.graph.float_interpreter import quantizer_format, run_float
from graffiti.graph.ir import Graph
from graffiti.numerics import fold

BINS = 48


@dataclasses.dataclass
class QuantizerRow:
    """One quantizer on the examples.

    Attributes:
        name: of the quantized value.
        role: ``input``, ``activation``, ``weight`` ...
        bits: width; ``signed`` or not.
        exponents: exponents of the step, one or one per channel.
        low, high: the range that is represented, of the widest channel.
        least, most: extremes of the value.
        clipped: part of the elements outside the range.
        sqnr: of this rounding alone, dB; infinite where nothing was lost.
        cosine: between the value and its quantized form.
        float_sqnr, float_cosine: between the float model's tensor of the same name and the one here; ``None`` where
            there is none.
        histogram: ``(counts, edges)`` of the value.
    """

    name: str
    role: str
    bits: int
    signed: bool
    exponents: tuple[int, ...]
    low: float
    high: float
    least: float
    most: float
    clipped: float
    sqnr: float
    cosine: float
    float_sqnr: float | None
    float_cosine: float | None
    histogram: tuple[np.ndarray, np.ndarray]

    @property
    def type(self) -> str:
        """``int8``, ``uint4`` ..."""
        return f"{'' if self.signed else 'u'}int{self.bits}"


@dataclasses.dataclass
class Sensitivity:
    """The outputs where one quantizer alone is at work, against the same network without any.

    Attributes:
        name, role: of the quantizer.
        noise: ``sum (y - y_q)^2 / sum y^2`` over the outputs.
        moved: part of the examples whose largest output is another one.
    """

    name: str
    role: str
    noise: float
    moved: float


def sqnr(x: np.ndarray, y: np.ndarray) -> float:
    """``10 log10(sum x^2 / sum (x - y)^2)`` in dB; infinite where they are equal."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    noise, signal = float(np.sum((x - y) ** 2)), float(np.sum(x**2))
    if noise == 0.0:
        return float("inf")
    return 10.0 * float(np.log10(signal / noise)) if signal else float("-inf")


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """``<x, y> / (|x| |y|)``; 1 for two zeros, 0 for one."""
    x, y = np.ravel(np.asarray(x, np.float64)), np.ravel(np.asarray(y, np.float64))
    sizes = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if 0.0 in sizes:
        return float(sizes[0] == sizes[1])
    return float(x @ y) / (sizes[0] * sizes[1])


def is_classifier(graph: Graph) -> bool:
    """Whether there is one output, of several scores for each example."""
    return (
        len(graph.outputs) == 1 and len(graph.shape(graph.outputs[0])) == 2
        and (graph.shape(graph.outputs[0])[-1] or 0) > 1
    )


def classes_of(labels: Any, examples: int) -> np.ndarray:
    """Labels as whole numbers ``[examples]``.

    Raises:
        ValueError: for another number or shape.
    """
    labels = np.asarray(labels)
    labels = labels.argmax(-1) if labels.ndim == 2 and labels.shape[-1] > 1 else np.ravel(labels)
    if len(labels) != examples:
        raise ValueError(f"one label for each example: expected {examples}, got {len(labels)}")
    return labels


def accuracies(networks: dict[str, Any], inputs, classes: np.ndarray, batch_size: int = 32) -> list[tuple[str, float]]:
    """Top-1 accuracy of each network, 0 to 1.

    Args:
        networks: by name, with ``predict``.
        inputs, classes: the examples and the class of each.
        batch_size: examples at a time.
    """
    found = []
    for name, network in networks.items():
        options = {"verbose": 0} if hasattr(network, "layers") else {}
        found.append(
            (
                name,
                float(
                    np.mean(np.asarray(network.predict(inputs, batch_size=batch_size, **options)).argmax(-1) == classes)
                )
            )
        )
    return found


def run_values(graph: Graph, inputs: list[np.ndarray], **options) -> dict[str, np.ndarray]:
    """Every value, in batches where the graph has a batch size of its own.

    Args:
        graph, inputs: what is run on what.
        **options: of ``run_float``.
    """
    batches = [
        run_float(graph, batch, values=True, dtype=np.float32, **options)
        for batch in interpreter.cut(graph, inputs, len(inputs[0]))
    ]
    if len(batches) == 1:
        return batches[0]
    examples = set(graph.inputs)  # what depends on them; the rest is the same in every batch
    for node in graph.nodes:
        examples.update(node.outputs if examples.intersection(node.inputs) else ())
    return {
        name: np.concatenate([batch[name] for batch in batches]) if name in examples else array
        for name, array in batches[0].items()
    }


def quantizers(graph: Graph, inputs: list[np.ndarray], island, float_graph: Graph | None) -> list[QuantizerRow]:
    """Every quantizer of the network, on its own input in the quantized network.

    Args:
        graph: of stage ``fakequant``, calibrated.
        inputs: one array for each input of the graph.
        island: ``(node, arrays) -> arrays`` for Keras layers left in float, as in ``interpreter.run``; ``None`` without
            any.
        float_graph: of the network before it was quantized; compared with where it has no islands and as many inputs.
            ``None``: the columns for that stay empty.
    """
    values = run_values(graph, inputs, island=island)
    plain: dict[str, np.ndarray] = {}
    if (
        float_graph is not None and not any(node.op == "island" for node in float_graph.nodes)
        and len(float_graph.inputs) == len(inputs)
    ):
        plain = run_values(float_graph, inputs)
    rows = []
    for node in graph.nodes:
        if node.op != "fake_quantize":
            continue
        source, format = node.inputs[0], quantizer_format(node)
        x = np.asarray(values[source] if source in values else graph.constants[source], np.float32)
        y = np.asarray(values[node.output], np.float32)
        widest = max(format.exponents)
        step = np.ldexp(
            1.0,
            fold.per_channel(np.asarray(format.exponent), x.shape, node.attrs["channel_axis"]) if format.per_channel
            else widest
        )
        other = plain.get(source)
        beside = (None, None) if other is None or other.shape != x.shape else (sqnr(other, y), cosine(other, y))
        counts, edges = np.histogram(x, BINS)
        rows.append(QuantizerRow(
            node.output, str(node.attrs["role"]), format.bits, format.signed, tuple(format.exponents),
            math.ldexp(format.qmin, widest), math.ldexp(format.qmax, widest), float(x.min()), float(x.max()),
            float(np.mean(np.abs(x - y) > step)), sqnr(x, y), cosine(x, y), beside[0], beside[1], (counts, edges)))
    return rows


def sensitivities(graph: Graph, inputs: list[np.ndarray], island, *, progress: bool = True) -> list[Sensitivity]:
    """What each quantizer alone costs the outputs, the most expensive first.

    Args:
        graph, inputs, island: as in ``quantizers``.
        progress: whether to show a bar; of more than eight quantizers only.
    """
    ends = [_before_softmax(graph, output) for output in graph.outputs]

    def run(active) -> list[np.ndarray]:
        values = run_values(graph, inputs, island=island, active=active)
        return [np.asarray(values[end], np.float64) for end in ends]

    nodes: Any = [node for node in graph.nodes if node.op == "fake_quantize"]
    base = run(lambda node: False)
    power = sum(float(np.sum(y**2)) for y in base) or 1.0
    if progress and len(nodes) > 8:
        from tqdm import tqdm

        nodes = tqdm(nodes, desc="sensitivity", unit="quantizer")
    found = []
    for only in nodes:
        got = run(lambda node, only=only: node.name == only.name)
        noise = sum(float(np.sum((a - b) ** 2)) for a, b in zip(base, got)) / power
        moved = [np.mean(a.argmax(-1) != b.argmax(-1)) for a, b in zip(base, got) if a.ndim == 2 and a.shape[-1] > 1]
        found.append(Sensitivity(only.output, str(only.attrs["role"]), noise, float(max(moved, default=0.0))))
    return sorted(found, key=lambda s: -s.noise)


def _before_softmax(graph: Graph, output: str) -> str:
    node = graph.producers().get(output)
    return node.inputs[0] if node is not None and node.op == "softmax" else output


def left_in_float(q, graph: Graph) -> list[tuple[str, str]]:
    """``(layer, why)`` of everything that computes in float."""
    lines = {
        node.name: str(node.attrs.get("reason") or "no integer form") for node in graph.nodes if node.op == "island"
    }
    for line in getattr(q, "quantization_report", None) or ():
        if line.what == "float":
            lines[line.layer] = line.why
    return list(lines.items())
