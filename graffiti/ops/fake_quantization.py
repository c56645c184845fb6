"""The trained log-threshold quantizer as one op forward and one op backward."""

from __future__ import annotations

import tensorflow as tf

from graffiti.numerics.rounding import check_rounding
from graffiti.ops import fallback, loader


def fake_quantize(
    x, log2_t, *, bits: int, signed: bool, narrow: bool = False, rounding: str = "half_even", frozen=None,
    engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """Quantize and dequantize with a power-of-two step, differentiable in ``x`` and ``log2_t``.

    Forward, with ``s = 2**(ceil(log2_t) - (bits - signed))`` and ``r = round(x / s)``: ``y = clip(r, low, high) * s``.

    Backward, for an upstream gradient ``g``: ``dx = g`` where ``low <= r <= high``, else 0; and
    ``dlog2_t = s * ln 2 * sum(g * {r - x/s inside, low below, high above})``. ``ceil`` and, for ``x``, ``round`` pass
    straight through. "Inside" is decided on the rounded value.

    The native op and its TensorFlow twin give equal values forward and in ``dx``. The threshold gradient is a sum: the
    native one is taken in double in an order that depends on the number of elements only, the twin's is TensorFlow's
    float32 sum.

    Args:
        x: float32, any shape.
        log2_t: float32 scalar.
        bits: 2 to 24.
        signed: whether codes are two's complement.
        narrow: leave out the lowest code.
        rounding: a name of ``numerics.rounding.ROUNDING_MODES``.
        frozen: bool or bool scalar tensor: where true, ``dlog2_t`` is 0 and all else unchanged.
        engine: ``native``, ``python`` or ``auto`` (what ``GRAFFITI_OPS`` says).
        tier: instruction set of the native op, a name of ``graffiti.ops.loader.TIERS``; one that the processor lacks
            is refused. All give the same bits.

    Returns:
        float32, shape of ``x``.

    Raises:
        ValueError: for a width, rounding mode or tier that does not exist.
        loader.OpsNotAvailable: where ``engine`` is ``native`` and the library does not load.

    References: Jain et al., arXiv 1903.08066, section 3.
    """
    check_rounding(rounding)
    if not 2 <= bits <= 24:
        raise ValueError(f"fake_quantize takes 2 to 24 bits (float32 holds no more), got {bits}")
    if narrow and not signed:
        raise ValueError("narrow means a signed range without its lowest code; an unsigned format cannot be narrow")
    loader.check_tier(tier)
    if frozen is not None:
        log2_t = tf.where(frozen, tf.stop_gradient(log2_t), log2_t)
    if loader.engine_of(engine) == "native":
        return loader.load().graffiti_fake_quantize(
            x, log2_t, bits=bits, is_signed=signed, narrow=narrow, rounding=rounding, tier=tier)
    return fallback.fake_quantize(x, log2_t, bits=bits, signed=signed, narrow=narrow, rounding=rounding)
