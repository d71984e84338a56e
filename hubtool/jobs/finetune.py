"""hubtool finetune: train a recipe on a directory of pictures. The same command starts, resumes and finds its run again."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from hubtool.core.collector import uncollected
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.jobs.run import Inputs, follow_torchrun, num_workers_of, prepare, train
from hubtool.records import rundir
from hubtool.records.recipe import Run
from hubtool.records.recipe_file import find_recipe, load_recipe, with_overrides
from hubtool.records.reports import FinetuneReport
from hubtool.records.resolve import resolve
from hubtool.records.run import RunOptions
from hubtool.records.rundir import RunDir, refuse_drift
from hubtool.records.seed_bands import SEEDS_NAME, Seeds

__all__ = ["Inputs", "finetune", "train"]


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
    cache_root: Path | None = None,
    cache_limit_bytes: int | None = None,
    num_processes: int = 1,
    num_seeds: int = 0,
    mirror: str | Path | None = None,
    hub: str | None = None,
    reporter: Reporter = SILENT,
) -> FinetuneReport:
    """Train, or go on where the run of the same command was stopped; a finished run is only reported.

    ``recipe`` is a file or a shipped name, ``data`` a directory of class folders. Raises UsageError (2), DataError (3),
    ConflictError (7) for a run in use or one that began with something else, NumericError (9), InterruptedRun.
    ``num_seeds`` more seeds are trained afterwards and give the claims their band; the run stays that of ``train.seed``.
    ``cache_root`` is where the features of the frozen part are kept (HUBTOOL_HOME/cache/activations).
    ``mirror`` is a directory, or a repository OWNER/NAME on ``hub``: each checkpoint is copied there, and an empty or older
    run goes on from there.
    ``num_processes`` share out the micro-batches of each step; under torchrun its own processes do.
    """
    if read_settings().torchrun_rank:
        return follow_torchrun(device)
    from hubtool.data.kept import Kept
    from hubtool.data.splits import index_data
    from hubtool.jobs.pull import backbone_of

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
        cache_root=None if cache_root is None else str(Path(cache_root).absolute()),
        allow_drift=allow_drift,
        mirror=None if mirror is None else str(mirror),
        run=chosen.run,
    )
    backbone = backbone_of(chosen.backbone.ref, pretrained=chosen.backbone.pretrained, reporter=reporter)
    resolved = resolve(chosen, backbone.entry)
    _refuse_early(chosen.run, backbone.entry.license)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Kept(resolved.preprocess))
        with contextlib.nullcontext() if run and RunDir(run).is_finished else _imported_meanwhile():
            manifest = index_data(
                data,
                task=chosen.task,
                labels=chosen.data.labels,
                val_fraction=chosen.data.val_fraction,
                in_chans=chosen.data.in_chans,
                skip_bad=skip_bad,
                num_workers=num_workers_of(options),
                reporter=reporter,
                kept=kept,
            )
        place = rundir.choose(run, recipe=path.stem, resolved=resolved, data=manifest, data_dir=data, new=new)
        text = with_overrides(path.read_bytes(), tuple(overrides))
        inputs = Inputs(recipe=text, resolved=resolved, backbone=backbone, data=manifest, options=options, kept=kept)
        if mirror is not None and not place.is_finished:
            inputs = _mirrored(place, inputs, str(mirror), hub=hub, is_new=new, reporter=reporter)
        ready = None if place.is_finished else prepare(place, inputs, num_processes=num_processes)
        with place.held():
            if place.is_finished:
                refuse_drift(place.drift(resolved, manifest, place.environment()), place.path)
                place.keep_run_section(chosen.run)
                status: Literal["finished", "already"] = "already"
                result = place.result()
            else:
                status = "finished"
                result = train(place, inputs, ready=ready, num_processes=num_processes, reporter=reporter)
            if num_seeds:
                from hubtool.jobs.seeds import repeat

                result = repeat(place, inputs, num_seeds, reporter=reporter)
            path = place.path / SEEDS_NAME
            seeds = Seeds.read(path) if path.is_file() else None
            return FinetuneReport(run=str(place.path), status=status, result=result, seeds=seeds)


def _mirrored(
    place: RunDir, inputs: Inputs, mirror: str, *, hub: str | None, is_new: bool, reporter: Reporter
) -> Inputs:
    from hubtool.jobs.mirror import place_of, take_up

    inputs = dataclasses.replace(inputs, mirror=place_of(mirror, hub=hub))
    take_up(place, inputs, is_new=is_new, reporter=reporter)
    return inputs


def _refuse_early(run: Run, base_license: str | None) -> None:
    """What only pack and the sinks would say, hours later: a licence that is none or too loose, a sink nobody offers."""
    from hubtool.package import licenses
    from hubtool.tracking.sinks import refuse_unknown

    refuse_unknown(run.log.sinks)
    if run.card.license is not None:
        licenses.of_result(base_license, run.card.license)


@contextlib.contextmanager
def _imported_meanwhile() -> Iterator[None]:
    """The heavy libraries are imported while other processes decode the pictures: seconds on a cold start."""

    def load() -> None:
        with uncollected(), contextlib.suppress(ImportError):  # it is raised where the module is really needed
            for name in ("torch", "timm", "hubtool.training.session", "hubtool.backbones.frontier"):
                importlib.import_module(name)

    import numpy  # noqa: F401 (before the thread: two threads must not be in one package's import)

    import hubtool.data.images  # noqa: F401 (Pillow)

    thread = threading.Thread(target=load, name="imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
