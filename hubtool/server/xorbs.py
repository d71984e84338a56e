"""What the Xet client uploads, and how files are rebuilt from it.

A xorb is a run of chunks (``chunks``); a shard says which chunks of which xorbs make up a file, and its sha256
(formats: huggingface/hub-docs docs/xet, https://datatracker.ietf.org/doc/draft-denis-xet/). The sha256 of the rebuilt
file is the check of everything before it, so the Merkle hashes of the protocol are names here and nothing more.

    xorbs/epoch               a random word; it stands in the address given to clients
    xorbs/AREA/HASH           one xorb; an area belongs to one user, so that a hash opens nobody else's bytes

A client remembers for weeks which xorbs it has sent to an address. So every xorb is kept while the epoch lives, and
whoever removes xorbs begins a new epoch first (``new_epoch``): the address changes and the client sends them again.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO

from hubtool.core.errors import IntegrityError, NotFoundError, UsageError, from_os_error
from hubtool.core.files import DISK, make_dirs, write_text
from hubtool.server.chunks import IncomingXorb, Layout, read_layout
from hubtool.server.spans import Span, gathered, read

MAX_XORB_BYTES = 72 << 20  # the protocol says 64 MiB of chunks; headers and a footer come on top
MAX_SHARD_BYTES = 64 << 20
_HEADER_BYTES = 48
_ENTRY_BYTES = 48
_HAS_VERIFICATION = 0x80000000
_HAS_METADATA = 0x40000000
_BOOKEND = b"\xff" * 32
_HEX = re.compile(r"[0-9a-f]{64}")
_AREA = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks ``start`` to ``stop`` (exclusive) of one xorb (``AREA/HASH``), and how many bytes they are unpacked."""

    xorb: str
    start: int
    stop: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    sha256: str
    terms: tuple[Term, ...]

    @property
    def size_bytes(self) -> int:
        return sum(term.size_bytes for term in self.terms)

    def within(self, area: str) -> tuple[Term, ...]:
        """The terms with the full names of their xorbs: a shard can only name those of its sender's area."""
        return tuple(replace(term, xorb=f"{area}/{term.xorb}") for term in self.terms)


class Xorbs:
    """The uploaded xorbs by area. Safe between threads and processes."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "xorbs"
        make_dirs(self.directory)
        if not self._epoch_path.exists():
            self.new_epoch()

    @property
    def _epoch_path(self) -> Path:
        return self.directory / "epoch"

    @property
    def epoch(self) -> str:
        return self._epoch_path.read_text("ascii").strip()

    def new_epoch(self) -> None:
        write_text(self._epoch_path, secrets.token_hex(8) + "\n")

    def name(self, area: str, digest: str) -> str:
        """The name of a xorb, ``AREA/HASH``. Raises UsageError."""
        if not _HEX.fullmatch(digest) or not _AREA.fullmatch(area):
            raise UsageError("E-HUB-XET", "not the name of a xorb")
        return f"{area}/{digest}"

    def path(self, name: str) -> Path:
        area, _, digest = name.partition("/")
        return self.directory / self.name(area, digest)

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self.directory.glob("*/*")):
            if _HEX.fullmatch(path.name):
                yield f"{path.parent.name}/{path.name}"

    def keep(self, incoming: IncomingXorb, name: str) -> bool:
        """Make a received xorb visible; False when it was there. Raises IntegrityError when it is not whole."""
        target = self.path(name)
        try:
            whole = incoming.finish()
            if target.exists():
                os.utime(target)
                return False
            if not target.parent.exists():
                make_dirs(target.parent)
                DISK.fsync_dir(self.directory)
            whole.settle()
            DISK.rename(whole.path, target)
            DISK.fsync_dir(target.parent)
            return True
        except OSError as error:
            raise from_os_error(error, "a xorb") from error
        finally:
            incoming.discard()

    def renew(self, terms: Iterable[Term]) -> None:
        """Make the xorbs of a file young, so that a collection lets them be. Raises NotFoundError."""
        for name in {term.xorb for term in terms}:
            try:
                os.utime(self.path(name))
            except FileNotFoundError as error:
                raise NotFoundError("E-HUB-XORB", "a shard names a xorb that is not here", where=name) from error

    def layout(self, name: str) -> Layout:
        """Where the chunks of a xorb lie. Raises NotFoundError, IntegrityError."""
        with self._open(name) as file:
            stat = os.fstat(file.fileno())
            return _read_layout(self.path(name), stat.st_ino, stat.st_size)

    def forget(self) -> None:
        _read_layout.cache_clear()

    def wire(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes ``start`` to ``stop`` of a xorb as clients read it. Raises NotFoundError, IntegrityError."""
        layout = self.layout(name)
        with self._open(name) as file:
            yield from read(gathered(layout.wire(file.fileno(), start, stop)))

    def spans(self, terms: Iterable[Term], start: int = 0, stop: int | None = None) -> Iterator[Span]:
        """The bytes ``start`` to ``stop`` of a file. Raises NotFoundError, IntegrityError."""
        return gathered(self._pieces(terms, start, stop))

    def _pieces(self, terms: Iterable[Term], start: int, stop: int | None) -> Iterator[Span]:
        at = 0
        for term in terms:
            end = at + term.size_bytes
            if end > start and (stop is None or at < stop):
                low, high = max(0, start - at), term.size_bytes if stop is None else min(term.size_bytes, stop - at)
                yield from self._term_pieces(term, low, high)
            at = end

    def _term_pieces(self, term: Term, low: int, high: int) -> Iterator[Span]:
        """The bytes ``low`` to ``high`` of a term; raises IntegrityError when the xorb is not what the term says."""
        layout = self.layout(term.xorb)
        if not 0 <= term.start < term.stop < len(layout.bounds):
            raise IntegrityError("E-HUB-XET", "a shard names chunks that the xorb does not have")
        first = layout.bounds[term.start]
        if layout.bounds[term.stop] - first != term.size_bytes:
            raise IntegrityError("E-HUB-XET", "a shard gives a run of chunks another length than they have")
        with self._open(term.xorb) as file:
            yield from layout.pieces(file, first + low, first + high)

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self.path(name).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise NotFoundError("E-HUB-XORB", "a shard names a xorb that is not here", where=name) from error


@lru_cache(maxsize=64)
def _read_layout(path: Path, inode: int, size: int) -> Layout:
    """Remembered, for a shard has many terms a xorb. The other arguments are the file's identity."""
    with path.open("rb", buffering=0) as file:
        return read_layout(file.fileno())


def parse_shard(data: bytes) -> list[ShardFile]:
    """The files a shard describes. Raises UsageError for what is no shard."""
    files, at = [], _HEADER_BYTES
    try:
        while data[at : at + 32] != _BOOKEND:
            flags, count = struct.unpack_from("<II", data, at + 32)
            at += _ENTRY_BYTES
            terms = tuple(_parse_term(data, at + i * _ENTRY_BYTES) for i in range(count))
            at += count * _ENTRY_BYTES * (2 if flags & _HAS_VERIFICATION else 1)
            if not flags & _HAS_METADATA:
                raise UsageError("E-HUB-XET", "a file of the shard has no sha256")
            files.append(ShardFile(_hash_hex(data, at), terms))
            at += _ENTRY_BYTES
    except struct.error as error:
        raise UsageError("E-HUB-XET", "not a shard") from error
    return files


def _parse_term(data: bytes, at: int) -> Term:
    _, size_bytes, start, stop = struct.unpack_from("<IIII", data, at + 32)
    return Term(_hash_hex(data, at), start, stop, size_bytes)


def _hash_hex(data: bytes, at: int) -> str:
    """The protocol's spelling of a hash: four little-endian 64-bit words."""
    return "".join(f"{word:016x}" for word in struct.unpack_from("<QQQQ", data, at))
