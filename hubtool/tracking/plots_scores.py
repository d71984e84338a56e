"""Plots of predictions that show numbers only: reliability, per-class bars, ROC, precision against recall, regression.

N samples, K outputs. No picture and no file name of the data stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.records.metrics import wilson
from hubtool.tracking.plots_style import BLUE, GREY, INK, LINES, PALE, figure, plain_ticks, shorten, written
from hubtool.tracking.ranking import pr_points, roc_points

Array = np.ndarray[Any, np.dtype[Any]]
MAX_BARS = 40
NUM_BINS = 10


def reliability(
    confidence_N: Array, is_right_N: Array, path: Path, *, calibration_error: float | None = None
) -> tuple[Path, Path]:
    """How often a prediction of some confidence is right, in ten equal bins with 95 % intervals, over how often it occurs."""
    bins = np.clip((np.asarray(confidence_N) * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    right = np.bincount(bins, weights=np.asarray(is_right_N, dtype=np.float64), minlength=NUM_BINS)
    mean_confidence = np.bincount(bins, weights=confidence_N, minlength=NUM_BINS) / np.maximum(counts, 1)
    filled = counts > 0
    share = right[filled] / counts[filled]
    low, high = wilson(share, counts[filled])
    with figure(4.4, 4.9, path) as fig:
        axis, below = fig.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="dotted", label="perfectly calibrated")
        spread = np.maximum([share - low, high - share], 0)
        axis.errorbar(mean_confidence[filled], share, yerr=spread, fmt="o-", color=BLUE, markersize=4, capsize=2.5,
                      elinewidth=1, label="share right, 95 % interval")  # fmt: skip
        axis.set_ylim(-0.02, 1.04)
        axis.set_ylabel("share right")
        error = "" if calibration_error is None else f" · calibration error {calibration_error:.3f}"
        axis.set_title(f"reliability{error}")
        axis.legend(loc="lower right")
        below.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, counts, width=0.9 / NUM_BINS, color=PALE, edgecolor=GREY)
        below.set_yscale("symlog", linthresh=1)
        plain_ticks(below)
        below.set_ylim(0, max(2, counts.max() * 2))
        below.set_xlim(0, 1.02)
        below.set_ylabel("samples")
        below.set_xlabel("confidence of the prediction")
    return written(path)


def per_class(num_right_K: Array, num_K: Array, classes: Sequence[str], path: Path) -> tuple[Path, Path]:
    """The share right of each class with its 95 % interval, the worst on top; of many classes the worst forty."""
    num_right_K, num_K = np.asarray(num_right_K, dtype=np.float64), np.asarray(num_K)
    present = np.flatnonzero(num_K)
    share_K = num_right_K / np.maximum(num_K, 1)
    worst = present[np.argsort(share_K[present], kind="stable")][:MAX_BARS]
    share = share_K[worst]
    low, high = wilson(share, num_K[worst])
    with figure(6.2, max(1.8, 1.0 + 0.24 * len(worst)), path) as fig:
        axis = fig.subplots()
        rows = np.arange(len(worst))
        spread = np.maximum([share - low, high - share], 0)
        axis.barh(rows, share, height=0.66, color="#9dbcd8", edgecolor=BLUE, linewidth=0.8)
        axis.errorbar(share, rows, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        names = [f"{shorten(classes[i], 24)}  (n={int(num_K[i])})" for i in worst]
        axis.set_yticks(rows, names, fontsize=8.5 if len(worst) <= 25 else 7.5)
        axis.set_ylim(len(worst) - 0.4, -0.6)
        axis.set_xlim(0, 1.02)
        axis.grid(False, axis="y")
        axis.set_xlabel("share right (recall), 95 % interval")
        more = "" if len(worst) == len(present) else f", the worst {len(worst)} of {len(present)}"
        axis.set_title(f"by class{more}")
    return written(path)


def roc(positives_NK: Array, scores_NK: Array, classes: Sequence[str], path: Path) -> tuple[Path, Path]:
    """One class against the rest, each class in grey and the three hardest by name; of one output a single curve."""
    with figure(4.6, 4.3, path) as fig:
        axis = fig.subplots()
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="dotted", linewidth=1)
        _draw_ranking(axis, roc_points, positives_NK, scores_NK, classes, is_rising=True)
        axis.set_xlabel("false positive rate")
        axis.set_ylabel("true positive rate")
        axis.set_title("ROC, one class against the rest" if len(classes) > 1 else f"ROC of {shorten(classes[0], 30)}")
        _legend(axis, "lower right")
    return written(path)


def precision_recall(positives_NK: Array, scores_NK: Array, classes: Sequence[str], path: Path) -> tuple[Path, Path]:
    """As ``roc``: each class in grey, the three hardest by name."""
    with figure(4.6, 4.3, path) as fig:
        axis = fig.subplots()
        _draw_ranking(axis, pr_points, positives_NK, scores_NK, classes, is_rising=False)
        axis.set_xlabel("recall")
        axis.set_ylabel("precision")
        axis.set_title(
            "precision and recall, one class against the rest"
            if len(classes) > 1
            else f"precision and recall of {shorten(classes[0], 24)}"
        )
        _legend(axis, "lower left")
    return written(path)


def _draw_ranking(
    axis: Any, points: Any, positives_NK: Array, scores_NK: Array, classes: Sequence[str], *, is_rising: bool
) -> None:
    """Grey lines, and in ink those that enclose the least: by the mean height over the abscissa."""
    lines = []
    for k in range(scores_NK.shape[1]):
        num_positive = int(positives_NK[:, k].sum())
        if 0 < num_positive < len(positives_NK):
            xs, ys = points(positives_NK[:, k], scores_NK[:, k])
            lines.append((_mean_height(xs, ys), k, num_positive, xs, ys))
    hardest = sorted(lines, key=lambda line: line[0])[:3]
    for _, _, _, xs, ys in lines:
        axis.step(xs, ys, where="post" if is_rising else "pre", color=PALE, linewidth=0.9)
    for number, (_, k, num_positive, xs, ys) in enumerate(hardest):
        color, dash = LINES[number]
        label = f"{shorten(classes[k], 20)} (n={num_positive})"
        axis.step(xs, ys, where="post" if is_rising else "pre", color=color, linestyle=dash, label=label)
    if len(lines) > len(hardest):
        axis.plot([], [], color=PALE, linewidth=0.9, label=f"the other {len(lines) - len(hardest)} classes")
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.03)


def _legend(axis: Any, place: str) -> None:
    """Where every picture is of one class, no class can be ranked and there is nothing to name."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc=place)


def _mean_height(xs: Array, ys: Array) -> float:
    return float(np.interp(np.linspace(0, 1, 101), xs, ys).mean())


def regression(targets_NK: Array, outputs_NK: Array, names: Sequence[str], path: Path) -> tuple[Path, Path]:
    """Predicted against true, a panel per output (six at most); on the dotted line they are equal."""
    shown = min(6, targets_NK.shape[1])
    with figure(4.2 * min(3, shown), 4.0 * -(-shown // 3), path) as fig:
        axes = fig.subplots(-(-shown // 3), min(3, shown), squeeze=False).ravel()
        for k, axis in enumerate(axes[:shown]):
            targets, outputs = targets_NK[:, k], outputs_NK[:, k]
            low, high = float(min(targets.min(), outputs.min())), float(max(targets.max(), outputs.max()))
            axis.plot([low, high], [low, high], color=GREY, linestyle="dotted", linewidth=1)
            axis.plot(targets, outputs, "o", markersize=3, color=BLUE, alpha=0.5, markeredgewidth=0)
            axis.set_title(shorten(names[k], 30))
            axis.set_xlabel("true value")
            axis.set_ylabel("predicted value")
        for axis in axes[shown:]:
            axis.set_axis_off()
    return written(path)
