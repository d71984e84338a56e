"""Several processes against one: the same samples in the same order, and only the order of the summation differs."""

from __future__ import annotations

import os
import random
import signal
import socket
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
pytestmark = pytest.mark.usefixtures("blank_plots")


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
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_killed_run_goes_on_with_another_number_of_processes(
    before: int, after: int, shared: Path, nursery: Any, tmp_path: Path
) -> None:
    """Refused without ``--allow-drift``; the number stands in the result as drift."""
    alone, run = RunDir(tmp_path / "alone"), RunDir(tmp_path / "run")
    assert nursery.run(call(shared, alone.path)) == 0
    pid = nursery.start(call(shared, run.path, "run.save_every=1", num_processes=before))
    wait_for_a_checkpoint(run)
    os.kill(pid, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    assert nursery.run(call(shared, run.path, num_processes=after)) == 7
    assert nursery.run(call(shared, run.path, num_processes=after, allow_drift=True)) == 0
    assert_close(run, alone)
    assert run.result().numerics.num_processes == after
    assert "numerics.num_processes" in {d.field for d in run.result().drift}


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

    Behind ``--``: without it torchrun takes ``--run`` for the beginning of an option of its own.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "hubtool",
        "--",
        "finetune",
    ]
    command += [str(shared / "mine.yaml"), "--data", str(shared / "pictures"), "--run", str(tmp_path / "mine")]
    done = subprocess.run(
        [*command, "--device", "cpu", "--workers", "0", "-q"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(tmp_path / "mine")]
    assert RunDir(tmp_path / "mine").result().numerics.num_processes == 2


@pytest.mark.prove
def test_two_machines_meet_at_torchruns_rendezvous(shared: Path, tmp_path: Path) -> None:
    """Each with a HUBTOOL_HOME of its own; data and run lie on what they share, as the documentation asks."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "-m", "hubtool", "--", "finetune"]
    command += [str(shared / "mine.yaml"), "--data", str(shared / "pictures"), "--run", str(tmp_path / "run")]
    machines = [
        subprocess.Popen(
            [*command, "--device", "cpu", "--workers", "0", "-q"],
            env=os.environ | {"HUBTOOL_HOME": str(tmp_path / f"home-{number}"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [machine.communicate(timeout=600) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said[0][1][-1500:] + said[1][1][-1500:]
    assert sorted(out.split() for out, _ in said) == [[], [str(tmp_path / "run")]]
    assert RunDir(tmp_path / "run").result().numerics.num_processes == 2
