"""Gradients of the native ops, registered with TensorFlow when the library is loaded."""

from __future__ import annotations

import functools


@functools.cache
def register() -> None:
    """Register every gradient; once per process."""
    import tensorflow as tf

    @tf.RegisterGradient("GraffitiFakeQuantize")
    def fake_quantize_gradient(op, upstream):
        from graffiti.ops import loader

        attributes = {name: op.get_attr(name) for name in ("bits", "is_signed", "narrow", "rounding", "tier")}
        attributes.update({name: value.decode() for name, value in attributes.items() if isinstance(value, bytes)})
        return loader.load().graffiti_fake_quantize_grad(upstream, op.inputs[0], op.inputs[1], **attributes)
