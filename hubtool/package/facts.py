"""What a card may say: read from the files of the package that hubtool.json lists, and the records of reproductions beside them.

``verify`` reads the same files and renders again; so every number of a card has a file that it comes from.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hubtool.core.errors import IntegrityError
from hubtool.core.ids import RepoPath
from hubtool.package import licenses
from hubtool.package.privacy import LOG_NAME
from hubtool.records import reproductions
from hubtool.records.backbone import BackboneEntry, LayerTable
from hubtool.records.claims import Claim
from hubtool.records.dataset import DataManifest
from hubtool.records.environment import Environment
from hubtool.records.evidence import Predictions
from hubtool.records.log import Event
from hubtool.records.metrics import SAMPLE_SHARES, compute, mean_intervals, wilson
from hubtool.records.package import Layout, Snippet, Snippets
from hubtool.records.recipe import Card, Recipe
from hubtool.records.reports import Reproduction
from hubtool.records.resolve import ResolvedRecipe, resolve
from hubtool.records.run import Result
from hubtool.records.seed_bands import SEEDS_NAME, Band, Seeds
from hubtool.records.tasks import TASKS, Task

BACKBONE_NAME = "evidence/backbone.json"
CARD_NAME = "evidence/card.json"
LAYERS_NAME = "evidence/layers.json"
SNIPPETS_NAME = "evidence/snippets.json"
WEIGHTS_NAME = "evidence/weights.json"
GOLDEN_NAME = "evidence/golden.safetensors"
CURVES_NAME = "plots/curves.png"
# Task → the plot of its predictions that a card shows, and what it is.
FIGURES = {
    "classification": ("plots/confusion_matrix.png", "Confusion matrix"),
    "binary": ("plots/confusion_matrix.png", "Confusion matrix"),
    "multilabel": ("plots/per_class.png", "Recall of each label"),
    "regression": ("plots/calibration.png", "Predicted against true values"),
}

# Metric → (title, the Hub's metric id, what it is in a few words).
METRICS = {
    "top1": ("Top-1 accuracy", "accuracy", "share of pictures whose highest class is the right one"),
    "top5": ("Top-5 accuracy", "accuracy", "share whose right class is among the five highest"),
    "balanced_accuracy": ("Balanced accuracy", "balanced_accuracy", "mean of the classes' recalls"),
    "macro_f1": ("Macro F1", "f1", "mean of the classes' F1"),
    "auroc": ("AUROC", "roc_auc", "area under the ROC curve"),
    "average_precision": ("Average precision", "average_precision", "area under the precision-recall curve"),
    "calibration_error": (
        "Calibration error",
        "expected_calibration_error",
        "mean gap of confidence and accuracy, 15 bins",
    ),
    "loss": ("Loss", "loss", "mean loss per picture"),
    "mae": ("MAE", "mae", "mean absolute error"),
    "rmse": ("RMSE", "rmse", "root of the mean squared error"),
    "r2": ("R²", "r_squared", "share of the variance explained"),
}
# What differs in words, by task.
_MEANINGS = {
    ("classification", "loss"): "mean cross-entropy per picture",
    ("binary", "loss"): "mean binary cross-entropy per picture",
    ("binary", "top1"): "share of pictures whose class, by the threshold above, is the right one",
    ("multilabel", "loss"): "mean binary cross-entropy per picture and label",
    ("multilabel", "macro_f1"): "mean of the labels' F1, a label given from probability 0.5 on",
    ("multilabel", "auroc"): "area under the ROC curve, mean of the labels",
    ("multilabel", "average_precision"): "area under the precision-recall curve, mean of the labels",
    ("regression", "loss"): "mean squared error",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRow:
    """One line of the results. ``low`` and ``high`` bound the 95 % interval of a share of the pictures (Wilson's) or of a mean
    over them, else None."""

    claim: Claim
    title: str
    hub_id: str
    meaning: str
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRow:
    """One split of the data: pictures, their bytes, and how many each class has (None where targets are no class)."""

    name: str
    num_samples: int
    size_bytes: int
    smallest: int | None
    median: float | None
    largest: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputRow:
    """One output of a regression on the claimed split: its errors, and what the targets are; ``r2`` None where they are one
    number. All but r2 in the target's own unit."""

    name: str
    mae: float
    rmse: float
    r2: float | None
    lowest: float
    mean: float
    sd: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class EpochTable:
    """The log, a row per epoch: ``columns`` (split/tag), then (epoch, value per column, is it the packed one)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[float | None, ...], bool], ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything a card is rendered from. ``layout`` is hubtool.json's; the rest is read from files.

    ``reproductions`` are the records beside the package that the card counts, by the order of their ids.
    """

    directory: Path
    layout: Layout
    resolved: ResolvedRecipe
    data: DataManifest
    environment: Environment
    result: Result
    backbone: BackboneEntry
    card: Card
    license: licenses.License
    layers: LayerTable | None
    snippets: tuple[Snippet, ...]
    seeds: Seeds | None = None
    reproductions: tuple[Reproduction, ...] = ()

    @property
    def task(self) -> Task:
        return TASKS[self.resolved.task]

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @property
    def backbone_name(self) -> str:
        return self.resolved.backbone.ref.partition("@")[0]

    @property
    def title(self) -> str:
        if self.card.title:
            return self.card.title
        if self.task.name == "regression":
            names = " and ".join(self.data.classes) if self.num_classes <= 2 else f"{self.num_classes} numbers"
            names = "a number" if names == "target" else names  # the column's name where the table tells no other
            on = f" on {self.card.dataset}" if self.card.dataset else ""
            return f"{self.resolved.backbone.architecture} fine-tuned to estimate {names}{on}"
        what = self.card.dataset or self.task.counted(self.num_classes)
        return f"{self.resolved.backbone.architecture} fine-tuned on {what}"

    @cached_property
    def claims(self) -> tuple[ClaimRow, ...]:
        return tuple(_claim_row(claim, self) for claim in self.result.claims)

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """What the claims are compiled from, by its path. Raises IntegrityError, SecurityError for a path that is no evidence."""
        paths = dict.fromkeys(claim.evidence for claim in self.result.claims)
        for path in paths:
            if not RepoPath(path).startswith("evidence/"):
                raise IntegrityError("E-EVIDENCE", f"{path!a} lies outside of evidence", where="result.json")
        return {path: Predictions.read(self.directory / path) for path in paths}

    @cached_property
    def outputs(self) -> tuple[OutputRow, ...]:
        """Of a regression, each output by itself; their means over several would mix units."""
        if self.task.name != "regression" or self.headline is None:
            return ()
        found = self.predictions[self.headline.claim.evidence]
        if not found.logits_NK.shape[1:] == found.targets.shape[1:] == (self.num_classes,):
            raise IntegrityError(
                "E-EVIDENCE", "another number of outputs than data.json", where=self.headline.claim.evidence
            )
        return tuple(_output_row(name, found, k) for k, name in enumerate(self.data.classes))

    @property
    def headline(self) -> ClaimRow | None:
        wanted = (row for row in self.claims if row.claim.metric == self.task.metrics[0])
        return next(wanted, self.claims[0] if self.claims else None)

    @cached_property
    def splits(self) -> tuple[SplitRow, ...]:
        return tuple(_split_row(name, self) for name in self.data.splits)

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Split → class or label → pictures; empty where a target is neither."""
        if self.task.name == "regression":
            return {}
        return {name: _counts(self.data, name) for name in self.data.splits}

    @property
    def has_classes(self) -> bool:
        return self.task.target_kind == "index"

    @property
    def is_claim_split_the_chooser(self) -> bool:
        """Whether the checkpoint was chosen on the split that the claims come from."""
        chooser = self.result.selected.metric.partition("/")[0]
        return any(row.claim.split == chooser for row in self.claims)

    @property
    def bands(self) -> tuple[tuple[str, Band], ...]:
        """Of the claims that other seeds give another value: title, mean and standard deviation."""
        found = ((row.title, self.seeds.band(row.claim.metric)) for row in self.claims if self.seeds is not None)
        return tuple((title, band) for title, band in found if band is not None)

    @cached_property
    def epochs(self) -> EpochTable:
        return _epoch_table(self.directory / LOG_NAME, self)

    @cached_property
    def settings(self) -> dict[str, tuple[str, bool]]:
        """Every hyperparameter by its path in the recipe: (value, whether it differs from the default)."""
        mine = _flatten(_settings_of(self.resolved))
        default = _flatten(_settings_of(resolve(Recipe.model_validate({"backbone": self.backbone.ref}), self.backbone)))
        return {key: (value, default.get(key) != value) for key, value in mine.items()}

    def has_file(self, path: str) -> bool:
        return (self.directory / path).is_file()


def read_facts(directory: Path, layout: Layout, counted: Collection[str] = ()) -> Facts:
    """``counted`` are the ids of the records of reproductions to read.

    Raises NotFoundError for a missing file, IntegrityError for a damaged one or a licence that is none.
    """
    card = Card.read(directory / CARD_NAME)
    license_ = licenses.parse(card.license)
    if license_ is None:
        raise IntegrityError("E-LICENSE", f"{card.license!r} is no licence", where=CARD_NAME)
    has_layers = (directory / LAYERS_NAME).is_file()
    has_snippets = (directory / SNIPPETS_NAME).is_file()
    return Facts(
        directory=directory,
        layout=layout,
        resolved=ResolvedRecipe.read(directory / "resolved.json"),
        data=DataManifest.read(directory / "data.json"),
        environment=Environment.read(directory / "environment.json"),
        result=Result.read(directory / "result.json"),
        backbone=BackboneEntry.read(directory / BACKBONE_NAME),
        card=card,
        license=license_,
        layers=LayerTable.read(directory / LAYERS_NAME) if has_layers else None,
        snippets=Snippets.read(directory / SNIPPETS_NAME).snippets if has_snippets else (),
        seeds=Seeds.read(directory / SEEDS_NAME) if (directory / SEEDS_NAME).is_file() else None,
        reproductions=tuple(reproductions.read(directory, record_id) for record_id in sorted(counted)),
    )


def _claim_row(claim: Claim, facts: Facts) -> ClaimRow:
    title, hub_id, meaning = METRICS.get(claim.metric, (claim.metric, claim.metric, ""))
    meaning = _MEANINGS.get((facts.task.name, claim.metric), meaning)
    if facts.task.name == "regression" and facts.num_classes > 1:
        meaning = f"{meaning}, mean of the outputs"
    found = facts.predictions[claim.evidence]
    bounds = mean_intervals(facts.task.name, found.logits_NK, found.targets).get(claim.metric)
    if claim.metric in SAMPLE_SHARES:
        low, high = wilson(claim.value, claim.num_samples)
        bounds = float(low), float(high)
    return ClaimRow(
        claim=claim,
        title=title,
        hub_id=hub_id,
        meaning=meaning,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
    )


def _output_row(name: str, found: Predictions, k: int) -> OutputRow:
    targets_N1, outputs_N1 = found.targets[:, [k]].astype(np.float64), found.logits_NK[:, [k]]
    values = compute("regression", outputs_N1, targets_N1)
    return OutputRow(
        name=name,
        mae=values["mae"],
        rmse=values["rmse"],
        r2=values.get("r2"),
        lowest=float(targets_N1.min()),
        mean=float(targets_N1.mean()),
        sd=float(targets_N1.std()),
        highest=float(targets_N1.max()),
    )


def _counts(data: DataManifest, split: str) -> dict[str, int]:
    counts: Counter[object] = Counter()
    for sample in data.splits[split]:
        is_several = isinstance(sample.target, tuple)
        counts.update(np.flatnonzero(sample.target).tolist() if is_several else [sample.target])
    return {name: counts.get(index, 0) for index, name in enumerate(data.classes)}


def _split_row(name: str, facts: Facts) -> SplitRow:
    samples = facts.data.splits[name]
    counts = sorted(_counts(facts.data, name).values()) if facts.has_classes and facts.data.classes else []
    return SplitRow(
        name=name,
        num_samples=len(samples),
        size_bytes=sum(sample.size_bytes for sample in samples),
        smallest=counts[0] if counts else None,
        median=statistics.median(counts) if counts else None,
        largest=counts[-1] if counts else None,
    )


def read_events(log: Path) -> list[Event]:
    """The package's log. Raises IntegrityError with the line."""
    if not log.is_file():
        return []
    with log.open("rb") as stream:
        return [Event.from_json(line, f"{LOG_NAME} line {number}") for number, line in enumerate(stream, 1)]


def _epoch_table(log: Path, facts: Facts) -> EpochTable:
    """A row for each evaluation on val: the training loss of the epoch before it, the learning rate, what was measured."""
    steps: dict[int, int] = {}
    values: dict[tuple[int, str], float] = {}
    for event in read_events(log):
        if event.kind == "scalar" and event.value is not None:
            column = f"{event.split}/{event.tag}"
            values[event.global_step, _COLUMNS.get(column, column)] = event.value
            if event.split == "val":
                steps[event.global_step] = event.epoch + 1
    known = {column for step, column in values if step in steps}
    wanted = ["train loss", "lr", *(f"val/{metric}" for metric in ("loss", *facts.task.metrics[:4]))]
    columns = tuple(dict.fromkeys(c for c in (*wanted, facts.result.selected.metric) if c in known))
    rows = tuple(
        (epoch, tuple(values.get((step, column)) for column in columns), step == facts.result.selected.global_step)
        for step, epoch in sorted(steps.items())
    )
    return EpochTable(columns=columns, rows=rows)


_COLUMNS = {"train/epoch_loss": "train loss", "train/lr": "lr"}


def _settings_of(resolved: ResolvedRecipe) -> dict[str, object]:
    value = resolved.to_dict()
    return {
        "task": value["task"],
        "backbone.pretrained": value["backbone"]["pretrained"],
        "head": value["head"],
        "freeze": value["freeze"],
        "unfreeze": value["unfreeze"],
        "data": {**value["preprocess"], **value["data"]},
        "train": value["train"],
    }


def _flatten(value: object, path: str = "") -> dict[str, str]:
    """Nested mappings by dotted paths; a list, and a freeze rule, stay one value in the recipe's own spelling."""
    if isinstance(value, dict) and path != "freeze":
        flat: dict[str, str] = {}
        for key, child in value.items():
            flat |= _flatten(child, f"{path}.{key}" if path else str(key))
        return flat
    return {path: _spell(value)}


def _spell(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spell(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_spell(child) for child in value) + "]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
