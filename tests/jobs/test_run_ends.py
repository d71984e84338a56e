"""How a run ends: what is claimed is what was selected, the sinks are complete, no phase is prepared in vain."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.backbones import frontier
from hubtool.core.errors import IntegrityError
from hubtool.jobs.finetune import finetune
from hubtool.records.run import Result
from hubtool.records.rundir import RunDir
from hubtool.tracking.sinks import Fanout
from hubtool.training.session import Session
from jobs.test_finetune import call, shared

__all__ = ["shared"]


def test_a_claim_that_is_not_what_was_selected_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_weights(session: Session) -> Any:
        with torch.no_grad():
            session.work.model.fc.weight.mul_(1.01)
        return session.state.position

    monkeypatch.setattr(Session, "select", other_weights)
    given = call(shared, tmp_path / "run", "train.epochs=1")
    with pytest.raises(IntegrityError, match="when e001"):
        finetune(given.pop("recipe"), **given | {"run": tmp_path / "run", "data": shared / "pictures"})
    assert not RunDir(tmp_path / "run").is_finished


def test_the_sinks_are_complete_before_there_is_a_result(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    close, write = Fanout.close, Result.write

    def closing(sinks: Fanout) -> None:
        order.append("sinks")
        close(sinks)

    def writing(result: Result, path: Path) -> None:
        order.append("result")
        write(result, path)

    monkeypatch.setattr(Fanout, "close", closing)
    monkeypatch.setattr(Result, "write", writing)
    given = call(shared, tmp_path / "run", "train.epochs=1", "run.log.tensorboard=true")
    finetune(given.pop("recipe"), **given | {"run": tmp_path / "run", "data": shared / "pictures"})
    assert order[:2] == ["sinks", "result"]


def test_a_phase_that_early_stopping_leaves_out_is_not_prepared(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the cut is tried in the precision that it is used in."""
    tried: list[bool] = []
    cut = frontier.cut

    def counted(*arguments: Any) -> Any:
        tried.append(torch.is_autocast_enabled("cpu"))
        return cut(*arguments)

    monkeypatch.setattr(frontier, "cut", counted)
    stopping = ("train.early_stop.patience=1", "train.early_stop.min_delta=10")
    later = ("unfreeze=[{at_epoch: 3, through: stage2}]", "train.precision=bf16")
    given = call(shared, tmp_path / "run", *stopping, *later)
    report = finetune(given.pop("recipe"), **given | {"run": tmp_path / "run", "data": shared / "pictures"})
    assert report.result.selected.epoch <= 2
    assert tried == [True]


def test_an_operation_without_a_deterministic_kernel_is_said(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning is the one that torch gives on a GPU."""
    select = Session.select

    def warned(session: Session) -> Any:
        warnings.warn("bicubic_backward_cuda does not have a deterministic implementation, but …", stacklevel=1)
        return select(session)

    monkeypatch.setattr(Session, "select", warned)
    given = call(shared, tmp_path / "run", "train.epochs=1")
    report = finetune(given.pop("recipe"), **given | {"run": tmp_path / "run", "data": shared / "pictures"})
    assert not report.result.numerics.is_deterministic
