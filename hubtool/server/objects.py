"""The one store of large files: each lies once under its sha256, whoever pushed it and from which repository.

    objects/ab/cdef…            the bytes; the name is ``ab`` + the rest of the sha256
    incoming/                   what is being received; swept by ``upkeep.collect``

Bytes become visible under a name only after they were hashed and fsynced. An object that is there already is hashed
all the same when somebody sends it: who knows a digest has not shown that they have the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from hubtool.core.errors import IntegrityError, NotFoundError, from_os_error
from hubtool.core.files import DISK, Disk, make_dirs, write_all
from hubtool.core.ids import Oid

CHUNK_SIZE_BYTES = 1 << 20


class Incoming:
    """A file being received. Not thread-safe; ``discard`` or ``publish`` ends it."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self.path = path
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._disk = disk
        try:
            self._fd: int | None = disk.create(path, 0o600)
        except OSError as error:
            raise from_os_error(error, str(path)) from error

    def write(self, chunk: bytes) -> None:
        assert self._fd is not None
        try:
            write_all(self._fd, chunk, self._disk)
        except OSError as error:
            raise from_os_error(error, str(self.path)) from error
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def settle(self) -> None:
        """Fsync and close; the bytes stay under the temporary name."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
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


class ObjectStore:
    """sha256 → bytes. Safe between threads and processes; never overwrites an object."""

    def __init__(self, root: Path, *, disk: Disk = DISK) -> None:
        self.directory = root / "objects"
        self.incoming = root / "incoming"
        self._lock_path = root / "objects.lock"
        self._disk = disk
        make_dirs(self.directory)
        make_dirs(self.incoming)

    def path(self, oid: Oid) -> Path:
        return self.directory / oid[:2] / oid[2:]

    def has(self, oid: Oid) -> bool:
        return self.path(oid).is_file()

    def size_bytes(self, oid: Oid) -> int:
        """Raises NotFoundError."""
        try:
            return self.path(oid).stat().st_size
        except OSError as error:
            raise NotFoundError("E-HUB-OBJECT", "the stored bytes are missing", where=oid) from error

    def receive(self) -> Incoming:
        return Incoming(self.incoming / f"obj-{secrets.token_hex(12)}", disk=self._disk)

    def publish(self, incoming: Incoming, oid: Oid, size_bytes: int, link: Callable[[], None]) -> None:
        """Make received bytes visible as ``oid`` and call ``link`` before any collection can run.

        Raises IntegrityError when the bytes are not what was announced; nothing is visible then.
        """
        try:
            if incoming.size_bytes != size_bytes:
                raise IntegrityError(
                    "E-HUB-SIZE", f"{size_bytes} bytes were announced, {incoming.size_bytes} came", where=oid
                )
            if incoming.sha256 != oid:
                raise IntegrityError("E-HUB-DIGEST", f"the bytes have the sha256 {incoming.sha256}", where=oid)
            with self.keeping():
                self._place(incoming, oid)
                link()
        finally:
            incoming.discard()

    def _place(self, incoming: Incoming, oid: Oid) -> None:
        target = self.path(oid)
        try:
            if target.exists():
                os.utime(target)  # young again: a collection that runs now lets it be
                return
            if not target.parent.exists():
                make_dirs(target.parent)
                self._disk.fsync_dir(self.directory)
            incoming.settle()
            self._disk.rename(incoming.path, target)
            self._disk.fsync_dir(target.parent)
        except OSError as error:
            raise from_os_error(error, str(target)) from error

    def read(self, oid: Oid, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes ``start`` to ``stop`` (exclusive) in chunks. Raises NotFoundError before the first one."""
        return read_range(self.path(oid), start, stop)

    def __iter__(self) -> Iterator[Oid]:
        for directory in sorted(self.directory.iterdir()):
            for path in sorted(directory.iterdir()):
                if len(directory.name + path.name) == 64:
                    yield Oid(directory.name + path.name)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Hold collections off while bytes and what refers to them are brought together. Shared, short."""
        with _flock(self._lock_path, fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Hold publications off while one object is looked at again and removed."""
        with _flock(self._lock_path, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _flock(path: Path, how: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def read_range(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Raises NotFoundError at the call, IntegrityError when the file ends early."""
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise NotFoundError("E-HUB-OBJECT", "the stored bytes are missing", where=path.name) from error
    end = os.fstat(stream.fileno()).st_size if stop is None else stop
    return _chunks(stream.fileno(), stream.close, start, end)


def _chunks(fd: int, close: Callable[[], None], start: int, stop: int) -> Iterator[bytes]:
    try:
        while start < stop:
            chunk = os.pread(fd, min(CHUNK_SIZE_BYTES, stop - start), start)
            if not chunk:
                raise IntegrityError("E-HUB-SHORT", "a stored file is shorter than it should be")
            start += len(chunk)
            yield chunk
    finally:
        close()
