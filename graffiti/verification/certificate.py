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
        _check_shapes(self.target, self.tensor, expected, got)
        self.compared += expected.size
        unequal = np.not_equal(expected, got)
        count = int(np.count_nonzero(unequal))
        if count:
            self.unequal += count
            difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
            self.worst = max(self.worst, math.ceil(difference.max()) if np.isfinite(difference).all() else 2**31)
            for index in np.argwhere(unequal)[: MAX_OFFENDERS - len(self.offenders)]:
                place = (int(index[0]) + first_example, *map(int, index[1:]))
                value = float(got[tuple(index)])
                self.offenders.append((place, int(expected[tuple(index)]), int(value) if value.is_integer() else value))


@dataclasses.dataclass
class FloatResult:
    """The comparison of one output that is computed in float, on one target.

    Attributes:
        target: as in ``TensorResult``.
        output: the output's name in the integer graph.
        limit: how far a value may lie off; 0 behind layers left in float, a few last bits for a softmax of equal codes.
        compared: how many values were compared.
        unequal: how many lie farther off than ``limit``.
        worst: the largest difference; infinite where only one side is a number.
        offenders: the first few as ``(index, expected, got)``.
    """

    target: str
    output: str
    limit: float = 0.0
    compared: int = 0
    unequal: int = 0
    worst: float = 0.0
    offenders: list[tuple[tuple[int, ...], float, float]] = dataclasses.field(default_factory=list)

    def add(self, expected: np.ndarray, got: np.ndarray, first_example: int) -> None:
        """Compare one batch.

        Args:
            expected, got: reals or integers.
            first_example: number of the batch's first example.
        """
        expected, got = np.asarray(expected), np.asarray(got)
        _check_shapes(self.target, self.output, expected, got)
        self.compared += expected.size
        a, b = expected.astype(np.float64), got.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        difference = np.where(np.isnan(difference), np.inf, difference)  # one side is no number
        self.worst = max(self.worst, float(difference.max(initial=0.0)))
        wrong = np.argwhere(difference > self.limit)
        self.unequal += len(wrong)
        for index in map(tuple, wrong[: MAX_OFFENDERS - len(self.offenders)]):
            place = (int(index[0]) + first_example, *map(int, index[1:]))
            self.offenders.append((place, float(a[index]), float(b[index])))

    @property
    def what(self) -> str:
        """What computes the output."""
        return "a softmax in float" if self.limit else "computed by layers left in float"


def _check_shapes(target: str, tensor: str, expected: np.ndarray, got: np.ndarray) -> None:
    if expected.shape != got.shape:
        raise ValueError(f"{target}: tensor {tensor!r} has shape {got.shape}, the reference {expected.shape}")


def _with_places(result: dict[str, Any]) -> dict[str, Any]:
    """A result as JSON has it, with tuples where it has lists."""
    return {**result, "offenders": [(tuple(place), expected, got) for place, expected, got in result["offenders"]]}


@dataclasses.dataclass(frozen=True)
class Bound:
    """A statement of the certificate: where a target's own arithmetic may differ, and by how much at most, for any
    input.

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
        floats: one ``FloatResult`` per target and output that is computed in float: a softmax of codes, or layers left
            in float.
        by_codes: target → outputs that it does not compute: all codes that they are made of were compared, the scale,
            moves or softmax behind them are not part of it.
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
    floats: list[FloatResult] = dataclasses.field(default_factory=list)
    by_codes: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def everything(self) -> list[TensorResult | FloatResult]:
        """All comparisons."""
        return [*self.results, *self.floats]

    @property
    def mismatches(self) -> int:
        """Unequal integers over all targets and tensors, and values of float outputs that lie farther off than their
        limit.
        """
        return sum(result.unequal for result in self.everything)

    @property
    def compared(self) -> int:
        """Compared values over all targets and tensors."""
        return sum(result.compared for result in self.everything)

    @property
    def targets(self) -> list[str]:
        """The targets that were compared, in order."""
        return list(dict.fromkeys(result.target for result in self.everything))

    @property
    def ok(self) -> bool:
        """Whether something was compared, nothing differs and nothing asked for was skipped."""
        return self.compared > 0 and self.mismatches == 0 and not self.skipped

    @property
    def verdict(self) -> str:
        """``equal``; ``bounded``: what differs is named in ``bounds``, stays within, and 99.9 % of the examples keep
        their class; else ``failed``.
        """
        if self.ok:
            return "equal"
        kept = all(count >= TOP1_SHARE * self.examples for count in self.top1.values())
        bounded = self.compared > 0 and not self.skipped and kept and all(map(self._within, self.everything))
        return "bounded" if bounded else "failed"

    def _within(self, result: TensorResult | FloatResult) -> bool:
        """Whether a tensor differs no more than stated; a real output is as good as the codes that it is made of."""
        if not result.unequal:
            return True
        name = result.tensor if isinstance(result, TensorResult) else result.output
        steps = {bound.tensor: bound.steps for bound in self.bounds if bound.target == result.target}
        codes = [code for code in self.ends.get(name, []) if code != name]
        if codes:
            return any(code in steps for code in codes)
        return result.worst <= steps.get(name, 0)

    def to_config(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model, "sha256": self.digest, "model_sha256": self.model_digest,
            "data_sha256": self.data_digest, "timestamp": self.timestamp,
            "environment": self.environment, "formats": self.formats, "examples": self.examples,
            "compared": self.compared,
            "mismatches": self.mismatches, "ok": self.ok, "verdict": self.verdict, "skipped": self.skipped,
            "top1": self.top1, "ends": self.ends,
            "bounds": [dataclasses.asdict(bound) for bound in self.bounds],
            "results": [dataclasses.asdict(result) for result in self.results],
            "floats": [dataclasses.asdict(result) for result in self.floats], "by_codes": self.by_codes,
            "inputs": {str(example): values for example, values in self.inputs.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VerificationReport:
        """The inverse of ``to_config``.

        Raises:
            ValueError: where this is no certificate, or its counts are not those of its results.
        """
        try:
            results = [TensorResult(**_with_places(result)) for result in config["results"]]
            floats = [FloatResult(**_with_places(result)) for result in config.get("floats", ())]
            report = cls(
                config["model"], config["sha256"], config["examples"], results, dict(config["skipped"]),
                [Bound(**b) for b in config["bounds"]],
                config["ends"], config["top1"], {int(example): values for example, values in config["inputs"].items()},
                config["model_sha256"],
                config["data_sha256"], config["formats"], config["environment"], config["timestamp"], floats,
                dict(config.get("by_codes", {})))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no certificate of graffiti.verify: {type(error).__name__} {error}") from error
        for key in ("compared", "mismatches", "ok", "verdict"):
            if config.get(key) != (value := getattr(report, key)):
                raise ValueError(f"the certificate says {key} = {config.get(key)!r}, and its results give {value!r}; "
                                 "it was changed by hand")
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
            lines.append(
                ", ".join(
                    f"{name} {value if isinstance(value, str) else '/'.join(value)}"
                    for name, value in self.environment.items()
                )
            )
        lines += [f"made {self.timestamp}"] if self.timestamp else []
        lines.append(
            f"{'target':<20} {'tensors':>8} {'integers compared':>18} {'unequal':>9} {'worst':>6}"
            + (f" {'same class':>11}" if self.top1 else "")
        )
        for target in self.targets:
            of_target = [result for result in self.results if result.target == target]
            lines.append(
                f"{target:<20} {len(of_target):>8} {sum(r.compared for r in of_target):>18,} "
                f"{sum(r.unequal for r in of_target):>9,} {max((r.worst for r in of_target), default=0):>6}"
                + (f" {self.top1[target]:>11,}" if target in self.top1 else "")
            )
        lines += [f"{target:<20} skipped: {why}" for target, why in self.skipped.items()]
        for result in (r for r in self.results if r.unequal):
            lines.append(f"  {result.target} {result.tensor}: {result.unequal} of {result.compared} differ, at most "
                         f"{result.worst} steps")
            lines += [f"    at {place}: expected {expected}, got {got}" for place, expected, got in result.offenders]
        lines += self._float_lines()
        lines += [
            f"  {b.target} {b.tensor}: may differ by {b.steps} step{'s' * (b.steps != 1)} for some input: {b.why}"
            for b in self.bounds
        ]
        in_float = sum(result.unequal for result in self.floats)
        failure = (
            f"{self.mismatches - in_float} unequal integers, {len(self.skipped)} targets skipped" if self.compared
            else "nothing was compared"
        )
        failure += f", {in_float} unequal values of outputs computed in float" if in_float else ""
        endings = {"equal": "all integers agree", "bounded": f"{self.mismatches} unequal integers, all within the "
                                                             "stated bounds", "failed": f"NOT proven: {failure}"}
        lines.append(endings[self.verdict])
        return "\n".join(lines)

    def _float_lines(self) -> list[str]:
        """The outputs that are computed in float: each difference, and a line for an output where there is none."""
        lines = []
        for result in (r for r in self.floats if r.unequal):
            lines.append(
                f"  {result.target} {result.output}: {result.what}, {result.unequal} of {result.compared} values "
                f"differ, at most by {result.worst:.6g}"
            )
            lines += [f"    at {place}: expected {expected}, got {got}" for place, expected, got in result.offenders]
        for output in dict.fromkeys(result.output for result in self.floats):
            equal = [result for result in self.floats if result.output == output and not result.unequal]
            if equal:
                widest = max(equal, key=lambda result: result.worst)
                apart = f"at most {widest.worst:.2g} apart ({widest.target})" if widest.worst else "equal"
                lines.append(f"  {output}: {widest.what}, {widest.compared} values on {len(equal)} targets, {apart}")
        for output in dict.fromkeys(output for outputs in self.by_codes.values() for output in outputs):
            targets = [target for target, outputs in self.by_codes.items() if output in outputs]
            lines.append(
                f"  {output}: not computed by {', '.join(targets)}; all codes that it is made of were compared"
            )
        return lines
