"""logs/metrics.jsonl, the one truth of the log: one event a line, unique by (kind, split, global_step, tag)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hubtool.core.digests import canonical_json
from hubtool.core.errors import IntegrityError
from hubtool.core.files import AppendFile, make_dirs
from hubtool.records.log import Event

FILE_NAME = "logs/metrics.jsonl"
_TAIL_SIZE_BYTES = 1 << 20


class Journal:
    """One writer. What was appended before ``commit`` returned survives a power loss; a torn last line is cut on opening.

    A checkpoint keeps ``size_bytes``, which a ``commit`` has made durable before the checkpoint is seen; a resume cuts back to
    it. ``commit`` returns the size in bytes that is durable then, and may be called by another thread.
    """

    def __init__(self, path: Path) -> None:
        make_dirs(path.parent)
        self._path = path
        self._file = AppendFile(path)
        self._size_bytes = path.stat().st_size
        sound = _sound_size_bytes(path, self._size_bytes)
        if sound < self._size_bytes:
            self._file.cut_back(sound)
            self._size_bytes = sound

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, event: Event) -> None:
        line = encode(event)
        self._file.append(line)
        self._size_bytes += len(line)

    def commit(self) -> int:
        return self._file.sync()

    def cut_back(self, size_bytes: int) -> None:
        """Forget every event after ``size_bytes``. Raises IntegrityError when that is no end of a line of this file."""
        if size_bytes > self._size_bytes or not _ends_a_line(self._path, size_bytes):
            raise IntegrityError(
                "E-JOURNAL-SIZE",
                f"the log has no line that ends at byte {size_bytes} (its size is {self._size_bytes})",
                where=str(self._path),
                do="it was changed by hand or is of another run; start again with --new",
            )
        self._file.cut_back(size_bytes)
        self._size_bytes = size_bytes

    def replay(self) -> Iterator[Event]:
        return read_events(self._path, self._size_bytes)

    def close(self) -> None:
        self._file.close()


def encode(event: Event) -> bytes:
    """The event's line; fields that are None are left out."""
    return canonical_json({name: value for name, value in event if value is not None}) + b"\n"


def read_events(path: Path, size_bytes: int | None = None) -> Iterator[Event]:
    """The events within the first ``size_bytes`` (None: all whole lines). No file: none. Raises IntegrityError with the line."""
    if not path.exists():
        return
    left = path.stat().st_size if size_bytes is None else size_bytes
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return
            yield Event.from_json(line, f"{path} line {number}")


def _sound_size_bytes(path: Path, size_bytes: int) -> int:
    """Where the last whole event ends: a crash may have torn the last line, or left zeros where it was to be."""
    start = max(0, size_bytes - _TAIL_SIZE_BYTES)
    with path.open("rb") as stream:
        stream.seek(start)
        tail = stream.read()
    end = tail.rfind(b"\n") + 1
    while end:
        begin = tail.rfind(b"\n", 0, end - 1) + 1
        if _is_event(tail[begin:end]):
            return start + end
        end = begin
    return start


def _is_event(line: bytes) -> bool:
    try:
        Event.from_json(line, "")
    except IntegrityError:
        return False
    return True


def _ends_a_line(path: Path, size_bytes: int) -> bool:
    if size_bytes <= 0:
        return size_bytes == 0
    with path.open("rb") as stream:
        return os.pread(stream.fileno(), 1, size_bytes - 1) == b"\n"
