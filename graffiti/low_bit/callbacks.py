"""Callbacks of low-bit training: the length of an epoch for the quantizers' schedules, and a look at what
quantization does.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti import checks
from graffiti.files import atomic_file
from graffiti.keras_io import compat
from graffiti.low_bit.observation import Record, observing
from graffiti.low_bit.quantizers import AdaptivePrecision, TensorQuantizer
from graffiti.low_bit.quantizers.adaptive_precision import DEFAULT_STEPS_PER_EPOCH

METRICS = ("bits", "scale", "clipped", "error", "cosine")


def tensor_quantizers(model: keras.Model) -> Iterator[TensorQuantizer]:
    """Every tensor quantizer of a model, in the order of its layers."""
    yield from (layer for _, layer in compat.named_layers(model) if isinstance(layer, TensorQuantizer))


def without_steps(model: keras.Model) -> list[AdaptivePrecision]:
    """The quantizers whose schedules do not know how long an epoch is."""
    return [
        quantizer for quantizer in tensor_quantizers(model)
        if isinstance(quantizer, AdaptivePrecision) and quantizer.steps_per_epoch is None
        and int(keras.ops.convert_to_numpy(quantizer.epoch_steps)) == DEFAULT_STEPS_PER_EPOCH
    ]


def shares(model: keras.Model, role: str = "gradients") -> dict[int, float]:
    """How adaptive precision spent its steps: width → part of all layers' steps, for one role.

    Raises:
        ValueError: where the model has no adaptive quantizer of that role, or took no step.
    """
    totals: dict[int, int] = {}
    for quantizer in tensor_quantizers(model):
        if isinstance(quantizer, AdaptivePrecision) and quantizer.role == role:
            for width, count in zip(quantizer.widths, np.asarray(quantizer.steps_at)):
                totals[width] = totals.get(width, 0) + int(count)
    if not sum(totals.values()):
        raise ValueError(f"model {model.name!r} took no step with adaptive precision of its {role}")
    return {width: count / sum(totals.values()) for width, count in sorted(totals.items())}


class LowBitSteps(keras.callbacks.Callback):
    r"""Tells the schedules of adaptive precision how many steps an epoch of this ``fit`` has; ``adaptive_precision``
    needs it.

    With ``S`` steps in an epoch each quantizer updates its width and scale in every step of the first ``init_fraction *
    S``, and later after

    .. math:: I = \mathrm{clip}\left(\mathrm{round}\left(\frac{\beta}{\max(\delta \cdot QEM^2, drift)} - \gamma\right),
    1, S\right)

    steps. Where nobody says ``S`` it is 1000: in an epoch of 50 steps the first updates would go on for two epochs.
    What it sets is saved with the model. Models of other schemes are left alone, and so are quantizers whose scheme has
    ``steps_per_epoch``. ``fit`` warns where it is missing.

    Args:
        steps: ``S``; ``None`` takes the number of batches that ``fit`` knows, which for a generator is its
            ``steps_per_epoch``.

    Example:
        >>> t = graffiti.quantize_training(model, "adaptive_precision")
        >>> t.compile("sgd", "mse"); t.fit(x, y, callbacks=[graffiti.callbacks.LowBitSteps()])

    References: Zhang et al., Fixed-Point Back-Propagation Training, CVPR 2020, section 4.
    """

    def __init__(self, steps: int | None = None) -> None:
        super().__init__()
        self.steps = None if steps is None else checks.whole("steps of LowBitSteps", steps, 1)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Set it where the scheme does not."""
        steps = self.steps or (self.params or {}).get("steps")
        for quantizer in tensor_quantizers(self.model):
            if isinstance(quantizer, AdaptivePrecision) and quantizer.steps_per_epoch is None and steps:
                quantizer.epoch_steps.assign(int(steps))


class LowBitInsight(keras.callbacks.Callback):
    """Records, per layer and tensor, what quantization does to one batch of examples, once before training and every
    few epochs.

    The look changes nothing: every variable that it moves is put back.

    Args:
        inputs: a batch of examples, as the model takes them.
        targets: their targets.
        interval: epochs between looks.
        path: a ``.json`` file, replaced as a whole after each look; ``None`` keeps the record in memory only.

    Attributes:
        rows: list of dicts: ``epoch``, ``layer``, ``tensor`` (``activations``, ``weights``, ``bias``, ``gradients``),
            ``bits`` (of the codes' range; ``None`` for formats without one), ``scale`` (one step), ``clipped`` (part of
            the values beyond the range), ``error`` (``|q - x| / |x|``), ``cosine`` (between ``q`` and ``x``; for
            gradients: to the float gradient).

    Raises:
        ValueError: where ``interval`` is not a positive number of epochs.
    """

    def __init__(self, inputs, targets, *, interval: int = 1, path: str | os.PathLike | None = None) -> None:
        super().__init__()
        self.inputs, self.targets = (
            keras.tree.map_structure(tf.convert_to_tensor, inputs), tf.convert_to_tensor(targets)
        )
        self.interval = checks.whole("interval of LowBitInsight", interval, 1, of="epochs")
        self.path = None if path is None else pathlib.Path(path)
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """The first look."""
        if not self.rows:
            self.look(0)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """A look where it is time."""
        if (epoch + 1) % self.interval == 0:
            self.look(epoch + 1)

    def look(self, epoch: int) -> None:
        """One forward and backward pass in eager mode, and its records."""
        model = self.model
        kept = [(variable, variable.numpy()) for variable in model.variables]
        try:
            with observing() as records, tf.GradientTape() as tape:
                outputs = model(self.inputs, training=True)
                loss = model.compute_loss(x=self.inputs, y=self.targets, y_pred=outputs)
                tape.gradient(loss, [v.value for v in model.trainable_variables])
        finally:
            for variable, value in kept:
                variable.assign(value)
        self.rows += [row_of(record, epoch) for record in records]
        if self.path is not None:
            with atomic_file(self.path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(self.rows))

    def table(self, tensor: str = "gradients") -> str:
        """The last look at one kind of tensor as a Markdown table."""
        last = max((row["epoch"] for row in self.rows), default=0)
        lines = ["| layer | bits | scale | clipped | error | cosine |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            if row["epoch"] == last and row["tensor"] == tensor:
                scale = "" if row["scale"] is None else f"{row['scale']:.3g}"
                lines.append(
                    f"| {row['layer']} | {row['bits'] or ''} | {scale} | {row['clipped']:.2%} | {row['error']:.4f} | "
                    f"{row['cosine']:.4f} |"
                )
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike, tensor: str = "gradients", *, overwrite: bool = False) -> None:
        """The record of one kind of tensor over the epochs, one panel per quantity, as an image (``.svg``, ``.png`` …).

        Raises:
            ImportError: where matplotlib is missing.
            FileExistsError: where the file exists and ``overwrite`` is false.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("LowBitInsight.plot draws with matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(8, 11), layout="constrained")
        panels = figure.subplots(len(METRICS), 1, sharex=True)
        layers = list(dict.fromkeys(row["layer"] for row in self.rows if row["tensor"] == tensor))
        for panel, metric in zip(panels, METRICS):
            for index, layer in enumerate(layers):
                points = [
                    (row["epoch"], row[metric]) for row in self.rows
                    if row["layer"] == layer and row["tensor"] == tensor and row[metric] is not None
                ]
                if points:
                    panel.plot(
                        *zip(*points), marker=".", label=layer, color=f"C{index % 10}",
                        linestyle=("-", "--", ":")[index // 10 % 3]
                    )
            panel.set_ylabel(metric)
            if metric == "scale":
                panel.set_yscale("log", base=2)
        panels[-1].set_xlabel("epoch")
        figure.suptitle(f"{tensor} of {self.model.name}" if self.model is not None else tensor)
        panels[0].legend(fontsize=6, ncols=4)
        with atomic_file(path, overwrite=overwrite) as temporary:
            figure.savefig(temporary, format=pathlib.Path(path).suffix.removeprefix(".") or "svg")


def row_of(record: Record, epoch: int) -> dict[str, Any]:
    """One record as numbers."""
    x, q = (np.asarray(value, np.float64).ravel() for value in (record.tensor, record.quantized.real()))
    norm, other = np.linalg.norm(x), np.linalg.norm(q)
    quantized = record.quantized
    scale = None if quantized.scale is None else float(quantized.scale)
    clipped = 0.0 if scale is None else float(np.mean((x > quantized.high * scale) | (x < quantized.low * scale)))
    return {
        "epoch": epoch, "layer": record.product.layer_name, "tensor": record.role,
        "bits": None if scale is None else int(quantized.high - quantized.low).bit_length(), "scale": scale,
        "clipped": clipped,
        "error": float(np.linalg.norm(q - x) / norm) if norm else 0.0,
        "cosine": float(x @ q / (norm * other)) if norm and other else 1.0,
    }
