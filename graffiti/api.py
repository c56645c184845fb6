"""The public verbs, each a few lines over the straight line of ARCHITECTURE.md."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras

from graffiti import schemes, targets
from graffiti.calibration import data as calibration_data
from graffiti.calibration.calibrate import calibrate as _calibrate
from graffiti.config import ReportLine, Rule, Scheme
from graffiti.graph import border
from graffiti.graph.ir import Graph
from graffiti.graph.passes import Note
from graffiti.integer_graph import IntegerGraph
from graffiti.keras_io import compat, training
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read
from graffiti.reports import QuantizationReport
from graffiti.targets import TargetProfile
from graffiti.transforms import pipelines
from graffiti.transforms.place import layers


def quantize(
    model: keras.Model, scheme: str | Scheme | None = None, calibration=None, *, rules: Sequence[Rule] | None = None,
    target: str | os.PathLike | TargetProfile | None = None, steps: int | None = None, progress: bool = True,
) -> keras.Model:
    """A float Keras model → a calibrated fake-quantized Keras model.

    Forward: every tensor that the scheme names becomes ``clip(round(x/s), qmin, qmax) * s`` with ``s`` a power of two
    from a threshold ``log2_threshold``; batch norm is folded into the layer in front of it. Backward: the published
    straight-through gradient for ``x`` and the log-domain gradient for the threshold, so that ``compile`` with
    ``graffiti.ALT`` and ``fit`` retrain both.

    Args:
        model: a built Sequential, Functional or traceable model. It is not changed.
        scheme: a preset's name (``graffiti.schemes.names()``) or a ``Scheme``; by default the target's, and ``int8``
            without one.
        calibration: what the model takes: an array, a dict or list of arrays, a ``tf.data.Dataset`` or
            ``keras.utils.PyDataset`` or generator of batches (labels are ignored). 50 to 500 typical examples.
        rules: exceptions to the scheme for single layers, first match wins; ``Rule(match, None)`` keeps a layer in
            float.
        target: what the network is for: a profile's name (``graffiti.targets.names()``), the path of a YAML or JSON
            file, or a ``TargetProfile``. The scheme and the rules are held against it before anything is calibrated.
        steps: how many batches of ``calibration`` to use; all of them by default.
        progress: show a bar where calibration takes longer than two seconds.

    Returns:
        A new ``keras.Model`` with the same inputs and outputs. Its attribute ``quantization_report`` lists what was
        quantized, folded, shared, frozen, or left in float and why.

    Raises:
        ValueError: for a model that is not built or quantized already, no calibration data, NaN or Inf in data or
            weights, wrong shapes, a rule that matches nothing. Nothing is changed in any of these cases.
        TargetError: where the target cannot hold what the scheme and the rules make of the model; lists every layer and
            what would fix it.
        TypeError: where ``model`` is not a Keras 3 model.

    Example:
        >>> q = graffiti.quantize(model, "int8", calibration=images)   # doctest: +SKIP

    References: Jain, Gural, Wu, Dick, "Trained Quantization Thresholds ...", arXiv 1903.08066, sections 3 to 5.
    """
    compat.check_model(model)
    profile = None if target is None else targets.get(target)
    scheme = schemes.get_static(scheme if scheme is not None else profile.scheme if profile is not None else "int8")
    if calibration is None:
        raise ValueError("quantize needs calibration data: pass calibration=, 50 to 500 typical inputs of the model")
    graph = read(model)
    if graph.stage != "float":
        raise ValueError(f"model {model.name!r} is quantized already; quantize the float model it came from")
    examples = calibration_data.read(calibration, compat.ends(model, graph), steps)
    dropped = layers.dropped(graph)
    idle = [
        ReportLine(node.name, "dropped", node.attrs["reason"]) for node in graph.nodes
        if node.op == "identity" and node.attrs.get("reason")
    ]
    notes: list[Note] = []
    graph = pipelines.prepare(graph, training=True, notes=notes)
    unsigned = border.nonnegative(graph, examples)
    graph, lines = pipelines.place(graph, scheme, rules or (), unsigned_inputs=unsigned, dropped=dropped)
    if profile is not None:
        check_target(pipelines.sketch(graph), profile, values=False)
    quantized = build(graph)
    lines += [ReportLine(note.node, note.what, note.why) for note in notes if note.what]
    lines += [
        ReportLine(layer, "training", why)
        for layer, why in (*training.take_over(quantized, model), *training.lost(model), *training.untied(graph))
    ]
    lines = [*idle, *lines, *_calibrate(quantized, examples, progress=progress)]
    quantized.quantization_report = QuantizationReport(lines)
    return quantized


def check_target(graph: Graph, profile: TargetProfile, *, values: bool = True) -> None:
    """Raise a ``TargetError`` that lists every layer of an integer graph that the target cannot take.

    Args:
        graph: of stage ``integer``.
        profile: the limits.
        values: whether to check what depends on calibrated thresholds too (``targets.check.problems``).

    Raises:
        TargetError: where there is such a layer.
    """
    found = targets.problems(graph, profile, values=values)
    if found:
        raise targets.TargetError(profile.name, graph.name, found)


def calibrate(q: keras.Model, data, steps: int | None = None, **options) -> QuantizationReport:
    """Thresholds of a quantized model from data again, in topological order with everything upstream active.

    Args:
        q: a model made by ``quantize``; its thresholds are overwritten (all of them, or none where this raises).
        data: as in ``quantize``.
        steps: how many batches of ``data`` to use.
        **options: ``weights`` and ``activations`` name another method (``max``, ``3sd``, ``percentile``, ``mse``,
            ``kl_j``) than the scheme's; ``progress``.

    Returns:
        The lines worth reading, for instance thresholds frozen because a tensor is constant zero.
    """
    compat.check_model(q)
    return QuantizationReport(_calibrate(q, data, steps, **options))


def to_integer(q: keras.Model, *, target: str | os.PathLike | TargetProfile | None = None) -> IntegerGraph:
    """Lower a quantized model to integers, with the proof that no accumulator overflows.

    Args:
        q: a model made by ``quantize``, retrained or not; it is not changed.
        target: a target profile, as in ``quantize``: accumulators are proven for its width, and shifts and all else
            held against it.

    Returns:
        An ``IntegerGraph`` whose every tensor equals the Keras model's, bit for bit, on any input.

    Raises:
        ValueError: where ``q`` is not a quantized model, or not calibrated.
        AccumulatorOverflow: names the layers whose 32-bit accumulator could overflow.
        TargetError: lists every layer that the target cannot take, with what would fix it.
    """
    compat.check_model(q)
    graph = read(q)
    if graph.stage != "fakequant":
        raise ValueError(f"model {q.name!r} is not quantized; call graffiti.quantize(model, ...) first")
    if target is None:
        return IntegerGraph(pipelines.lower(graph))
    # the target's check proves the width that it has, and lists all layers
    integer = pipelines.lower(graph, sum_bits=None)
    check_target(integer, targets.get(target))
    return IntegerGraph(integer)
