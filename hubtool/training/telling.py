"""What a person is told while a phase trains: the live line behind the bar, a row after each epoch, pictures per second."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hubtool.records.recipe import Train
from hubtool.records.state import Position


class Told:
    """What the live line knows beside the position: pictures per second in the steps of an epoch (what is computed once, before
    them, and the evaluation do not count) and the selecting metric of the last evaluation."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._began_at = time.monotonic()
        self._num_before = 0
        self._rate: float | None = None

    def begin(self, position: Position) -> None:
        self._began_at, self._num_before, self._rate = time.monotonic(), position.num_seen, None

    def end(self, position: Position) -> float:
        self._rate = self.rate(position)
        return self._rate

    def rate(self, position: Position) -> float:
        if self._rate is not None:
            return self._rate
        return max(0, position.num_seen - self._num_before) / max(1e-9, time.monotonic() - self._began_at)


def line(train: Train, position: Position, told: Told) -> str:
    """``epoch 3/10 loss 0.431 top1 0.912 best 0.923 1,234 images/s``; the loss is the mean of the epoch under way."""
    words = [f"epoch {min(position.epoch + 1, train.epochs)}/{train.epochs}"]
    if position.num_seen:
        words.append(f"loss {position.loss_sum / position.num_seen:.3f}")
    if told.value is not None:
        metric = train.select.metric.partition("/")[2]
        words.append(f"{'val/loss' if metric == 'loss' else metric} {told.value:.3f}")
    if position.best is not None:
        words.append(f"best {position.best.value:.3f}")
    return " ".join([*words, f"{_number(told.rate(position))} images/s"])


def row(
    train: Train, position: Position, metrics: Mapping[str, float], *, loss: float, rate: float, wall_s: float
) -> dict[str, str]:
    """Of the epoch that ``position`` has just counted: the losses, the selecting metric, else the task's first."""
    selecting = train.select.metric.partition("/")[2]
    shown = dict.fromkeys(("loss", selecting, next(iter(metrics))))
    return {
        "epoch": str(position.epoch),
        "step": str(position.global_step),
        "train loss": f"{loss:.4f}",
        **{f"val/{name}": f"{metrics[name]:.4f}" for name in shown},
        "images/s": _number(rate),
        "time": f"{wall_s:.1f} s" if wall_s >= 1 else f"{1000 * wall_s:.0f} ms",
        "": "best" if position.is_best else "",
    }


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
