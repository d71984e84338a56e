"""How a run ends: what is claimed is what was selected, the sinks are complete, no phase is prepared in vain."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data.made import Heard

from hubtool.backbones import frontier
from hubtool.backbones.weights import state_digest
from hubtool.core.errors import ConflictError, IntegrityError
from hubtool.jobs.card import card
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack
from hubtool.jobs.target import build_selected
from hubtool.jobs.verify import verify
from hubtool.records.reports import FinetuneReport
from hubtool.records.run import Result
from hubtool.records.rundir import RunDir
from hubtool.tracking.sinks import Fanout
from hubtool.training import numerics
from hubtool.training.checkpoint import Checkpoints, TrainState
from hubtool.training.learner import Learner
from hubtool.training.session import Session
from jobs.test_finetune import call, shared

__all__ = ["shared"]
pytestmark = pytest.mark.usefixtures("blank_plots")


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


def warning(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The method, with the warning that torch gives on a GPU."""

    def warned(of: Any) -> Any:
        warnings.warn("bicubic_backward_cuda does not have a deterministic implementation, but …", stacklevel=1)
        return method(of)

    return warned


def test_an_operation_without_a_deterministic_kernel_is_said(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "select", warning(Session.select))
    report = trained(call(shared, tmp_path / "run", "train.epochs=1"))
    assert report.result.nondeterministic == ("bicubic_backward_cuda",)
    package = pack(report.run).package
    assert "no, there is no such kernel of bicubic_backward_cuda" in card(package).replace("\\", "")
    assert verify(package).is_ok


def test_it_is_said_also_where_the_run_is_taken_up_after_it(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(session: Session) -> Any:
        raise ConflictError("E-TEST", "the machine is taken away")

    given = call(shared, tmp_path / "run", "train.epochs=1")
    with monkeypatch.context() as patched, pytest.raises(ConflictError, match="taken away"):
        patched.setattr(Learner, "update", warning(Learner.update))
        patched.setattr(Session, "select", gone)
        trained(given)
    assert trained(given).result.nondeterministic == ("bicubic_backward_cuda",)


@pytest.mark.parametrize("is_slow", [True, False])
def test_a_precision_that_this_processor_lacks_is_said(
    is_slow: bool, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "is_slow", lambda _device, _precision: is_slow)
    told = Heard()
    given = call(shared, tmp_path / "run", "train.epochs=1", "train.precision=bf16")
    finetune(given.pop("recipe"), **given | {"run": tmp_path / "run", "data": shared / "pictures", "reporter": told})
    assert any("no instructions for bf16" in text for text in told.warned) == is_slow


def counted_inferences(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each inference after the training was of."""
    counts: list[int] = []
    infer = Session._infer

    def counted(session: Session, cut: Any, feed: Any, num_samples: int) -> Any:
        counts.append(num_samples)
        return infer(session, cut, feed, num_samples)

    monkeypatch.setattr(Session, "_infer", counted)
    return counts


@pytest.mark.parametrize("is_wrong", [False, True])
def test_what_the_best_epoch_said_of_val_is_taken_where_the_selected_weights_say_it_again(
    is_wrong: bool, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they do not, all of val is computed anew: the evidence is the same."""
    select = Session.select

    def selected(session: Session) -> Any:
        if is_wrong:
            assert session.state.best_logits_NK is not None
            session.state = replace(session.state, best_logits_NK=session.state.best_logits_NK + 1)
        return select(session)

    counts = counted_inferences(monkeypatch)
    monkeypatch.setattr(Session, "select", selected)
    first_is_best = ("train.epochs=3", "train.select.mode=max")
    report = trained(call(shared, tmp_path / "run", *first_is_best, "train.batch_size=4", "train.grad_accum_steps=1"))
    num_val = len(RunDir(Path(report.run)).data().splits["val"])
    assert num_val > 4
    assert report.result.selected.epoch < 3
    assert counts == ([4, num_val] if is_wrong else [4])
    loss = next(claim for claim in report.result.claims if claim.metric == "loss")
    assert loss.value == report.result.selected.value


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_where_the_last_epoch_is_the_best_nothing_is_computed_or_read_again(
    ema: float, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint may still be under way: the weights are those it holds in the end, and it is whole before the result."""
    counts, publish, write = counted_inferences(monkeypatch), Checkpoints._publish, Result.write
    is_reached = threading.Event()
    order: list[str] = []

    def late(checkpoints: Checkpoints, state: TrainState) -> Path:
        assert not state.position.is_best or is_reached.wait(60)
        published = publish(checkpoints, state)
        order.append(published.name)
        return published

    def writing(result: Result, path: Path) -> None:
        order.append("result")
        write(result, path)

    def shown(*_: Any, **__: Any) -> None:
        is_reached.set()

    monkeypatch.setattr(Checkpoints, "_publish", late)
    monkeypatch.setattr(Result, "write", writing)
    monkeypatch.setattr("hubtool.jobs.shown.show_end", shown)
    report = trained(call(shared, tmp_path / "run", "train.epochs=1", f"train.ema={ema}"))
    assert counts == []
    assert order[-2:] == [report.result.selected.checkpoint, "result"]
    assert state_digest(build_selected(RunDir(tmp_path / "run")).state_dict()) == report.result.weights_digest


def trained(given: dict[str, Any]) -> FinetuneReport:
    paths = {name: Path(given[name]) for name in ("recipe", "data", "run")}
    return finetune(**given | paths)


def test_what_was_trained_is_not_frozen_by_a_drift(shared: Path, tmp_path: Path) -> None:
    """Its features would be kept under the name of the backbone's own, and later checkpoints would lack it."""
    trained(call(shared, tmp_path / "run", "train.epochs=1", "freeze=none"))
    place = RunDir(tmp_path / "run")
    (place.path / "result.json").unlink()
    before = place.resolved()
    with pytest.raises(ConflictError, match="would be frozen now"):
        trained(call(shared, place.path, "train.epochs=2", "freeze=all", allow_drift=True))
    assert place.resolved() == before


def test_the_best_checkpoint_of_before_a_drift_is_completed_by_the_backbone(shared: Path, tmp_path: Path) -> None:
    trained(call(shared, tmp_path / "run", "train.epochs=2", "freeze=all"))
    place = RunDir(tmp_path / "run")
    (place.path / "result.json").unlink()
    wider = ("train.epochs=3", "freeze=none", "train.optimizer.lr=5")
    result = trained(call(shared, place.path, *wider, allow_drift=True)).result
    assert result.selected.epoch <= 2
    assert state_digest(build_selected(place).state_dict()) == result.weights_digest
