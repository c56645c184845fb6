"""``Recipe``: everything that decides a run but the model and the data, as frozen plain values that go to YAML and
back.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from graffiti import documents, files, schemes, targets
from graffiti.calibration.methods import METHODS
from graffiti.config import QuantizerSpec, Rule, Scheme
from graffiti.numerics.rounding import ROUNDING_MODES

_KEYS = ("name", "description", "scheme", "rules", "calibration", "alt", "target")


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    """How first thresholds are found.

    Args:
        examples: at most this many of the inputs given; ``None`` uses all.
        weights: a method of ``calibration/methods.py`` for weights; ``None`` takes the scheme's.
        activations: the same for everything else.
    """

    examples: int | None = None
    weights: str | None = None
    activations: str | None = None

    @classmethod
    def from_config(cls, config: Any, where: str) -> CalibrationOptions:
        """From plain values, checked."""
        content = documents.check_keys(config, ("examples", "weights", "activations"), where)
        if content.get("examples") is not None:
            documents.whole(content["examples"], f"examples of {where}", 1)
        for key in ("weights", "activations"):
            if content.get(key) is not None:
                documents.one_of(content[key], METHODS, f"{key} of {where}")
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class AltOptions:
    """How weights and thresholds are retrained; ``None`` takes ALT's own default.

    Args:
        epochs: passes over the training data.
        batch_size: examples in a step.
        weight_learning_rate: initial rate of the weights.
        threshold_learning_rate: initial rate of the log2 thresholds.
        freeze_start: step after which thresholds begin to freeze.
        freeze_interval: steps between two of them.
    """

    epochs: int = 3
    batch_size: int = 128
    weight_learning_rate: float | None = None
    threshold_learning_rate: float | None = None
    freeze_start: int | None = None
    freeze_interval: int | None = None

    @classmethod
    def from_config(cls, config: Any, where: str) -> AltOptions:
        """From plain values, checked."""
        content = documents.check_keys(config, [field.name for field in dataclasses.fields(cls)], where)
        for key in ("epochs", "batch_size", "freeze_interval"):
            if content.get(key) is not None or key in ("epochs", "batch_size") and key in content:
                documents.whole(content[key], f"{key} of {where}", 1)
        if content.get("freeze_start") is not None:
            documents.whole(content["freeze_start"], f"freeze_start of {where}", 0)
        for key in ("weight_learning_rate", "threshold_learning_rate"):
            if content.get(key) is not None:
                documents.positive(content[key], f"{key} of {where}")
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run: what ``quantize`` and ``ALT`` are given.

    Args:
        name: for messages.
        description: one line for lists.
        scheme: a preset's name or a ``Scheme``; ``None`` takes the target's, and ``int8`` without one.
        rules: exceptions for single layers, first match wins.
        calibration: how first thresholds are found.
        alt: how weights and thresholds are retrained.
        target: the target profile, by name or path; ``None`` for none.
    """

    name: str = "custom"
    description: str = ""
    scheme: str | Scheme | None = None
    rules: tuple[Rule, ...] = ()
    calibration: CalibrationOptions = CalibrationOptions()
    alt: AltOptions = AltOptions()
    target: str | None = None

    # ---- using ------------------------------------------------------------------------------------------------------
    def quantize(self, model, data, *, progress: bool = True):
        """``graffiti.quantize`` as the recipe says.

        Args:
            model: a float Keras model; it is not changed.
            data: calibration inputs, as in ``graffiti.quantize``; ``calibration.examples`` of them where they are
                arrays.
            progress: show a bar.
        """
        import graffiti

        data = _take(data, self.calibration.examples)
        q = graffiti.quantize(
            model, self.scheme, calibration=data, rules=self.rules, target=self.target, progress=progress
        )
        methods = {
            key: getattr(self.calibration, key) for key in ("weights", "activations")
            if getattr(self.calibration, key) is not None
        }
        if methods:
            graffiti.calibrate(q, data, progress=progress, **methods)
        return q

    def optimizer(self, steps_per_epoch: int):
        """``graffiti.ALT`` as the recipe says.

        Args:
            steps_per_epoch: batches of ``alt.batch_size`` in the training data.
        """
        import graffiti

        options = {key: value for key, value in dataclasses.asdict(self.alt).items() if value is not None}
        return graffiti.ALT(steps_per_epoch=steps_per_epoch, **options)

    # ---- files ------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        """Plain values without what is at its default; ``from_config`` reads them back."""
        config: dict[str, Any] = {"name": self.name}
        if self.description:
            config["description"] = self.description
        if self.scheme is not None:
            config["scheme"] = _scheme_config(self.scheme)
        if self.rules:
            config["rules"] = [_rule_config(rule) for rule in self.rules]
        for key in ("calibration", "alt"):
            options = getattr(self, key)
            changed = {
                f.name: getattr(options, f.name) for f in dataclasses.fields(options)
                if getattr(options, f.name) != f.default
            }
            if changed:
                config[key] = changed
        if self.target is not None:
            config["target"] = self.target
        return config

    @classmethod
    def from_config(cls, config: Any, where: str = "a recipe") -> Recipe:
        """From plain values, checked.

        Args:
            config: as in a recipe's file.
            where: what to call it in messages.

        Raises:
            ValueError: names the key, what is expected there and what it got.
        """
        content = documents.check_keys(config, _KEYS, where)
        for key in ("name", "description"):
            if key in content:
                documents.text(content[key], f"{key} of {where}")
        if content.get("scheme") is not None:
            content["scheme"] = _scheme(content["scheme"], f"scheme of {where}")
        rules = content.get("rules") or ()
        if not isinstance(rules, (list, tuple)):
            raise ValueError(f"rules of {where} is a list of match and scheme, got {documents.kind(rules)}")
        content["rules"] = tuple(_rule(rule, f"rule {number} of {where}") for number, rule in enumerate(rules, 1))
        for key, kind in (("calibration", CalibrationOptions), ("alt", AltOptions)):
            if key in content:
                content[key] = kind.from_config(content[key] or {}, f"{key} of {where}")  # type: ignore[attr-defined]
        if content.get("target") is not None:
            targets.get(documents.text(content["target"], f"target of {where}"))
        return cls(**content)

    def to_yaml(self) -> str:
        """The recipe as a YAML file's text."""
        return documents.to_yaml(self.to_config())

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the recipe as YAML, or as JSON where ``path`` ends so; atomically."""
        import json

        path = files.check_free(path, overwrite=overwrite)
        if path.suffix not in documents.SUFFIXES:
            raise ValueError(f"a recipe's file ends in {', '.join(documents.SUFFIXES)}, got {path}")
        text = (
            json.dumps(self.to_config(), indent=1, ensure_ascii=False) + "\n" if path.suffix == ".json"
            else self.to_yaml()
        )
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")


# ---- schemes and rules -----------------------------------------------------------------------------------------------
_SPEC_FIELDS = [field.name for field in dataclasses.fields(QuantizerSpec)]
_SCHEME_FIELDS = [field.name for field in dataclasses.fields(Scheme)]
_SPECS = ("weights", "activations", "first_layer", "last_layer", "inputs", "outputs")


def _scheme(value: Any, where: str) -> str | Scheme:
    """A preset's name; or ``base`` (a preset) with the fields that differ; or all fields of a scheme."""
    if isinstance(value, str):
        if value not in schemes.SCHEMES:
            raise ValueError(
                f"{where} is one of {', '.join(schemes.SCHEMES)}, or fields of a scheme, got "
                f"{value!r}{documents.nearest(value, schemes.SCHEMES)}"
            )
        return value
    content = documents.check_keys(value, ["base", *_SCHEME_FIELDS], where)
    base_name = content.pop("base", None)
    base = (
        None if base_name is None else schemes.SCHEMES[documents.one_of(base_name, schemes.SCHEMES, f"base of {where}")]
    )
    if base is None and not {"weights", "activations"} <= set(content):
        raise ValueError(
            f"{where} needs a base (one of {', '.join(schemes.SCHEMES)}), or weights and activations of its own"
        )
    if content.get("gradients") is not None:
        raise ValueError(
            f"gradients of {where} are for low-bit training; a recipe quantizes a trained network, leave them out"
        )
    if "rounding" in content:
        documents.one_of(content["rounding"], ROUNDING_MODES, f"rounding of {where}")
    if "name" in content:
        documents.text(content["name"], f"name of {where}")
    for key in ("bias_bits", "accumulator_bits", "leaky_relu_bits", "reciprocal_bits"):
        if key in content:
            documents.whole(content[key], f"{key} of {where}", 2, 32)
    for key in _SPECS:
        if content.get(key) is not None:
            content[key] = _spec(content[key], getattr(base, key, None), f"{key} of {where}")
    try:
        if base is None:
            return Scheme(**content)
        return base.replace(**{"name": f"{base.name} changed", **content} if content else {})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _spec(value: Any, base: QuantizerSpec | None, where: str) -> QuantizerSpec:
    content = documents.check_keys(value, _SPEC_FIELDS, where, required=() if base is not None else ("bits",))
    if "bits" in content:
        documents.whole(content["bits"], f"bits of {where}", 2, 16)
    if "signed" in content and content["signed"] != "auto":
        documents.flag(content["signed"], f"signed of {where} (or auto)")
    for key in ("narrow", "per_channel", "trainable"):
        if key in content:
            documents.flag(content[key], f"{key} of {where}")
    if "calibration" in content:
        documents.one_of(content["calibration"], METHODS, f"calibration of {where}")
    if content.get("rounding") is not None:
        documents.one_of(content["rounding"], ROUNDING_MODES, f"rounding of {where}")
    try:
        return QuantizerSpec(**content) if base is None else base.replace(**content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _rule(value: Any, where: str) -> Rule:
    content = documents.check_keys(value, ("match", "scheme"), where, required=("match", "scheme"))
    match = documents.text(content["match"], f"match of {where}")
    try:
        return Rule(match, None if content["scheme"] is None else _scheme(content["scheme"], f"scheme of {where}"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}" if not str(error).startswith("scheme of") else str(error)) from error


def _scheme_config(scheme: Any) -> Any:
    if isinstance(scheme, str):
        return scheme
    if not isinstance(scheme, Scheme):
        raise ValueError(f"a recipe holds schemes of quantize, got {scheme!r}")
    if schemes.SCHEMES.get(scheme.name) == scheme:
        return scheme.name
    return {
        field.name: documents.plain(value) for field in dataclasses.fields(scheme)
        if (value := getattr(scheme, field.name)) != field.default or field.default is dataclasses.MISSING
    }


def _rule_config(rule: Rule) -> dict[str, Any]:
    if not isinstance(rule.match, str):
        raise ValueError(
            f"a recipe's file holds rules by regular expression; the rule {rule} matches by a class or a function"
        )
    return {"match": rule.match, "scheme": None if rule.scheme is None else _scheme_config(rule.scheme)}


def _take(data: Any, count: int | None) -> Any:
    """The first ``count`` examples of arrays; anything else as it is."""
    if count is None:
        return data
    if isinstance(data, Mapping):
        return {key: _take(part, count) for key, part in data.items()}
    if isinstance(data, (list, tuple)):
        return [_take(part, count) for part in data]
    return data[:count] if hasattr(data, "shape") else data
