"""Several processes against one: the same samples in the same order, and only the order of the summation differs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import UsageError
from hubtool.jobs.finetune import finetune
from hubtool.records.rundir import RunDir
from hubtool.training.checkpoint import selected_tensors
from jobs.killing import assert_same, numbers
from jobs.test_finetune import RECIPE, call, draw_pictures, nursery, wait_for_a_checkpoint

__all__ = ["nursery"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("processes")
    draw_pictures(root / "pictures")
    (root / "mine.yaml").write_text(RECIPE.replace("epochs: 4", "epochs: 2"))
    return root


def weights(run: RunDir) -> dict[str, Any]:
    return selected_tensors(run.checkpoints / run.result().selected.checkpoint)


def assert_close(run: RunDir, other: RunDir) -> None:
    """Trained BatchNorm statistics too: the chains of both processes are put one behind the other."""
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), rtol=1e-3, atol=1e-4), name
    ours, theirs = (
        {(e["split"], e["tag"], e["global_step"]): e.get("value") for e in numbers(r)} for r in (run, other)
    )
    assert ours.keys() == theirs.keys()
    first = ("train", "loss", 1)
    assert ours[first] == pytest.approx(theirs[first], rel=1e-5)


def test_two_processes_do_what_one_does(shared: Path, nursery: Any, tmp_path: Path) -> None:
    alone, together = RunDir(tmp_path / "alone"), RunDir(tmp_path / "together")
    assert nursery.run(call(shared, alone.path)) == 0
    assert nursery.run(call(shared, together.path, num_processes=2)) == 0
    assert_close(together, alone)
    assert together.result().numerics.num_processes == 2


@pytest.mark.prove
def test_a_run_goes_on_with_another_number_of_processes(shared: Path, nursery: Any, tmp_path: Path) -> None:
    alone, together, fewer = (RunDir(tmp_path / name) for name in ("alone", "together", "fewer"))
    assert nursery.run(call(shared, alone.path)) == 0
    pid = nursery.start(call(shared, together.path, "run.save_every=1", num_processes=2))
    wait_for_a_checkpoint(together)
    os.kill(pid, signal.SIGTERM)
    assert nursery.wait()[0] == 143
    assert nursery.run(call(shared, together.path, "run.save_every=1")) == 7
    subprocess.run(["cp", "-r", str(together.path), str(fewer.path)], check=True)
    assert nursery.run(call(shared, together.path, num_processes=2)) == 0
    assert nursery.run(call(shared, fewer.path, allow_drift=True)) == 0
    assert_close(together, alone)
    assert_close(fewer, alone)
    assert together.result().numerics.num_processes == 2
    assert "numerics.num_processes" in {d.field for d in fewer.result().drift}


def test_a_number_of_processes_that_does_not_divide_is_refused_with_what_would(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        finetune(
            shared / "mine.yaml",
            data=shared / "pictures",
            run=tmp_path / "run",
            device="cpu",
            num_workers=0,
            num_processes=4,
        )
    assert (caught.value.code, caught.value.do) == ("E-PROCESSES", "train.grad_accum_steps=4")


@pytest.mark.prove
def test_two_processes_are_exact_among_themselves_over_kills(shared: Path, nursery: Any, tmp_path: Path) -> None:
    whole, broken = RunDir(tmp_path / "whole"), RunDir(tmp_path / "broken")
    assert nursery.run(call(shared, whole.path, num_processes=2)) == 0
    draw, killed = random.Random(3), 0
    for _ in range(4):
        killed += nursery.run(call(shared, broken.path, num_processes=2), kill_after_s=draw.uniform(2, 12)) != 0
    assert nursery.run(call(shared, broken.path, num_processes=2)) == 0
    assert killed
    assert_same(broken, whole)


@pytest.mark.prove
def test_torchrun_starts_the_same_run(shared: Path, tmp_path: Path) -> None:
    """Through the command line, as in the documentation; only the first process writes to stdout.

    (Without ``--run``: torchrun takes that for the beginning of an option of its own.)
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hubtool", "finetune"]
    command += [str(shared / "mine.yaml"), "--data", str(shared / "pictures")]
    done = subprocess.run(
        [*command, "--device", "cpu", "--workers", "0", "-q"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = done.stdout.split()
    assert RunDir(tmp_path / run).result().numerics.num_processes == 2
