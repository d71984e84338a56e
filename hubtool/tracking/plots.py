"""Plots of a run: its curves and its confusion matrix. Each function writes PNG and SVG and returns both paths.

K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.records.claims import SHARES
from hubtool.records.log import Event
from hubtool.tracking.plots_style import INK, LINES, PALE, figure, plain_ticks, shorten, written

Array = np.ndarray[Any, np.dtype[Any]]
MAX_COUNTED_CLASSES = 20
_SMOOTH_FROM = 120
_LOG_FROM = 30  # times the median


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: ``xs`` global steps, ``ys`` values."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


def curves(events: Iterable[Event], path: Path, *, title: str = "") -> tuple[Path, Path]:
    """Loss, shares (top1 and the like) and learning rate over the optimizer steps; the best validation point is marked."""
    series = scalar_series(events)
    panels = _panels(series)
    with figure(4.4 * len(panels), 3.4, path) as fig:
        for axis, (name, unit, found) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_lines(axis, [Curve(label=k, xs=xs, ys=ys) for k, (xs, ys) in found.items()], is_noisy=name == "loss")
            axis.set_title(name)
            axis.set_xlabel("optimizer step")
            axis.set_ylabel(unit)
            if name in ("loss", "validation"):
                _mark_best(axis, found, is_lower_better=name == "loss")
            if name in ("loss", "errors"):
                _spread_out(axis, found)
        if title:
            fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return written(path)


def overlaid(runs: Mapping[str, Iterable[Event]], path: Path, *, metric: str) -> tuple[Path, Path]:
    """Several runs over each other: validation loss and ``metric`` (a tag, such as ``top1``)."""
    series = {name: scalar_series(events) for name, events in runs.items()}
    tags = [tag for tag in dict.fromkeys(("loss", metric)) if any(f"{tag}/val" in s for s in series.values())]
    with figure(5.2 * max(1, len(tags)), 3.8, path) as fig:
        axes = fig.subplots(1, max(1, len(tags)), squeeze=False)[0]
        for axis, tag in zip(axes, tags, strict=False):
            lines = [(name, s[f"{tag}/val"]) for name, s in series.items() if f"{tag}/val" in s]
            _draw_lines(axis, [Curve(label=shorten(name, 60), xs=xs, ys=ys) for name, (xs, ys) in lines])
            axis.set_title(f"validation {tag}")
            axis.set_xlabel("optimizer step")
            axis.set_ylabel("share" if tag in SHARES else tag)
            _spread_out(axis, dict(lines))
    return written(path)


def scalar_series(events: Iterable[Event]) -> dict[str, tuple[list[float], list[float]]]:
    """``tag/split`` → steps and values."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for event in events:
        if event.kind == "scalar" and event.value is not None:
            xs, ys = series.setdefault(f"{event.tag}/{event.split}", ([], []))
            xs.append(event.global_step)
            ys.append(event.value)
    return series


def _panels(series: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    loss: dict[str, Any] = {key: series[key] for key in ("loss/train", "loss/val", "loss/test") if key in series}
    shares: dict[str, Any] = {
        key: value
        for key, value in series.items()
        if key.partition("/")[0] in SHARES and not key.endswith(("/train", "/test"))
    }
    rates: dict[str, Any] = {key: value for key, value in series.items() if key.startswith("lr")}
    errors: dict[str, Any] = {key: series[key] for key in ("mae/val", "rmse/val") if key in series}
    panels = [
        ("loss", "mean loss per sample", loss),
        ("validation", "share", dict(list(shares.items())[:5])),
        ("errors", "error in the unit of the targets", errors),
    ]
    panels.append(("learning rate", "learning rate", dict(list(rates.items())[:6])))
    return [panel for panel in panels if panel[2]] or [("loss", "mean loss per sample", {})]


def _draw_lines(axis: Any, lines: Sequence[Curve], *, is_noisy: bool = True) -> None:
    """A long noisy line is drawn faint, its running mean in full; a schedule is drawn as it is."""
    for number, line in enumerate(lines):
        color, dash = LINES[number % len(LINES)]
        marker = "o" if len(line.xs) <= 30 else None
        ys: Any = line.ys
        if is_noisy and len(line.ys) >= _SMOOTH_FROM:
            axis.plot(line.xs, line.ys, color=color, linewidth=0.7, alpha=0.28)
            ys = _smooth(np.asarray(line.ys, dtype=np.float64), len(line.ys) // 40)
        axis.plot(line.xs, ys, color=color, linestyle=dash, marker=marker, markersize=3, label=line.label)
    if lines:
        axis.legend(loc="best")


def _smooth(ys: Array, width: int) -> Array:
    """The mean over a centred window that shrinks at the ends."""
    total = np.concatenate([[0.0], np.cumsum(ys)])
    index = np.arange(len(ys))
    low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(ys))
    return np.asarray((total[high] - total[low]) / (high - low))


def _mark_best(axis: Any, found: dict[str, Any], *, is_lower_better: bool) -> None:
    key = next((key for key in found if key.endswith("/val")), None)
    if key is None or not found[key][1]:
        return
    xs, ys = found[key]
    best = int(np.argmin(ys) if is_lower_better else np.argmax(ys))
    axis.plot(
        [xs[best]], [ys[best]], "o", markersize=8, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.2
    )
    is_left = xs[best] - xs[0] < (xs[-1] - xs[0]) / 4  # there is no room before it
    axis.annotate(
        f"best {ys[best]:.4g}", (xs[best], ys[best]), textcoords="offset points",
        xytext=(6 if is_left else -6, 12 if is_lower_better else -16), ha="left" if is_left else "right", fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip


def _spread_out(axis: Any, found: dict[str, Any]) -> None:
    """A logarithmic scale where a few high values at the start would press all others onto the axis."""
    values = np.asarray([y for _, ys in found.values() for y in ys])
    if len(values) and values.min() > 0 and values.max() > _LOG_FROM * np.median(values):
        axis.set_yscale("log")
        plain_ticks(axis)
        axis.set_ylabel(f"{axis.get_ylabel()}, logarithmic")


def confusion_matrix(
    matrix_KK: Array, classes: Sequence[str], path: Path, *, title: str = "confusion matrix"
) -> tuple[Path, Path]:
    """``matrix_KK[i, j]`` samples of class i that were called j. Shades are shares of the row; up to 20 classes the
    counts stand in the cells, beyond it the classes most often confused stand beside the picture."""
    matrix_KK = np.asarray(matrix_KK)
    num_classes = len(classes)
    is_counted = num_classes <= MAX_COUNTED_CLASSES
    side = min(9.0, max(3.4, 1.6 + 0.42 * num_classes))
    margin = 1.0 + 0.07 * min(18, max(len(name) for name in classes))
    with figure(side + (margin if is_counted else 4.6), side + (0.4 if is_counted else 1.2), path) as fig:
        axis, beside = (fig.subplots(), None) if is_counted else fig.subplots(1, 2, width_ratios=(side, 3.8))
        shares = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
        picture = _shade_cells(axis, shares if is_counted else np.sqrt(shares))
        _label_classes(axis, classes, side - 1.6)
        words = f"{title} · {int(np.trace(matrix_KK))} of {int(matrix_KK.sum())} right"
        axis.set_title(words if num_classes > 4 else words.replace(" · ", "\n"))
        if is_counted:
            _write_counts(axis, matrix_KK, shares)
        _shade_bar(fig, picture, axis, is_counted=is_counted)
        if beside is not None:
            _list_confusions(beside, matrix_KK, classes)
    return written(path)


def _shade_cells(axis: Any, shades_KK: Array) -> Any:
    """A square for each cell that is not empty: drawn, not embedded as a picture, so that the SVG holds none."""
    from matplotlib.collections import PolyCollection

    rows, columns = np.nonzero(shades_KK)
    corners = np.asarray([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = np.stack([columns, rows], axis=1)[:, None, :] + corners[None]
    cells = PolyCollection(
        list(squares), array=shades_KK[rows, columns], cmap="Blues", edgecolors="face", linewidths=0.3
    )
    cells.set_clim(0, 1)
    axis.add_collection(cells)
    axis.set_xlim(-0.5, len(shades_KK) - 0.5)
    axis.set_ylim(len(shades_KK) - 0.5, -0.5)
    axis.set_aspect("equal")
    return cells


def _label_classes(axis: Any, classes: Sequence[str], width: float) -> None:
    """``width`` is that of all cells, in inches, about: where the names fit into it they stand upright."""
    step = max(1, -(-len(classes) // 50))
    names = [shorten(name, 18) for name in classes[::step]]
    size = 9.0 if len(classes) <= 12 else 7.5 if len(classes) <= 30 else 5.5
    is_flat = len(classes) <= 12 and 0.085 * max(len(name) for name in names) * len(classes) <= width
    axis.set_xticks(range(0, len(classes), step), names, rotation=0 if is_flat else 90, fontsize=size)
    axis.set_yticks(range(0, len(classes), step), names, fontsize=size)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.grid(False)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(True)
        side.set_color(PALE)


def _write_counts(axis: Any, matrix_KK: Array, shares: Array) -> None:
    size = 10.0 if len(matrix_KK) <= 4 else 8.5 if len(matrix_KK) <= 12 else 6.5
    for i, j in zip(*np.nonzero(matrix_KK), strict=True):
        color = "white" if shares[i, j] > 0.55 else INK
        axis.text(j, i, f"{int(matrix_KK[i, j])}", ha="center", va="center", fontsize=size, color=color)


def _shade_bar(fig: Any, picture: Any, axis: Any, *, is_counted: bool) -> None:
    bar = fig.colorbar(picture, ax=axis, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)
    bar.solids.set_rasterized(False)
    bar.set_label("share of the true class")
    shares = (0.0, 0.25, 0.5, 0.75, 1.0) if is_counted else (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
    bar.set_ticks([v if is_counted else v**0.5 for v in shares], labels=[f"{v:.0%}" for v in shares])


def _list_confusions(axis: Any, matrix_KK: Array, classes: Sequence[str]) -> None:
    """The pairs that cost most, as text."""
    wrong = matrix_KK.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:18]
    axis.set_axis_off()
    axis.set_title("most often confused")
    for row, flat in enumerate(order):
        i, j = np.unravel_index(flat, wrong.shape)
        if not wrong[i, j]:
            break
        text = f"{int(wrong[i, j])}  {shorten(classes[i], 22)} → {shorten(classes[j], 22)}"
        axis.text(0, 0.98 - 0.036 * row, text, transform=axis.transAxes, va="top", fontsize=8)
