"""``ALT``: one optimizer for weights, one for log2 thresholds, with the published schedules.

Thresholds are the variables whose path ends in ``log2_threshold``. Their optimizer masks updates by the quantizer's
``frozen`` variable (a frozen threshold must not drift by momentum) and keeps, as optimizer variables that are saved
with the model, what ``callbacks.FreezeThresholds`` decides on: the sum of gradients since the last decision and a
moving average of the threshold.
"""

from __future__ import annotations

import copy
from typing import Any

import keras
import tensorflow as tf

from graffiti import checks
from graffiti.keras_io import compat

PUBLISHED_BATCH_SIZE = 24
PUBLISHED_STEPS_PER_EPOCH = 1_281_167 // PUBLISHED_BATCH_SIZE  # ImageNet
PUBLISHED_EPOCHS = 5
_MAX_SCALED_WEIGHT_LEARNING_RATE = 3e-4
THRESHOLD_PATTERN = r"(.*/)?log2_threshold"


def normed_log_gradient(gradient, second_moment, step, *, beta: float = 0.999, epsilon: float = 1e-12):
    r"""A threshold gradient of bounded size, independent of the scale of the input and of the loss.

    .. math:: v_i = \beta v_{i-1} + (1-\beta) G_i^2, \qquad \hat v_i = v_i / (1-\beta^i), \qquad
        G^n_i = \tanh\left(G_i / (\sqrt{\hat v_i} + \epsilon)\right)

    Args:
        gradient: ``G_i``, any shape.
        second_moment: ``v_{i-1}``, same shape; zeros at the start.
        step: ``i``, counted from 1.
        beta: decay of the second moment.
        epsilon: against division by zero.

    Returns:
        ``(G^n_i, v_i)``.

    References: Jain et al., arXiv 1903.08066, appendix on non-adaptive optimizers.
    """
    second_moment = beta * second_moment + (1.0 - beta) * tf.square(gradient)
    corrected = second_moment / (1.0 - tf.pow(tf.constant(beta, gradient.dtype), tf.cast(step, gradient.dtype)))
    return tf.tanh(gradient / (tf.sqrt(corrected) + epsilon)), second_moment


class _ThresholdOptimizer(keras.optimizers.Optimizer):
    """What both threshold optimizers add to a Keras optimizer, which stands behind it in the bases.

    Per threshold variable: ``gradient_sum`` (since ``reset_gradient_sums``) and ``average`` (moving average of
    ``log2_t``); for the optimizer: ``summed_steps``.
    """

    ema_decay: float

    def build(self, variables) -> None:
        """Create the accumulators beside the optimizer's own variables."""
        if self.built:
            return
        super().build(variables)
        self.gradient_sums, self.averages = self.add_optimizer_variables(variables, ["gradient_sum", "average"])
        self.summed_steps = self.add_variable((), dtype="int32", name="summed_steps", aggregation="only_first_replica")

    def apply(self, grads, trainable_variables=None) -> None:
        """One step; counts it."""
        super().apply(grads, trainable_variables)
        self.summed_steps.assign_add(1)

    def masked_update(self, gradient, variable, learning_rate, update) -> None:
        """Let ``update`` move the variable, undo that where it is frozen, and follow it with sum and average.

        The average starts at the first value and then has the decay ``min(ema_decay, (1+step)/(10+step))``.
        """
        index = compat.variable_index(self, variable)
        frozen = getattr(compat.optimized(self)[index], "frozen", None)
        before = tf.identity(variable)
        update(gradient, variable, learning_rate)
        if frozen is not None:
            frozen = tf.convert_to_tensor(frozen)
            self.assign(variable, tf.where(frozen, before, variable))
            gradient = tf.where(frozen, tf.zeros_like(gradient), gradient)
        self.assign_add(self.gradient_sums[index], gradient)
        step = tf.cast(self.iterations, variable.dtype)
        decay = tf.where(
            step > 0, tf.minimum(tf.cast(self.ema_decay, variable.dtype), (1.0 + step) / (10.0 + step)), 0.0
        )
        average = tf.convert_to_tensor(self.averages[index])
        self.assign(self.averages[index], decay * average + (1.0 - decay) * variable)

    @property
    def thresholds(self) -> list[keras.Variable]:
        """The threshold variables, in the order of ``gradient_sums`` and ``averages``; empty before ``build``."""
        return compat.optimized(self)

    def reset_gradient_sums(self) -> None:
        """Start the sums of gradients again."""
        for variable in (*self.gradient_sums, self.summed_steps):
            variable.assign(tf.zeros(variable.shape, variable.dtype))


@keras.saving.register_keras_serializable(package="graffiti")
class ThresholdAdam(_ThresholdOptimizer, keras.optimizers.Adam):
    """Adam on log2 thresholds; frozen ones stay where they are, to the bit.

    Args:
        learning_rate, beta_1, beta_2, epsilon, name: as in Adam. For 8 bits keep ``learning_rate <= 0.01`` and
            ``beta_2 >= 0.999``.
        ema_decay: of the moving average that ``callbacks.FreezeThresholds`` compares with.
        **kwargs: what every Keras optimizer takes.

    References: Jain et al., arXiv 1903.08066, section 5 and the appendix on convergence.
    """

    def __init__(
        self, learning_rate=1e-2, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        ema_decay: float = 0.9999, name: str = "threshold_adam", **kwargs,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, name=name, **kwargs
        )
        self.ema_decay = ema_decay

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Adam's step, masked."""
        self.masked_update(gradient, variable, learning_rate, super().update_step)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "ema_decay": self.ema_decay}


@keras.saving.register_keras_serializable(package="graffiti")
class ThresholdSGD(_ThresholdOptimizer, keras.optimizers.SGD):
    """Plain SGD on log2 thresholds with ``normed_log_gradient``, so that a step is at most ``learning_rate``.

    Args:
        learning_rate, momentum, nesterov, name: as in SGD.
        beta: decay of the second moment.
        ema_decay: of the moving average that ``callbacks.FreezeThresholds`` compares with.
        **kwargs: what every Keras optimizer takes.

    References: Jain et al., arXiv 1903.08066, appendix on non-adaptive optimizers.
    """

    def __init__(
        self, learning_rate=1e-2, momentum: float = 0.0, nesterov: bool = False, beta: float = 0.999,
        ema_decay: float = 0.9999, name: str = "threshold_sgd", **kwargs,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs)
        self.beta, self.ema_decay = beta, ema_decay

    def build(self, variables) -> None:
        """Create the second moments too."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = self.add_optimizer_variables(variables, "second_moment")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """A normed step, masked. The sums of gradients hold the gradients as they came."""
        step = super().update_step

        def update(gradient, variable, learning_rate):
            moment = self.second_moments[compat.variable_index(self, variable)]
            normed, new = normed_log_gradient(
                gradient, tf.convert_to_tensor(moment), self.iterations + 1, beta=self.beta
            )
            self.assign(moment, new)
            step(normed, variable, learning_rate)

        self.masked_update(gradient, variable, learning_rate, update)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "beta": self.beta, "ema_decay": self.ema_decay}


def _staircase(initial, interval: int, rate: float):
    """``initial * rate ** floor(step / interval)``; a schedule stays as it is."""
    if isinstance(initial, keras.optimizers.schedules.LearningRateSchedule):
        return initial
    return keras.optimizers.schedules.ExponentialDecay(float(initial), interval, rate, staircase=True)


def deserialized(config: dict[str, Any], custom_objects=None) -> dict[str, Any]:
    """A config with its serialized optimizers made into objects; the config stays as it is."""
    return {
        key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects) if isinstance(value, dict)
        else value
        for key, value in copy.deepcopy(config).items()  # Keras writes into the configs that it reads
    }


class TwoOptimizers(keras.optimizers.MultiOptimizer):
    """One optimizer for the variables whose path matches a pattern, one for all others.

    Args:
        pattern: a regular expression.
        special: the optimizer of what it matches.
        weights: the optimizer of everything else.
        loss_scale_factor: as in every Keras optimizer.
        name: as in every Keras optimizer.
    """

    def __init__(
        self, pattern: str, special: keras.optimizers.Optimizer, weights: keras.optimizers.Optimizer, *,
        loss_scale_factor: float | None = None, name: str,
    ) -> None:
        super().__init__(
            keras.optimizers.OptimizerMap(weights, {pattern: special}), loss_scale_factor=loss_scale_factor, name=name)

    @property
    def special_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of what the pattern matches."""
        return self.optimizers[0]

    @property
    def weights_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of everything else."""
        return self.optimizers[1]

    def get_config(self) -> dict[str, Any]:
        """Plain values of the arguments that all have; a subclass adds ``special_optimizer`` under its own word."""
        weights = keras.saving.serialize_keras_object(self.weights_optimizer)
        return {"weights": weights, "loss_scale_factor": self.loss_scale_factor, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None):
        """The inverse of ``get_config``."""
        return cls(**deserialized(config, custom_objects))


@keras.saving.register_keras_serializable(package="graffiti")
class ALT(TwoOptimizers):
    r"""Adaptive-gradient log-domain threshold training (ALT, later called TQT): one Adam for weights, one for
    thresholds.

    Both are Adam with ``beta_1 = 0.9, beta_2 = 0.999, epsilon = 1e-8``. Without ``steps_per_epoch`` the schedules are
    the published ones for batch size ``N``: staircase exponential decay of the weights' rate,
    ``1e-6 * 0.94 ** (step // (3000 * 24/N))``, and of the thresholds', ``1e-2 * 0.5 ** (step // (1000 * 24/N))``;
    freezing from step ``1000 * 24/N`` on, one threshold every 50 steps.

    These are for ImageNet, 53,381 steps an epoch. With ``steps_per_epoch = S`` they are brought to a run of about
    ``epochs * S`` steps:

    - weights: the schedule is compressed to the same number of *epochs* (an interval of ``0.056 * S`` steps), and the
      rate raised by ``53381 / S``, so that Adam's total step is the same; at most 3e-4, then the interval is longer by
      what the rate lacks.
    - thresholds: the rate stays 1e-2, because with 8 bits a larger one jumps over whole bins; the interval is the
      published one or an eighth of the run, whichever is shorter (2.5 powers of two of total movement at 5 epochs of
      200 steps; calibration starts nearer than that).
    - freezing starts after the first interval, one threshold every twentieth of it.

    Like every ``MultiOptimizer`` it has no ``learning_rate`` of its own; ``alt.weights_optimizer.learning_rate`` and
    ``alt.thresholds_optimizer.learning_rate`` are it. ``ReduceLROnPlateau`` and ``LearningRateScheduler`` set rates
    and so need optimizers with a number for one:
    ``ALT(weights=keras.optimizers.Adam(1e-4), thresholds=ThresholdAdam(1e-2))``.

    Args:
        weights: another optimizer for the weights (an object, a config or a name); its own rate and schedule hold.
        thresholds: another optimizer for the thresholds, a ``ThresholdAdam`` or ``ThresholdSGD``.
        steps_per_epoch: batches in an epoch of your data; ``None`` for the published schedules.
        batch_size: ``N``, scales the published step counts by ``24/N``.
        epochs: how long the run is meant to be; only used with ``steps_per_epoch``.
        weight_learning_rate: initial rate of the staircase, or a schedule that replaces it; ``None`` for the one said
            above.
        threshold_learning_rate: the same for the thresholds.
        freeze_start: step after which ``callbacks.FreezeThresholds`` begins; ``None`` for the one said above.
        freeze_interval: steps between its decisions.
        ema_decay: of the moving average of ``log2_t``.
        loss_scale_factor, name: as in every Keras optimizer.

    Raises:
        ValueError: where a number of steps is not positive, or ``thresholds`` is not a threshold optimizer.

    Example:
        >>> alt = ALT(steps_per_epoch=390)   # then q.compile(alt, ...), q.fit(..., callbacks=graffiti.callbacks.alt())

    References: Jain et al., arXiv 1903.08066, section 5 and its released training script.
    """

    def __init__(
        self, weights: keras.optimizers.Optimizer | str | None = None,
        thresholds: keras.optimizers.Optimizer | None = None, *,
        steps_per_epoch: int | None = None, batch_size: int = PUBLISHED_BATCH_SIZE, epochs: int = PUBLISHED_EPOCHS,
        weight_learning_rate=None, threshold_learning_rate=1e-2,
        freeze_start: int | None = None, freeze_interval: int | None = None, ema_decay: float = 0.9999,
        loss_scale_factor: float | None = None, name: str = "alt",
    ) -> None:
        for label, value in (
            ("steps_per_epoch", steps_per_epoch), ("batch_size", batch_size), ("epochs", epochs),
            ("freeze_interval", freeze_interval)
        ):
            if value is not None:
                checks.whole(f"{label} of ALT", value, 1)
        factor = PUBLISHED_BATCH_SIZE / batch_size
        weight_interval, threshold_interval, initial, decisions = 3000 * factor, 1000 * factor, 1e-6, None
        if steps_per_epoch is not None:
            ratio = PUBLISHED_STEPS_PER_EPOCH / steps_per_epoch
            initial = min(1e-6 * ratio, _MAX_SCALED_WEIGHT_LEARNING_RATE)
            weight_interval = 3000 / ratio * (1e-6 * ratio / initial)
            threshold_interval = min(threshold_interval, steps_per_epoch * epochs / 8)
            decisions = threshold_interval / 20
        weight_interval, threshold_interval = max(1, round(weight_interval)), max(1, round(threshold_interval))
        if weight_learning_rate is None:
            weight_learning_rate = initial
        if weights is None:
            weights = keras.optimizers.Adam(
                _staircase(weight_learning_rate, weight_interval, 0.94), beta_1=0.9, beta_2=0.999, epsilon=1e-8,
                name="weights_adam",
            )
        if thresholds is None:
            thresholds = ThresholdAdam(
                _staircase(threshold_learning_rate, threshold_interval, 0.5), ema_decay=ema_decay
            )
        weights = keras.optimizers.get(weights)
        if not isinstance(thresholds, _ThresholdOptimizer):
            raise ValueError(
                "thresholds need an optimizer that leaves frozen ones alone: ThresholdAdam or ThresholdSGD, got "
                f"{type(thresholds).__name__}"
            )
        super().__init__(THRESHOLD_PATTERN, thresholds, weights, loss_scale_factor=loss_scale_factor, name=name)
        self.freeze_start = threshold_interval if freeze_start is None else int(freeze_start)
        self.freeze_interval = int(freeze_interval or max(1, min(50, round(decisions or 50))))

    @property
    def thresholds_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the thresholds."""
        return self.special_optimizer

    def get_config(self) -> dict[str, Any]:
        """Plain values: both optimizers with their schedules, and when to freeze."""
        thresholds = keras.saving.serialize_keras_object(self.thresholds_optimizer)
        freezing = {"freeze_start": self.freeze_start, "freeze_interval": self.freeze_interval}
        return {**super().get_config(), "thresholds": thresholds, **freezing}
