"""The data of a run as it is written down: every sample by its content."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.core.digests import sha256_json
from hubtool.records.backbone import Sha256
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/data/v1"] = "hubtool/data/v1"
SPLITS = ("train", "val", "test")

Target = int | float | tuple[float, ...]


class Sample(Record):
    """One picture. ``path`` is relative to the data directory, or None where names stay private.

    ``target`` is a class number (classification, binary), or one number per output (multilabel, regression).
    """

    path: str | None
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    target: Target


class SkippedFile(Record):
    """A damaged file that ``--skip-bad`` left out, with the reason."""

    path: str | None
    reason: str


class DataManifest(Record):
    """Classes and splits; the samples of a split stand in order of (sha256, target, path).

    ``classes`` are the class names, or the names of the outputs (multilabel, regression).
    ``conversions`` counts pictures made RGB by each rule; ``num_leaked`` pictures that stand in train and in another split.
    """

    schema_: Annotated[Literal["hubtool/data/v1"], Field(alias="schema")] = SCHEMA
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    skipped: tuple[SkippedFile, ...] = ()
    conversions: dict[str, int] = {}
    num_leaked: int = 0

    def digest(self) -> str:
        """Over (split, sha256, target): renaming or moving a file changes nothing."""
        rows = sorted(
            (split, sample.sha256, _target_key(sample.target))
            for split, samples in self.splits.items()
            for sample in samples
        )
        return sha256_json(rows)

    def without_names(self) -> DataManifest:
        """The same with no file name in it, as it is published."""
        splits = {
            split: tuple(s.model_copy(update={"path": None}) for s in samples) for split, samples in self.splits.items()
        }
        skipped = tuple(SkippedFile(path=None, reason=s.reason) for s in self.skipped)
        return self.model_copy(update={"splits": splits, "skipped": skipped})


def _target_key(target: Target) -> list[float]:
    return [float(v) for v in target] if isinstance(target, tuple) else [float(target)]
