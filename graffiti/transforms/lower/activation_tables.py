"""``activation`` and the quantizer behind it → one table lookup."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Node
from graffiti.numerics import table
from graffiti.numerics.formats import QFormat
from graffiti.transforms.lower import islands
from graffiti.transforms.lower.context import Lowering


def lower_activation(context: Lowering, node: Node) -> None:
    """1. It reads codes, has a table and only quantizers read it: left to them. 2. Else it is in float: an island."""
    readers = context.readers.get(node.name, [])
    rounded = (
        readers and node.name not in context.source.outputs and all(reader.op == "fake_quantize" for reader in readers)
    )
    if rounded and context.has_codes(node.inputs[0]) and node.attrs.get("values") is not None:
        context.pending[node.name] = node
    else:
        islands.lower_float(context, node)


def lower_table(context: Lowering, node: Node, quantizer: Node, format: QFormat, rounding: str) -> None:
    """``table[code - qmin]``, in the format of the quantizer behind the function.

    The float values are those that the Keras layer itself computed for every input code, ascending (attribute
    ``values`` names the constant); here they are only rounded.

    Args:
        context: the lowering; ``values[quantizer.name]`` is set.
        node: an ``activation`` that reads codes.
        quantizer: the ``fake_quantize`` that reads it.
        format, rounding: of that quantizer.

    Raises:
        ValueError: where there are no values, or not one for every code.
    """
    name = node.attrs["values"]
    if name not in context.source.constants:
        raise ValueError(
            f"activation {node.name!r} names the table {name!r}, which the graph does not hold; read it from the Keras "
            "model again"
        )
    codes = context.format(node.inputs[0])
    assert codes is not None
    values = np.ravel(context.source.constants[name])
    array = table.build(values, codes, format, rounding, name=f"the table of activation {node.name!r}")
    constant = context.constant(context.target.unique(f"{quantizer.name}/table"), array, format)
    context.values[quantizer.name] = context.emit(
        "lookup", (context.values[node.inputs[0]], constant), quantizer.name, {"format": format}
    )
