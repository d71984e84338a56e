"""A run that is killed again and again at random moments, and what must hold after each kill and at the end."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hubtool.core.files import TEMP_PREFIX
from hubtool.core.settings import BUNDLED
from hubtool.data.images import write_png
from hubtool.records.rundir import RunDir
from hubtool.training.checkpoint import Checkpoints
from jobs.nursery import Nursery

# Dropout, two fixed views of each picture, three steps an epoch, a save at every other one. At 16 pixels the last stage sees
# 1x1, where a bf16 gradient holds unset memory (training/taps.py).
RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
head: {drop_rate: 0.2}
freeze: {through: stage3}
data: {img_size: 16, val_fraction: 0.25, augment: {policy: light, views: 2}}
train: {epochs: 3, batch_size: 12, seed: 5}
run: {save_every: 2, log: {tensorboard: false}}
"""
_OPTIMIZERS = {
    "sgd": ("train.optimizer={name: sgd, lr: 2e-2}", "train.ema=0.9"),
    "adamw": ("train.optimizer={name: adamw, lr: 2e-3}",),
}
_UNFREEZE = "unfreeze=[{at_epoch: 2, through: stage2, lr_scale: 0.5}]"  # the cut moves


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train. The first two change no number, the others do."""

    num_workers: int
    is_cached: bool
    grad_accum_steps: int
    optimizer: str
    precision: str

    def __str__(self) -> str:
        kept = "cached" if self.is_cached else "live"
        return f"{self.num_workers}-workers-{kept}-accum-{self.grad_accum_steps}-{self.optimizer}-{self.precision}"

    @property
    def overrides(self) -> tuple[str, ...]:
        steps = (
            f"train.grad_accum_steps={self.grad_accum_steps}",
            *((_UNFREEZE,) if self.grad_accum_steps > 1 else ()),
        )
        return (*_OPTIMIZERS[self.optimizer], *steps, f"train.precision={self.precision}")


WAYS = [
    Way(num_workers=w, is_cached=c, grad_accum_steps=a, optimizer=o, precision=p)
    for a, o, p, w, c in itertools.product((1, 3), ("sgd", "adamw"), ("bf16", "fp32"), (0, 2), (True, False))
]


def write_scene(root: Path, num: int = 48) -> Path:
    """The recipe, and the first ``num`` of the bundled digits that are 0, 1 or 2."""
    with np.load(BUNDLED / "digits" / "digits.npz") as arrays:
        chosen = [(image, label) for image, label in zip(arrays["images"], arrays["labels"], strict=True) if label < 3]
    for index, (image_HW, label) in enumerate(chosen[:num]):
        path = root / "digits" / str(label) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image_HW)
    (root / "mine.yaml").write_text(RECIPE)
    return root


class Starter(Protocol):
    """Starts a run and returns its process; ``wait`` gives the exit code of the one that was started last."""

    def start(self, run: Path, home: Path) -> int: ...

    def wait(self) -> int: ...


class Forked:
    """A child of the nursery: torch is imported, the pictures are indexed, it trains at once."""

    def __init__(self, nursery: Nursery, scene: Path, way: Way) -> None:
        self._nursery, self._scene, self._way = nursery, scene, way

    def start(self, run: Path, home: Path) -> int:
        call: dict[str, Any] = {"recipe": str(self._scene / "mine.yaml"), "data": str(self._scene / "digits")}
        call |= {"run": str(run), "overrides": list(self._way.overrides), "device": "cpu"}
        call |= {"num_workers": self._way.num_workers, "use_cache": self._way.is_cached}
        return self._nursery.start(call, environ={"HUBTOOL_HOME": str(home)}, bare=True)

    def wait(self) -> int:
        code, error = self._nursery.wait()
        assert code in (0, -signal.SIGKILL), error
        return code


class Command:
    """``hubtool finetune`` from the start of the interpreter to its exit."""

    def __init__(self, scene: Path, way: Way) -> None:
        self._scene, self._way = scene, way
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, run: Path, home: Path) -> int:
        words = [sys.executable, "-m", "hubtool", "finetune", str(self._scene / "mine.yaml"), *self._way.overrides]
        words += ["--data", str(self._scene / "digits"), "--run", str(run), "--device", "cpu", "-q"]
        words += ["--workers", str(self._way.num_workers), *(() if self._way.is_cached else ("--no-cache",))]
        environ = os.environ | {"HUBTOOL_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return self._process.pid

    def wait(self) -> int:
        assert self._process is not None
        _, said = self._process.communicate()
        assert self._process.returncode in (0, -signal.SIGKILL), said.decode(errors="replace")[-2000:]
        return self._process.returncode


def unbroken(starter: Starter, root: Path) -> tuple[RunDir, float]:
    """The run that nothing happens to, and how long it takes."""
    run, began = RunDir(root / "whole"), time.monotonic()
    starter.start(run.path, root / "home")
    assert starter.wait() == 0
    return run, time.monotonic() - began


def killed_often(
    starter: Starter, whole: RunDir, root: Path, *, num_kills: int, wall_s: float, seed: int
) -> Counter[str]:
    """Kill ``num_kills`` times, half of them during a save, some of them twice in a row; each run that gets to its end is
    compared with ``whole`` and begun anew. Returns what happened, counted."""
    draw, happened = random.Random(seed), Counter[str]()
    run, home = RunDir(root / "broken"), root / "broken-home"
    while happened["kills"] < num_kills:
        kind = draw.choice(("save", "save", "anywhere", "anywhere", "at once"))
        pid = starter.start(run.path, home)
        if kind == "save":
            _wait_for_save(run, pid, number=draw.randrange(1, 4))
            time.sleep(draw.uniform(0, 0.004))
        else:
            _sleep(wall_s * draw.uniform(0, 1.0 if kind == "anywhere" else 0.2), pid)
        known = _newest_known(run)
        if _is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        if starter.wait() == 0:
            _finish(run, whole, home, happened)
            continue
        happened["kills"] += 1
        happened[kind] += 1
        happened["torn saves"] += _has_leftover(run)
        refuse_loss(run, known)
    starter.start(run.path, home)
    assert starter.wait() == 0
    _finish(run, whole, home, happened)
    return happened


def refuse_loss(run: RunDir, known: int) -> None:
    """The newest intact checkpoint is at least the one that stood there before the kill."""
    if not run.checkpoints.is_dir():
        assert known < 0
        return
    found = Checkpoints(run.checkpoints, is_writer=False).newest_valid()
    assert (found[1].global_step if found else -1) >= known


def _finish(run: RunDir, whole: RunDir, home: Path, happened: Counter[str]) -> None:
    assert_same(run, whole)
    assert not _has_leftover(run)
    happened["finished"] += 1
    shutil.rmtree(run.path)
    shutil.rmtree(home, ignore_errors=True)


def assert_same(run: RunDir, other: RunDir) -> None:
    """Weights, claims and every line of the log."""
    one, two = run.result(), other.result()
    assert one.model_copy(update={"wall_s": 0.0}) == two.model_copy(update={"wall_s": 0.0})
    assert numbers(run) == numbers(other)
    steps = [(e["split"], e["tag"], e["global_step"]) for e in numbers(run)]
    assert len(set(steps)) == len(steps)


def numbers(run: RunDir) -> list[Any]:
    """Every line of the journal but wall times."""
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    return [event for event in events if not event["tag"].startswith("wall_")]


def _names(run: RunDir) -> Iterator[str]:
    try:
        yield from os.listdir(run.checkpoints)
    except FileNotFoundError:
        return


def _newest_known(run: RunDir) -> int:
    """The step of the newest checkpoint that stands there; -1 for none."""
    found = (re.match(r"e\d+-s(\d+)", name) for name in _names(run))
    return max((int(match[1]) for match in found if match), default=-1)


def _has_leftover(run: RunDir) -> bool:
    return any(name.startswith(TEMP_PREFIX) for name in _names(run))


def _wait_for_save(run: RunDir, pid: int, *, number: int) -> None:
    """Until that many saves have begun since now, or the run has ended."""
    seen = {name for name in _names(run) if name.startswith(TEMP_PREFIX)}
    old = len(seen)

    def has_begun() -> bool:
        seen.update(name for name in _names(run) if name.startswith(TEMP_PREFIX))
        return len(seen) - old >= number

    _wait(has_begun, pid)


def _sleep(seconds: float, pid: int) -> None:
    until = time.monotonic() + seconds
    _wait(lambda: time.monotonic() >= until, pid)


def _wait(is_over: Callable[[], bool], pid: int) -> None:
    while not is_over() and _is_alive(pid):
        time.sleep(0.0005)


def _is_alive(pid: int) -> bool:
    """Neither gone nor a zombie that waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
