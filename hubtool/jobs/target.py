"""TARGET → model, preprocessing, classes: a run or package directory that exists, ``SOURCE:NAME`` a backbone, else a repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import has_source, parse_repo_ref
from hubtool.core.settings import read_settings
from hubtool.records.backbone import BackboneEntry, Preprocess
from hubtool.records.dataset import Sample
from hubtool.records.package import MANIFEST_NAME
from hubtool.records.registry import read_all
from hubtool.records.reports import PullReport
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.rundir import RunDir
from hubtool.records.tasks import TASKS, TaskName

Kind = Literal["run", "package", "repository", "backbone"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a person named. ``path`` is the run or package directory, None for a backbone and a repository."""

    name: str
    kind: Kind
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in eval mode on the CPU (x_BCHW → logits_BK) and what its input and outputs mean.

    ``micro_size`` and ``precision`` are those its claims were measured with; ``threshold`` is binary's.
    """

    target: Target
    model: Any
    preprocess: Preprocess
    classes: tuple[str, ...]
    task: TaskName
    micro_size: int = 32
    precision: str = "fp32"
    threshold: float | None = None


def find_target(text: str) -> Target:
    """Which of the four a text names. Raises UsageError when two fit, naming both spellings; NotFoundError for a directory
    that is neither run nor package."""
    directory = Path(text).expanduser()
    is_backbone = has_source(text) or _is_registered(text)
    if directory.is_dir():
        if is_backbone:
            raise UsageError(
                "E-TARGET",
                f"{text!a} is a directory and a backbone",
                do=f"write ./{text}, or the backbone with its source",
            )
        if (directory / MANIFEST_NAME).is_file():
            return Target(name=text, kind="package", path=directory)
        if RunDir(directory).is_begun:
            return Target(name=text, kind="run", path=directory)
        raise NotFoundError("E-TARGET-404", "the directory is neither a run nor a package", where=text)
    if is_backbone:
        return Target(name=text, kind="backbone")
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise NotFoundError(
            "E-TARGET-404",
            f"nothing is named {text!a}",
            do="name a run or package directory, SOURCE:NAME, or OWNER/NAME",
        )
    parse_repo_ref(text)
    return Target(name=text, kind="repository")


def load(text: str, *, package: Path | None = None, reporter: Reporter = SILENT) -> Loaded:
    """The model of a TARGET. ``package`` is the directory a repository was fetched to."""
    target = find_target(text)
    if target.kind == "repository" and package is None:
        raise UsageError("E-TARGET-REPO", f"{text!a} is a repository", do="it has to be fetched first")
    if target.kind == "backbone":
        return _load_backbone(target, reporter)
    if target.kind == "run":
        assert target.path is not None
        return _load_run(target, RunDir(target.path), reporter)
    return _load_package(target, package or target.path or Path())


def build(resolved: ResolvedRecipe, backbone: PullReport, *, num_classes: int) -> Any:
    """The backbone with its weights and the recipe's head on it, before training."""
    from hubtool.backbones import head, sources

    entry, train = backbone.entry, resolved.train
    model = sources.build(
        entry,
        Path(backbone.directory) if backbone.directory else None,
        pretrained=resolved.backbone.pretrained,
        preprocess=resolved.preprocess,
        drop_path=train.drop_path,
        seed=train.seed,
    )
    num_outputs = TASKS[resolved.task].num_outputs(num_classes)
    return head.attach(model, resolved.head, num_outputs=num_outputs, seed=train.seed, library=entry.library)


def build_selected(run: RunDir, *, reporter: Reporter = SILENT) -> Any:
    """A finished run's model with its selected weights, their digest checked against the result's."""
    from hubtool.backbones.weights import state_digest
    from hubtool.core.errors import IntegrityError
    from hubtool.jobs.pull import backbone_of
    from hubtool.training.checkpoint import selected_tensors
    from hubtool.training.loop import restore

    result, resolved = run.result(), run.resolved()
    named = resolved.backbone
    backbone = backbone_of(run.options().backbone or named.ref, pretrained=named.pretrained, reporter=reporter)
    model = build(resolved, backbone, num_classes=len(run.data().classes))
    restore(model, selected_tensors(run.checkpoints / result.selected.checkpoint))
    if state_digest(model.state_dict()) != result.weights_digest:
        raise IntegrityError(
            "E-RUN-WEIGHTS",
            "the selected weights are not those of result.json",
            where=str(run.path),
            do="train again with --new",
        )
    return model.eval()


def _load_run(target: Target, run: RunDir, reporter: Reporter) -> Loaded:
    resolved = run.resolved()
    return Loaded(
        target=target,
        model=build_selected(run, reporter=reporter),
        preprocess=resolved.preprocess,
        classes=run.data().classes,
        task=resolved.task,
        micro_size=resolved.train.batch_size // resolved.train.grad_accum_steps,
        precision=resolved.train.precision,
        threshold=run.result().threshold,
    )


def _load_package(target: Target, directory: Path) -> Loaded:
    from hubtool.backbones.export import load_package

    resolved, inside = ResolvedRecipe.read(directory / "resolved.json"), RunDir(directory)
    return Loaded(
        target=target,
        model=load_package(directory).eval(),
        preprocess=resolved.preprocess,
        classes=inside.data().classes,
        task=resolved.task,
        micro_size=resolved.train.batch_size // resolved.train.grad_accum_steps,
        precision=resolved.train.precision,
        threshold=inside.result().threshold,
    )


def _load_backbone(target: Target, reporter: Reporter) -> Loaded:
    from hubtool.backbones import sources
    from hubtool.jobs.pull import pull

    backbone = pull(target.name, reporter=reporter)
    entry: BackboneEntry = backbone.entry
    directory = Path(backbone.directory) if backbone.directory else None
    model = sources.build(entry, directory, pretrained=True, preprocess=entry.preprocess)
    classes = tuple(str(number) for number in range(entry.num_classes or 0))
    return Loaded(
        target=target, model=model.eval(), preprocess=entry.preprocess, classes=classes, task="classification"
    )


def _is_registered(text: str) -> bool:
    return any(registry.find(text) is not None for registry in read_all(read_settings().home))


def label_of(sample: Sample, classes: tuple[str, ...]) -> str:
    """A sample's target in words: its class, or each output with its number."""
    if isinstance(sample.target, int):
        return classes[sample.target]
    values = sample.target if isinstance(sample.target, tuple) else (sample.target,)
    return ", ".join(f"{name} {value:g}" for name, value in zip(classes, values, strict=True))
