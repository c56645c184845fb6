"""An integer graph against a target profile: every limit is one small function in ``CHECKS``; nothing is changed.

What is checked: ops, float layers, softmax, sizes, window axes; the codes of weights, biases, activations and
accumulators; rounding, shifts, exponents; and by interval analysis the registers, and the clipping that a target
without saturation lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS, attr
from graffiti.graph.problem import Problem
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import divide, shift_right
from graffiti.numerics.windows import pool_counts
from graffiti.targets.profile import BORDER, TargetProfile, TensorLimits
from graffiti.transforms.lower.prove_accumulators import prove

# work on spatial axes
WINDOWS = tuple(name for name, row in OPS.items() if row.integer and (row.window or "size" in row.attrs))


class TargetError(ValueError):
    """A network does not fit its target.

    Args:
        target: the profile's name.
        network: the graph's name.
        problems: at least one.

    Attributes:
        target: the profile's name.
        problems: a ``Problem(layer, op, reason, fix)`` for each offending layer and reason.
    """

    def __init__(self, target: str, network: str, problems: Iterable[Problem]) -> None:
        self.target, self.problems = target, list(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(
            f"{network!r} does not fit the target {target}, {len(self.problems)} things stand against it:{lines}"
        )


def problems(graph: Graph, profile: TargetProfile, *, values: bool = True) -> list[Problem]:
    """Everything in a graph that a target cannot take, in the order of the graph, one line for each layer and reason.

    Args:
        graph: of stage ``integer``.
        profile: the target.
        values: also check what depends on calibrated thresholds: shifts, exponents, sums, clipping.

    Raises:
        ValueError: for a graph of another stage.
    """
    if graph.stage != "integer":
        raise ValueError(
            f"a target takes integer graphs, got one of stage {graph.stage!r}; lower it with graffiti.to_integer first"
        )
    found = dict.fromkeys(problem for check in CHECKS for problem in check(graph, profile))
    if values and not any(problem.op == "island" for problem in found):
        found.update(dict.fromkeys(problem for check in VALUE_CHECKS for problem in check(graph, profile)))
    order = {
        name: index
        for index, name in enumerate([*graph.inputs, *(out for node in graph.nodes for out in node.outputs)])
    }
    return sorted(found, key=lambda problem: order.get(problem.layer, len(order)))


# ---- what the network is made of -------------------------------------------------------------------------------------
def _ops(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op == "island":
            if not profile.float_layers:
                reason = (
                    f"it is kept in float ({node.attrs.get('reason') or 'no integer form'}), and {profile.name} "
                    "computes in integers"
                )
                yield Problem(node.name, node.op, reason, "quantize it, replace it, or leave it out of the model")
        elif node.op == "softmax":
            if profile.softmax == "none":
                yield Problem(node.name, node.op, f"{profile.name} has no softmax", "end the model with its logits")
            elif profile.softmax == "output" and not _reaches_only_outputs(graph, node.output):
                yield Problem(
                    node.name, node.op, "a softmax inside the network is computed in float",
                    "keep softmax at the output, or use a table activation instead"
                )
        elif node.op == "average_pool" and node.op not in profile.ops:
            yield Problem(node.name, node.op, f"{profile.name} has no op average_pool", AVERAGE_AS_PRODUCT)
        elif node.op not in BORDER and node.op not in profile.ops:
            yield Problem(
                node.name, node.op, f"{profile.name} has no op {node.op}",
                f"replace it by one of {', '.join(profile.ops)}"
            )
        elif (
            node.op not in BORDER and not OPS[node.op].moves_codes
            and any(graph.format(value) is None for value in node.inputs)
        ):
            yield Problem(node.name, node.op, "it computes in float", "quantize it or keep it outside the model")
        elif node.op in PRODUCTS and node.inputs[1] not in graph.constants:
            yield Problem(
                node.name, node.op, "its kernel is computed by the network", "use a layer with constant weights"
            )


AVERAGE_AS_PRODUCT = (
    "give this layer a scheme with reciprocal_bits=8, for instance Rule(name, scheme.replace(reciprocal_bits=8)): the "
    "published form, a product"
)


def _averages(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    for node in graph.nodes:
        if (
            node.op != "average_pool" or node.op not in profile.ops or profile.averages == "any"
            or not attr(node, "divide")
        ):
            continue
        sizes = graph.shape(node.inputs[0])[1:-1]
        window, padding = attr(node, "pool_size"), attr(node, "padding")
        counts = {math.prod(window)} if padding == "valid" or None in sizes else set(
            pool_counts([int(n or 1) for n in sizes], window, attr(node, "strides"), padding).ravel().tolist())
        if len(counts) > 1 or any(count & (count - 1) for count in counts):
            shown = ", ".join(map(str, sorted(counts)))
            yield Problem(
                node.name, node.op,
                f"it averages {shown} elements, {profile.name} takes windows of one size, a power of two",
                AVERAGE_AS_PRODUCT
            )


def _sizes(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    for name in (*graph.inputs, *(out for node in graph.nodes for out in node.outputs)):
        shape = graph.shape(name)
        if 0 in shape[1:]:
            yield Problem(name, "tensor", f"its shape is {shape}", "build the model with sizes of at least one")
        elif profile.sizes == "fixed" and None in shape[1:]:
            yield Problem(
                name, "tensor", f"its shape is {shape}, and {profile.name} needs every size but the batch",
                "build the model with fixed sizes"
            )
    low, high = profile.spatial_axes
    for node in graph.nodes:
        if profile.sizes == "windows" and node.op in (*WINDOWS, "reshape", "crop"):
            shapes = [graph.shape(node.output)] + ([graph.shape(node.inputs[0])] if node.op in WINDOWS else [])
            if any(None in shape[1:] for shape in shapes):
                yield Problem(
                    node.name, node.op,
                    f"it works on the shapes {' and '.join(map(str, shapes))}, and {profile.name} needs these sizes",
                    "build the model with fixed sizes"
                )
        if node.op in WINDOWS and not low <= len(graph.shape(node.inputs[0])) - 2 <= high:
            yield Problem(
                node.name, node.op,
                f"it has {len(graph.shape(node.inputs[0])) - 2} spatial axes, {profile.name} takes {low} to {high}",
                "reshape its input in the model"
            )
        fewest, most = profile.dense_axes
        axes = len(graph.shape(node.inputs[0])) - 1 if node.op == "dense" else fewest
        if not fewest <= axes <= most:
            yield Problem(
                node.name, node.op, f"it reads {axes} axes beside the batch, {profile.name} takes {fewest} to {most}",
                "flatten its input, or use a convolution with a window of one",
            )


# ---- codes -----------------------------------------------------------------------------------------------------------
def _weights(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    for node in graph.nodes:
        if not OPS[node.op].multiplies:
            continue
        for value in node.inputs[1:] if node.op in PRODUCTS else [v for v in node.inputs if graph.is_constant(v)]:
            format = graph.format(value)
            if format is not None:
                codes = graph.constants.get(value)
                yield from _against(
                    node.name, node.op, "weights", format, profile.weights, profile,
                    "the scheme's weights, or a rule for this layer", codes
                )


def _biases(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    low, high = profile.bias_bits
    for node in graph.nodes:
        format = graph.format(node.inputs[1]) if node.op == "bias_add" else None
        if format is not None and not low <= format.bits <= high:
            yield Problem(
                node.name, node.op, f"its bias has {format.bits} bits, {profile.name} takes {_range(low, high)}",
                f"use a scheme with bias_bits={high}, for instance {profile.scheme!r}"
            )


def _activations(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    accumulators = {
        user.name for node in graph.nodes if node.op in PRODUCTS for user in graph.consumers(node.name)
        if user.op == "requantize" and any(reader.op == "bias_add" for reader in graph.consumers(user.name))
    }
    for name in graph.inputs:
        format = graph.format(name)
        if format is not None:
            yield from _against(name, "input", "codes", format, profile.activations, profile, "the scheme's inputs")
    for node in graph.nodes:
        format = graph.format(node.name)
        if OPS[node.op].stores and format is not None and node.name not in accumulators:
            yield from _against(
                node.name, node.op, "codes", format, profile.activations, profile,
                "the scheme's activations, inputs and outputs, or a rule for this layer"
            )


def _accumulators(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    bits = profile.accumulator_bits
    if bits >= 32:
        return
    for node in graph.nodes:
        if node.op not in PRODUCTS:
            continue
        for user in graph.consumers(node.name):
            format = graph.format(user.name)
            if user.op != "requantize" or format is None or format.bits > bits:
                yield Problem(
                    node.name, node.op, f"its product goes on in 32 bits, accumulators of {profile.name} have {bits}",
                    f"use a scheme with accumulator_bits={bits}, for instance {profile.scheme!r}"
                )
                break


def _against(
    layer: str, op: str, what: str, format: QFormat, limits: TensorLimits, profile: TargetProfile, where: str,
    codes: np.ndarray | None = None
) -> Iterator[Problem]:
    low, high = limits.bits
    if not format.signed and limits.unsigned_bits is not None:
        high = limits.unsigned_bits
    shown = f"{'s' if format.signed else 'u'}{format.bits}"
    if not low <= format.bits <= high:
        yield Problem(
            layer, op,
            f"its {what} are {shown}, {profile.name} takes {_range(low, high)} "
            f"{'signed' if format.signed else 'unsigned'}",
            f"use {_range(low, high)} in {where}"
        )
    if limits.sign != "both" and format.signed != (limits.sign == "signed"):
        yield Problem(
            layer, op, f"its {what} are {shown}, {profile.name} takes {limits.sign} ones only",
            f"set signed={limits.sign == 'signed'} in {where}"
        )
    if (
        limits.narrow and format.signed and not format.narrow
        and (codes is None or (codes.size and int(codes.min()) == format.qmin))
    ):
        yield Problem(
            layer, op, f"its {what} use the lowest code {format.qmin}, {profile.name} takes narrow ones",
            f"set narrow=True in {where}"
        )
    if format.per_channel and not limits.per_channel and len(set(format.exponents)) > 1:
        yield Problem(
            layer, op, f"its {what} have one scale for each channel, {profile.name} takes one for all",
            f"set per_channel=False in {where}"
        )


def _rounding(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    for node in graph.nodes:
        allowed = (
            profile.rounding if OPS[node.op].rounds_codes else profile.input_rounding if node.op == "quantize" else None
        )
        if allowed is None or attr(node, "rounding") in allowed:
            continue
        yield Problem(
            node.name, node.op,
            f"it rounds {attr(node, 'rounding')}, {profile.name} rounds {' or '.join(allowed) or 'nothing'}",
            f"use the rounding {' or '.join(allowed) or 'of another target'} in the scheme"
        )


# ---- what depends on the calibrated thresholds -----------------------------------------------------------------------
def _shifts(graph: Graph, node: Node) -> list[int]:
    source, target = graph.format(node.inputs[0]), graph.format(node.output)
    if source is None or target is None:
        return []
    return np.subtract(target.exponent, source.exponent).reshape(-1).tolist()


def _shift_range(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    low, high = profile.shift
    for node in graph.nodes:
        shifts = _shifts(graph, node) if OPS[node.op].rounds_codes else []
        if shifts and (min(shifts) < low or max(shifts) > high):
            shown = str(shifts[0]) if len(set(shifts)) == 1 else f"{min(shifts)} to {max(shifts)}"
            yield Problem(
                node.name, node.op, f"it shifts right by {shown}, {profile.name} by {low} to {high}",
                "calibrate with typical data, retrain its thresholds, or keep them nearer to its inputs'"
            )


def _exponents(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    low, high = profile.exponents
    owners = {value: node for node in graph.nodes for value in node.inputs if graph.is_constant(value)}
    for name, type in graph.types.items():
        if type.format is None or (min(type.format.exponents) >= low and max(type.format.exponents) <= high):
            continue
        layer = owners[name].name if name in owners else name
        yield Problem(
            layer, "tensor",
            f"its exponents {min(type.format.exponents)} to {max(type.format.exponents)} leave {low} to {high}",
            "choose thresholds nearer to 1, or scale the input"
        )


def _sums(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    if not _provable(graph):
        return
    for overflow in prove(graph, profile.sum_bits)[1]:
        reason = (
            f"its accumulator may reach {overflow.bound}, more than the {(1 << (profile.sum_bits - 1)) - 1} that "
            f"{profile.sum_bits} bits hold"
        )
        yield Problem(
            overflow.layer, overflow.op, reason, "use fewer bits for its weights or input, or split the layer"
        )


def _clipping(graph: Graph, profile: TargetProfile) -> Iterator[Problem]:
    if profile.saturation == "saturate" or not _provable(graph):
        return
    found = prove(graph, profile.sum_bits)[0]
    for node in graph.nodes:
        if node.op == "average_pool" and attr(node, "divide"):
            yield from _clipped_mean(graph, node, found[node.inputs[0]], profile)
        if node.op != "requantize":
            continue
        shift = np.maximum(np.asarray(_shifts(graph, node), np.int64), -30)
        format = graph.format(node.output)
        assert format is not None
        limits = format.limits(attr(node, "low"), attr(node, "high"))
        low_code, high_code = (
            shift_right(np.asarray(end), shift if len(shift) > 1 else shift[0], attr(node, "rounding"))
            for end in found[node.inputs[0]]
        )
        if low_code.min() < limits[0] or high_code.max() > limits[1]:
            reason = (
                f"its codes may reach {int(low_code.min())} to {int(high_code.max())} and must be clipped to "
                f"{limits[0]} to {limits[1]}, which {profile.name} cannot"
            )
            yield Problem(node.name, node.op, reason, "choose larger thresholds, or more bits")


def _clipped_mean(graph: Graph, node: Node, ends, profile: TargetProfile) -> Iterator[Problem]:
    """A mean lies between the lowest and the highest code of its input."""
    format = graph.format(node.output)
    assert format is not None
    limits = format.limits(attr(node, "low"), attr(node, "high"))
    codes = [int(divide(np.asarray(end), 1, _shifts(graph, node)[0], attr(node, "rounding"))) for end in ends]
    if codes[0] < limits[0] or codes[1] > limits[1]:
        reason = (
            f"its codes may reach {codes[0]} to {codes[1]} and must be clipped to {limits[0]} to {limits[1]}, which "
            f"{profile.name} cannot"
        )
        yield Problem(node.name, node.op, reason, "choose larger thresholds, or more bits")


def _provable(graph: Graph) -> bool:
    """Whether every value of codes has a known range: products by constants, and no codes that come out of float."""
    return all(graph.is_constant(node.inputs[1]) for node in graph.nodes if node.op in PRODUCTS) and all(
        graph.format(value) is not None for node in graph.nodes if node.op in PRODUCTS for value in node.inputs)


CHECKS: tuple[Callable[[Graph, TargetProfile], Iterator[Problem]], ...] = (
    _ops, _averages, _sizes, _weights, _biases, _activations, _accumulators, _rounding
)
VALUE_CHECKS: tuple[
    Callable[[Graph, TargetProfile], Iterator[Problem]], ...
] = (_shift_range, _exponents, _sums, _clipping)


def _range(low: int, high: int) -> str:
    return f"{low} bits" if low == high else f"{low} to {high} bits"


def _reaches_only_outputs(graph: Graph, value: str) -> bool:
    return all(
        node.op in OPS and OPS[node.op].moves_codes and _reaches_only_outputs(graph, node.output)
        for node in graph.consumers(value)
    )
