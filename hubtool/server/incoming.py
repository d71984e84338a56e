"""A file being received: written, and hashed where somebody asks for the digest, under a name nobody looks for."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from hubtool.core.errors import StorageError, from_os_error
from hubtool.core.files import DISK, Disk, write_all

CHUNK_SIZE_BYTES = 1 << 20


class Incoming:
    """A file being received. Not thread-safe; ``discard`` or ``publish`` ends it.

    ``is_hashed=False`` is for bytes whose digest nobody asks for, since what they become is hashed as a whole.
    """

    def __init__(self, path: Path, *, is_hashed: bool = True, disk: Disk = DISK) -> None:
        self.path = path
        self.size_bytes = 0
        self._digest = hashlib.sha256() if is_hashed else None
        self._disk = disk
        try:
            self._fd: int | None = disk.create(path, 0o600)
        except OSError as error:
            raise from_os_error(error, str(path)) from error

    def write(self, chunk: bytes | memoryview) -> None:
        assert self._fd is not None
        try:
            write_all(self._fd, chunk, self._disk)
        except OSError as error:
            raise from_os_error(error, str(self.path)) from error
        if self._digest is not None:
            self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def write_pieces(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    @property
    def sha256(self) -> str:
        assert self._digest is not None, "received without hashing"
        return self._digest.hexdigest()

    def settle(self) -> None:
        """Check the length, fsync and close; the bytes stay under the temporary name."""
        self._end(is_durable=True)

    def close(self) -> None:
        """The same without fsync, for bytes that are read back before anything is said of them."""
        self._end(is_durable=False)

    def _end(self, *, is_durable: bool) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if os.fstat(fd).st_size != self.size_bytes:
                raise StorageError("E-DISK-SHORT", "the file is shorter than what was written", where=str(self.path))
            if is_durable:
                self._disk.fsync(fd)
        except OSError as error:
            raise from_os_error(error, str(self.path)) from error
        finally:
            self._disk.close(fd)

    def discard(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
