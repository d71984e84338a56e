"""How much a step waits for a checkpoint that is written beside it: resnet18 with layer4 and head, and with the head alone.

python -m benchmarks saving             about two minutes on two quiet cores
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EVERY = 25  # of the 50 steps of an epoch
WORK = {
    "head alone, cached": ("freeze=all", "train.epochs=20"),
    "layer4 and head": ("freeze={through: stage3}", "train.epochs=5"),
}
RECIPE = """
schema: hubtool/recipe/v1
backbone: "local:PLACE"
data: {img_size: 224}
train: {batch_size: 32, precision: bf16, optimizer: {name: adamw, lr: 1e-3}}
run: {log: {tensorboard: false}}
"""


class Clock:
    """A reporter that notes when each step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def say(self, text: str) -> None:
        pass

    warn = say

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Clock | Idle]:
        yield self if unit == "step" else Idle()

    def advance(self, amount: float = 1) -> None:
        self.times.append(time.perf_counter())

    def note(self, text: str | Callable[[], str]) -> None:
        pass

    def row(self, cells: Mapping[str, str]) -> None:
        pass


class Idle(Clock):
    def advance(self, amount: float = 1) -> None:
        pass


def main(_arguments: list[str]) -> int:
    from benchmarks._peer_data import draw_photos, make_backbone

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_photos(root / "photos", num_train=1600, num_val=32, num_classes=10)
        make_backbone(root / "backbone", "resnet18")
        (root / "mine.yaml").write_text(RECIPE.replace("PLACE", str(root / "backbone")))
        for name, overrides in WORK.items():
            print(f"{name}: {_told(_steps_s(root, name, (*overrides, f'run.save_every={EVERY}')))}")
    return 0


def _steps_s(root: Path, name: str, overrides: tuple[str, ...]) -> dict[int, float]:
    """How long each step took, by its number; those at the beginning of an epoch are left out."""
    from hubtool.jobs.finetune import finetune

    clock = Clock()
    run = root / name
    finetune(
        root / "mine.yaml",
        data=root / "photos",
        run=run,
        overrides=overrides,
        device="cpu",
        cache_root=root / "cache",
        reporter=clock,
    )
    times = clock.times[1:]  # the first call tells where the run stands
    return {
        step: end - begin for step, (begin, end) in enumerate(itertools.pairwise(times), 2) if (step - 1) % (2 * EVERY)
    }


def _told(steps_s: dict[int, float]) -> str:
    """A save is asked for at the end of step k·EVERY and falls into the time of the step after it and those behind. The last
    fifth of the steps before the next one, when it is long over, is what the others are compared with."""
    found = {
        offset: statistics.median(s for step, s in steps_s.items() if step % EVERY == offset % EVERY)
        for offset in range(1, EVERY + 1)
    }
    median = statistics.median(s for offset, s in found.items() if offset > EVERY * 4 // 5)
    after = {offset: s - median for offset, s in found.items()}
    worst = max(after, key=lambda offset: after[offset])
    return (
        f"{len(steps_s)} steps, median {1000 * median:.1f} ms; with a checkpoint every {EVERY} steps the first step after one "
        f"takes {1000 * after[1]:+.1f} ms ({after[1] / median:+.1%}), the most delayed (number {worst} after it) "
        f"{1000 * after[worst]:+.1f} ms ({after[worst] / median:+.1%}), all of them {sum(after.values()) / EVERY / median:+.1%}; "
        f"goal: no step more than 5 %"
    )
