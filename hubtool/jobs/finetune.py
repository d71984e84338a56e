"""hubtool finetune: train a recipe on a directory of pictures. The same command starts, resumes and finds its run again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubtool.core.digests import sha256_file
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.records import metrics, rundir
from hubtool.records.backbone import Phase
from hubtool.records.dataset import DataManifest
from hubtool.records.evidence import Predictions
from hubtool.records.recipe_file import find_recipe, load_recipe
from hubtool.records.reports import FinetuneReport, PullReport
from hubtool.records.resolve import ResolvedRecipe, resolve
from hubtool.records.run import Result, RunOptions, Selected
from hubtool.records.rundir import RunDir, refuse_drift

if TYPE_CHECKING:
    from hubtool.training.feed import Cut, Feed
    from hubtool.training.session import Session


def finetune(  # noqa: PLR0913 (the options of the command)
    recipe: str | Path,
    *,
    data: Path,
    run: Path | None = None,
    new: bool = False,
    overrides: Sequence[str] = (),
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    num_workers: int | None = None,
    skip_bad: int = 0,
    allow_drift: bool = False,
    use_cache: bool = True,
    cache_limit_bytes: int | None = None,
    reporter: Reporter = SILENT,
) -> FinetuneReport:
    """Train, or go on where the run of the same command was stopped; a finished run is only reported.

    ``recipe`` is a file or a shipped name, ``data`` a directory of class folders. Raises UsageError (2), DataError (3),
    ConflictError (7) for a run in use or one that began with something else, NumericError (9), InterruptedRun.
    """
    from hubtool.data.splits import index_data
    from hubtool.jobs.pull import pull

    path, data = find_recipe(str(recipe)), Path(data).expanduser()
    chosen = load_recipe(path, tuple(overrides))
    options = RunOptions(
        data_dir=str(data.absolute()),
        backbone=chosen.backbone.ref,
        device=device,
        num_workers=num_workers,
        skip_bad=skip_bad,
        cache_limit_bytes=cache_limit_bytes,
        use_cache=use_cache,
        allow_drift=allow_drift,
        run=chosen.run,
    )
    backbone = pull(chosen.backbone.ref, reporter=reporter)
    resolved = resolve(chosen, backbone.entry)
    manifest = index_data(
        data,
        task=chosen.task,
        labels=chosen.data.labels,
        val_fraction=chosen.data.val_fraction,
        in_chans=chosen.data.in_chans,
        skip_bad=skip_bad,
        num_workers=_num_workers(options),
        reporter=reporter,
    )
    place = rundir.choose(run, recipe=path.stem, resolved=resolved, data=manifest, data_dir=data, new=new)
    text = path.read_bytes() + "".join(f"# on the command line: {override}\n" for override in overrides).encode()
    inputs = Inputs(recipe=text, resolved=resolved, backbone=backbone, data=manifest, options=options)
    with place.held():
        if place.is_finished:
            refuse_drift(place.drift(resolved, manifest, place.environment()), place.path)
            return FinetuneReport(run=str(place.path), status="already", result=place.result())
        return FinetuneReport(run=str(place.path), status="finished", result=train(place, inputs, reporter=reporter))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run is made of, resolved and read: the recipe's text for the reader, the rest for the numbers."""

    recipe: bytes
    resolved: ResolvedRecipe
    backbone: PullReport
    data: DataManifest
    options: RunOptions


def train(place: RunDir, inputs: Inputs, *, reporter: Reporter = SILENT) -> Result:
    """Train in a run directory whose lock is held, from its newest checkpoint to its result."""
    from hubtool.training.loop import fit

    with ExitStack() as stack:
        session, stage = _open(place, inputs, stack, reporter), None
        for phase in session.left:
            cut, feed, val_feed = stage = _stage(session, phase)
            session.state = fit(phase, session.trained_by(phase), cut, feed, val_feed, session.work, session.state)
        cut, _, val_feed = stage or _stage(session, session.reached)
        session.select()
        return _finish(place, inputs, session, cut, val_feed)


def _open(place: RunDir, inputs: Inputs, stack: ExitStack, reporter: Reporter) -> Session:
    """The model, the phases, and everything that has to be closed again; the run directory is begun or found unchanged."""
    from hubtool.backbones import freeze
    from hubtool.backbones.parts import find_parts
    from hubtool.backbones.weights import tensor_digests
    from hubtool.data.loader import ImageLoader
    from hubtool.data.targets import target_tensor
    from hubtool.jobs.target import build
    from hubtool.records.tasks import TASKS
    from hubtool.tracking.journal import Journal
    from hubtool.tracking.sinks import open_sinks
    from hubtool.training import numerics
    from hubtool.training.checkpoint import Checkpoints
    from hubtool.training.loop import Work
    from hubtool.training.losses import make_loss
    from hubtool.training.processes import Alone
    from hubtool.training.session import Session, make_mixer, make_plan, take_up
    from hubtool.training.signals import Stop

    resolved, data, options = inputs.resolved, inputs.data, inputs.options
    library = inputs.backbone.entry.library
    device, measured = numerics.set_numerics(
        options.device,
        libraries=("transformers",) if library == "transformers" else (),
        num_threads=place.environment().numerics.num_threads if place.is_begun else None,
    )
    environment = numerics.environment(measured)
    drift = place.drift(resolved, data, environment)
    if not options.allow_drift:
        refuse_drift(drift, place.path)
    model = build(resolved, inputs.backbone, num_classes=len(data.classes))
    phases = freeze.schedule(resolved, find_parts(model, library), num_epochs=resolved.train.epochs)
    place.begin(recipe=inputs.recipe, resolved=resolved, data=data, environment=environment, options=options)
    stop = stack.enter_context(Stop())
    checkpoints = Checkpoints(place.checkpoints, keep=options.run.keep_checkpoints)
    stack.callback(checkpoints.close)
    journal = Journal(place.journal)
    stack.callback(journal.close)
    state = take_up(
        checkpoints, journal, resolved=resolved, data=data, numerics=measured, drift=drift, reporter=reporter
    )
    sinks = open_sinks(
        place.path, log=options.run.log, resolved=resolved, reporter=reporter, ids=state.position.sink_ids
    )
    stack.callback(sinks.close)
    targets = target_tensor(data.splits["train"], resolved.task)
    num_outputs = TASKS[resolved.task].num_outputs(len(data.classes))
    loss = make_loss(resolved.train, resolved.task, targets, num_outputs)
    loaders = {
        split: ImageLoader(
            Path(options.data_dir),
            samples,
            preprocess=resolved.preprocess,
            policy=resolved.data.augment.policy,
            seed=resolved.train.seed,
            num_workers=_num_workers(options),
        )
        for split, samples in data.splits.items()
    }
    work = Work(
        model=model.to(device),
        train=resolved.train,
        task=resolved.task,
        plan=make_plan(resolved, data),
        mixer=make_mixer(resolved),
        loss=loss.to(device),
        targets=loss.targets_of(targets).to(device),
        samples=data.splits["train"],
        val_samples=data.splits["val"],
        device=device,
        group=Alone(),
        checkpoints=checkpoints,
        save_every=None if options.run.save_every == "epoch" else options.run.save_every,
        journal=journal,
        sink=sinks,
        stop=stop,
        reporter=reporter,
    )
    session = Session(
        work=work,
        data=data,
        resolved=resolved,
        loaders=dict(loaders),
        phases=phases,
        state=state.with_sinks(sinks.ids),
        digests=tensor_digests(model.state_dict()),
        cache_root=read_settings().home / "cache" / "activations" if options.use_cache else None,
        cache_limit_bytes=options.cache_limit_bytes,
    )
    stack.callback(session.close)
    return session


def _stage(session: Session, phase: Phase) -> tuple[Cut, Feed, Feed]:
    """The model frozen for a phase, cut at its frontier, and what feeds it."""
    from hubtool.backbones import freeze, frontier
    from hubtool.training.feed import Whole

    model = session.work.model
    freeze.apply(model, phase)
    found = frontier.cut(model, phase, session.sample_x())
    cut: Cut = Whole(model, found.reason) if isinstance(found, frontier.Uncut) else found
    return cut, *session.feeds(phase, cut)


def _finish(place: RunDir, inputs: Inputs, session: Session, cut: Cut, val_feed: Feed) -> Result:
    """Evidence first, then what is compiled from it, ``result.json`` last."""
    from hubtool.backbones.weights import state_digest, tensor_digests

    position, task = session.state.position, inputs.resolved.task
    best = position.best
    assert best is not None and position.numerics is not None
    split = "test" if inputs.data.splits.get("test") else "val"
    claimed = session.predict(split, cut, val_feed if split == "val" else session.live(split, cut))
    threshold = None
    if task == "binary":
        chosen_on = claimed if split == "val" else session.predict("val", cut, val_feed)
        threshold = metrics.choose_threshold(chosen_on.logits_NK, chosen_on.targets)
    evidence = place.evidence(split)
    claimed.write(place.path / evidence)
    digest = sha256_file(place.path / evidence)
    _plot(place, inputs, session, claimed, threshold)
    model: Any = session.work.model
    trained = {name for phase in session.phases for name in phase.trainable}
    untouched = tensor_digests(session.untouched())
    result = Result(
        claims=metrics.claims_of(task, claimed, evidence=evidence, evidence_sha256=digest, threshold=threshold),
        recipe_digest=inputs.resolved.digest(),
        data_digest=inputs.data.digest(),
        backbone_digest=inputs.resolved.backbone.digest(),
        weights_digest=state_digest(model.state_dict()),
        selected=Selected(
            checkpoint=best.checkpoint,
            epoch=best.epoch,
            global_step=best.global_step,
            metric=inputs.resolved.train.select.metric,
            value=best.value,
        ),
        is_frozen_equal=all(session.digests[name] == digest for name, digest in untouched.items()),
        num_params=sum(p.numel() for p in model.parameters()),
        num_trainable=sum(p.numel() for name, p in model.named_parameters() if name in trained),
        num_skipped=len(inputs.data.skipped),
        numerics=position.numerics,
        drift=position.drift,
        wall_s=round(position.wall_s, 3),
        threshold=threshold,
    )
    result.write(place.path / rundir.RESULT)
    return result


def _plot(place: RunDir, inputs: Inputs, session: Session, claimed: Predictions, threshold: float | None) -> None:
    from hubtool.tracking import plots

    plots.curves(session.work.journal.replay(), place.plots / "curves.png")
    if inputs.resolved.task in ("classification", "binary"):
        predicted = metrics.predicted_classes(inputs.resolved.task, claimed.logits_NK, threshold=threshold)
        matrix_KK = metrics.confusion_matrix(claimed.targets, predicted, len(inputs.data.classes))
        plots.confusion_matrix(matrix_KK, inputs.data.classes, place.plots / "confusion_matrix.png")


def _num_workers(options: RunOptions) -> int:
    """Half the cores, two at least where there are two: the other half computes."""
    if options.num_workers is not None:
        return options.num_workers
    return max(min(2, os.cpu_count() or 1), (os.cpu_count() or 1) // 2)
