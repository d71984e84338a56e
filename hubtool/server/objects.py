"""The one store of large files: each lies once under its sha256, whoever pushed it and from which repository.

    objects/ab/cdef…            the bytes; the name is ``ab`` + the rest of the sha256
    objects/ab/cdef….parts      or, of a file that came in chunks, which chunks of which xorbs it is made of (JSON)
    incoming/                   what is being received; swept by ``upkeep.collect``

So ten fine-tunes of one frozen backbone lie here as ten lists of parts over one set of chunks.

Bytes become visible under a name only after they were hashed and fsynced. An object that is there already is hashed
all the same when somebody sends it: who knows a digest has not shown that they have the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError, from_os_error
from hubtool.core.files import DISK, Disk, make_dirs, write_bytes
from hubtool.core.ids import Oid
from hubtool.server.incoming import Incoming
from hubtool.server.spans import Span, read, sha256, span_of
from hubtool.server.xorbs import Term, Xorbs

_PARTS = ".parts"


class ObjectStore:
    """sha256 → bytes. Safe between threads and processes; never overwrites an object."""

    def __init__(self, root: Path, xorbs: Xorbs, *, disk: Disk = DISK) -> None:
        self.xorbs = xorbs
        self.directory = root / "objects"
        self.incoming = root / "incoming"
        self._lock_path = root / "objects.lock"
        self._disk = disk
        make_dirs(self.directory)
        make_dirs(self.incoming)

    def path(self, oid: Oid) -> Path:
        return self.directory / oid[:2] / oid[2:]

    def _parts_path(self, oid: Oid) -> Path:
        return self.directory / oid[:2] / f"{oid[2:]}{_PARTS}"

    def _file(self, oid: Oid) -> Path:
        """The file that stands for the object, whichever of the two. Raises NotFoundError."""
        for path in (self.path(oid), self._parts_path(oid)):
            if path.exists():
                return path
        raise NotFoundError("E-HUB-OBJECT", "the stored bytes are missing", where=oid)

    def parts(self, oid: Oid) -> tuple[Term, ...] | None:
        """What a file that came in chunks is made of; None for one that lies here whole."""
        path = self._parts_path(oid)
        try:
            stat = path.stat()
            return None if self.path(oid).exists() else _read_parts(str(path), stat.st_ino, stat.st_size)
        except FileNotFoundError:
            return None

    def has(self, oid: Oid) -> bool:
        return self.path(oid).exists() or self._parts_path(oid).exists()

    def size_bytes(self, oid: Oid) -> int:
        """Raises NotFoundError."""
        parts = self.parts(oid)
        return self._file(oid).stat().st_size if parts is None else sum(term.size_bytes for term in parts)

    def modified(self, oid: Oid) -> float:
        """When it was last sent, in seconds since 1970. Raises NotFoundError."""
        return self._file(oid).stat().st_mtime

    def remove(self, oid: Oid) -> int:
        """The bytes freed. Only within ``collecting``; the chunks of its parts are collected by themselves."""
        freed = 0
        for path in (self.path(oid), self._parts_path(oid)):
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
        return freed

    def forget(self) -> None:
        """Let what is remembered of lists of parts and of chunks be read again: a disk may have changed them."""
        _read_parts.cache_clear()
        self.xorbs.forget()

    def problem(self, oid: Oid) -> str:
        """What is wrong with the stored bytes, after reading them all; empty when nothing is."""
        try:
            digest = sha256(self.spans(oid))
        except HubtoolError as error:
            return str(error)
        except OSError as error:
            return str(from_os_error(error))
        return "" if digest == oid else f"the bytes have the sha256 {digest}"

    def receive(self, *, is_hashed: bool = True) -> Incoming:
        return Incoming(self.incoming / f"obj-{secrets.token_hex(12)}", is_hashed=is_hashed, disk=self._disk)

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
            if self._is_renewed(oid):
                return
            self._make_parent(target)
            incoming.settle()
            self._disk.rename(incoming.path, target)
            self._disk.fsync_dir(target.parent)
        except OSError as error:
            raise from_os_error(error, str(target)) from error

    def _is_renewed(self, oid: Oid) -> bool:
        """Whether it is there; if so it is young again, and a collection that runs now lets it be."""
        if not self.has(oid):
            return False
        self.xorbs.renew(self.parts(oid) or ())
        os.utime(self._file(oid))
        return True

    def _make_parent(self, target: Path) -> None:
        if not target.parent.exists():
            make_dirs(target.parent)
            self._disk.fsync_dir(self.directory)

    def publish_parts(self, terms: tuple[Term, ...], oid: Oid, link: Callable[[], None]) -> None:
        """The same for a file that came in chunks: its bytes are put together and hashed before it is visible."""
        digest = sha256(self.xorbs.spans(terms))
        if digest != oid:
            raise IntegrityError("E-HUB-DIGEST", f"the bytes have the sha256 {digest}", where=oid)
        with self.keeping():
            if not self._is_renewed(oid):
                self.xorbs.renew(terms)
                target = self._parts_path(oid)
                self._make_parent(target)
                rows = [[term.xorb, term.start, term.stop, term.size_bytes] for term in terms]
                write_bytes(target, json.dumps(rows, separators=(",", ":")).encode(), disk=self._disk)
            link()

    def spans(self, oid: Oid, start: int = 0, stop: int | None = None) -> Iterator[Span]:
        """The bytes ``start`` to ``stop`` (exclusive), however they are kept.

        Raises NotFoundError at the call, and IntegrityError too for an object that lies here whole and is shorter.
        """
        parts = self.parts(oid)
        return span_of(self._file(oid), start, stop) if parts is None else self.xorbs.spans(parts, start, stop)

    def read(self, oid: Oid, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The same about a megabyte at a time."""
        return read(self.spans(oid, start, stop))

    def __iter__(self) -> Iterator[Oid]:
        for directory in sorted(self.directory.iterdir()):
            for name in sorted({path.name.removesuffix(_PARTS) for path in directory.iterdir()}):
                if len(directory.name + name) == 64:
                    yield Oid(directory.name + name)

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


@lru_cache(maxsize=256)
def _read_parts(path: str, inode: int, size: int) -> tuple[Term, ...]:
    """The other arguments are the file's identity: another file is read again."""
    try:
        return tuple(Term(*row) for row in json.loads(Path(path).read_bytes()))
    except (ValueError, TypeError) as error:
        raise IntegrityError("E-HUB-DAMAGED", "the list of parts is damaged", where=Path(path).name) from error


@contextlib.contextmanager
def _flock(path: Path, how: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
