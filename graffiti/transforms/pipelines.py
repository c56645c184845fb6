"""The ordered lists of passes, each line with its reason; every order dependency has a test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from graffiti.config import LayerInfo, ReportLine, Rule, Scheme
from graffiti.graph.ir import Graph
from graffiti.graph.passes import Note, Pipeline
from graffiti.transforms.lower.convert import Convert
from graffiti.transforms.lower.drop_requantize import DropRequantize
from graffiti.transforms.lower.fold_constants import FoldConstants
from graffiti.transforms.lower.prove_accumulators import ProveAccumulators
from graffiti.transforms.lower.sketch import SketchThresholds
from graffiti.transforms.lower.splice_identity import SpliceIdentity
from graffiti.transforms.place.begin import BeginFakequant
from graffiti.transforms.place.choose_signs import ChooseSigns
from graffiti.transforms.place.commute_relu import CommuteRelu
from graffiti.transforms.place.freeze_frozen import FreezeFrozen
from graffiti.transforms.place.insert_rescale import InsertRescale
from graffiti.transforms.place.plan import make_plan
from graffiti.transforms.place.quantize_activations import QuantizeActivations
from graffiti.transforms.place.quantize_average_pool import QuantizeAveragePool
from graffiti.transforms.place.quantize_inputs import QuantizeInputs
from graffiti.transforms.place.quantize_layers import QuantizeLayers
from graffiti.transforms.place.quantize_leaky_relu import QuantizeLeakyRelu
from graffiti.transforms.place.report import quantizer_lines
from graffiti.transforms.place.share_scales import ShareScales
from graffiti.transforms.prepare.affine_to_depthwise import AffineToDepthwise
from graffiti.transforms.prepare.batch_norm_at_border import BatchNormAtBorder
from graffiti.transforms.prepare.canonical_activation import CanonicalActivation
from graffiti.transforms.prepare.canonical_average_pool import CanonicalAveragePool
from graffiti.transforms.prepare.collapse_concat import CollapseConcat
from graffiti.transforms.prepare.fold_batch_norm import FoldBatchNorm
from graffiti.transforms.prepare.leave_in_float import LeaveInFloat
from graffiti.transforms.prepare.mean_to_average_pool import MeanToAveragePool
from graffiti.transforms.prepare.merge_rescaling import MergeRescaling
from graffiti.transforms.prepare.remove_dead import RemoveDead
from graffiti.transforms.prepare.remove_identity import RemoveIdentity
from graffiti.transforms.prepare.sink_training import SinkTraining
from graffiti.transforms.prepare.split_separable_conv import SplitSeparableConv
from graffiti.transforms.prepare.unfuse_leaky_relu import UnfuseLeakyRelu


def prepare_pipeline(*, training: bool = True) -> Pipeline:
    """The passes of ``prepare``, in order."""
    return Pipeline("prepare", [
        CanonicalActivation(),              # before RemoveIdentity: a linear activation becomes an identity
        RemoveDead(),                       # before every "read once" below: a dead reader would stop it
        # before the patterns: it stands between conv and batch norm, concat and concat
        RemoveIdentity(),
        SinkTraining(),                     # likewise; after RemoveIdentity, which hides a batch norm from it
        BatchNormAtBorder(),                # before MergeRescaling, which joins it with its neighbours
        MergeRescaling(),
        CollapseConcat(),
        SplitSeparableConv(),               # before AffineToDepthwise: batch norm folds into its pointwise product
        MeanToAveragePool(),                # before CanonicalAveragePool, which looks at its pools
        CanonicalAveragePool(),
        # before FoldBatchNorm: batch norms that nothing absorbs get a product to fold into
        AffineToDepthwise(),
        FoldBatchNorm(training=training),
        UnfuseLeakyRelu(),
        LeaveInFloat(),                     # after all rewriting: what is left has no fixed-point form
    ])


def prepare(graph: Graph, *, training: bool = True, notes: list[Note] | None = None) -> Graph:
    """float → float: canonical ops, batch norm folded, leaky ReLU unfused; the same function.

    Args:
        graph: stage ``float``; it stays as it is.
        training: fold batch norm by ``fold_kernel`` and ``fold_bias`` nodes, which keep its parameters trainable; else
            into the constants.
        notes: a list that gets what was left alone and why.

    Returns:
        A float graph whose ops all have a form in a fakequant graph; what has none is an ``island`` with a reason.

    Raises:
        ValueError: for a graph that is quantized already.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``fold_batch_norms`` and ``preprocess_layers``.
    """
    if graph.stage != "float":
        raise ValueError(f"prepare takes a float graph, got one of stage {graph.stage}; start from the float model")
    result = prepare_pipeline(training=training)(graph)
    if notes is not None:
        notes.extend(result.notes)
    return result.graph


def place(
    graph: Graph, scheme: str | Scheme, rules: Iterable[Rule] = (), unsigned_inputs: Collection[str] = (),
    dropped: Mapping[str, LayerInfo] | None = None,
) -> tuple[Graph, list[ReportLine]]:
    """Float → fakequant: quantizers put in and thresholds shared, not calibrated yet.

    Args:
        graph: prepared, stage ``float``.
        scheme: a preset's name, a ``Scheme`` or its config.
        rules: exceptions for single layers; the first that matches a layer holds.
        unsigned_inputs: graph inputs that are never negative (schemes whose input signedness is ``auto``).
        dropped: layers that preparing dropped (``place.layers.dropped`` of the graph before it); a rule may name them.

    Returns:
        The fakequant graph and the report, one line for each decision.

    Raises:
        ValueError: for a graph that is quantized already, an unknown scheme, a rule that matches nothing.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``quantize``.
    """
    if graph.stage != "float":
        raise ValueError(f"place takes a float graph, got a {graph.stage} graph; start from the float model")
    plan = make_plan(graph, scheme, rules, unsigned_inputs, dropped)
    pipeline = Pipeline("place", (
        BeginFakequant(),
        CommuteRelu(plan),          # first: it moves values, and names of quantizers come from values
        QuantizeLayers(plan),
        QuantizeInputs(plan),       # before rescale points: add and concat of inputs need them on a grid
        QuantizeLeakyRelu(plan),    # before activations: its inputs are 16 bits, not 8
        # behind layers, which would take a published pool for one; before activations: its output is rounded down
        QuantizeAveragePool(plan),
        QuantizeActivations(plan),  # what is left
        InsertRescale(plan),        # needs every input of add and concat on some grid
        ChooseSigns(plan),          # needs the rescale points; before sharing, which refuses mixed signs
        ShareScales(plan),
        FreezeFrozen(plan),         # last: it asks who shares a threshold
    ))
    placed = pipeline(graph).graph
    return placed, [*plan.lines, *quantizer_lines(placed, plan)]


def lower(graph: Graph, *, sum_bits: int | None = 32) -> Graph:
    """Fakequant → integer, with the proof that the accumulators are wide enough.

    Args:
        graph: stage ``fakequant``, every threshold calibrated.
        sum_bits: width of the register that products and sums are added in; ``None`` leaves the proof out.

    Returns:
        The integer graph; its tensors have the names of the fakequant graph's.

    Raises:
        ValueError: for a quantizer without a threshold, members of a group that differ, weights with NaN.
        AccumulatorOverflow: names the layers whose accumulator could leave its register.
    """
    if graph.stage != "fakequant":
        raise ValueError(
            f"lower takes a fakequant graph, got a {graph.stage} graph; place quantizers and calibrate first"
        )
    pipeline = Pipeline("lower", (
        SpliceIdentity(),
        FoldConstants(),      # before conversion: quantizers take constants
        Convert(),
        DropRequantize(),     # integer stage: compares formats
        *([] if sum_bits is None else [ProveAccumulators(sum_bits)]),  # last: what it proves is what runs
    ))
    return pipeline(graph).graph


def sketch(graph: Graph) -> Graph:
    """Fakequant → the integer graph it will be, with stand-ins for thresholds that are not calibrated and without the
    proof.

    What a target needs to know before calibration (ops, widths, signs, sizes, weights) is as in ``lower``.

    Args:
        graph: stage ``fakequant``.
    """
    return lower(
        Pipeline("sketch", (SpliceIdentity(), FoldConstants(), SketchThresholds()))(graph).graph, sum_bits=None
    )
