"""Charts as inline SVG: no script, sharp in print, readable where colours are not."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

INK, MUTED, FILL, LINE = "#1b2733", "#6a7785", "#9fc3e0", "#b3261e"
PALETTE = ("#1f6f9f", "#b3261e", "#2e7d4f", "#8a5a00", "#6b4c9a", "#00798c", "#a23b72", "#52606d")


def number(x: float) -> str:
    """Four significant digits."""
    return f"{x:.4g}"


def _svg(width: int, height: int, label: str, body: Sequence[str]) -> str:
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label, quote=True)}" '
            'xmlns="http://www.w3.org/2000/svg">'
            + "".join(body) + "</svg>")


def _text(x: float, y: float, text: str, anchor: str = "start", color: str = MUTED, size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" '
        f'font-size="{size}">{html.escape(text)}</text>'
    )


def histogram(counts: np.ndarray, edges: np.ndarray, low: float, high: float, label: str) -> str:
    """Counts on a square-root scale, with the ends of the represented range as lines.

    Args:
        counts: ``(bins,)``.
        edges: ``(bins + 1,)``, ascending, as of ``numpy.histogram``.
        low, high: lowest and highest real value that a quantizer represents; the axis reaches over both.
        label: what a screen reader says.

    Returns:
        An ``<svg>`` element.
    """
    width, height, left, bottom = 320, 130, 8, 20
    first, last = min(float(edges[0]), low), max(float(edges[-1]), high)
    span = (last - first) or 1.0
    place = lambda x: left + (x - first) / span * (width - 2 * left)  # noqa: E731
    top = np.sqrt(max(int(np.max(counts)), 1))
    body = []
    for count, a, b in zip(counts, edges[:-1], edges[1:]):
        tall = (height - bottom - 10) * np.sqrt(count) / top
        if count:
            body.append(f'<rect x="{place(a):.2f}" y="{height - bottom - tall:.2f}" '
                        f'width="{max(place(b) - place(a), 0.5):.2f}" height="{tall:.2f}" fill="{FILL}"/>')
    body.append(f'<line x1="{left}" x2="{width - left}" y1="{height - bottom}" y2="{height - bottom}" stroke="{INK}"/>')
    for x in (low, high):
        body.append(f'<line x1="{place(x):.2f}" x2="{place(x):.2f}" y1="6" y2="{height - bottom}" stroke="{LINE}" '
                    'stroke-width="1.5" stroke-dasharray="4 3"/>')
    body += [_text(left, height - 5, number(first)), _text(width - left, height - 5, number(last), "end")]
    return _svg(width, height, label, body)


def bars(rows: Sequence[tuple[str, float, str]], label: str) -> str:
    """Horizontal bars: name, length (0 or more), text behind it."""
    step, left, width = 22, 210, 640
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    body = []
    for i, (name, value, text) in enumerate(rows):
        y, long = i * step + 4, (width - left - 130) * value / longest
        short = name if len(name) <= 30 else "…" + name[-29:]
        body.append(_text(left - 8, y + 12, short, "end", INK, 12))
        body.append(f'<rect x="{left}" y="{y}" width="{max(long, 1):.2f}" height="{step - 7}" fill="{FILL}"/>')
        body.append(_text(left + long + 6, y + 12, text))
    return _svg(width, len(rows) * step + 6, label, body)


def lines(xs: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """Lines over common steps, with a legend.

    Args:
        xs: the steps, ascending.
        series: name in the legend → a value for each step; what is not finite is left out.
        label: what a screen reader says.

    Returns:
        An ``<svg>`` element.
    """
    width, height, left, bottom, right = 640, 260 + 16 * ((len(series) + 1) // 2), 58, 30, 12
    plot = 250
    finite = [value for values in series.values() for value in values if np.isfinite(value)]
    least, most = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = (most - least) * 0.05 or 0.5
    least, most = least - margin, most + margin
    begin, end = (xs[0], xs[-1]) if len(xs) else (0, 1)
    px = lambda x: left + (x - begin) / ((end - begin) or 1) * (width - left - right)  # noqa: E731
    py = lambda y: 8 + (most - y) / (most - least) * (plot - bottom - 8)  # noqa: E731
    body = []
    for tick in np.linspace(least, most, 5):
        body.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" stroke="#dde3e8"/>'
            + _text(left - 6, py(tick) + 4, number(tick), "end")
        )
    body += [_text(left, plot - 8, number(begin)), _text(width - right, plot - 8, f"step {number(end)}", "end")]
    for i, (name, values) in enumerate(series.items()):
        color, dash = PALETTE[i % len(PALETTE)], ("", "6 3", "2 2")[i // len(PALETTE) % 3]
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(xs, values) if np.isfinite(y))
        body.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6" '
                    f'stroke-dasharray="{dash}"/>')
        x, y = left + (i % 2) * (width - left) / 2, plot + 12 + 16 * (i // 2)
        body.append(
            f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="{y - 4}" y2="{y - 4}" stroke="{color}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
            + _text(x + 24, y, name, color=INK)
        )
    return _svg(width, height, label, body)
