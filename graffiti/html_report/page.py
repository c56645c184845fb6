"""The page: HTML with its style inside; every name that comes from a model is escaped."""

from __future__ import annotations

import dataclasses
import html
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from graffiti.callbacks import ThresholdHistory
from graffiti.cost import Cost
from graffiti.html_report import charts
from graffiti.html_report.measures import QuantizerRow, Sensitivity
from graffiti.verification.certificate import VerificationReport

MOST_BARS = 40

FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass
class Content:
    """What a report shows; see ``report``."""

    name: str
    examples: int
    measured: int
    accuracies: list[tuple[str, float]]
    rows: list[QuantizerRow]
    sensitivities: list[Sensitivity]
    history: ThresholdHistory | None
    cost: Cost
    left_in_float: list[tuple[str, str]]
    verification: VerificationReport


def render(content: Content) -> str:
    """The whole file."""
    parts = (
        _head, _accuracy, _layers, _sensitivity, _trajectories, _histograms, _cost, _left, _certificate
    )
    sections = [part(content) for part in parts]
    texts = {
        "title": _e(content.name), "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "body": "\n".join(section for section in sections if section)
    }
    page = (FOLDER / "page.html.in").read_text(encoding="utf-8")
    return re.sub("@(title|style|body)@", lambda match: texts[match.group(1)], page)



def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{_e(name)}</th>" for name in head)
    table = f"<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _db(value: float | None) -> str:
    if value is None:
        return ""
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _bytes(count: float | None) -> str:
    return "unknown" if count is None else f"{count:,.0f} B" if count < 10_240 else f"{count / 1024:,.1f} KiB"


def _head(c: Content) -> str:
    v, flash = c.verification, c.cost.weight_bytes + c.cost.bias_bytes
    verdict = {
        "equal": ("good", "equal, bit for bit"), "bounded": ("good", "within its bounds"),
        "failed": ("bad", "not proven")
    }[v.verdict]
    compared = f"{v.mismatches:,} of {v.compared:,} integers differ, {len(v.targets)} executors"
    cards = [(f'<b class="{verdict[0]}">{verdict[1]}</b>', compared)]
    cards += [(f"<b>{value:.2%}</b>", f"accuracy, {_e(name)}") for name, value in c.accuracies]
    cards += [
        (f"<b>{_bytes(flash)}</b>", "constants (flash), without code"),
        (f"<b>{_bytes(c.cost.peak_activation_bytes)}</b>", "activations (RAM), one example, at the least"),
        (f"<b>{c.cost.macs:,}</b>", "MACs an example")
    ]
    inner = "".join(f'<div class="card">{big}<span>{small}</span></div>' for big, small in cards)
    return (
        f'<h1>{_e(c.name)}</h1><p class="note">{c.examples:,} examples; layers measured on the first '
        f'{c.measured}.</p><div class="cards">{inner}</div>'
    )


def _accuracy(c: Content) -> str:
    if not c.accuracies:
        return ""
    first = c.accuracies[0][1]
    return (
        "<h2>Accuracy</h2>"
        + _table(
            ["network", "top-1", f"against {c.accuracies[0][0]}"],
            [
                (name, f"{value:.2%}", "" if i == 0 else f"{100 * (value - first):+.2f} points")
                for i, (name, value) in enumerate(c.accuracies)
            ]
        )
    )


def _layers(c: Content) -> str:
    compared = any(row.float_sqnr is not None for row in c.rows)
    head = [
        "value", "role", "bits", "log2 step", "range", "seen", "clipped", "SQNR", "cosine",
        *(["SQNR to float", "cosine to float"] if compared else [])
    ]
    rows = []
    for r in c.rows:
        exponents = str(r.exponents[0]) if len(set(r.exponents)) == 1 else f"{min(r.exponents)} … {max(r.exponents)}"
        rows.append([
            r.name, r.role, r.type, exponents, f"{charts.number(r.low)} … {charts.number(r.high)}",
            f"{charts.number(r.least)} … {charts.number(r.most)}", f"{r.clipped:.3%}", _db(r.sqnr), f"{r.cosine:.5f}",
            *([_db(r.float_sqnr), "" if r.float_cosine is None else f"{r.float_cosine:.5f}"] if compared else [])])
    note = (
        "SQNR and cosine compare a value with its rounded form; clipped is what lies more than a step outside "
        "the range."
    )
    return f'<h2>Layers</h2><p class="note">{note}</p>' + _table(head, rows)


def _sensitivity(c: Content) -> str:
    if not c.sensitivities:
        return ""
    rows = []
    for s in c.sensitivities[:MOST_BARS]:
        decibels = "exact" if s.noise == 0 else f"{-10 * math.log10(s.noise):.1f} dB"
        rows.append((s.name, math.sqrt(s.noise), decibels + (f", {s.moved:.1%} other class" if s.moved else "")))
    left = len(c.sensitivities) - len(rows)
    note = ("Error of the outputs (relative, root mean square) where this quantizer alone is at work, the most "
            "expensive first."
            + (f" {left} smaller ones are left out." if left > 0 else ""))
    return (f'<h2>Sensitivity</h2><p class="note">{note}</p>' + charts.bars(rows, "sensitivity of the outputs to each "
                                                                                  "quantizer"))


def _trajectories(c: Content) -> str:
    if c.history is None or not c.history.steps:
        return ""
    series = {name: [float(np.mean(value)) for value in values] for name, values in c.history.values.items()}
    note = (
        "log2 of each clipping threshold while ALT retrained it (the mean over channels where there is one per "
        "channel)."
    )
    return (
        f'<h2>Thresholds in training</h2><p class="note">{note}</p>'
        + charts.lines(c.history.steps, series, "log2 thresholds over training steps")
    )


def _histograms(c: Content) -> str:
    figures = "".join(
        f"<figure>{charts.histogram(*r.histogram, r.low, r.high, f'histogram of {r.name}')}"
        f"<figcaption><b>{_e(r.name)}</b>, {_e(r.role)}, "
        f"{r.type}, {charts.number(r.low)} … {charts.number(r.high)}</figcaption></figure>" for r in c.rows)
    return (
        '<h2>Histograms</h2><p class="note">Dashed lines: the range that is represented. Heights on a square-root '
        f'scale.</p><div class="grid">{figures}</div>'
    )


def _cost(c: Content) -> str:
    rows: list[tuple] = [
        (r.layer, r.op, f"{r.bits[0]}×{r.bits[1]}", f"{r.macs:,}", f"{r.bops:,}", f"{r.weight_bytes:,.0f}")
        for r in c.cost.layers
    ]
    rows.append(("all", "", "", f"{c.cost.macs:,}", f"{c.cost.bops:,}", f"{c.cost.weight_bytes:,.0f}"))
    note = (
        f"Biases {_bytes(c.cost.bias_bytes)}; activations at the least {_bytes(c.cost.peak_activation_bytes)} for "
        "one example, in order of the graph."
    )
    return (
        "<h2>Cost</h2>" + _table(["layer", "operation", "bits", "MACs", "bit operations", "weight bytes"], rows)
        + f'<p class="note">{note}</p>'
    )


def _left(c: Content) -> str:
    if not c.left_in_float:
        return "<h2>Left in float</h2><p>Nothing: the network computes in integers from its input to its output.</p>"
    return "<h2>Left in float</h2>" + _table(["layer", "why"], c.left_in_float)


def _certificate(c: Content) -> str:
    return f"<h2>Certificate</h2><pre>{_e(c.verification)}</pre>"
