"""Which picture trains and which validates: by content, so that moving or renaming a file changes nothing.

Of each class the distinct contents stand in order of their sha256; the first round(n·f) of them (halves up, at least one
where n >= 2, never all) are val with all their copies, the rest train. Without classes (multilabel, regression) all
pictures together are one class. A given val or test is taken as it is, and test is never trained on.

Before anything trains, every file is read, hashed and decoded once; a damaged one is an error unless ``--skip-bad`` allows it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hubtool.core.errors import DataError
from hubtool.core.progress import Reporter
from hubtool.data import scan, tables, targets
from hubtool.data.kept import Kept
from hubtool.data.looks import SIZE_BYTES, Looks
from hubtool.data.pool import Pool, slots_for
from hubtool.data.scan import Listing, Row
from hubtool.data.worker import raise_error
from hubtool.records.dataset import DataManifest, Sample, SkippedFile, Target
from hubtool.records.tasks import TaskName


@dataclass(frozen=True, slots=True)
class File:
    """What reading one file showed. ``bad`` is why it cannot be used."""

    sha256: str
    size_bytes: int
    applied: tuple[str, ...]
    bad: str | None
    is_bomb: bool


def index_data(
    root: Path,
    *,
    task: TaskName,
    labels: str,
    val_fraction: float,
    in_chans: int,
    skip_bad: int = 0,
    num_workers: int,
    reporter: Reporter,
    is_strict: bool = False,
    kept: Kept | None = None,
) -> DataManifest:
    """Scan, decode every file once, split. Raises DataError (SecurityError for links and special files), exit 3 (6).

    ``is_strict`` turns pictures that stand in train and in another split from a warning into an error. ``kept`` takes the
    decoded pictures, for an ImageLoader of the same preprocessing.
    """
    listing = _read_listing(root, task, labels, reporter)
    targets.check_classes(listing, task)
    files = check_files(root, [row.path for row in listing.rows], in_chans, num_workers, reporter, kept)
    skipped = _skip(files, skip_bad, reporter)
    rows = [row for row in listing.rows if row.path not in skipped]
    _check_left(listing, rows, task)
    rows_of = _split(rows, files, task, val_fraction)
    num_leaked = _check_leaks(rows_of, files, is_strict, reporter)
    _tell(rows, files, task, reporter)
    return _manifest(listing.classes, rows_of, files, skipped, task, num_leaked)


def index_for_evaluation(
    root: Path,
    *,
    classes: tuple[str, ...],
    task: TaskName,
    labels: str,
    in_chans: int,
    num_workers: int,
    reporter: Reporter,
    prefer: Sequence[str] = (),
    kept: Kept | None = None,
    looks: Looks | None = None,
) -> DataManifest:
    """The same for a trained model: targets by its ``classes``; one split ``data``, or the splits the data has.

    ``prefer`` names splits: the first of them that is there is the only one that is read. ``looks`` takes how each picture looks.
    """
    listing = _read_listing(root, task, labels, reporter)
    if prefer:
        listing = _one_split(listing, prefer)
    if task == "regression" and listing.classes != classes:
        raise DataError(
            "E-DATA-OUTPUTS", f"the model gives {', '.join(classes)}; the table {', '.join(listing.classes)}"
        )
    for row in listing.rows:
        targets.target_of(row, classes, task)
    files = check_files(root, [row.path for row in listing.rows], in_chans, num_workers, reporter, kept, looks)
    skipped = _skip(files, 0, reporter)
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in listing.rows:
        rows_of[row.split or "data"].append(row)
    return _manifest(classes, rows_of, files, skipped, task, 0)


def other_splits(
    root: Path, split: str, *, task: TaskName, labels: str, reporter: Reporter
) -> dict[str, tuple[str, ...]]:
    """The pictures of the splits besides ``split``, by their paths; nothing is opened."""
    paths: dict[str, list[str]] = defaultdict(list)
    for row in _read_listing(root, task, labels, reporter).rows:
        if (row.split or "data") != split:
            paths[row.split or "data"].append(row.path)
    return {name: tuple(found) for name, found in sorted(paths.items())}


def _one_split(listing: Listing, prefer: Sequence[str]) -> Listing:
    there = {row.split or "data" for row in listing.rows}
    chosen = next((split for split in prefer if split in there), None)
    if chosen is None:
        raise DataError("E-DATA-SPLIT", f"no split {prefer[0]!r}", do=f"the data has: {', '.join(sorted(there))}")
    return Listing(tuple(row for row in listing.rows if (row.split or "data") == chosen), listing.classes)


def check_files(
    root: Path,
    paths: Sequence[str],
    in_chans: int,
    num_workers: int,
    reporter: Reporter,
    kept: Kept | None = None,
    looks: Looks | None = None,
) -> dict[str, File]:
    """Read, hash and decode every file, in parallel. Raises DataError for one that cannot be read."""
    files: dict[str, File] = {}
    num_workers = min(num_workers, len(paths) // 8)  # a worker costs what twenty small pictures do
    slot_bytes = (kept.frame.size_bytes if kept else 0) + (SIZE_BYTES if looks is not None else 0)
    num_slots = slots_for(num_workers, slot_bytes) if slot_bytes else 0
    with (
        Pool(num_workers, slot_bytes=slot_bytes, num_slots=num_slots) as pool,
        reporter.task("checking pictures", len(paths), "pictures") as bar,
    ):
        position = 0
        for path in paths:
            while position < len(paths) and pool.num_waiting < pool.capacity:
                frame = kept.frame if kept and not kept.is_full else None
                pool.submit(["check", str(root / paths[position]), in_chans, frame, looks is not None])
                position += 1
            found, slot = pool.take()
            raise_error(found, path)
            applied = tuple(found.get("applied", ()))
            files[path] = File(
                found["sha256"], found["size_bytes"], applied, found.get("bad"), found.get("is_bomb", False)
            )
            if kept and not kept.is_full and not found.get("bad"):
                kept.add(found["sha256"], slot)
            if looks is not None and not found.get("bad"):
                looks.add(found["sha256"], slot)
            bar.advance()
    return files


def _read_listing(root: Path, task: TaskName, labels: str, reporter: Reporter) -> Listing:
    if labels != "folders":
        return tables.read_table(root, labels, task, reporter)
    if task in ("multilabel", "regression"):
        raise DataError(
            "E-DATA-LABELS", f"{task} needs a table of labels", do="set data.labels to a .csv or .jsonl file"
        )
    return scan.read_folders(root, reporter)


def _skip(files: dict[str, File], skip_bad: int, reporter: Reporter) -> dict[str, str]:
    """The damaged files with the reason, if they are no more than allowed."""
    bad = {path: file.bad for path, file in sorted(files.items()) if file.bad}
    if len(bad) > skip_bad:
        path, reason = next(iter(bad.items()))
        more = [f"{path} ({reason})" for path, reason in list(bad.items())[1:4]]
        code = "E-DATA-BOMB" if files[path].is_bomb else "E-DATA-DECODE"
        raise DataError(
            code,
            f"{len(bad)} of {len(files)} files; first: {path} ({reason})",
            do=f"repair or remove them, or allow it with --skip-bad {len(bad)}",
            hint="next: " + "; ".join(more) if more else "",
        )
    if bad:
        reporter.warn(f"{len(bad)} damaged pictures are left out (--skip-bad {skip_bad})")
    return bad


def _check_left(listing: Listing, rows: list[Row], task: TaskName) -> None:
    """What skipping left must still be a data set."""
    left = {row.label for row in rows if row.split in (None, "train")}
    if not left:
        raise DataError("E-DATA-EMPTYSPLIT", "no picture is left to train on", do="put pictures into train")
    if task in ("classification", "binary"):
        for name in listing.classes:
            if name not in left:
                raise DataError("E-DATA-EMPTYCLASS", "no usable picture to train on", where=f"{name}/")


def _split(rows: list[Row], files: dict[str, File], task: TaskName, val_fraction: float) -> dict[str, list[Row]]:
    rows_of: dict[str, list[Row]] = {"train": [], "val": []}
    for row in rows:
        rows_of.setdefault(row.split or "train", []).append(row)
    if not rows_of["val"]:
        chosen = _choose_val(rows_of["train"], files, task, val_fraction)
        rows_of["val"] = [row for row in rows_of["train"] if (row.label, files[row.path].sha256) in chosen]
        rows_of["train"] = [row for row in rows_of["train"] if (row.label, files[row.path].sha256) not in chosen]
    if not rows_of["val"]:
        raise DataError("E-DATA-NOVAL", "no picture is left to validate on", do="give each class two or more pictures")
    return rows_of


def _choose_val(
    rows: list[Row], files: dict[str, File], task: TaskName, val_fraction: float
) -> set[tuple[scan.Label, str]]:
    """(label, sha256) of what becomes val."""
    is_by_class = task in ("classification", "binary")
    contents: dict[scan.Label, set[str]] = defaultdict(set)
    for row in rows:
        contents[row.label if is_by_class else ""].add(files[row.path].sha256)
    chosen: dict[scan.Label, set[str]] = {}
    for label, digests in contents.items():
        chosen[label] = set(sorted(digests)[: num_val(len(digests), val_fraction)])
    return {
        (row.label, files[row.path].sha256)
        for row in rows
        if files[row.path].sha256 in chosen[row.label if is_by_class else ""]
    }


def num_val(num_contents: int, val_fraction: float) -> int:
    """round(n·f), halves up; at least one where n >= 2, and never all."""
    return min(max(math.floor(num_contents * val_fraction + 0.5), 1), num_contents - 1)


def _check_leaks(rows_of: dict[str, list[Row]], files: dict[str, File], is_strict: bool, reporter: Reporter) -> int:
    """How many pictures of other splits stand in train too, by content."""
    trained = {files[row.path].sha256: row.path for row in rows_of["train"]}
    leaked = [
        row.path for split in rows_of if split != "train" for row in rows_of[split] if files[row.path].sha256 in trained
    ]
    if leaked:
        twin = trained[files[leaked[0]].sha256]
        text = f"{len(leaked)} files stand in train and in another split; first: {leaked[0]} is {twin}"
        if is_strict:
            raise DataError("E-DATA-LEAK", text, do="remove the copies")
        reporter.warn(f"E-DATA-LEAK {text}")
    return len(leaked)


def _tell(rows: list[Row], files: dict[str, File], task: TaskName, reporter: Reporter) -> None:
    """What a person should know: labels that contradict each other, imbalance."""
    labels_of: dict[str, set[scan.Label]] = defaultdict(set)
    for row in rows:
        labels_of[files[row.path].sha256].add(row.label)
    if conflicting := sum(len(labels) > 1 for labels in labels_of.values()):
        reporter.warn(f"{conflicting} pictures stand under more than one label")
    if task in ("classification", "binary"):
        counts = Counter(str(row.label) for row in rows if row.split in (None, "train")).most_common()
        (most, num_most), (least, num_least) = counts[0], counts[-1]
        if num_most > 10 * num_least:
            reporter.say(
                f"hint: {most} has {num_most} pictures, {least} {num_least}; "
                "train.class_weights=balanced weighs them equally, balanced_accuracy measures them so"
            )


def _manifest(
    classes: tuple[str, ...],
    rows_of: dict[str, list[Row]],
    files: dict[str, File],
    skipped: dict[str, str],
    task: TaskName,
    num_leaked: int,
) -> DataManifest:
    splits: dict[str, tuple[Sample, ...]] = {}
    conversions: Counter[str] = Counter()
    for split, rows in rows_of.items():
        samples = []
        for target, row in _ordered(rows, files, classes, task):
            file = files[row.path]
            conversions.update(file.applied)
            samples.append(Sample(path=row.path, sha256=file.sha256, size_bytes=file.size_bytes, target=target))
        splits[split] = tuple(samples)
    return DataManifest(
        classes=classes,
        splits=splits,
        skipped=tuple(SkippedFile(path=path, reason=reason) for path, reason in sorted(skipped.items())),
        conversions=dict(sorted(conversions.items())),
        num_leaked=num_leaked,
    )


def _ordered(
    rows: list[Row], files: dict[str, File], classes: tuple[str, ...], task: TaskName
) -> list[tuple[Target, Row]]:
    """By content, then by label: a file name decides only between copies that train in the same way."""
    found = [(targets.target_of(row, classes, task), row) for row in rows]
    return sorted(found, key=lambda pair: (files[pair[1].path].sha256, pair[0], pair[1].path))
