from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hubtool.jobs.finetune import finetune
from hubtool.jobs.prove_resume import _differences, _finish, prove_resume
from hubtool.records.rundir import RunDir
from jobs.test_finetune import RECIPE, draw_pictures

pytestmark = pytest.mark.usefixtures("blank_plots")


def test_one_changed_number_is_a_difference_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    options: dict[str, Any] = {
        "run": tmp_path / "run",
        "device": "cpu",
        "num_workers": 0,
        "overrides": ["train.epochs=1"],
    }
    finetune(tmp_path / "mine.yaml", data=draw_pictures(tmp_path / "pictures"), **options)
    whole, other = RunDir(tmp_path / "run"), RunDir(tmp_path / "other")
    shutil.copytree(whole.path, other.path)
    assert _differences(whole, other) == []
    lines = other.journal.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"global_step":2' in line and '"tag":"loss"' in line)
    lines[at] = lines[at].replace('"value":', '"value":1')
    other.journal.write_text("".join(lines))
    assert _differences(whole, other) == ["the log, first at step 2 (loss)"]
    digest = whole.result().weights_digest
    path = other.path / "result.json"
    path.write_text(path.read_text().replace(digest, "0" * 64))
    assert "weights_digest" in _differences(whole, other)


def test_each_run_keeps_its_own_activations(tmp_path: Path) -> None:
    """A cache that the whole run has filled would hide what a kill does to a half-written one."""
    (tmp_path / "mine.yaml").write_text(RECIPE)
    call = {"recipe": str(tmp_path / "mine.yaml"), "data": str(draw_pictures(tmp_path / "pictures"))}
    _finish(call | {"device": "cpu", "num_workers": 0, "overrides": ["train.epochs=1"]}, RunDir(tmp_path / "whole"))
    assert len(list((tmp_path / "whole-activations").glob("*/rows.bin"))) == 1


@pytest.mark.prove
def test_it_kills_and_finds_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    proof = prove_resume(
        tmp_path / "mine.yaml", data=draw_pictures(tmp_path / "pictures"), device="cpu", num_workers=0, seed=1
    )
    assert len(proof.killed_at) >= 1
    assert proof.num_steps == 12
