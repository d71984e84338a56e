"""Training curves as SVG, drawn on the server from a package's logs/metrics.jsonl. No script, no style attribute."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape

MAX_LOG_BYTES = 16 << 20
_MAX_PLOTS = 6
_MAX_POINTS = 240
_MAX_SERIES = 4
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 200, 52, 10, 14, 26
_COLOURS = {"train": 0, "val": 1, "test": 2}
_FIRST = ("loss", "top1", "balanced_accuracy", "macro_f1", "auroc", "rmse", "r2", "lr")


@dataclass(frozen=True, slots=True)
class Plot:
    """``svg`` is markup of ours alone; ``summary`` says the same in words."""

    title: str
    svg: str
    summary: str


Series = dict[str, list[tuple[float, float]]]


def read_series(data: bytes) -> dict[str, Series]:
    """tag → split → (step, value). Lines that are no scalar are skipped."""
    tags: dict[str, Series] = {}
    for line in data[:MAX_LOG_BYTES].splitlines():
        try:
            event = json.loads(line)
            step, value = float(event["global_step"]), float(event["value"])
            tag, split, kind = event["tag"], event.get("split", "train"), event.get("kind", "scalar")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
        if not isinstance(tag, str) or not isinstance(split, str) or kind != "scalar" or tag.startswith("wall_"):
            continue
        if math.isfinite(step) and math.isfinite(value) and (len(tags) < 200 or tag[:60] in tags):
            tags.setdefault(tag[:60], {}).setdefault(split[:20], []).append((step, value))
    return tags


def draw(data: bytes) -> list[Plot]:
    """A plot per tag, the well-known ones first."""
    tags = read_series(data)
    order = sorted(tags, key=lambda tag: (_FIRST.index(tag) if tag in _FIRST else len(_FIRST), tag))
    plotted = [tag for tag in order if any(len(points) > 1 for points in tags[tag].values())]
    return [_plot(tag, tags[tag]) for tag in plotted[:_MAX_PLOTS]]


def _plot(tag: str, series: Series) -> Plot:
    shown = {split: _thin(sorted(points)) for split, points in sorted(series.items())[:_MAX_SERIES]}
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    if y0 == y1:
        y0, y1 = y0 - 0.5, y1 + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y - y0) / (y1 - y0)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_axes(x0, x1, y0, y1)]
    for place_, (split, points) in enumerate(shown.items()):
        i = _COLOURS.get(split, 3)
        spots = [place(x, y) for x, y in points]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
        parts.append(f'<polyline class="line s{i}" points="{line}"/>')
        if len(spots) <= 30:
            parts += [f'<circle class="dot s{i}" cx="{px:.1f}" cy="{py:.1f}" r="2.2"/>' for px, py in spots]
        parts.append(_key(place_, i, split))
    words = "; ".join(f"{split} from {_short(p[0][1])} to {_short(p[-1][1])}" for split, p in shown.items())
    title = f"{tag}: {words}"
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
    return Plot(tag, svg, words)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_MAX_POINTS``; each the mean of its neighbours, the last one kept as it is."""
    if len(points) <= _MAX_POINTS:
        return points
    width = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means[:-1], points[-1]]


def _axes(x0: float, x1: float, y0: float, y1: float) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - _TOP)
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        y_here = y0 + share * (y1 - y0)
        value = _short(0.0 if abs(y_here) < 1e-3 * (y1 - y0) else y_here)
        lines.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value}</text>')
    lines.append(f'<text class="tick" x="{_LEFT}" y="{_HEIGHT - 8}">{x0:.0f}</text>')
    lines.append(f'<text class="tick" x="{right}" y="{_HEIGHT - 8}" text-anchor="end">step {x1:.0f}</text>')
    return "".join(lines)


def _key(column: int, i: int, split: str) -> str:
    x = _LEFT + 8 + column * 72
    return (
        f'<rect class="swatch s{i}" x="{x}" y="{_TOP - 11}" width="10" height="4"/>'
        f'<text class="tick" x="{x + 14}" y="{_TOP - 5}">{escape(split)}</text>'
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
