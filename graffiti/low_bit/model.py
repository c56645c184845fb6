"""Models of low-bit training: ordinary Keras models that keep their ``quantization_report`` and say where a callback
is missing.
"""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import keras

from graffiti.keras_io import compat
from graffiti.low_bit.callbacks import LowBitSteps, without_steps
from graffiti.reports import QuantizationReport

if TYPE_CHECKING:
    _Base: Any = object  # a subclass names the Keras model as its second base
else:
    _Base = object


class _Trained(_Base):
    """Stands in front of a Keras model class."""

    quantization_report = QuantizationReport()

    def get_config(self) -> dict[str, Any]:
        """The Keras model's config and the report."""
        return {**super().get_config(), "quantization_report": self.quantization_report.to_config()}

    def fit(self, *args, **kwargs):
        """As in Keras; warns where a schedule waits for ``callbacks.LowBitSteps``."""
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments.get("callbacks")
        listed = getattr(given, "callbacks", given) or []
        listed = listed if isinstance(listed, (list, tuple)) else [listed]
        if without_steps(self) and not any(isinstance(callback, LowBitSteps) for callback in listed):
            warnings.warn(
                f"model {self.name!r} is trained by adaptive precision, whose schedules take 1000 steps for an "
                "epoch as "
                "long as nobody says how many there are; pass callbacks=[graffiti.callbacks.LowBitSteps()] to fit, or "
                "steps_per_epoch= to the scheme", stacklevel=2)
        return super().fit(*args, **kwargs)


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitModel(_Trained, keras.Model):
    """A functional ``keras.Model`` of low-bit training.

    Args:
        inputs: as in ``keras.Model``.
        outputs: the same.
        name: the model's.
        quantization_report: plain values of the report.
        **kwargs: as in ``keras.Model``.
    """

    def __init__(self, inputs, outputs, name=None, *, quantization_report=(), **kwargs) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.quantization_report = QuantizationReport.from_config(quantization_report)


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitSequential(_Trained, keras.Sequential):
    """A ``keras.Sequential`` of low-bit training."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None) -> LowBitSequential:
        """The inverse of ``get_config``."""
        plain = {key: value for key, value in config.items() if key != "quantization_report"}
        model = super().from_config(plain, custom_objects=custom_objects)
        model.quantization_report = QuantizationReport.from_config(config.get("quantization_report", ()))
        return model


def trained(model: keras.Model, report: QuantizationReport) -> keras.Model:
    """A model made by ``quantize_training``, with its report.

    A class of the user's own stays what it is; then the report is an attribute that no file keeps.
    """
    if compat.is_keras_own(model):
        kind = LowBitSequential if isinstance(model, keras.Sequential) else LowBitModel
        model = compat.as_class(model, kind)
    model.quantization_report = report
    return model


def plain(model: keras.Model) -> keras.Model:
    """The Keras model of the same layers."""
    kinds = {LowBitModel: keras.Model, LowBitSequential: keras.Sequential}
    return compat.as_class(model, kinds[type(model)]) if type(model) in kinds else model
