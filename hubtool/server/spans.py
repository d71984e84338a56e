"""Stored bytes on their way out: as they are, or as a place in an open file, which the kernel can send by itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hubtool.core.errors import IntegrityError, NotFoundError
from hubtool.server.incoming import CHUNK_SIZE_BYTES

_BUFFER_BYTES = 256 << 10
_LONG_BYTES = 256 << 10  # below that, to read is as quick as to hand over


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Bytes ``start`` to ``stop`` (exclusive) of an open file, which whoever gave it closes."""

    file: IO[bytes]
    start: int
    stop: int

    def read(self) -> bytes:
        """All of it at once. Raises IntegrityError when the file ends early."""
        return read_exactly(self.file.fileno(), self.start, self.stop - self.start)

    def views(self, buffer: bytearray) -> Iterator[memoryview]:
        """The bytes, each time in ``buffer``. Raises IntegrityError when the file ends early."""
        view, at = memoryview(buffer), self.start
        while at < self.stop:
            count = os.preadv(self.file.fileno(), [view[: self.stop - at]], at)
            if not count:
                raise IntegrityError("E-HUB-SHORT", "a stored file is shorter than it should be")
            yield view[:count]
            at += count


Span = bytes | FileSpan


def span_of(path: Path, start: int = 0, stop: int | None = None) -> Iterator[FileSpan]:
    """One span of a file, which is open while it is used. Raises NotFoundError and IntegrityError at the call."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise NotFoundError("E-HUB-OBJECT", "the stored bytes are missing", where=path.name) from error
    size_bytes = os.fstat(file.fileno()).st_size
    if stop is not None and size_bytes < stop:
        file.close()
        raise IntegrityError("E-HUB-SHORT", "a stored file is shorter than it should be", where=path.name)
    return _opened(FileSpan(file, start, size_bytes if stop is None else stop))


def _opened(span: FileSpan) -> Iterator[FileSpan]:
    with span.file:
        yield span


def gathered(spans: Iterable[Span]) -> Iterator[Span]:
    """Long spans of files as they are, all else joined to about a megabyte. A span is good until the next is asked for."""
    waiting: list[bytes] = []
    size = 0
    for span in spans:
        if isinstance(span, FileSpan) and span.stop - span.start >= _LONG_BYTES:
            if waiting:
                yield b"".join(waiting)
                waiting, size = [], 0
            yield span
            continue
        waiting.append(span.read() if isinstance(span, FileSpan) else span)
        size += len(waiting[-1])
        if size >= CHUNK_SIZE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def read_exactly(fd: int, place: int, count: int) -> bytes:
    """Raises IntegrityError when the file ends early."""
    data = os.pread(fd, count, place)
    if len(data) != count:
        raise IntegrityError("E-HUB-SHORT", "a stored file is shorter than it should be")
    return data


def read(spans: Iterable[Span]) -> Iterator[bytes]:
    """The bytes themselves, about a megabyte at a time."""
    for span in spans:
        if isinstance(span, FileSpan):
            yield from map(bytes, span.views(bytearray(CHUNK_SIZE_BYTES)))
        else:
            yield span


def sha256(spans: Iterable[Span]) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_BUFFER_BYTES)
    for span in spans:
        for piece in span.views(buffer) if isinstance(span, FileSpan) else (span,):
            digest.update(piece)
    return digest.hexdigest()
