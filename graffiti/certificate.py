"""``VerificationReport``: the certificate that ``verify`` gives, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from graffiti import files

MAX_OFFENDERS = 5
TOP1_SHARE = 0.999  # of the examples, where a target may differ at all


@dataclasses.dataclass
class TensorResult:
    """The comparison of one tensor on one target.

    Attributes:
        target: ``keras``, ``native:avx2``, ``c`` ...
        tensor: the value's name in the integer graph.
        compared: how many integers were compared.
        unequal: how many of them differ from the reference.
        worst: the largest difference in steps.
        offenders: the first few as ``(index, expected, got)``; the index counts from the first example of the data.
    """

    target: str
    tensor: str
    compared: int = 0
    unequal: int = 0
    worst: int = 0
    offenders: list[tuple[tuple[int, ...], int, float]] = dataclasses.field(default_factory=list)

    def add(self, expected: np.ndarray, got: np.ndarray, first_example: int) -> None:
        """Compare one batch."""
        if expected.shape != got.shape:
            raise ValueError(f"{self.target}: tensor {self.tensor!r} has shape {got.shape}, the reference {expected.shape}")
        self.compared += expected.size
        unequal = np.not_equal(expected, got)
        count = int(np.count_nonzero(unequal))
        if count:
            self.unequal += count
            difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
            self.worst = max(self.worst, math.ceil(float(np.nanmax(np.where(np.isnan(difference), np.inf, difference)))) if
                             np.isfinite(difference).all() else 2**31)
            for index in np.argwhere(unequal)[: MAX_OFFENDERS - len(self.offenders)]:
                place = (int(index[0]) + first_example, *map(int, index[1:]))
                value = float(got[tuple(index)])
                self.offenders.append((place, int(expected[tuple(index)]), int(value) if value.is_integer() else value))


@dataclasses.dataclass(frozen=True)
class Bound:
    """A statement of the certificate: where a target's own arithmetic may differ, and by how much at most, for any input.

    Attributes:
        target, tensor: as in ``TensorResult``.
        steps: the largest difference.
        why: which arithmetic.
    """

    target: str
    tensor: str
    steps: int
    why: str


@dataclasses.dataclass
class VerificationReport:
    """What ``verify`` found.

    Attributes:
        model: the model's name.
        digest: SHA-256 of the integer graph.
        examples: how many inputs went through.
        results: one ``TensorResult`` per target and tensor.
        skipped: target → why it was not run.
        bounds: where targets may differ, stated before anything was run.
        ends: output of the network, or a real value right before it → the tensors of codes that it is made of.
        top1: target → examples whose largest output is the reference's; networks with classes only.
        inputs: example → name of an input → its values, for the first offenders.
        model_digest: SHA-256 of the Keras model (architecture and weights); empty where there was none.
        data_digest: SHA-256 of the inputs.
        formats: ``weights`` / ``activations`` / ``accumulators`` → format → number of tensors.
        environment: versions, machine, CPU tiers.
        timestamp: as given; empty unless asked for, so that equal runs give equal files.
    """

    model: str
    digest: str
    examples: int
    results: list[TensorResult]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    bounds: list[Bound] = dataclasses.field(default_factory=list)
    ends: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    top1: dict[str, int] = dataclasses.field(default_factory=dict)
    inputs: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    model_digest: str = ""
    data_digest: str = ""
    formats: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    timestamp: str = ""

    @property
    def mismatches(self) -> int:
        """Unequal integers over all targets and tensors."""
        return sum(result.unequal for result in self.results)

    @property
    def compared(self) -> int:
        """Compared integers over all targets and tensors."""
        return sum(result.compared for result in self.results)

    @property
    def targets(self) -> list[str]:
        """The targets that were compared, in order."""
        return list(dict.fromkeys(result.target for result in self.results))

    @property
    def ok(self) -> bool:
        """Whether something was compared, nothing differs and nothing asked for was skipped."""
        return self.compared > 0 and self.mismatches == 0 and not self.skipped

    @property
    def verdict(self) -> str:
        """``equal``; ``bounded``: what differs is named in ``bounds``, stays within, and 99.9 % of the examples keep their class; else ``failed``."""
        if self.ok:
            return "equal"
        kept = all(count >= TOP1_SHARE * self.examples for count in self.top1.values())
        bounded = self.compared > 0 and not self.skipped and kept and all(self._within(result) for result in self.results)
        return "bounded" if bounded else "failed"

    def _within(self, result: TensorResult) -> bool:
        """Whether a tensor differs no more than stated; a real output is as good as the codes that it is made of."""
        if not result.unequal:
            return True
        steps = {bound.tensor: bound.steps for bound in self.bounds if bound.target == result.target}
        codes = [code for code in self.ends.get(result.tensor, []) if code != result.tensor]
        if codes:
            return any(code in steps for code in codes)
        return result.worst <= steps.get(result.tensor, 0)

    def to_config(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model, "sha256": self.digest, "model_sha256": self.model_digest, "data_sha256": self.data_digest, "timestamp": self.timestamp,
            "environment": self.environment, "formats": self.formats, "examples": self.examples, "compared": self.compared,
            "mismatches": self.mismatches, "ok": self.ok, "verdict": self.verdict, "skipped": self.skipped, "top1": self.top1, "ends": self.ends,
            "bounds": [dataclasses.asdict(bound) for bound in self.bounds], "results": [dataclasses.asdict(result) for result in self.results],
            "inputs": {str(example): values for example, values in self.inputs.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VerificationReport:
        """The inverse of ``to_config``.

        Raises:
            ValueError: where this is no certificate, or its counts are not those of its results.
        """
        try:
            results = [TensorResult(**{**r, "offenders": [(tuple(i), e, g) for i, e, g in r["offenders"]]}) for r in config["results"]]
            report = cls(
                config["model"], config["sha256"], config["examples"], results, dict(config["skipped"]), [Bound(**b) for b in config["bounds"]],
                config["ends"], config["top1"], {int(example): values for example, values in config["inputs"].items()}, config["model_sha256"],
                config["data_sha256"], config["formats"], config["environment"], config["timestamp"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no certificate of graffiti.verify: {type(error).__name__} {error}") from error
        for key in ("compared", "mismatches", "ok", "verdict"):
            if config.get(key) != (value := getattr(report, key)):
                raise ValueError(f"the certificate says {key} = {config.get(key)!r}, and its results give {value!r}; it was changed by hand")
        return report

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the certificate as JSON, atomically."""
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_config(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> VerificationReport:
        """Read what ``save`` wrote.

        Raises:
            ValueError: where the file holds something else.
        """
        try:
            return cls.from_config(json.loads(pathlib.Path(path).read_text()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __str__(self) -> str:
        lines = [f"verify {self.model}: {self.examples} examples, integer graph sha256 {self.digest[:16]}"]
        if self.model_digest:
            lines.append(f"Keras model sha256 {self.model_digest[:16]}, data sha256 {self.data_digest[:16]}")
        if self.environment:
            lines.append(", ".join(f"{name} {value if isinstance(value, str) else '/'.join(value)}" for name, value in self.environment.items()))
        lines += [f"made {self.timestamp}"] if self.timestamp else []
        lines.append(f"{'target':<20} {'tensors':>8} {'integers compared':>18} {'unequal':>9} {'worst':>6}" + (f" {'same class':>11}" if self.top1 else ""))
        for target in self.targets:
            of_target = [result for result in self.results if result.target == target]
            lines.append(
                f"{target:<20} {len(of_target):>8} {sum(r.compared for r in of_target):>18,} "
                f"{sum(r.unequal for r in of_target):>9,} {max(r.worst for r in of_target):>6}"
                + (f" {self.top1[target]:>11,}" if target in self.top1 else "")
            )
        lines += [f"{target:<20} skipped: {why}" for target, why in self.skipped.items()]
        for result in (r for r in self.results if r.unequal):
            lines.append(f"  {result.target} {result.tensor}: {result.unequal} of {result.compared} differ, at most {result.worst} steps")
            lines += [f"    at {place}: expected {expected}, got {got}" for place, expected, got in result.offenders]
        lines += [f"  {b.target} {b.tensor}: may differ by {b.steps} step{'s' * (b.steps != 1)} for some input: {b.why}" for b in self.bounds]
        failure = f"{self.mismatches} unequal integers, {len(self.skipped)} targets skipped" if self.compared else "nothing was compared"
        endings = {"equal": "all integers agree", "bounded": f"{self.mismatches} unequal integers, all within the stated bounds", "failed": f"NOT proven: {failure}"}
        lines.append(endings[self.verdict])
        return "\n".join(lines)
