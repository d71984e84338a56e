"""What lies in a data directory: class folders, with or without folders for the splits. Nothing is opened here.

Layouts::

    DIR/cats/1.jpg                     classes; train and val are split by content
    DIR/train/cats/1.jpg  DIR/val/…    given splits: train, val (valid, validation), test; a missing val is split off train

Inside a class folder pictures may lie at any depth. Names that begin with a dot are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hubtool.core.errors import DataError
from hubtool.core.files import safe_walk
from hubtool.core.progress import Reporter
from hubtool.data.images import SUFFIXES, is_picture

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

Label = str | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One picture as the user laid it out; ``split`` None: not given. ``line`` is that of the table."""

    path: str
    split: str | None
    label: Label
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """``classes``: class names in order, or the names of the outputs."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]


def check_root(root: Path) -> None:
    if not root.exists():
        raise DataError("E-DATA-404", "the data directory does not exist", where=str(root), do="check --data")
    if not root.is_dir():
        raise DataError("E-DATA-NOTDIR", "the data is no directory", where=str(root), do="name the directory")


def pictures_below(root: Path, reporter: Reporter, *, besides: Sequence[str] = ()) -> list[str]:
    """The relative paths of all pictures; says once how many other files were left out."""
    pictures: list[str] = []
    others: list[str] = []
    for name, _ in safe_walk(root):
        parts = name.split("/")
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if is_picture(name):
            check_name(name)
            pictures.append(name)
        elif name not in besides and parts[-1].lower() not in ("thumbs.db", "desktop.ini"):
            others.append(name)
    if others:
        reporter.say(f"{len(others)} files are no pictures by their names and are left out, first: {others[0]}")
    if not pictures:
        do = "known endings: " + " ".join(sorted(SUFFIXES)) if others else ""
        raise DataError("E-DATA-EMPTY", "no pictures in the data directory", where=str(root), do=do)
    return pictures


def check_name(name: str) -> None:
    """A name that can be written down. Raises DataError."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError("E-DATA-NAME", "a file name is not UTF-8", where=ascii(name), do="rename it") from error


def read_folders(root: Path, reporter: Reporter) -> Listing:
    """Rows of a directory of class folders. Raises DataError for an empty class, mixed layouts, loose pictures only."""
    check_root(root)
    pictures = pictures_below(root, reporter)
    splits = _split_folders(root, pictures)
    rows: list[Row] = []
    loose: list[str] = []
    for path in pictures:
        parts = path.split("/")
        split = SPLIT_NAMES[parts.pop(0)] if splits else None
        if len(parts) > 1:
            rows.append(Row(path, split, parts[0]))
        else:
            loose.append(path)
    if not rows:
        raise DataError(
            "E-DATA-LAYOUT",
            f"{len(loose)} pictures, but none in a class folder",
            where=str(root),
            do="make one folder for each class, or set data.labels to a table",
        )
    if loose:
        reporter.warn(f"{len(loose)} pictures lie outside of any class folder and are left out, first: {loose[0]}")
    _check_classes(root, rows, splits)
    return Listing(tuple(rows), tuple(sorted({str(row.label) for row in rows})))


def _split_folders(root: Path, pictures: list[str]) -> list[str]:
    """The folders of the splits, or none when the top folders are classes (one may be called ``train``)."""
    tops = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    tops = [name for name in tops if name != "__MACOSX"]
    named = [name for name in tops if name in SPLIT_NAMES]
    has_classes_inside = any(path.split("/")[0] in named and path.count("/") >= 2 for path in pictures)
    if not named or not has_classes_inside:
        return []
    others = [name for name in tops if name not in SPLIT_NAMES]
    if others:
        raise DataError(
            "E-DATA-LAYOUT",
            f"{named[0]}/ holds class folders and {others[0]}/ stands beside it: splits or classes?",
            where=str(root),
            do=f"move {others[0]}/ elsewhere, or the classes out of {named[0]}/",
        )
    twice = [split for split, count in Counter(SPLIT_NAMES[name] for name in named).items() if count > 1]
    if twice:
        raise DataError("E-DATA-LAYOUT", f"two folders for the split {twice[0]}", where=str(root), do="keep one")
    return named


def _check_classes(root: Path, rows: list[Row], splits: list[str]) -> None:
    """Each class folder needs a picture, and each split only classes that train has."""
    for top in splits or ["."]:
        filled = {row.label for row in rows if not splits or row.split == SPLIT_NAMES[top]}
        if not filled:
            raise DataError(
                "E-DATA-EMPTYSPLIT", f"the split {top}/ has no picture", where=str(root), do="fill it or remove it"
            )
        if top not in (".", "train"):
            continue  # a class may be missing from val or test
        for entry in sorted((root / top).iterdir()):
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in filled | {"__MACOSX"}:
                folder = f"{entry.name}/" if top == "." else f"{top}/{entry.name}/"
                raise DataError(
                    "E-DATA-EMPTYCLASS", "a class folder without pictures", where=folder, do="fill it or remove it"
                )
