from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import InterruptedRun, NumericError, UsageError
from hubtool.records.log import Event
from hubtool.records.recipe import Train
from hubtool.records.state import Position
from hubtool.training.checkpoint import Checkpoints, TrainState, selected_tensors
from hubtool.training.loop import is_over, judged
from hubtool.training.signals import Stop
from training.tiny import DrawnLoader, Run, make_model


def make_train(**changes: Any) -> Train:
    return Train.model_validate({"epochs": 3, "batch_size": 8, "seed": 1} | changes)


def same(a: TrainState, b: TrainState) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)

    quiet = {"wall_s": 0.0, "journal_size_bytes": 0}
    return (
        equal(a.tensors, b.tensors)
        and equal(a.optimizer, b.optimizer)
        and a.position.model_copy(update=quiet) == b.position.model_copy(update=quiet)
    )


class StopAt:
    """Asks the run to stop when a step is logged, as a signal that arrives during it does."""

    def __init__(self, stop: Stop, global_step: int) -> None:
        self.stop = stop
        self.global_step = global_step

    def write(self, event: Event) -> None:
        if event.tag == "loss" and event.split == "train" and event.global_step == self.global_step:
            self.stop.signal_number = signal.SIGTERM


RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd, three micro-batches, clipped": {
        "optimizer": {"name": "momentum", "lr": 0.1},
        "batch_size": 9,
        "grad_accum_steps": 3,
        "clip_grad_norm": 1.0,
    },
    "ema, smoothing, cutmix": {"ema": 0.9, "label_smoothing": 0.1, "cutmix": 1.0, "mixup": 0.5},
    "bf16": {"precision": "bf16", "class_weights": "balanced"},
    "fp16 with its scaler": {"precision": "fp16", "optimizer": {"name": "sgd", "lr": 0.05}, "clip_grad_norm": 5.0},
    "lamb": {"optimizer": {"name": "lamb", "lr": 0.01}},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_run_stopped_at_any_step_ends_as_the_one_that_was_not(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Weights, optimizer and every journal line; stopped at the first step, in the middle, and at the end of an epoch."""
    train = make_train(**recipe)
    unbroken = Run(tmp_path / "unbroken", train)
    wanted = unbroken.go()
    assert is_over(train, wanted.position)
    directory = tmp_path / "broken"
    for step in (1, 4, 6):
        stopped = Run(directory, train, model=make_model(step))
        stopped.model.load_state_dict(make_model().state_dict())
        with pytest.raises(InterruptedRun) as caught:
            stopped.go(StopAt(stopped.stop, step))
        assert caught.value.process_exit_code == 143
    last = Run(directory, train)
    assert same(last.go(), wanted)
    assert last.events() == unbroken.events()


def test_a_run_stopped_in_an_evaluation_has_saved_its_last_step(tmp_path: Path) -> None:
    class Stopping(DrawnLoader):
        num_calls = 0
        stop: Stop

        def load(self, batches: Any) -> Any:
            self.num_calls += 1
            for x_BCHW in super().load(batches):
                if self.num_calls == 2:
                    self.stop.signal_number = signal.SIGINT
                yield x_BCHW

    train = make_train()
    unbroken = Run(tmp_path / "unbroken", train)
    wanted = unbroken.go()
    loader = Stopping(17)
    broken = Run(tmp_path / "broken", train, num_val=17, val_loader=loader)
    loader.stop = broken.stop
    with pytest.raises(InterruptedRun, match="saved at step 6"):
        broken.go()
    assert "e001-s000006" in {path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()}
    again = Run(tmp_path / "broken", train, num_val=17)
    state = again.go()
    assert all(torch.equal(state.tensors[name], wanted.tensors[name]) for name in wanted.tensors)
    steps = [event[:3] for event in again.events()]
    assert len(set(steps)) == len(steps) == len(unbroken.events())


def test_the_journal_has_each_step_once_and_finite_numbers(tmp_path: Path) -> None:
    run = Run(tmp_path, make_train())
    run.go()
    events = run.events()
    assert len({event[:3] for event in events}) == len(events)
    assert [step for split, step, tag, _ in events if (split, tag) == ("train", "loss")] == list(range(1, 10))
    assert [step for split, step, tag, _ in events if (split, tag) == ("val", "loss")] == [3, 6, 9]


def test_training_learns(tmp_path: Path) -> None:
    run = Run(tmp_path, make_train(epochs=8, optimizer={"name": "adamw", "lr": 0.02}))
    run.go()
    losses = [value for split, _, tag, value in run.events() if (split, tag) == ("val", "loss")]
    assert losses[-1] < 0.7 * losses[0]


def test_what_is_frozen_does_not_move_and_what_is_trained_does(tmp_path: Path) -> None:
    before = make_model().state_dict()
    run = Run(tmp_path, make_train())
    state = run.go()
    after = run.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if name.startswith("stem")} == set()
    assert "body.1.running_mean" in moved
    assert set(state.tensors) == {name for name in before if not name.startswith("stem")}


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Without BatchNorm and dropout the split must not matter but for rounding."""

    def final(grad_accum_steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        run = Run(tmp_path / str(grad_accum_steps), make_train(grad_accum_steps=grad_accum_steps, epochs=1))
        run.model.body = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3))
        run.model.load_state_dict(make_model().state_dict(), strict=False)
        return run.go().tensors["fc.weight"]

    assert torch.allclose(final(1), final(4), atol=1e-6)


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    class Poisoned(DrawnLoader):
        def load(self, batches: Any) -> Any:
            for number, x_BCHW in enumerate(super().load(batches)):
                x_BCHW[0, 0, 0, 0] = float("inf") if number == 4 else x_BCHW[0, 0, 0, 0]
                yield x_BCHW

    run = Run(tmp_path, make_train(), loader=Poisoned(22, 1))
    with pytest.raises(NumericError) as caught:
        run.go()
    assert caught.value.code == "E-NUMERIC-LOSS"
    assert "at step 4" in caught.value.what
    assert ".png" in caught.value.where
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert all(torch.isfinite(value).all() for value in selected_tensors(kept).values())
    run = Run(tmp_path, make_train())
    assert is_over(run.train, run.go().position)


def test_a_learning_rate_that_explodes_stops_the_run(tmp_path: Path) -> None:
    train = make_train(optimizer={"name": "sgd", "lr": 1e30}, schedule={"warmup_epochs": 0})
    with pytest.raises(NumericError):
        Run(tmp_path, train).go()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_early_stopping_keeps_its_count_over_an_interruption(tmp_path: Path) -> None:
    train = make_train(epochs=9, early_stop={"patience": 2, "min_delta": 10.0})
    unbroken = Run(tmp_path / "a", train)
    wanted = unbroken.go()
    assert wanted.position.epoch == 3
    broken = Run(tmp_path / "b", train)
    with pytest.raises(InterruptedRun):
        broken.go(StopAt(broken.stop, 5))
    assert same(Run(tmp_path / "b", train).go(), wanted)


def test_the_best_epoch_is_the_first_of_equals_and_min_delta_counts_from_the_reference() -> None:
    train = make_train(select={"metric": "val/top1", "mode": "max"}, early_stop={"patience": 2, "min_delta": 0.1})
    position = Position()
    for value in (0.5, 0.55, 0.55, 0.65):
        position = judged(train, position, {"top1": value, "loss": 1.0})
    assert position.best is not None
    assert (position.best.epoch, position.best.value) == (4, 0.65)
    assert (position.num_bad_epochs, position.reference) == (0, 0.65)


def test_a_metric_that_is_not_there_is_refused_with_the_ones_that_are() -> None:
    with pytest.raises(UsageError, match="val/auroc") as caught:
        judged(make_train(select={"metric": "val/auroc"}), Position(), {"top1": 1.0, "loss": 0.0})
    assert "val/loss, val/top1" in caught.value.do


def test_uncut_and_cut_training_agree_bit_for_bit(tmp_path: Path) -> None:
    """The batch divides: the cut model's prefix then sees the very batch the whole model sees."""
    cut = Run(tmp_path / "cut", make_train(), num_train=24).go()
    whole = Run(tmp_path / "whole", make_train(), num_train=24, is_cut=False).go()
    assert same(cut, whole)


def test_saving_by_the_clock_saves_and_changes_no_number(tmp_path: Path) -> None:
    """Stopped hard after two steps of an epoch, it goes on from the second; the other one from the beginning."""

    class Crash:
        def write(self, event: Event) -> None:
            if event.global_step == 3:
                raise KeyboardInterrupt

    unbroken = Run(tmp_path / "unbroken", make_train(batch_size=4))
    wanted = unbroken.go()
    kept = {}
    for save_every_s in (0.0, 3600.0):
        run = Run(tmp_path / str(save_every_s), make_train(batch_size=4), save_every_s=save_every_s)
        with pytest.raises(KeyboardInterrupt):
            run.go(Crash())
        found = Checkpoints(run.directory / "checkpoints", is_writer=False).newest_valid()
        kept[save_every_s] = found[1].global_step if found else None
        run = Run(run.directory, run.train, save_every_s=save_every_s)
        assert same(run.go(), wanted)
        assert run.events() == unbroken.events()
    assert kept == {0.0: 2, 3600.0: None}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("crash_at", [2, 3, 4, 5])
def test_a_checkpoint_that_is_late_is_of_the_step_that_asked_for_it(
    crash_at: int, ema: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it the next step is computed and, where an epoch ends, validation moves the averages in and out."""

    class Crash:
        def write(self, event: Event) -> None:
            if event.global_step == crash_at and event.tag == "lr":
                raise KeyboardInterrupt

    def late(checkpoints: Checkpoints, state: TrainState) -> Path:
        time.sleep(0.1)
        return publish(checkpoints, state)

    train = make_train(ema=ema, optimizer={"name": "adamw", "lr": 0.02})
    wanted = Run(tmp_path / "unbroken", train).go()
    publish = Checkpoints._publish
    monkeypatch.setattr(Checkpoints, "_publish", late)
    run = Run(tmp_path / "broken", train, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        run.go(Crash())
    found = Checkpoints(run.directory / "checkpoints", is_writer=False).newest_valid()
    assert found is not None and found[1].global_step == crash_at - 1
    assert same(Run(run.directory, train).go(), wanted)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss does not notice: in training a BatchNorm normalises by the batch."""

    class Spoil:
        def write(self, event: Event) -> None:
            if event.global_step == 2:
                norm.running_var.fill_(float("inf"))

    run = Run(tmp_path, make_train(), save_every=1)
    norm: Any = next(m for m in run.model.body.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with pytest.raises(NumericError, match=r"running_var is not finite after step 2"):
        run.go(Spoil())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["e000-s000001"]


def test_one_picture_for_a_trained_batchnorm_is_said(tmp_path: Path) -> None:
    """Only where it has one value per channel: 9 pixels come to 1 after stem and body."""
    run = Run(tmp_path, make_train(batch_size=4, grad_accum_steps=4))
    run.model.body[0] = torch.nn.Conv2d(6, 8, 4)
    with pytest.raises(UsageError) as caught:
        run.go()
    assert (caught.value.code, caught.value.where) == ("E-BATCHNORM-ONE", "train.grad_accum_steps")
