"""The training loop. ``fit`` trains one phase: a span of epochs with one set of trainable tensors.

B pictures of a micro-batch, K outputs. Every draw inside a module is seeded by the address of its micro-batch, gradients are
summed over samples and divided by the step's count, and nothing else is random: a run goes on from any step bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from hubtool.core.errors import IntegrityError, InterruptedRun, NumericError, UsageError
from hubtool.core.progress import Reporter
from hubtool.core.seeds import Address
from hubtool.records.backbone import Phase
from hubtool.records.dataset import Sample
from hubtool.records.evidence import Predictions
from hubtool.records.log import Event
from hubtool.records.metrics import compute
from hubtool.records.recipe import Train
from hubtool.records.state import Best, Position
from hubtool.records.tasks import TaskName
from hubtool.training import telling
from hubtool.training.checkpoint import Checkpoints, TrainState
from hubtool.training.evaluate import infer, predictions
from hubtool.training.feed import Cut, Features, Feed, autocast
from hubtool.training.learner import Learner
from hubtool.training.losses import Loss
from hubtool.training.mix import Mixer
from hubtool.training.optim import lr_at
from hubtool.training.order import MicroBatch, Plan, share
from hubtool.training.processes import Group
from hubtool.training.signals import Stop


class Journal(Protocol):
    """The one truth of the log. ``commit`` makes it durable; a resume cuts it back to the size that a checkpoint names."""

    @property
    def size_bytes(self) -> int: ...

    def append(self, event: Event) -> None: ...

    def commit(self) -> object: ...

    def cut_back(self, size_bytes: int) -> None: ...

    def replay(self) -> Iterator[Event]: ...


class Sink(Protocol):
    """What else is told of every event; it never fails and never waits."""

    def write(self, event: Event) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run trains with, the same in all its phases. ``targets`` are the training targets, on the device;
    ``nondeterministic`` grows by each operation that has run without a deterministic kernel."""

    model: Any
    train: Train
    task: TaskName
    plan: Plan
    mixer: Mixer
    loss: Loss
    targets: Tensor
    samples: Sequence[Sample]
    val_samples: Sequence[Sample]
    device: torch.device
    group: Group
    checkpoints: Checkpoints
    save_every_steps: int | None
    save_every_s: float | None
    journal: Journal
    sink: Sink
    stop: Stop
    reporter: Reporter
    nondeterministic: Sequence[str] = ()


def fit(
    phase: Phase, trained: Sequence[str], cut: Cut, feed: Feed, val_feed: Feed, work: Work, state: TrainState
) -> TrainState:
    """Train ``phase`` from where ``state`` stands to its end, or to an early stop.

    ``trained`` names what this phase or one before it trains: that is what checkpoints hold. Raises NumericError (the last
    good checkpoint stays), InterruptedRun once a signal's step is saved, StorageError when a checkpoint could not be written.
    The last one may still be under way when it returns: ``work.checkpoints.wait`` says when it is durable, or raises.
    """
    train, plan, group = work.train, work.plan, work.group
    learner = Learner(work.model, train, phase, trained=trained, device=work.device, state=state)
    position, began, told = state.position, time.monotonic(), telling.Told()
    best_logits_NK = state.best_logits_NK
    end_epoch = phase.first_epoch + phase.num_epochs

    def share_of(end_step: int) -> Iterator[MicroBatch]:
        return plan.steps(position.global_step, end_step, rank=group.rank, num_processes=group.num_processes)

    def log(tag: str, value: float, split: str = "train") -> None:
        event = Event(global_step=position.global_step, epoch=position.epoch, split=split, tag=tag, value=value)
        work.journal.append(event)
        work.sink.write(event)

    saved, saved_at = state, began

    def save() -> TrainState:
        nonlocal saved_at
        written = {
            "journal_size_bytes": work.journal.size_bytes,
            "wall_s": state.position.wall_s + time.monotonic() - began,
            "nondeterministic": tuple(dict.fromkeys([*position.nondeterministic, *work.nondeterministic])),
        }
        taken = replace(learner.state(position.model_copy(update=written)), best_logits_NK=best_logits_NK)
        copy = work.checkpoints.publish_soon(taken, first=work.journal.commit)
        saved_at = time.monotonic()
        return copy

    features = feed.features(share_of(end_epoch * plan.steps_per_epoch))
    with work.reporter.task("training", total=train.epochs * plan.steps_per_epoch, unit="step") as bar:
        bar.advance(position.global_step)
        bar.note(lambda: telling.line(train, position, told))
        while position.epoch < end_epoch and not is_over(train, position):
            epoch_began, epoch_end = time.monotonic(), (position.epoch + 1) * plan.steps_per_epoch
            feed.prepare(share_of(epoch_end))
            told.begin(position)

            while position.global_step < epoch_end:
                lr = lr_at(train, position.global_step, plan.steps_per_epoch)
                done = _step(position.global_step, lr, features, cut, learner, work)
                position = _stepped(position, done)
                for tag, value in done.logged(lr).items():
                    log(tag, value)
                bar.advance()
                if done.is_asked_to_stop or _is_due(work, position.global_step, time.monotonic() - saved_at):
                    save()
                if done.is_asked_to_stop:
                    raise _stopped(work, position)

            wall_epoch_s, rate = time.monotonic() - epoch_began, told.end(position)
            with learner.averaged():
                validated = _validate(val_feed, cut, work)
            if validated is None:
                save()
                raise _stopped(work, position)
            metrics = compute(work.task, validated.logits_NK, validated.targets)
            epoch_loss = position.loss_sum / position.num_seen
            log("epoch_loss", epoch_loss)
            log("wall_epoch_s", wall_epoch_s)
            log("wall_images_per_second", rate)
            for tag, value in metrics.items():
                log(tag, value, "val")
            position = judged(train, position, metrics)
            best_logits_NK = validated.logits_NK if position.is_best else best_logits_NK
            told.value = position.value
            bar.row(telling.row(train, position, metrics, loss=epoch_loss, rate=rate, wall_s=wall_epoch_s))
            saved = save()
            if any(group.sum_up([], [work.stop.is_asked])):
                raise _stopped(work, position)
    return saved


def _is_due(work: Work, global_step: int, since_s: float) -> bool:
    """Whether to save within an epoch; the first process alone decides, for it alone writes."""
    if work.save_every_s is not None:
        return work.group.rank == 0 and since_s >= work.save_every_s
    return work.save_every_steps is not None and global_step % work.save_every_steps == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """A step over all processes: the sum of its losses, the gradient's norm if it is clipped, and whether one heard a signal."""

    loss_sum: float
    num_samples: int
    grad_norm: float | None
    is_asked_to_stop: bool

    def logged(self, lr: float) -> dict[str, float]:
        found = {"loss": self.loss_sum / self.num_samples, "lr": lr}
        return found if self.grad_norm is None else found | {"grad_norm": self.grad_norm}


def _step(global_step: int, lr: float, features: Iterator[Features], cut: Cut, learner: Learner, work: Work) -> _Done:
    """One update of the weights. Raises NumericError, in every process, before it would use a loss that is not finite."""
    parts, group = work.plan.step(global_step), work.group
    num_samples = sum(len(part.samples) for part in parts)
    losses: list[tuple[float, MicroBatch]] = []
    running = learner.running() if group.num_processes > 1 else []
    learner.begin(lr)
    for batch in parts[slice(*share(len(parts), group.rank, group.num_processes))]:
        feats = next(features)
        _reseed(Address(purpose="module", step=global_step, index=batch.index).seed(work.train.seed))
        targets = work.targets[list(batch.samples)]
        if work.mixer.is_on:
            targets = work.mixer.targets(work.loss.soft(targets), batch)
        with autocast(work.device, work.train.precision), _one_picture_refused(batch):
            logits_BK = cut.suffix(feats, training=True)
        loss = work.loss(logits_BK, targets)
        learner.backward(loss / num_samples)
        losses.append((float(loss.detach()), batch))
    own_sum = sum(loss for loss, _ in losses)
    loss_sum, num_asked = group.sum_up(learner.parameters, [own_sum, work.stop.is_asked])
    if not _is_finite(loss_sum):
        raise _bad_batch(work, next((batch for loss, batch in losses if not _is_finite(loss)), parts[0]), loss_sum)
    grad_norm = learner.update()
    ends = [share(len(parts), rank, group.num_processes) for rank in range(group.num_processes)]
    group.chain(running, [end - first for first, end in ends])
    learner.average(global_step)
    return _Done(loss_sum=loss_sum, num_samples=num_samples, grad_norm=grad_norm, is_asked_to_stop=num_asked > 0)


@contextlib.contextmanager
def _one_picture_refused(batch: MicroBatch) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if len(batch.samples) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "E-BATCHNORM-ONE",
            f"a trained BatchNorm cannot normalise over the one picture of micro-batch {batch.index} of step {batch.global_step}",
            where="train.grad_accum_steps",
            do="make it smaller, or take another train.batch_size",
        ) from error


def _stepped(position: Position, done: _Done) -> Position:
    return position.model_copy(
        update={
            "global_step": position.global_step + 1,
            "loss_sum": position.loss_sum + done.loss_sum,
            "num_seen": position.num_seen + done.num_samples,
            "value": None,
        }
    )


def _validate(feed: Feed, cut: Cut, work: Work) -> Predictions | None:
    """The predictions on val; None when a signal has ended it. (Several processes finish it: they have to agree.)"""

    def advance(_num: int) -> None:
        if work.stop.is_asked and work.group.num_processes == 1:
            raise work.stop.interrupted("during evaluation")

    try:
        logits_NK = infer(
            feed,
            cut,
            num_samples=len(work.val_samples),
            micro_size=work.plan.micro_size,
            device=work.device,
            precision=work.train.precision,
            advance=advance,
            group=work.group,
        )
    except InterruptedRun:
        return None
    return predictions("val", work.val_samples, logits_NK)


def check_metric(train: Train, metrics: Mapping[str, float]) -> None:
    """Raises UsageError when the selecting metric is none of them."""
    if train.select.metric.partition("/")[2] not in metrics:
        raise UsageError(
            "E-SELECT",
            f"no metric {train.select.metric!r} here",
            where="train.select.metric",
            do=f"choose one of {', '.join(f'val/{name}' for name in sorted(metrics))}",
        )


def judged(train: Train, position: Position, metrics: Mapping[str, float]) -> Position:
    """The position after an evaluated epoch: is it the best, and has early stopping lost patience? Pure."""
    check_metric(train, metrics)
    metric = train.select.metric.partition("/")[2]
    value = metrics[metric]
    sign = 1 if train.select.mode == "max" else -1
    after = position.model_copy(
        update={
            "epoch": position.epoch + 1,
            "loss_sum": 0.0,
            "num_seen": 0,
            "metric": train.select.metric,
            "value": value,
        }
    )
    best, reference, num_bad = position.best, position.reference, position.num_bad_epochs + 1
    if best is None or sign * value > sign * best.value:
        best = Best(checkpoint=after.checkpoint_name, epoch=after.epoch, global_step=after.global_step, value=value)
    if reference is None or sign * (value - reference) > train.early_stop.min_delta:
        reference, num_bad = value, 0
    return after.model_copy(update={"best": best, "reference": reference, "num_bad_epochs": num_bad})


def is_over(train: Train, position: Position) -> bool:
    """Whether all epochs are done, or early stopping ended them."""
    patience = train.early_stop.patience
    return position.epoch >= train.epochs or (patience is not None and position.num_bad_epochs >= patience)


def trained_names(model: Any, phases: Iterable[Phase]) -> tuple[str, ...]:
    """What these phases change: their trainable parameters, and the saved buffers of modules that were ever in train mode."""
    phases = tuple(phases)
    parameters = {name for phase in phases for name in phase.trainable}
    resting = set.intersection(*(set(phase.eval_modules) for phase in phases))
    saved = model.state_dict().keys()
    buffers = {name for name, _ in model.named_buffers() if name in saved and name.rpartition(".")[0] not in resting}
    return tuple(sorted(parameters | buffers))


def restore(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors into the model. Raises IntegrityError when they are of another model."""
    own = model.state_dict(keep_vars=True)
    strange = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if strange:
        raise IntegrityError(
            "E-CKPT-FIT", f"the checkpoint does not fit the model: {strange[0]}", do="start again with --new"
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def _reseed(seed: int) -> None:
    """Seed what modules draw from: dropout and drop-path take the default generators."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _is_finite(value: float) -> bool:
    return value - value == 0


def _bad_batch(work: Work, batch: MicroBatch, value: float) -> NumericError:
    names = [work.samples[sample].path or work.samples[sample].sha256[:12] for sample in batch.samples]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return NumericError(
        "E-NUMERIC-LOSS",
        f"the loss is {value} at step {batch.global_step}",
        where=f"epoch {batch.epoch}, micro-batch {batch.index}: {shown}",
        do="lower train.optimizer.lr, or set train.clip_grad_norm; the last good checkpoint is kept",
    )


def _stopped(work: Work, position: Position) -> InterruptedRun:
    """Once what is being written is durable."""
    work.checkpoints.wait()
    return work.stop.interrupted(f"saved at step {position.global_step}")
