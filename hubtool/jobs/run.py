"""A run directory trained from its newest checkpoint to its result: the rooms brought together. No verb of its own:
``finetune`` and ``reproduce`` train through it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubtool.core.digests import sha256_file, sha256_json
from hubtool.core.errors import HubtoolError, IntegrityError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.data.pool import default_workers
from hubtool.records import metrics, rundir
from hubtool.records.backbone import Phase
from hubtool.records.dataset import DataManifest
from hubtool.records.environment import Difference, Numerics
from hubtool.records.evidence import Predictions
from hubtool.records.reports import FinetuneReport, PullReport
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result, RunOptions, Selected
from hubtool.records.rundir import RunDir, refuse_drift

if TYPE_CHECKING:
    from hubtool.data.kept import Kept
    from hubtool.training.feed import Cut, Feed
    from hubtool.training.mirror import Place
    from hubtool.training.processes import Group
    from hubtool.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run is made of, resolved and read: the recipe's text for the reader, the rest for the numbers.

    ``kept`` may hold the pictures as they were decoded when the data was indexed. ``mirror`` is where each checkpoint is
    copied to.
    """

    recipe: bytes
    resolved: ResolvedRecipe
    backbone: PullReport
    data: DataManifest
    options: RunOptions
    kept: Kept | None = None
    mirror: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model before training, its phases, and what decides the last bits."""

    model: Any
    phases: tuple[Phase, ...]
    device: Any
    numerics: Numerics


def prepare(place: RunDir, inputs: Inputs, *, num_processes: int = 1) -> Ready:
    """Refuse what can be refused before anything is written; build the model and set what decides the last bits.

    A run that goes on gets its number of threads back.
    """
    from hubtool.backbones import freeze
    from hubtool.backbones.parts import find_parts
    from hubtool.jobs.target import build
    from hubtool.training import numerics, processes, session, taps

    resolved, recipe = inputs.resolved, inputs.resolved.train
    processes.check_divides(num_processes, recipe.grad_accum_steps, recipe.batch_size)
    session.refuse_unknown(resolved, inputs.data)
    model = build(resolved, inputs.backbone, num_classes=len(inputs.data.classes))
    phases = freeze.schedule(resolved, find_parts(model, resolved.backbone.library), num_epochs=recipe.epochs)
    was = place.environment().numerics if place.is_begun else None
    num_threads = was.num_threads if was is not None and was.num_processes == num_processes else None
    if num_threads is None and num_processes > 1:
        num_threads = processes.threads_each(num_processes)
    memory_format = numerics.memory_format_of(model)
    device, measured = numerics.set_numerics(
        inputs.options.device,
        libraries=("transformers",) if resolved.backbone.library == "transformers" else (),
        num_threads=num_threads,
        num_processes=num_processes,
        memory_format=memory_format,
    )
    model = model.to(device, memory_format=numerics.torch_format(memory_format))
    if device.type == "cpu" and recipe.precision != "fp32":
        trained = {name for phase in phases for name in phase.trainable}
        taps.mask_unmet(model, trained, (resolved.preprocess.in_chans, *resolved.preprocess.img_size))
    return Ready(model=model, phases=phases, device=device, numerics=measured)


def train(
    place: RunDir,
    inputs: Inputs,
    *,
    ready: Ready | None = None,
    num_processes: int = 1,
    reporter: Reporter = SILENT,
) -> Result:
    """Train in a run directory whose lock is held: in this process and ``num_processes`` - 1 others, or in torchrun's."""
    from hubtool.training import numerics, processes

    if read_settings().torchrun_rank is not None:
        with processes.joined(inputs.options.device) as group:
            ready = prepare(place, inputs, num_processes=group.num_processes)
            drift = _begin(place, inputs, ready)
            group.tell(str(place.path.absolute()))
            result = _train(place, inputs, ready, drift, group, reporter)
            group.barrier()
            return result
    ready = ready or prepare(place, inputs, num_processes=num_processes)
    processes.check_gpus(num_processes, ready.device)
    if numerics.is_slow(ready.device.type, inputs.resolved.train.precision):
        reporter.warn(
            f"this processor has no instructions for {inputs.resolved.train.precision}: fp32 is several times faster here"
        )
    drift = _begin(place, inputs, ready)
    if num_processes == 1:
        return _train(place, inputs, ready, drift, processes.Alone(), reporter)
    call = {"run": str(place.path.absolute())}
    with (
        processes.followers(num_processes, "hubtool.jobs.run:follow", call) as meeting,
        processes.joined(ready.device.type, rank=0, num_processes=num_processes, meeting=meeting) as group,
    ):
        return _train(place, inputs, ready, drift, group, reporter)


def follow(*, run: str, rank: int, num_processes: int, meeting: str) -> None:
    """Process ``rank`` of a run that the first process has begun: computes its share, writes nothing and says nothing.

    What goes wrong here goes wrong in the first process too, which tells it.
    """
    from hubtool.training import processes

    place = RunDir(Path(run))
    device = place.options().device
    try:
        with processes.joined(device, rank=rank, num_processes=num_processes, meeting=Path(meeting)) as group:
            _follow(place, group)
    except HubtoolError as error:
        sys.exit(error.exit_code)


def follow_torchrun(device: str) -> FinetuneReport:
    """The same where torchrun started the processes: the first one tells which run it is."""
    from hubtool.training import processes

    processes.be_silent()
    with processes.joined(device) as group:
        place = RunDir(Path(group.tell("")))
        _follow(place, group)
        group.barrier()
    return FinetuneReport(run=str(place.path), status="finished", result=place.result())


def _begin(place: RunDir, inputs: Inputs, ready: Ready) -> tuple[Difference, ...]:
    """Write down what the run is, unless it began as something else; returns the differences that were allowed."""
    from hubtool.training import numerics, session

    environment = numerics.environment(ready.numerics)
    drift = place.drift(inputs.resolved, inputs.data, environment)
    if not inputs.options.allow_drift:
        refuse_drift(drift, place.path)
    if place.is_begun:  # nothing is written of a start that cannot go on
        session.refuse_unfit(place.checkpoints, ready.model, ready.phases, is_drifted=bool(drift))
    place.begin(
        recipe=inputs.recipe,
        resolved=inputs.resolved,
        data=inputs.data,
        environment=environment,
        options=inputs.options,
    )
    return drift


def _train(
    place: RunDir,
    inputs: Inputs,
    ready: Ready,
    drift: tuple[Difference, ...],
    group: Group,
    reporter: Reporter,
) -> Result:
    from hubtool.training.numerics import nondeterministic_operations

    with ExitStack() as stack:
        found = stack.enter_context(nondeterministic_operations())
        session = _open(place, inputs, ready, drift, group, stack, reporter, nondeterministic=found)
        cut, val_feed = _fit_phases(session)
        session.select()
        return _finish(place, inputs, session, cut, val_feed)


def _follow(place: RunDir, group: Group) -> None:
    from hubtool.jobs.pull import backbone_of

    options, resolved = place.options(), place.resolved()
    inputs = Inputs(
        recipe=b"",
        resolved=resolved,
        backbone=backbone_of(options.backbone, pretrained=resolved.backbone.pretrained),
        data=place.data(),
        options=options,
    )
    ready = prepare(place, inputs, num_processes=group.num_processes)
    with ExitStack() as stack:
        _fit_phases(_open(place, inputs, ready, (), group, stack, SILENT))


def _open(
    place: RunDir,
    inputs: Inputs,
    ready: Ready,
    drift: tuple[Difference, ...],
    group: Group,
    stack: ExitStack,
    reporter: Reporter,
    *,
    nondeterministic: Sequence[str] = (),
) -> Session:
    """The run's means, everything that ``stack`` closes again."""
    from hubtool.backbones.weights import tensor_digests
    from hubtool.data.targets import target_tensor
    from hubtool.tracking.journal import Journal
    from hubtool.tracking.sinks import open_sinks
    from hubtool.training import session as sessions
    from hubtool.training.checkpoint import Checkpoints
    from hubtool.training.mirror import Mirror
    from hubtool.training.signals import Stop

    resolved, data, options = inputs.resolved, inputs.data, inputs.options
    is_writer = group.rank == 0
    stop = stack.enter_context(Stop())
    mirror = None
    if is_writer and inputs.mirror is not None:
        mirror = Mirror(inputs.mirror, place, is_stopping=lambda: stop.is_asked, reporter=reporter)
        stack.callback(mirror.close)
    journal: Any = sessions.Mute()
    if is_writer:
        journal = Journal(place.journal)
        stack.callback(journal.close)  # after the checkpoints, whose writer makes it durable
    checkpoints = Checkpoints(
        place.checkpoints,
        keep=options.run.keep_checkpoints,
        mode=resolved.train.select.mode,
        is_writer=is_writer,
        mirror=mirror,
    )
    stack.callback(checkpoints.close)
    state = sessions.take_up(
        checkpoints,
        journal,
        resolved=resolved,
        data=data,
        numerics=ready.numerics,
        drift=drift,
        is_drift_allowed=options.allow_drift,
        reporter=reporter,
    )
    if state.position.global_step and not drift:
        checkpoints.offer(state.position)  # the start before may have ended before it was copied
    sink: Any = sessions.Mute()
    if is_writer:
        ids = state.position.sink_ids
        sink = open_sinks(place.path, log=options.run.log, resolved=resolved, reporter=reporter, ids=ids)
        stack.callback(sink.close)
        state = state.with_sinks(sink.ids)
    work = sessions.make_work(
        model=ready.model,
        resolved=resolved,
        data=data,
        targets=target_tensor(data.splits["train"], resolved.task),
        device=ready.device,
        group=group,
        checkpoints=checkpoints,
        save_every_steps=options.run.save_every_steps,
        save_every_s=options.run.save_every_s,
        journal=journal,
        sink=sink,
        stop=stop,
        reporter=reporter,
        nondeterministic=nondeterministic,
    )
    session = sessions.Session(
        work=work,
        data=data,
        resolved=resolved,
        loaders=_loaders(inputs),
        phases=ready.phases,
        state=state,
        digests=tensor_digests(ready.model.state_dict()),
        cache_root=_cache_root(options),
        cache_limit_bytes=options.cache_limit_bytes,
    )
    stack.callback(session.close)
    stack.callback(checkpoints.hurry)  # before all that is closed on the way out
    return session


def _cache_root(options: RunOptions) -> Path | None:
    root = Path(options.cache_root) if options.cache_root else read_settings().home / "cache" / "activations"
    return root if options.use_cache else None


def _loaders(inputs: Inputs) -> dict[str, Any]:
    from hubtool.data.loader import ImageLoader

    return {
        split: ImageLoader(
            Path(inputs.options.data_dir),
            samples,
            preprocess=inputs.resolved.preprocess,
            policy=inputs.resolved.data.augment.policy,
            seed=inputs.resolved.train.seed,
            num_workers=num_workers_of(inputs.options),
            kept=inputs.kept,
        )
        for split, samples in inputs.data.splits.items()
    }


def _fit_phases(session: Session) -> tuple[Cut, Feed]:
    """Train what is left; returns the last cut and the feed of val."""
    from hubtool.training.loop import fit, is_over

    stage = None
    for phase in session.left:
        if is_over(session.work.train, session.state.position):
            break
        cut, feed, val_feed = stage = _stage(session, phase)
        session.state = fit(phase, session.trained_by(phase), cut, feed, val_feed, session.work, session.state)
    session.work.checkpoints.hurry()
    cut, _, val_feed = stage or _stage(session, session.reached)
    return cut, val_feed


def _stage(session: Session, phase: Phase) -> tuple[Cut, Feed, Feed]:
    """The model frozen for a phase, cut at its frontier, and what feeds it."""
    from hubtool.backbones import freeze, frontier
    from hubtool.training.feed import Whole, autocast

    model, work = session.work.model, session.work
    freeze.apply(model, phase)
    with autocast(work.device, work.train.precision):
        found = frontier.cut(model, phase, session.sample_x())
    cut: Cut = Whole(model, found.reason) if isinstance(found, frontier.Uncut) else found
    return cut, *session.feeds(phase, cut)


def _finish(place: RunDir, inputs: Inputs, session: Session, cut: Cut, val_feed: Feed) -> Result:
    """Evidence first, then what is compiled from it, ``result.json`` last: once the last checkpoint, which is written
    meanwhile, is durable."""
    from hubtool.backbones.weights import state_digest, tensor_digests
    from hubtool.jobs.shown import show_end

    position, task = session.state.position, inputs.resolved.task
    best = position.best
    assert best is not None and position.numerics is not None
    split = "test" if inputs.data.splits.get("test") else "val"
    claimed = session.predict(split, cut, val_feed if split == "val" else session.live(split, cut))
    if split == "val":
        _refuse_other_value(session, claimed)
    threshold = None
    if task == "binary":
        chosen_on = claimed if split == "val" else session.predict("val", cut, val_feed)
        threshold = metrics.choose_threshold(chosen_on.logits_NK, chosen_on.targets)
    evidence = place.evidence(split)
    claimed.write(place.path / evidence)
    digest = sha256_file(place.path / evidence)
    show_end(place, session, claimed, data_dir=Path(inputs.options.data_dir), threshold=threshold)
    model: Any = session.work.model
    trained = {name for phase in session.phases for name in phase.trainable}
    untouched = tensor_digests(session.untouched())
    random = tuple(dict.fromkeys([*position.nondeterministic, *session.work.nondeterministic]))
    if random:
        session.work.reporter.warn(
            f"the weights are not exact, there is no deterministic kernel of {', '.join(random)}"
        )
    result = Result(
        claims=metrics.claims_of(task, claimed, evidence=evidence, evidence_sha256=digest, threshold=threshold),
        recipe_digest=inputs.resolved.digest(),
        data_digest=inputs.data.digest(),
        backbone_digest=inputs.resolved.backbone.digest(),
        weights_digest=state_digest(model.state_dict()),
        initial_digest=sha256_json(session.digests),
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
        nondeterministic=random,
        wall_s=round(position.wall_s, 3),
        threshold=threshold,
    )
    session.work.checkpoints.wait()
    sink: Any = session.work.sink
    sink.close()  # a finished run is not taken up again: what a sink lacked then it would lack for good
    result.write(place.path / rundir.RESULT)
    return result


def _refuse_other_value(session: Session, claimed: Predictions) -> None:
    """What is claimed has to be what was selected. Raises IntegrityError.

    To the bit on one CPU process with one phase; elsewhere another cut or kernel may round otherwise.
    """
    position, work = session.state.position, session.work
    numerics, best = position.numerics, position.best
    assert best is not None and numerics is not None
    if position.drift:
        return
    name = work.train.select.metric.partition("/")[2]
    value = metrics.compute(work.task, claimed.logits_NK, claimed.targets)[name]
    is_exact = numerics.device == "cpu" and numerics.num_processes == 1 and len(session.phases) == 1
    slack = 0.0 if is_exact else 2 / len(claimed.samples)
    if not math.isclose(value, best.value, rel_tol=0.0 if is_exact else 1e-2, abs_tol=slack):
        raise IntegrityError(
            "E-CLAIM-SELECTED",
            f"{name} of the selected weights is {value}, and was {best.value} when {best.checkpoint} was selected",
            do="train in a new --run with --no-cache; if that differs from this run, please report it",
        )


def num_workers_of(options: RunOptions) -> int:
    return default_workers() if options.num_workers is None else options.num_workers
