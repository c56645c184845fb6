"""The published methods of low-bit training, and the baselines people compare with, as functions of their
hyper-parameters and as presets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from graffiti.training_config import TensorSpec, TrainingScheme


def adaptive_precision(*, adapt: tuple[str, ...] = ("gradients",), **hyper) -> TrainingScheme:
    """Fixed-point back-propagation training: weights and activations at 8 bits, gradients at 8, 16 or 24.

    Args:
        adapt: which of ``weights activations gradients`` may change their width.
        **hyper: of ``low_bit.quantizers.AdaptivePrecision``: ``threshold mode alpha beta gamma delta init_fraction
            steps_per_epoch interval_cap``, and ``widths`` of what adapts.

    References: Zhang et al., CVPR 2020.
    """
    widths = hyper.pop("widths", (8, 16, 24))
    specs: dict[str, Any] = {
        role: TensorSpec("adaptive_precision", {"widths": list(widths if role in adapt else widths[:1]), **hyper})
        for role in ("weights", "activations", "gradients")
    }
    return TrainingScheme(**specs, name="adaptive_precision")


def large_gradients(
    bits: int = 4, *, weight_bits: int | None = None, activation_bits: int | None = None, name: str | None = None,
    **hyper
) -> TrainingScheme:
    """INT4 training with small error for large gradients; the first and the last layer stay in float.

    Args:
        bits: of gradients, and of weights and activations (8 at most) unless these are given.
        weight_bits, activation_bits: 2 to 8.
        name: of the scheme, in reports; ``large_gradients_int<bits>`` by default.
        **hyper: of ``low_bit.quantizers.LargeGradients``: ``alpha beta initial_factor``.

    References: Kim et al., ECCV 2024.
    """
    return TrainingScheme(
        TensorSpec("learned_scale", {"bits": weight_bits or min(bits, 8)}),
        TensorSpec("learned_scale", {"bits": activation_bits or min(bits, 8)}),
        TensorSpec("large_gradients", {"bits": bits, **hyper}), first_layer=False, last_layer=False,
        name=name or f"large_gradients_int{bits}"
    )


def dynamic_fixed_point(
    bits: int = 8, *, batch_norm: bool = True, update: str = "float_master", forward_rounding: str = "half_even",
    gradient_rounding: str = "stochastic", **hyper,
) -> TrainingScheme:
    """Dynamic fixed point with stochastic rounding of the gradients: all tensors, all layers, batch norm too.

    Args:
        bits: B of every tensor.
        batch_norm: whether its two parts are quantized.
        update: ``float_master``; ``quantized_update`` (weights stored in B bits with stochastic rounding);
            ``lazy_update`` (rounded weight gradients with error feedback).
        forward_rounding: of weights, activations, bias and batch norm.
        gradient_rounding: of gradients.
        **hyper: of ``low_bit.quantizers.DynamicFixedPoint``: ``target_overflow initial_exponent update_interval``.

    Raises:
        ValueError: where ``update`` is none of the three.

    References: Su et al., J. Semicond. 2020.
    """
    if update not in ("float_master", "quantized_update", "lazy_update"):
        raise ValueError(
            f"update of dynamic fixed point is 'float_master', 'quantized_update' or 'lazy_update', got {update!r}"
        )
    forward = TensorSpec("dynamic_fixed_point", {"bits": bits, "rounding": forward_rounding, **hyper})
    backward = TensorSpec("dynamic_fixed_point", {"bits": bits, "rounding": gradient_rounding, **hyper})
    stored = TensorSpec("dynamic_fixed_point", {"bits": bits, "rounding": "stochastic", **hyper})
    return TrainingScheme(
        forward, forward, backward, bias=forward, batch_norm=forward if batch_norm else None,
        weight_gradients=forward if update == "lazy_update" else None, error_feedback=update == "lazy_update",
        stored_weights=stored if update == "quantized_update" else None, name="dynamic_fixed_point")


def multi_level_scaling(
    element=(2, 1), group=(8, 1), *, stochastic: str = "gradients", rescale: bool = True, use_sign_bit: bool = True,
    name: str = "multi_level_scaling",
    **hyper,
) -> TrainingScheme:
    """Multi-level scaling of convolutions; the first one and the dense layers stay in float.

    ``stochastic="all", rescale=False, use_sign_bit=False`` is the method as published. The defaults lose less
    (``BENCHMARKS.md``; Decision 22): noise in weights and activations costs most.

    Args:
        element: ``(E_x, M_x)``.
        group: ``(E_g, M_g)``.
        stochastic: which tensors round stochastically in training, ``gradients``, ``all`` or ``none``; the others round
            to nearest.
        rescale: whether the largest element stands for the tensor's maximum, which otherwise saturates.
        use_sign_bit: whether activations that cannot be negative spend the bit of their sign on the mantissa:
            ``<E_x, M_x + 1>``, as wide.
        name: of the scheme, in reports.
        **hyper: of ``low_bit.quantizers.MultiLevelScaling``: ``grouping carry top_exponent``.

    Raises:
        ValueError: for another ``stochastic``.

    References: Zhong et al., arXiv 2006.02804.
    """
    if stochastic not in ("gradients", "all", "none"):
        raise ValueError(f"stochastic of multi_level_scaling is 'gradients', 'all' or 'none', got {stochastic!r}")
    shared = {
        "element": list(element), "group": list(group), "rescale": bool(rescale), "use_sign_bit": bool(use_sign_bit),
        **hyper
    }
    forward, gradients = (
        TensorSpec("multi_level_scaling", {**shared, "stochastic": stochastic in noisy})
        for noisy in (("all",), ("all", "gradients"))
    )
    return TrainingScheme(forward, forward, gradients, first_layer=False, kinds=("convolution", "depthwise"), name=name)


def min_max(
    bits: int = 8, *, first_layer: bool = True, last_layer: bool = True, gradient_rounding: str = "stochastic"
) -> TrainingScheme:
    """The range is the largest magnitude of each tensor; the baseline of everything.

    Args:
        bits: of weights, activations and gradients, 2 to 16.
        first_layer, last_layer: whether these are quantized too.
        gradient_rounding: ``stochastic`` or ``half_even``; weights and activations round half to even.
    """
    spec = TensorSpec("min_max", {"bits": bits})
    gradients = TensorSpec("min_max", {"bits": bits, "rounding": gradient_rounding})
    return TrainingScheme(
        spec, spec, gradients, first_layer=first_layer, last_layer=last_layer, name=f"min_max_int{bits}"
    )


def fixed_factor(bits: int = 4, factor: float = 1.0) -> TrainingScheme:
    """The baseline of ``large_gradients``: the same quantizers with a clipping factor that never moves (1.0: min-max
    clipping).
    """
    return large_gradients(bits, beta=0.0, initial_factor=factor, name=f"fixed_factor_{factor:g}_int{bits}")


def per_sample(bits: int = 8) -> TrainingScheme:
    """StatQuant's PSQ: gradients with one range per example, weights and activations with 8 bits.

    References: Chen et al., NeurIPS 2020.
    """
    spec = TensorSpec("min_max", {"bits": 8})
    return TrainingScheme(spec, spec, TensorSpec("per_sample", {"bits": bits}), name="per_sample")


def dorefa(bits: int = 8) -> TrainingScheme:
    """DoReFa-Net; the first and the last layer stay in float.

    References: Zhou et al., arXiv 1606.06160.
    """
    spec = TensorSpec("dorefa", {"bits": bits})
    return TrainingScheme(spec, spec, spec, first_layer=False, last_layer=False, name="dorefa")


def unified_int8(**hyper) -> TrainingScheme:
    """Unified INT8 training: direction-sensitive gradient clipping and learning rates that follow the deviation.

    Args:
        **hyper: of ``low_bit.quantizers.DirectionSensitive``: ``interval candidates alpha beta``.

    References: Zhu et al., CVPR 2020.
    """
    spec = TensorSpec("min_max", {"bits": 8})
    return TrainingScheme(spec, spec, TensorSpec("direction_sensitive", {"bits": 8, **hyper}), name="unified_int8")


# name -> a function of the method's hyper-parameters
TRAINING_SCHEMES: dict[str, Callable[..., TrainingScheme]] = {
    "adaptive_precision": adaptive_precision,
    "large_gradients_int4": partial(large_gradients, 4),
    "large_gradients_int5": partial(large_gradients, 5),
    "large_gradients_int6": partial(large_gradients, 6),
    "large_gradients_int8": partial(large_gradients, 8),
    "dynamic_fixed_point": dynamic_fixed_point,
    "multi_level_scaling": multi_level_scaling,
    "multi_level_scaling_2_4": partial(multi_level_scaling, (2, 4), name="multi_level_scaling_2_4"),
    "min_max_int8": partial(min_max, 8),
    "min_max_int4": partial(min_max, 4),
    "fixed_factor_int4": partial(fixed_factor, 4),
    "per_sample": per_sample,
    "dorefa": dorefa,
    "unified_int8": unified_int8,
}


def get(name: str, **hyper: Any) -> TrainingScheme:
    """A training preset by its name, with some of its hyper-parameters changed.

    Args:
        name: of ``TRAINING_SCHEMES``.
        **hyper: arguments of the preset's function.

    Raises:
        ValueError: where there is no such preset, or a hyper-parameter that its function does not take.
    """
    if name not in TRAINING_SCHEMES:
        raise ValueError(f"there is no training scheme {name!r}; the presets are {', '.join(TRAINING_SCHEMES)}")
    function = TRAINING_SCHEMES[name]
    try:
        inspect.signature(function).bind(**hyper)
    except TypeError as error:
        taken = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        raise ValueError(f"the scheme {name} takes {', '.join(taken)}, got {', '.join(hyper)} ({error})") from error
    return function(**hyper)
