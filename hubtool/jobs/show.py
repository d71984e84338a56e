"""hubtool show: the layers of a backbone, run, package or repository, before anything is fetched or trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import BackboneRef, has_source, parse_backbone_ref
from hubtool.core.settings import read_settings
from hubtool.jobs.target import find_target
from hubtool.records.backbone import BackboneEntry, LayerTable, Origin
from hubtool.records.recipe import Recipe
from hubtool.records.recipe_file import find_recipe, load_recipe
from hubtool.records.registry import missing, read_all
from hubtool.records.resolve import ResolvedRecipe, resolve
from hubtool.records.rundir import RunDir
from hubtool.records.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn


def show(target: str, *, recipe: str | None = None, hub: str | None = None, reporter: Reporter = SILENT) -> LayerTable:
    """The parts of TARGET: output shape, parameters, FLOPs, what trains, what is computed once.

    A backbone of timm or torchvision needs neither weights nor network; one of a repository has to be pulled, and is where
    it is not here. Without ``recipe`` a backbone is shown under ``freeze: none``.
    """
    found = find_target(target)
    if found.kind == "backbone":
        entry, directory = _backbone(target, hub, reporter)
        resolved = resolve(_recipe(recipe, entry), entry)
        return _table(entry, directory, resolved, entry.num_classes or 1000)
    if found.kind == "repository":
        return _of_repository(target, hub, reporter)
    assert found.path is not None
    return _of_run(RunDir(found.path), reporter)


def _recipe(name: str | None, entry: BackboneEntry) -> Recipe:
    overrides = (f"backbone.ref={entry.ref}",)
    if name is not None:
        return load_recipe(find_recipe(name), overrides)
    return Recipe.model_validate({"backbone": entry.ref, "freeze": "none"})


def _backbone(text: str, hub: str | None, reporter: Reporter) -> tuple[BackboneEntry, Path | None]:
    """The entry from what is known offline; only what no table knows is pulled."""
    from hubtool.backbones import sources
    from hubtool.jobs.pull import pull

    registries = read_all(read_settings().home)
    ref = parse_backbone_ref(text) if has_source(text) else _registered(text, registries)
    if ref.source in ("timm", "torchvision"):
        return sources.describe(ref, sources.locate(ref), None), None
    if ref.source in ("local", "bundled"):
        origin = sources.locate(ref)
        directory = Path(origin.directory or "")
        return sources.describe(ref, origin, directory), directory
    report = pull(text, hub=hub, reporter=reporter)
    return report.entry, Path(report.directory) if report.directory else None


def _registered(name: str, registries: list) -> BackboneRef:  # type: ignore[type-arg]
    entry = next((found for registry in registries if (found := registry.find(name)) is not None), None)
    if entry is None:
        raise missing(name, registries)
    return parse_backbone_ref(entry.ref)


def _of_repository(text: str, hub: str | None, reporter: Reporter) -> LayerTable:
    from hubtool.core.refs import parse_repo_ref
    from hubtool.hub.fetch import fetch_package
    from hubtool.jobs import endpoint

    ref = parse_repo_ref(text)
    with tempfile.TemporaryDirectory(prefix="hubtool-") as scratch:
        directory = Path(scratch) / "package"
        with endpoint.reading(hub, reporter=reporter) as opened:
            fetch_package(opened, str(ref.repo_id), ref.revision, directory)
        return _of_run(RunDir(directory), reporter)


def _of_run(run: RunDir, reporter: Reporter) -> LayerTable:
    """A run or a package: both hold resolved.json and data.json."""
    resolved = run.resolved()
    pinned = resolved.backbone
    if pinned.library == "transformers" or pinned.ref.startswith(("local:", "bundled:", "hf:")):
        entry, directory = _backbone(pinned.ref, None, reporter)
    else:
        origin = Origin(repo_id=pinned.repo_id, url=pinned.url, revision=pinned.revision)
        entry = BackboneEntry(
            ref=pinned.ref,
            library=pinned.library,
            architecture=pinned.architecture,
            origin=origin,
            preprocess=resolved.preprocess,
        )
        directory = None
    return _table(entry, directory, resolved, len(run.data().classes))


def _table(entry: BackboneEntry, directory: Path | None, resolved: ResolvedRecipe, num_classes: int) -> LayerTable:
    from hubtool.backbones import freeze, head, layers, parts, sources

    model: nn.Module = sources.build_empty(entry, directory, preprocess=resolved.preprocess)
    num_outputs = TASKS[resolved.task].num_outputs(num_classes)
    head.attach(model, resolved.head, num_outputs=num_outputs, seed=resolved.train.seed, library=entry.library)
    found = parts.find_parts(model, entry.library)
    phase = freeze.schedule(resolved, found, num_epochs=resolved.train.epochs)[0]
    preprocess = resolved.preprocess
    return layers.table(
        model,
        found,
        phase,
        input_shape=(preprocess.in_chans, *preprocess.img_size),
        frontier=layers.frozen_through(found, phase),
    )
