"""Batch statistics of a network that no longer has the quantizers it was trained with."""

from __future__ import annotations

import keras
import numpy as np
from tqdm import tqdm

from graffiti.keras_io import compat


def reestimate(model: keras.Model, arrays: list[np.ndarray], batch_size: int, *, progress: bool = True) -> None:
    """Replace the moving mean and variance of each batch norm by the mean of its batches', weighted by their sizes;
    nothing else changes.

    One pass in training mode, each batch norm behind those in front of it, which normalize by the batch. A batch norm
    with ``trainable = False`` keeps its statistics.

    Args:
        model: of ordinary layers; changed in place.
        arrays: one for each input, ``(examples, ...)``.
        batch_size: examples of a batch, as in training.
        progress: show a bar where it takes longer than two seconds.

    References: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.
    """
    norms = [layer for layer in compat.sublayers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    moving = {id(variable) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)}
    others = [(variable, variable.numpy()) for variable in model.variables if id(variable) not in moving]
    momenta = [norm.momentum for norm in norms]
    try:
        for first in tqdm(
            range(0, len(arrays[0]), batch_size), desc="batch statistics", unit="batch", delay=2, disable=not progress,
            leave=False
        ):
            batch = [array[first:first + batch_size] for array in arrays]
            for norm in norms:
                norm.momentum = first / (first + len(batch[0]))
            model(keras.tree.pack_sequence_as(model.input, batch), training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for variable, value in others:
            variable.assign(value)
