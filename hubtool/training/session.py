"""A run's means over all its phases: loaders, cache, checkpoints, log; where it stands, and going on from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubtool.core.digests import sha256_json
from hubtool.core.errors import ConflictError, StorageError
from hubtool.core.progress import Reporter
from hubtool.records.activations import ActivationsKey
from hubtool.records.backbone import Phase
from hubtool.records.dataset import DataManifest
from hubtool.records.environment import Difference, Numerics, differences
from hubtool.records.evidence import Array, Predictions
from hubtool.records.log import Event
from hubtool.records.metrics import compute
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.rundir import refuse_drift
from hubtool.records.state import Position
from hubtool.records.tasks import TASKS
from hubtool.training.cache import Activations, describe
from hubtool.training.cached_feed import CachedFeed
from hubtool.training.checkpoint import Checkpoints, TrainState, read_state, selected_tensors
from hubtool.training.evaluate import infer, predictions
from hubtool.training.feed import Cut, Feed, LiveFeed, Loader, Mix, Whole, autocast
from hubtool.training.loop import Journal, Work, check_metric, is_over, restore, trained_names
from hubtool.training.losses import make_loss
from hubtool.training.mix import Mixer
from hubtool.training.numerics import torch_format
from hubtool.training.optim import check_name
from hubtool.training.order import Plan


class Mute:
    """The journal and the sink of a process that does not write."""

    size_bytes = 0

    def append(self, event: Event) -> None:
        pass

    def write(self, event: Event) -> None:
        pass

    def commit(self) -> None:
        pass

    def cut_back(self, size_bytes: int) -> None:
        pass

    def replay(self) -> Iterator[Event]:
        return iter(())


def make_work(
    *,
    model: Any,
    resolved: ResolvedRecipe,
    data: DataManifest,
    targets: Tensor,
    device: torch.device,
    **means: Any,
) -> Work:
    """``means`` are the group, checkpoints, when to save, journal, sink, stop and reporter of ``Work``; ``targets`` are
    those of train."""
    num_outputs = TASKS[resolved.task].num_outputs(len(data.classes))
    loss = make_loss(resolved.train, resolved.task, targets, num_outputs)
    return Work(
        model=model,
        train=resolved.train,
        task=resolved.task,
        plan=make_plan(resolved, data),
        mixer=make_mixer(resolved),
        loss=loss.to(device),
        targets=loss.targets_of(targets).to(device),
        samples=data.splits["train"],
        val_samples=data.splits["val"],
        device=device,
        **means,
    )


def make_plan(resolved: ResolvedRecipe, data: DataManifest) -> Plan:
    train = resolved.train
    return Plan(
        num_samples=len(data.splits["train"]),
        batch_size=train.batch_size,
        grad_accum_steps=train.grad_accum_steps,
        seed=train.seed,
        policy=resolved.data.augment.policy,
        views=resolved.data.augment.views,
    )


def make_mixer(resolved: ResolvedRecipe) -> Mixer:
    train = resolved.train
    return Mixer(mixup=train.mixup, cutmix=train.cutmix, seed=train.seed, img_size=resolved.preprocess.img_size)


def refuse_unknown(resolved: ResolvedRecipe, data: DataManifest) -> None:
    """Raises UsageError for an optimizer or a selecting metric that is not there, before anything is written."""
    check_name(resolved.train)
    val = data.splits["val"]
    num_outputs = TASKS[resolved.task].num_outputs(len(data.classes))
    blank = predictions("val", val, np.zeros((len(val), num_outputs), np.float32))
    check_metric(resolved.train, compute(resolved.task, blank.logits_NK, blank.targets))


def take_up(
    checkpoints: Checkpoints,
    journal: Journal,
    *,
    resolved: ResolvedRecipe,
    data: DataManifest,
    numerics: Numerics,
    drift: tuple[Difference, ...],
    is_drift_allowed: bool,
    reporter: Reporter,
) -> TrainState:
    """Where the run goes on: at its newest intact checkpoint, the log cut back to it; or at the beginning.

    What differs from the checkpoint is drift: refused, or recorded from here on. ``drift`` are the fields that differ from
    what stands in the run directory, which an earlier start may have written anew. What was passed over is said.
    """
    found = checkpoints.newest_valid()
    for text in checkpoints.skipped:
        reporter.warn(f"checkpoint passed over: {text}")
    state = read_state(found[0]) if found else TrainState(position=Position(), tensors={}, optimizer={})
    position = state.position
    digests = {
        "recipe_digest": resolved.digest(),
        "data_digest": data.digest(),
        "backbone_digest": resolved.backbone.digest(),
    }
    drift = _drift_since(position, digests, numerics, drift) if found else ()
    if found and not is_drift_allowed:
        refuse_drift(drift, found[0])
    num_steps = make_plan(resolved, data).steps_per_epoch
    if not position.epoch * num_steps <= position.global_step <= (position.epoch + 1) * num_steps:
        raise ConflictError(
            "E-DRIFT-STEPS",
            f"an epoch has {num_steps} steps now, and the run stands at step {position.global_step} in epoch {position.epoch}",
            do="data or batch size have changed too much to go on; start a new run with --new",
        )
    if found:
        reporter.say(f"goes on from {found[0].name}")
    checkpoints.remove_after(position)
    journal.cut_back(position.journal_size_bytes)
    position = position.model_copy(
        update={**digests, "numerics": numerics, "drift": tuple(dict.fromkeys(position.drift + drift))}
    )
    return TrainState(position=position, tensors=state.tensors, optimizer=state.optimizer)


def refuse_unfit(directory: Path, model: Any, phases: tuple[Phase, ...], *, is_drifted: bool) -> None:
    """Raises IntegrityError where there are checkpoints and none is intact, ConflictError where the newest one holds trained
    tensors that are frozen now: they would be lost from the checkpoints, and features of them kept under the name of the
    backbone's own.
    """
    found = Checkpoints(directory, is_writer=False).newest_valid()
    if found is None or not is_drifted:
        return
    path, position = found
    trained = trained_names(model, [phase for phase in phases if phase.first_epoch <= position.epoch])
    lost = sorted(set(read_state(path).tensors) - set(trained))
    if lost:
        raise ConflictError(
            "E-DRIFT-FREEZE",
            f"{len(lost)} tensors that were trained would be frozen now, {lost[0]} among them",
            where=path.name,
            do="freeze no more than before, or start a new run with --new",
        )


def _drift_since(
    position: Position, digests: dict[str, str], numerics: Numerics, fields: tuple[Difference, ...]
) -> tuple[Difference, ...]:
    """What differs from what the checkpoint at ``position`` was computed with, ``fields`` of it in detail."""
    found = [
        Difference(field=name.replace("_", "."), was=getattr(position, name)[:12], now=now[:12])
        for name, now in digests.items()
        if getattr(position, name) != now
    ]
    has_details = found or any(field.field == "data.classes" for field in fields)
    found = [*(f for f in fields if has_details and not f.field.startswith("numerics.")), *found]
    if position.numerics is not None:
        found += differences(position.numerics, numerics, "numerics")
    return tuple(dict.fromkeys(found))


@dataclass(kw_only=True)
class Session:
    """``work`` is what the loop takes; ``loaders`` are by split, ``digests`` those of every tensor before training.

    The backbone's own tensors are kept where training changes them.
    """

    work: Work
    data: DataManifest
    resolved: ResolvedRecipe
    loaders: dict[str, Loader]
    phases: tuple[Phase, ...]
    state: TrainState
    digests: dict[str, str]
    cache_root: Path | None = None
    cache_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        self._trained = set(trained_names(self.work.model, self.phases))
        # a checkpoint of the only phase holds all of them; one of an early phase, or of before a drift, leaves what
        # trains later to the backbone
        is_needed = len(self.phases) > 1 or bool(self.state.position.drift)
        self._untrained: dict[str, Tensor] = {
            name: value.detach().clone()
            for name, value in self.work.model.state_dict().items()
            if is_needed and name in self._trained
        }
        restore(self.work.model, self.state.tensors)

    def untouched(self) -> dict[str, Tensor]:
        """Every saved tensor that no phase trains."""
        state: dict[str, Tensor] = self.work.model.state_dict()
        return {name: value for name, value in state.items() if name not in self._trained}

    def sample_x(self) -> Tensor:
        """Pictures of noise, to trace the model with."""
        preprocess = self.resolved.preprocess
        draw = torch.Generator().manual_seed(0)
        x_BCHW = torch.rand((3, preprocess.in_chans, *preprocess.img_size), generator=draw).to(self.work.device)
        return x_BCHW.contiguous(memory_format=torch_format(self._numerics.memory_format))

    @property
    def left(self) -> tuple[Phase, ...]:
        """The phases that are still to be trained, the one under way included."""
        if is_over(self.work.train, self.state.position):
            return ()
        return tuple(p for p in self.phases if self.state.position.epoch < p.first_epoch + p.num_epochs)

    @property
    def reached(self) -> Phase:
        """The phase that the training has come to."""
        return [p for p in self.phases if p.first_epoch < max(1, self.state.position.epoch)][-1]

    def trained_by(self, phase: Phase) -> tuple[str, ...]:
        """What ``phase`` and those before it train."""
        return trained_names(self.work.model, [p for p in self.phases if p.first_epoch <= phase.first_epoch])

    def feeds(self, phase: Phase, cut: Cut) -> tuple[Feed, Feed]:
        """Of train and val: from the cache where the same pictures come again and there is a prefix to keep."""
        mixer, is_whole = self.work.mixer, cut.key == Whole.key
        train = self.live("train", cut, mixer.pictures if mixer.is_on else None)
        val = self.live("val", cut)
        if self.cache_root is None or is_whole:
            if self.cache_root is not None:
                self.work.reporter.say(f"no activations are kept, the model is {cut.description}")
            return train, val
        try:
            cache = self._activations(phase, cut)
        except (StorageError, ConflictError) as error:
            self.work.reporter.warn(f"the frozen part is computed in every epoch: {error}")
            return train, val
        if not self.work.plan.is_fixed or mixer.is_on:
            return train, self._cached("val", val, cache)
        return self._cached("train", train, cache), self._cached("val", val, cache)

    def live(self, split: str, cut: Cut, mix: Mix | None = None) -> LiveFeed:
        return LiveFeed(
            self.loaders[split],
            cut,
            micro_size=self.work.plan.micro_size,
            device=self.work.device,
            precision=self.work.train.precision,
            memory_format=self._numerics.memory_format,
            mix=mix,
        )

    @property
    def _numerics(self) -> Numerics:
        assert self.state.position.numerics is not None
        return self.state.position.numerics

    def _activations(self, phase: Phase, cut: Cut) -> Activations:
        assert self.cache_root is not None
        trained = set(self.trained_by(phase))
        frozen = {name: digest for name, digest in self.digests.items() if name not in trained}
        key = ActivationsKey(
            architecture=self.resolved.backbone.architecture,
            weights=sha256_json(frozen),
            cut=cut.key,
            preprocess=self.resolved.preprocess,
            precision=self.work.train.precision,
            micro_size=self.work.plan.micro_size,
            numerics=self._numerics,
        )
        with torch.no_grad(), autocast(self.work.device, self.work.train.precision):
            tensors = describe(cut.prefix(self.sample_x()))
        return Activations(self.cache_root, key, tensors)

    def _cached(self, split: str, live: LiveFeed, cache: Activations) -> CachedFeed:
        def watch() -> None:
            if self.work.stop.is_asked:
                raise self.work.stop.interrupted(
                    f"at step {self.state.position.global_step}, the cache keeps what it has"
                )

        return CachedFeed(
            live,
            cache,
            self.data.splits[split],
            seed=self.work.plan.seed,
            policy=self.work.plan.policy,
            limit_bytes=self.cache_limit_bytes,
            watch=watch,
            reporter=self.work.reporter,
            is_shared=self.work.group.num_processes > 1,
        )

    def select(self) -> Position:
        """Put the selected weights into the model: the best checkpoint's, over the backbone's own.

        Where the best is the last one they are at hand, and need not be read from what may still be written.
        """
        best = self.state.position.best
        assert best is not None
        weights = (
            self.state.weights
            if self._is_at_best
            else selected_tensors(self.work.checkpoints.directory / best.checkpoint)
        )
        restore(self.work.model, {**self._untrained, **weights})
        return self.state.position

    @property
    def _is_at_best(self) -> bool:
        """Whether training ended at the selected checkpoint."""
        position = self.state.position
        return position.is_best and position.best is not None and position.best.global_step == position.global_step

    def predict(self, split: str, cut: Cut, feed: Feed) -> Predictions:
        """The predictions of the model as it stands: the logits behind every claim.

        What the selecting epoch computed on val is not computed again where the model has the weights of that epoch, to the
        bit, or where its first micro-batch is found to have the same bits now; on one CPU process only, where equal weights
        give equal bits.
        """
        samples, kept_NK, work = self.data.splits[split], self.state.best_logits_NK, self.work
        is_exact = work.device.type == "cpu" and work.group.num_processes == 1 and len(self.phases) == 1
        if split == "val" and kept_NK is not None and is_exact:
            num = min(len(samples), work.plan.micro_size)
            if self._is_as_ended() or self._infer(cut, feed, num).tobytes() == kept_NK[:num].tobytes():
                return predictions(split, samples, kept_NK)
        return predictions(split, samples, self._infer(cut, feed, len(samples)))

    def _is_as_ended(self) -> bool:
        """Whether training ended at the selected checkpoint and the model holds the weights that were evaluated there."""
        own: dict[str, Tensor] = self.work.model.state_dict()
        return self._is_at_best and all(torch.equal(own[name], value) for name, value in self.state.weights.items())

    def _infer(self, cut: Cut, feed: Feed, num_samples: int) -> Array:
        return infer(
            feed,
            cut,
            num_samples=num_samples,
            micro_size=self.work.plan.micro_size,
            device=self.work.device,
            precision=self.work.train.precision,
        )

    def close(self) -> None:
        for loader in self.loaders.values():
            loader.close()
