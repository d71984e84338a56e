"""What of a run leaves the machine. No pixel and no file name of the user's data does, unless it is asked for.

Plots go by an allow-list of those that hold no picture; of TensorBoard's files the records with an encoded picture are
left out; the log keeps its numbers and the pointers to what goes along; the host name in event files' names is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hubtool.core.errors import IntegrityError
from hubtool.core.files import safe_walk, write_inside
from hubtool.records.log import Event

LOG_NAME = "logs/metrics.jsonl"
# Plots of numbers, by the beginning of their names.
PICTURE_FREE_PLOTS = (
    "curves",
    "confusion_matrix",
    "reliability",
    "per_class",
    "roc",
    "precision_recall",
    "pr_curve",
    "pr",
    "learning_rate",
    "calibration",
)
_PLOT_SUFFIXES = (".png", ".svg")
_PICTURE_BYTES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xdb\xe0-\xef\xee]|GIF8[79]a|RIFF....WEBP|II\*\x00\x08|BM.{4}\x00\x00\x00\x00.{4}\x28\x00",
    re.DOTALL,
)
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
_MAX_RECORD_BYTES = 1 << 31


def is_picture_free_plot(path: str) -> bool:
    """Whether ``plots/…`` is a plot of numbers, by its name; one with a picture embedded is none (see ``holds_picture``)."""
    folder, _, name = path.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    words = "|".join(PICTURE_FREE_PLOTS)
    return (
        folder == "plots" and f".{suffix}" in _PLOT_SUFFIXES and bool(re.fullmatch(rf"({words})(-[a-z0-9_]+)*", stem))
    )


def holds_picture(file: Path) -> bool:
    """Whether an encoded picture (PNG, JPEG, GIF, WebP, TIFF, BMP) stands anywhere in the file, or is embedded as text."""
    data = file.read_bytes()
    return bool(_PICTURE_BYTES.search(data)) or b"data:image" in data


def copy_plots(run_dir: Path, target: Path, *, with_images: bool) -> None:
    source = run_dir / "plots"
    if not source.is_dir():
        return
    for name, file in safe_walk(source):
        path = f"plots/{name}"
        is_number_plot = is_picture_free_plot(path) and not (
            path.endswith(".svg") and b"data:image" in file.read_bytes()
        )
        if with_images or is_number_plot:
            _write(target / path, file.read_bytes())


def copy_logs(run_dir: Path, target: Path, *, with_images: bool, directories: tuple[str, ...] = ()) -> None:
    """The journal and TensorBoard's event files; with images also the files that the journal points to.

    Records that name one of ``directories`` (of this machine) are left out.
    """
    _copy_event_files(run_dir, target, with_images, directories)
    journal = run_dir / LOG_NAME
    if not journal.is_file():
        return
    kept: list[bytes] = []
    with journal.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            event = Event.from_json(line, f"{LOG_NAME} line {number}")
            if event.path is not None and with_images:
                _copy_pointed(run_dir, event, target)
            if event.path is None or (target / event.path).is_file():
                kept.append(line)
    _write(target / LOG_NAME, b"".join(kept))


def _copy_pointed(run_dir: Path, event: Event, target: Path) -> None:
    files = dict(safe_walk(run_dir))
    if event.path in files and not (target / event.path).exists():
        _write(target / event.path, files[event.path].read_bytes())


def _copy_event_files(run_dir: Path, target: Path, with_images: bool, directories: tuple[str, ...]) -> None:
    private = [directory.encode() for directory in directories if len(directory) > 1]

    def may_leave(record: bytes) -> bool:
        return (with_images or not _PICTURE_BYTES.search(record)) and not any(name in record for name in private)

    source = run_dir / "logs" / "tensorboard"
    if not source.is_dir():
        return
    for index, (name, file) in enumerate(safe_walk(source)):
        folder, _, base = name.rpartition("/")
        match = _EVENT_FILE.match(base)
        if match is None:
            continue
        path = target / "logs" / "tensorboard" / folder / f"events.out.tfevents.{match[1]}.hubtool.{index}"
        _write(path, b"".join(record for record in read_records(file) if may_leave(record)))


def read_records(file: Path) -> Iterator[bytes]:
    """The framed records of an event file (TFRecord: length, its crc, data, its crc), verbatim; a torn last one ends it."""
    data = file.read_bytes()
    start = 0
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        end = start + 16 + length
        if length > _MAX_RECORD_BYTES:
            raise IntegrityError("E-EVENTS", "a record longer than any", where=file.name, do="rebuild it from the log")
        if end > len(data):
            return
        yield data[start:end]
        start = end


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_inside(path, data)
