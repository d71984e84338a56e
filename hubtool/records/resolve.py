"""Recipe + backbone → resolved recipe: every default filled in, the backbone pinned; its sha256 names the mathematics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.core.digests import sha256_json
from hubtool.records.backbone import BackboneEntry, FileDigest, Library, Preprocess
from hubtool.records.recipe import Augment, Data, Freeze, Head, Recipe, Train, Unfreeze
from hubtool.records.strict import Record
from hubtool.records.tasks import TaskName

SCHEMA: Literal["hubtool/resolved/v1"] = "hubtool/resolved/v1"


class PinnedBackbone(Record):
    """The backbone as the result depends on it. Never a path of this machine: a ``local:`` name is its last part."""

    ref: str
    library: Library
    architecture: str
    pretrained: bool
    repo_id: str | None
    url: str | None
    revision: str | None
    files: tuple[FileDigest, ...]

    def digest(self) -> str:
        """Over what was loaded, so that one content from two places is one backbone; random weights are named as such
        (their seed is the recipe's), with the files that say how they are built."""
        files = sorted((f.path, f.sha256) for f in self.files)
        if self.pretrained:
            return sha256_json([self.architecture, files])
        return sha256_json([self.architecture, "random", *files])


class ResolvedData(Record):
    """What the numbers take from the data section, beside the preprocessing."""

    val_fraction: float
    labels: str
    augment: Augment


class ResolvedRecipe(Record):
    """A function of recipe and backbone, never of data or machine."""

    schema_: Annotated[Literal["hubtool/resolved/v1"], Field(alias="schema")] = SCHEMA
    backbone: PinnedBackbone
    task: TaskName
    head: Head
    freeze: Freeze
    unfreeze: tuple[Unfreeze, ...]
    preprocess: Preprocess
    data: ResolvedData
    train: Train


def resolve(recipe: Recipe, entry: BackboneEntry) -> ResolvedRecipe:
    """Fill in every default. Pure."""
    return ResolvedRecipe(
        backbone=_pin(recipe, entry),
        task=recipe.task,
        head=recipe.head,
        freeze=recipe.freeze,
        unfreeze=recipe.unfreeze,
        preprocess=resolve_preprocess(recipe.data, entry.preprocess),
        data=ResolvedData(
            val_fraction=recipe.data.val_fraction, labels=recipe.data.labels, augment=recipe.data.augment
        ),
        train=recipe.train,
    )


def _pin(recipe: Recipe, entry: BackboneEntry) -> PinnedBackbone:
    entry = entry if recipe.backbone.pretrained else entry.as_random()
    source, _, name = entry.ref.partition(":")
    return PinnedBackbone(
        ref=f"local:{name.rstrip('/').rpartition('/')[2]}" if source == "local" else entry.ref,
        library=entry.library,
        architecture=entry.architecture,
        pretrained=recipe.backbone.pretrained,
        repo_id=entry.origin.repo_id,
        url=entry.origin.url,
        revision=entry.origin.revision,
        files=entry.origin.files,
    )


def resolve_preprocess(data: Data, base: Preprocess) -> Preprocess:
    """The backbone's own preprocessing with what the recipe overrides.

    Another ``in_chans`` than the backbone's gets the mean of its means for each channel, as its first
    convolution is adapted by summing over channels.
    """
    mean, std = base.mean, base.std
    if len(mean) != data.in_chans:
        mean = (sum(mean) / len(mean),) * data.in_chans
        std = (sum(std) / len(std),) * data.in_chans
    return Preprocess(
        img_size=base.img_size if data.img_size == "default" else (data.img_size, data.img_size),
        in_chans=data.in_chans,
        crop_pct=base.crop_pct if data.crop_pct == "default" else data.crop_pct,
        crop_mode=base.crop_mode,
        interpolation=base.interpolation if data.interpolation == "default" else data.interpolation,
        mean=mean,
        std=std,
    )
