"""Somebody's directory of pictures against the data that a package was trained on: by content, never by file name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hubtool.records.dataset import DataManifest, Sample, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """``data`` is the published manifest with the paths of this machine, None when it cannot be put together from what is here.

    ``problems`` say what is missing or labelled otherwise, ``notes`` what a person should know and hinders nothing.
    """

    data: DataManifest | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def match(published: DataManifest, here: DataManifest, splits: Iterable[str] | None = None) -> Match:
    """Find every published sample of ``splits`` (all) here, with its label. Pure.

    Splits and targets are the published ones; the names of classes have to agree, their numbers and the paths need not.
    """
    wanted = tuple(published.splits) if splits is None else tuple(splits)
    if wanted == tuple(published.splits) and (published.digest(), published.classes) == (here.digest(), here.classes):
        return Match(data=here)
    found: dict[str, list[Sample]] = {}
    for samples in here.splits.values():
        for sample in samples:
            found.setdefault(sample.sha256, []).append(sample)
    problems: list[str] = []
    placed: dict[str, tuple[Sample, ...]] = {}
    for split in wanted:
        placed[split] = _place(split, published, here, found, problems)
    if problems:
        return Match(data=None, problems=tuple(problems))
    known = {s.sha256 for samples in published.splits.values() for s in samples}
    num_more = sum(sha256 not in known for sha256 in found)
    notes = (f"{num_more} pictures here are not of the published data; they took no part",) if num_more else ()
    return Match(data=published.model_copy(update={"splits": placed}), notes=notes)


def _place(
    split: str, published: DataManifest, here: DataManifest, found: dict[str, list[Sample]], problems: list[str]
) -> tuple[Sample, ...]:
    """The split's samples with paths of this machine; what is missing or labelled otherwise is added to ``problems``."""
    samples = published.splits[split]
    missing = [s for s in samples if s.sha256 not in found]
    relabelled: list[tuple[Sample, Sample]] = []
    placed = []
    for sample in samples:
        twins = found.get(sample.sha256, [])
        same = [t for t in twins if _label(here, t.target) == _label(published, sample.target)]
        if same:
            placed.append(sample.model_copy(update={"path": same[0].path}))
        elif twins:
            relabelled.append((sample, twins[0]))
    if missing:
        problems.append(
            f"data: {len(missing)} of {len(samples)} pictures of {split} are not here; first sha256 {missing[0].sha256[:16]}…"
        )
    if relabelled:
        theirs, mine = relabelled[0]
        problems.append(
            f"data: {len(relabelled)} of {len(samples)} pictures of {split} have another label here; sha256 {mine.sha256[:16]}… is "
            f"{_label(here, mine.target)!r}, published as {_label(published, theirs.target)!r}"
        )
    return tuple(placed)


def _label(data: DataManifest, target: Target) -> object:
    """The class name of a target, or the numbers by the outputs' names."""
    if isinstance(target, tuple):
        return tuple(sorted(zip(data.classes, target, strict=False)))
    return data.classes[target] if isinstance(target, int) and target < len(data.classes) else float(target)
