"""The report's lines about stored values, from the finished fakequant graph."""

from __future__ import annotations

from graffiti.config import ReportLine
from graffiti.graph.ir import Graph, Node
from graffiti.transforms.place.plan import Plan


def quantizer_lines(graph: Graph, plan: Plan) -> list[ReportLine]:
    """One ``quantized`` line for each input, stored output and rescale point, with its final bits and signedness."""
    producers = graph.producers()
    return [
        ReportLine(node.inputs[0], "quantized", _why(node, producers.get(node.inputs[0]), plan))
        for node in graph.nodes
        if node.op == "fake_quantize" and node.attrs["role"] in ("input", "activation", "rescale")
        and node.inputs[0] not in graph.constants
    ]


def _why(quantizer: Node, producer: Node | None, plan: Plan) -> str:
    attrs = quantizer.attrs
    format = f"{'s' if attrs['signed'] else 'u'}{attrs['bits']}"
    if attrs["role"] == "input":
        return (
            f"input {format}"
            + (", never negative" if quantizer.inputs[0] in plan.unsigned_inputs and not attrs["signed"] else "")
        )
    if attrs["role"] == "rescale":
        return f"requantized to {format} as {quantizer.name!r}, for {attrs['group'] or 'one reader'}"
    notes = [
        ", rounded down" if attrs["rounding"] == "floor" else "",
        ", signed because it shares its grid with negative values"
        if producer is not None and producer.op == "relu" and attrs["signed"] else "",
        ", a float layer's output" if producer is not None and plan.in_float(producer) else "",
    ]
    return f"output {format}{''.join(notes)}"
