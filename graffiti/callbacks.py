"""Callbacks of ALT. Each keeps its state in variables of the model and its optimizer, so that a run that goes on from a
checkpoint makes the same decisions as one that was never stopped."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import keras
import numpy as np

from graffiti import checks
from graffiti.files import atomic_file
from graffiti.keras_io import compat
from graffiti.low_bit.callbacks import LowBitInsight, LowBitSteps, shares
from graffiti.optimizers import ALT
from graffiti.quantizers.base import Quantizer

__all__ = [
    "FreezeBatchNorm", "FreezeThresholds", "LowBitInsight", "LowBitSteps", "ThresholdHistory", "alt", "quantizers_of",
    "shares"
]


def _number(variable: keras.Variable) -> int:
    """The value of a counter, also of one that ``tf.distribute`` mirrors over replicas."""
    return int(keras.ops.convert_to_numpy(variable))


def quantizers_of(model: keras.Model) -> dict[str, Quantizer]:
    """The quantizers of a model that have a threshold, in the order of the model.

    Returns:
        Names that do not change when the model is saved and loaded → quantizers: ``conv/kernel`` for the kernel
        quantizer of the layer ``conv``, the layer's own name where it only quantizes.
    """
    return {
        path.removesuffix("/quantizer").removesuffix("_quantizer"): layer
        for path, layer in compat.named_layers(model)
        if isinstance(layer, Quantizer) and layer.log2_threshold is not None
    }


class FreezeBatchNorm(keras.callbacks.Callback):
    """Freeze the statistics of folded batch norm after some epochs: training then normalises with the moving averages.

    State is each layer's ``batch_norm_frozen`` variable; what is frozen stays frozen. It is set when the epoch ends,
    so that a checkpoint of that moment has it, and also where the optimizer has already done as many steps, whatever
    ``initial_epoch`` a later ``fit`` says.

    Args:
        epochs: after how many; 0 freezes at once.

    References: Jain et al., arXiv 1903.08066, section 5: one epoch.
    """

    def __init__(self, epochs: int = 1) -> None:
        super().__init__()
        self.epochs = checks.whole("epochs of FreezeBatchNorm", epochs, 0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Freeze where it is time."""
        steps = (self.params or {}).get("steps")
        if epoch >= self.epochs or (steps and _number(self.model.optimizer.iterations) >= self.epochs * steps):
            for _, layer in compat.named_layers(self.model):
                variable = getattr(layer, "batch_norm_frozen", None)
                if variable is not None:
                    variable.assign(np.ones(variable.shape, variable.dtype))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """As at the beginning of the next epoch."""
        self.on_epoch_begin(epoch + 1)


class FreezeThresholds(keras.callbacks.Callback):
    """Freeze thresholds one by one, those with the smallest gradient first.

    After ``start`` steps, every ``interval`` steps: order the thresholds that are not frozen by the magnitude of their
    mean gradient since the last decision, and freeze the first for which ``ceil(log2_t) == ceil(average of log2_t)``,
    that is, which is in the bin where it spends most of its time; at most one. A quantizer with one threshold per
    channel counts as one: it is ordered by the mean magnitude of its live channels, it qualifies when one of them is
    in its usual bin, and all those that are get frozen.

    State is the quantizers' ``frozen`` variables, and the sums and averages of ``ALT``'s threshold optimizer.

    Args:
        start: ``None`` for the optimizer's ``freeze_start``.
        interval: ``None`` for the optimizer's ``freeze_interval``.
        decay: of the average, handed to the optimizer; ``None`` leaves the optimizer's ``ema_decay``.

    Raises:
        ValueError: at the start of training, where the model is not compiled with ``graffiti.ALT``.

    References: Jain et al., arXiv 1903.08066, section 5.2 and the released training script.
    """

    def __init__(self, start: int | None = None, interval: int | None = None, decay: float | None = None) -> None:
        super().__init__()
        interval = None if interval is None else checks.whole("interval of FreezeThresholds", interval, 1, of="steps")
        self.start, self.interval, self.decay = start, interval, decay

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Look for the optimizer."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, ALT):
            raise ValueError(
                f"FreezeThresholds needs a model compiled with graffiti.ALT, got {type(optimizer).__name__}"
            )
        self._optimizer = optimizer
        self._start = optimizer.freeze_start if self.start is None else self.start
        self._interval = optimizer.freeze_interval if self.interval is None else self.interval
        if self.decay is not None:
            optimizer.thresholds_optimizer.ema_decay = float(self.decay)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Decide where an interval is over."""
        thresholds = self._optimizer.thresholds_optimizer
        if not thresholds.thresholds or _number(thresholds.summed_steps) < self._interval:
            return
        if _number(thresholds.iterations) > self._start:
            self.decide(thresholds)
        thresholds.reset_gradient_sums()

    @staticmethod
    def decide(optimizer: Any) -> str | None:
        """Freeze the one threshold variable that is due.

        Args:
            optimizer: a ``ThresholdAdam`` or ``ThresholdSGD``.

        Returns:
            The path of the variable, ``None`` where none qualifies.
        """
        candidates: list[tuple[float, int, Any, np.ndarray]] = []
        for variable, total, average in zip(
            optimizer.thresholds, optimizer.gradient_sums, optimizer.averages, strict=True
        ):
            frozen = getattr(variable, "frozen", None)
            live = None if frozen is None else ~np.asarray(frozen.numpy(), bool)
            if live is not None and live.any():
                score = float(np.mean(np.abs(total.numpy())[live])) / max(1, _number(optimizer.summed_steps))
                usual = np.ceil(variable.numpy()) == np.ceil(average.numpy())
                candidates.append((score, len(candidates), variable, live & usual))
        for _, _, variable, due in sorted(candidates, key=lambda c: c[:2]):
            if due.any():
                variable.frozen.assign(variable.frozen.numpy() | due)
                return variable.path
        return None


class ThresholdHistory(keras.callbacks.Callback):
    """Record ``log2_threshold`` of every quantizer while training.

    With ``path`` it is written after every epoch and read again when a run goes on: what lies after the step of the
    checkpoint is dropped.

    Args:
        interval: steps between records; the first record is before the first step.
        path: a ``.json`` file, replaced as a whole each time; ``None`` keeps the record in memory only.

    Attributes:
        steps: list of optimizer steps.
        values: name of a quantizer (see ``quantizers_of``) → list of its values, a number or a list of one per channel.
    """

    def __init__(self, interval: int = 50, path: str | os.PathLike | None = None) -> None:
        super().__init__()
        self.interval = checks.whole("interval of ThresholdHistory", interval, 1, of="steps")
        self.path = None if path is None else pathlib.Path(path)
        self.steps: list[int] = []
        self.values: dict[str, list[Any]] = {}

    def to_dict(self) -> dict[str, Any]:
        """``{"steps": [...], "log2_threshold": {quantizer: [...]}}``."""
        return {
            "steps": list(self.steps), "log2_threshold": {name: list(values) for name, values in self.values.items()}
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write ``to_dict`` as JSON; the file is either the old or the new one, never half of it."""
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(self.to_dict()))

    def load(self, path: str | os.PathLike) -> None:
        """Read what ``save`` wrote.

        Raises:
            ValueError: where the file holds something else.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
            steps, values = [int(step) for step in content["steps"]], dict(content["log2_threshold"])
            if any(len(v) != len(steps) for v in values.values()):
                raise ValueError("lists of different lengths")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a threshold history ({error}); remove it or choose another path"
            ) from error
        self.steps, self.values = steps, values

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Go on from the file, or from memory, at the optimizer's step."""
        step = _number(self.model.optimizer.iterations)
        if self.path is not None and self.path.exists() and not self.steps:
            self.load(self.path)
        keep = sum(s <= step for s in self.steps)
        self.steps, self.values = self.steps[:keep], {name: values[:keep] for name, values in self.values.items()}
        if not self.steps:
            self._record(step)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Record where an interval is over."""
        step = _number(self.model.optimizer.iterations)
        if step // self.interval > self.steps[-1] // self.interval:
            self._record(step)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write the file."""
        if self.path is not None:
            self.save(self.path)

    def _record(self, step: int) -> None:
        self.steps.append(step)
        for name, quantizer in quantizers_of(self.model).items():
            self.values.setdefault(name, []).append(quantizer.log2_threshold.numpy().tolist())


def alt(
    *, batch_norm_epochs: int = 1, freeze_start: int | None = None, freeze_interval: int | None = None,
    history: ThresholdHistory | None = None,
) -> list[keras.callbacks.Callback]:
    """The callbacks of the published recipe: batch norm frozen after one epoch, thresholds frozen one by one.

    Args:
        batch_norm_epochs: see ``FreezeBatchNorm``.
        freeze_start: see ``FreezeThresholds``.
        freeze_interval: see ``FreezeThresholds``.
        history: a ``ThresholdHistory`` to add.

    Returns:
        A list for ``fit(callbacks=...)``.

    References: Jain et al., arXiv 1903.08066, section 5.
    """
    listed: list[keras.callbacks.Callback] = [
        FreezeBatchNorm(batch_norm_epochs), FreezeThresholds(freeze_start, freeze_interval)
    ]
    return listed if history is None else [*listed, history]
