"""hubtool finetune --prove-resume: train a little, be killed at random steps, go on, and compare with the run that was not."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hubtool.core.errors import ConflictError, NotReproducedError
from hubtool.core.progress import SILENT, Reporter
from hubtool.records.log import Event
from hubtool.records.recipe_file import find_recipe, load_recipe
from hubtool.records.reports import ResumeProof
from hubtool.records.run import Result
from hubtool.records.rundir import RunDir
from hubtool.tracking.journal import Journal, read_events

_EPOCHS = 3
_CHILD = """
import json, sys
from pathlib import Path
from hubtool.core.errors import HubtoolError
from hubtool.jobs.finetune import finetune
call = json.loads(sys.argv[1])
try:
    finetune(call.pop("recipe"), data=Path(call.pop("data")), run=Path(call.pop("run")), **call)
except HubtoolError as error:
    sys.exit(error.line())
"""


def prove_resume(
    recipe: str | Path,
    *,
    data: Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    num_workers: int | None = None,
    num_kills: int = 3,
    seed: int | None = None,
    reporter: Reporter = SILENT,
) -> ResumeProof:
    """Train three epochs (or until every phase has begun) twice in processes of their own, the second time with SIGKILL at
    ``num_kills`` random steps, and compare weights, claims and every line of the log.

    Raises NotReproducedError (10) naming what differs. ``seed`` fixes the steps at which it is killed.
    """
    chosen = load_recipe(find_recipe(str(recipe)), tuple(overrides))
    last_phase = max((step.at_epoch for step in chosen.unfreeze), default=0)
    epochs = min(chosen.train.epochs, max(_EPOCHS, last_phase + 1))
    call: dict[str, Any] = {
        "recipe": str(recipe),
        "data": str(data),
        "overrides": [*overrides, f"train.epochs={epochs}", "run.save_every=3", "run.log.tensorboard=false"],
        "device": device,
        "num_workers": num_workers,
    }
    with tempfile.TemporaryDirectory(prefix="hubtool-prove-") as folder:
        whole, broken = RunDir(Path(folder) / "whole"), RunDir(Path(folder) / "broken")
        reporter.say(f"training {epochs} epochs without interruption")
        _finish(call, whole)
        num_steps = max(event.global_step for event in _events(whole))
        draw = random.Random(seed)
        steps = sorted(draw.sample(range(1, num_steps), min(num_kills, num_steps - 1)))
        killed = [step for step in steps if _kill_at(call, broken, step, reporter)]
        _finish(call, broken)
        problems = _differences(whole, broken)
        digest = whole.result().weights_digest
    if problems:
        raise NotReproducedError(
            "E-RESUME",
            f"the run killed at steps {', '.join(map(str, killed))} differs: {'; '.join(problems[:4])}",
            do="an operation without a deterministic kernel, or another load on shared hardware; please report it",
        )
    return ResumeProof(num_steps=num_steps, killed_at=tuple(killed), weights_digest=digest)


def _start(call: dict[str, Any], run: RunDir) -> subprocess.Popen[bytes]:
    """With a cache of its own: one that the other run has filled would hide what a kill does to a half-written one."""
    own = {"run": str(run.path), "cache_root": str(run.path.with_name(f"{run.path.name}-activations"))}
    arguments = [sys.executable, "-c", _CHILD, json.dumps(call | own)]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(call: dict[str, Any], run: RunDir) -> None:
    child = _start(call, run)
    _, said = child.communicate()
    if child.returncode:
        raise ConflictError("E-RESUME-RUN", f"the run failed: {said.decode(errors='replace').strip()[-300:]}")


def _kill_at(call: dict[str, Any], run: RunDir, step: int, reporter: Reporter) -> bool:
    """Kill it as soon as its log shows that step; False when it was done before."""
    child = _start(call, run)
    try:
        while child.poll() is None:
            if any(event.global_step >= step for event in _events(run)):
                child.kill()
                reporter.say(f"killed at step {step}")
                break
            time.sleep(0.002)
    finally:
        child.kill()
        child.communicate()
    return child.returncode < 0


def _events(run: RunDir) -> list[Event]:
    """The training losses in the log of a run that is being written."""

    with contextlib.suppress(FileNotFoundError):
        return [event for event in read_events(run.journal) if event.tag == "loss" and event.split == "train"]
    return []


def _differences(whole: RunDir, broken: RunDir) -> list[str]:
    was, now = whole.result().to_dict(), broken.result().to_dict()
    problems = [name for name in Result.model_fields if name != "wall_s" and was.get(name) != now.get(name)]
    logs = []
    for run in (whole, broken):
        journal = Journal(run.journal)
        logs.append([event for event in journal.replay() if not event.tag.startswith("wall_")])
        journal.close()
    if logs[0] != logs[1]:
        at = next((a for a, b in zip(*logs, strict=False) if a != b), None)
        problems.append(f"the log, first at step {at.global_step} ({at.tag})" if at else "the length of the log")
    return problems
