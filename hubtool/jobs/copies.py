"""What stands twice: pictures of an evaluated split that are, or likely are, also elsewhere in it, beside it, or in what the
model was made with. No verb of its own: ``evaluate`` looks for copies by it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubtool.core.progress import Reporter
from hubtool.jobs.target import label_of
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.reports import Lookalike, Lookalikes, Twin
from hubtool.records.rundir import RunDir

if TYPE_CHECKING:
    from hubtool.data.alike import Hashed
    from hubtool.data.looks import Looks

Of = Literal["evaluated", "model"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A split that pictures are looked for in: how its pictures look, and their paths by sha256."""

    of: Of
    split: str
    looks: dict[str, bytes]
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Where copies can stand besides the evaluated split; ``unknown`` says what of the model's own data is not here."""

    places: tuple[Place, ...]
    unknown: str


def look_elsewhere(
    made: RunDir,
    data: Path,
    split: str,
    beside: dict[str, tuple[str, ...]],
    *,
    in_chans: int,
    num_workers: int,
    reporter: Reporter,
) -> Elsewhere:
    """Look through the splits on which the model of ``made`` was trained and chosen, where its pictures are here, and through
    those ``beside`` the evaluated one in ``data``."""
    from hubtool.data.alike import look_through

    places: list[Place] = []
    seen: set[Path] = set()

    def look(of: Of, name: str, root: Path, paths: list[str]) -> dict[str, str]:
        looks, sha256_of = look_through(root, paths, in_chans=in_chans, num_workers=num_workers, reporter=reporter)
        found = {sha256: path for path, sha256 in sha256_of.items()}
        places.append(Place(of=of, split=name, looks=looks.of, paths=found))
        seen.update(root / path for path in paths)
        return found

    root, unknown = _data_dir(made)
    num_gone = 0
    if root is not None:
        for name, samples in _made_with(made.data(), split).items():
            there = [sample.path for sample in samples if sample.path and (root / sample.path).is_file()]
            num_gone += len({sample.sha256 for sample in samples} - look("model", name, root, there).keys())
    if num_gone:
        unknown = f"{num_gone} of its pictures are not in its data directory as they were"
    for name, paths in beside.items():
        if left := [path for path in paths if data.resolve() / path not in seen]:
            look("evaluated", name, data.resolve(), left)
    return Elsewhere(places=tuple(places), unknown=unknown)


def _made_with(made_with: DataManifest, split: str) -> dict[str, tuple[Sample, ...]]:
    return {name: made_with.splits.get(name, ()) for name in ("train", "val") if name != split}


def _data_dir(made: RunDir) -> tuple[Path | None, str]:
    """The directory a run was trained from, if it is here; else why it is not known."""
    if not (made.path / "options.json").is_file():
        return None, "a package does not hold the pictures it was trained on"
    root = Path(made.options().data_dir)
    return (root.resolve(), "") if root.is_dir() else (None, "its data directory is not here any more")


def twins(
    split: str,
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    made_with: DataManifest,
    elsewhere: Elsewhere,
) -> tuple[Twin, ...]:
    """Pictures that stand twice in what was evaluated, or in another split that the model was trained or chosen on."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.sha256].append(sample)
    splits_of: dict[str, list[str]] = defaultdict(list)
    for name, others in _made_with(made_with, split).items():
        for digest in {sample.sha256 for sample in others} & groups.keys():
            splits_of[digest].append(name)
    beside_of: dict[str, list[str]] = defaultdict(list)
    for place in elsewhere.places:
        if place.of == "evaluated":
            for digest in place.paths.keys() & groups.keys():
                beside_of[digest].append(place.split)
    return tuple(
        Twin(
            sha256=digest,
            paths=tuple(str(sample.path) for sample in group),
            given=tuple(dict.fromkeys(label_of(sample, classes) for sample in group)),
            splits=tuple(sorted(splits_of[digest])),
            beside=tuple(sorted(beside_of[digest])),
        )
        for digest, group in sorted(groups.items())
        if len(group) > 1 or digest in splits_of or digest in beside_of
    )


def lookalikes(
    split: str, samples: tuple[Sample, ...], looks: Looks, elsewhere: Elsewhere, reporter: Reporter
) -> Lookalikes:
    """Pictures that are likely the same under other bytes: each one's likeliest in each place. Equal bytes are twins."""
    from hubtool.data.alike import LIMIT, hashed

    paths = {sample.sha256: str(sample.path) for sample in samples}
    ours = hashed(looks.of)
    own = Place(of="evaluated", split=split, looks=looks.of, paths=paths)
    pairs: list[Lookalike] = []
    for place in (own, *elsewhere.places):
        theirs = ours if place is own else hashed({k: v for k, v in place.looks.items() if k not in paths})
        pairs += _pairs(ours, theirs, paths, place, is_own=place is own, reporter=reporter)
    return Lookalikes(
        pairs=tuple(sorted(pairs, key=lambda p: (p.of == "evaluated", p.split, p.distance, p.path))),
        limit=LIMIT,
        compared=tuple(f"{p.split} ({p.of})" for p in (own, *elsewhere.places)),
        unknown=elsewhere.unknown,
        num_even=ours.num_even,
    )


def _pairs(
    ours: Hashed, theirs: Hashed, paths: dict[str, str], place: Place, *, is_own: bool, reporter: Reporter
) -> list[Lookalike]:
    from hubtool.data.alike import nearest

    with reporter.task("comparing looks", len(ours.names), "pictures") as bar:
        found = nearest(ours, theirs, advance=bar.advance)
    both = {frozenset((one.first, one.second)): one for one in found} if is_own else dict(enumerate(found))
    return [
        Lookalike(
            sha256=one.first,
            path=paths[one.first],
            like=place.paths[one.second],
            like_sha256=one.second,
            of=place.of,
            split=place.split,
            distance=round(one.distance, 4),
        )
        for one in both.values()
    ]
