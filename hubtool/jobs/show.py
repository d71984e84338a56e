"""hubtool show: the layers of a backbone, run, package or repository, before anything is fetched or trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import parse_repo_ref
from hubtool.jobs.pull import outline
from hubtool.jobs.target import find_target
from hubtool.records.backbone import BackboneEntry, LayerTable, Origin
from hubtool.records.recipe import Recipe
from hubtool.records.recipe_file import find_recipe, load_recipe
from hubtool.records.reports import PullReport
from hubtool.records.resolve import ResolvedRecipe, resolve
from hubtool.records.rundir import RunDir
from hubtool.records.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn


def show(target: str, *, recipe: str | None = None, hub: str | None = None, reporter: Reporter = SILENT) -> LayerTable:
    """The parts of TARGET: output shape, parameters, FLOPs, what trains, what is computed once.

    A backbone of timm or torchvision needs neither weights nor network; one of a repository has to be pulled, and is where
    it is not here. It is shown as the first epoch trains it; without ``recipe``, under ``freeze: none``. A run or package
    is shown as its last epoch trains it, and of a repository nothing else is fetched.
    Raises UsageError (2) for a recipe where the target has its own, NotFoundError (4).
    """
    found = find_target(target)
    if found.kind == "backbone":
        report = outline(target, hub=hub, reporter=reporter)
        return _table(report, resolve(_recipe(recipe, report.entry), report.entry), report.entry.num_classes or 1000)
    if recipe is not None:
        raise UsageError("E-OPTION", f"a {found.kind} has its own recipe", where=target, do="leave --recipe out")
    if found.kind == "repository":
        return _of_repository(target, hub, reporter)
    assert found.path is not None
    return _of_package(found.path) if found.kind == "package" else _of_run(RunDir(found.path), reporter)


def _recipe(name: str | None, entry: BackboneEntry) -> Recipe:
    overrides = (f"backbone.ref={entry.ref}",)
    if name is not None:
        return load_recipe(find_recipe(name), overrides)
    return Recipe.model_validate({"backbone": entry.ref, "freeze": "none"})


def _of_package(directory: Path) -> LayerTable:
    from hubtool.package.facts import LAYERS_NAME

    return LayerTable.read(directory / LAYERS_NAME)


def _of_repository(text: str, hub: str | None, reporter: Reporter) -> LayerTable:
    from hubtool.hub.fetch import fetch_files, resolve
    from hubtool.jobs import endpoint
    from hubtool.package.facts import LAYERS_NAME

    ref = parse_repo_ref(text)
    with endpoint.reading(hub, repo=ref.repo_id, reporter=reporter) as opened:
        snapshot = resolve(opened, ref.repo_id, ref.revision)
        if LAYERS_NAME not in snapshot.files:
            raise NotFoundError(
                "E-PACKAGE", f"{text} holds no {LAYERS_NAME}", do=f"as a backbone: `hubtool show hf:{text}`"
            )
        return LayerTable.read(fetch_files(opened, snapshot, [LAYERS_NAME])[LAYERS_NAME])


def _of_run(run: RunDir, reporter: Reporter) -> LayerTable:
    resolved = run.resolved()
    pinned = resolved.backbone
    if pinned.ref.startswith(("timm:", "torchvision:")):
        entry = BackboneEntry(
            ref=pinned.ref,
            library=pinned.library,
            architecture=pinned.architecture,
            origin=Origin(),
            preprocess=resolved.preprocess,
        )
        report = PullReport(entry=entry, directory=None, is_new=False)
    else:
        report = outline(run.options().backbone or pinned.ref, reporter=reporter)
    return _table(report, resolved, len(run.data().classes), phase_number=-1)


def _table(backbone: PullReport, resolved: ResolvedRecipe, num_classes: int, *, phase_number: int = 0) -> LayerTable:
    from hubtool.backbones import freeze, head, layers, parts, sources

    entry, directory = backbone.entry, Path(backbone.directory) if backbone.directory else None
    model: nn.Module = sources.build_empty(entry, directory, preprocess=resolved.preprocess)
    num_outputs = TASKS[resolved.task].num_outputs(num_classes)
    head.attach(model, resolved.head, num_outputs=num_outputs, seed=resolved.train.seed, library=entry.library)
    found = parts.find_parts(model, entry.library)
    phase = freeze.schedule(resolved, found, num_epochs=resolved.train.epochs)[phase_number]
    preprocess = resolved.preprocess
    return layers.table(
        model,
        found,
        phase,
        input_shape=(preprocess.in_chans, *preprocess.img_size),
        frontier=layers.frozen_through(found, phase),
    )
