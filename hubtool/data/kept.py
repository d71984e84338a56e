"""Pictures kept from the one decoding that checks them, so that plain preprocessing need not decode them again.

A file without a name in the temp directory, 8-bit pixels, found by the sha256 of the picture: what is kept was verified.
It lies in the page cache, not in the process's own memory, and vanishes with the process. When it is full, or the disk is,
the rest is simply decoded again: no byte of a batch depends on it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from types import TracebackType
from typing import Self

from hubtool.data.crops import Frame, frame_of
from hubtool.records.backbone import Preprocess

LIMIT_BYTES = 2 << 30


class Kept:
    """The plain pixels of pictures under one Preprocess, ``LIMIT_BYTES`` at most and never over a quarter of the free disk.

    One writer; close it in the end.
    """

    def __init__(self, preprocess: Preprocess, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.frame: Frame = frame_of(preprocess)
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        space = os.fstatvfs(self._file.fileno())
        self._capacity = min(limit_bytes, space.f_bavail * space.f_frsize // 4) // self.frame.size_bytes
        self._row_of: dict[str, int] = {}
        self._view = memoryview(b"")

    @property
    def is_full(self) -> bool:
        return len(self._row_of) >= self._capacity

    def add(self, sha256: str, pixels: memoryview) -> None:
        """Keep one picture, if there is room."""
        if sha256 in self._row_of or self.is_full:
            return
        size_bytes, row = self.frame.size_bytes, len(self._row_of)
        try:
            written = os.pwrite(self._file.fileno(), pixels[:size_bytes], row * size_bytes)
        except OSError:
            written = 0
        if written == size_bytes:
            self._row_of[sha256] = row
        else:
            self._capacity = row  # the disk is full: enough

    def get(self, sha256: str) -> memoryview | None:
        """The pixels of a picture, H x W x C bytes; None where it is not kept."""
        row = self._row_of.get(sha256)
        if row is None:
            return None
        start, end = row * self.frame.size_bytes, (row + 1) * self.frame.size_bytes
        if end > len(self._view):
            total = len(self._row_of) * self.frame.size_bytes
            self._view = memoryview(mmap.mmap(self._file.fileno(), total, access=mmap.ACCESS_READ))
        return self._view[start:end]

    def close(self) -> None:
        """Forget everything. May be called twice."""
        self._row_of.clear()
        self._capacity = 0
        self._view = memoryview(b"")
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
