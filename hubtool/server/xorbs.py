"""What the Xet client uploads, and how files are rebuilt from it.

A xorb is a run of compressed chunks; a shard says which chunks of which xorbs make up a file, and its sha256
(formats: huggingface/hub-docs docs/xet, https://datatracker.ietf.org/doc/draft-denis-xet/). The sha256 of the rebuilt
file is the check of everything before it, so the Merkle hashes of the protocol are names here and nothing more.

    xorbs/epoch               a random word; it stands in the address given to clients
    xorbs/AREA/HASH           one xorb; an area belongs to one user, so that a hash opens nobody else's bytes

A client remembers for weeks which xorbs it has sent to an address. So every xorb is kept while the epoch lives, and
whoever removes xorbs begins a new epoch first (``new_epoch``): the address changes and the client sends them again.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lz4.frame

from hubtool.core.errors import IntegrityError, NotFoundError, UsageError, from_os_error
from hubtool.core.files import DISK, make_dirs, write_text
from hubtool.server.incoming import Incoming

MAX_XORB_BYTES = 72 << 20  # the protocol says 64 MiB of chunks; headers and a footer come on top
MAX_SHARD_BYTES = 64 << 20
_MAX_CHUNK_BYTES = 1 << 20  # clients cut at 128 KiB
_HEADER_BYTES = 48
_ENTRY_BYTES = 48
_HAS_VERIFICATION = 0x80000000
_HAS_METADATA = 0x40000000
_BOOKEND = b"\xff" * 32
_HEX = re.compile(r"[0-9a-f]{64}")
_AREA = re.compile(r"[0-9a-f]{16}")
_FOOTER = b"XETBLOB"
_CHUNK_HEAD = struct.Struct("<II")  # version and packed bytes, scheme and unpacked bytes: 8 bits and 24
_PIECE_BYTES = 1 << 20


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

    def keep(self, incoming: Incoming, name: str) -> bool:
        """Make a received xorb visible; False when it was there."""
        target = self.path(name)
        try:
            _chunks(incoming.path)
            if target.exists():
                os.utime(target)
                return False
            if not target.parent.exists():
                make_dirs(target.parent)
                DISK.fsync_dir(self.directory)
            incoming.settle()
            DISK.rename(incoming.path, target)
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

    def chunk_sizes(self, name: str) -> tuple[int, ...]:
        """Unpacked bytes of each chunk. Raises NotFoundError, IntegrityError."""
        return tuple(size for _, size in _chunks(self.path(name)))

    def span(self, name: str, start: int, stop: int) -> tuple[int, int]:
        """Where the chunks ``start`` to ``stop`` (exclusive) lie in the file of the xorb, their headers included."""
        chunks = _chunks(self.path(name))
        last = chunks[stop - 1][0]
        with self.path(name).open("rb") as stream:
            stream.seek(last + 1)
            packed = int.from_bytes(stream.read(3), "little")
        return chunks[start][0], last + 8 + packed

    def read(self, terms: Iterable[Term], start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes ``start`` to ``stop`` of a file, about a megabyte at a time. Raises NotFoundError, IntegrityError."""
        waiting: list[bytes | memoryview] = []
        size = 0
        for piece in self.pieces(terms, start, stop):
            waiting.append(piece)
            size += len(piece)
            if size >= _PIECE_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)

    def pieces(self, terms: Iterable[Term], start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """The same chunk by chunk, without a copy where a chunk is not compressed: views of the mapped xorb."""
        at = 0
        for term in terms:
            end = at + term.size_bytes
            if end > start and (stop is None or at < stop):
                low, high = max(0, start - at), term.size_bytes if stop is None else min(term.size_bytes, stop - at)
                yield from _read_term(self.path(term.xorb), term, low, high)
            at = end


def _read_term(path: Path, term: Term, low: int, high: int) -> Iterator[bytes | memoryview]:
    """The bytes ``low`` to ``high`` of a term; raises IntegrityError when the xorb is not what the term says."""
    chunks = _chunks(path)
    if not 0 <= term.start < term.stop <= len(chunks):
        raise IntegrityError("E-HUB-XET", "a shard names chunks that the xorb does not have")
    wanted = chunks[term.start : term.stop]
    if sum(size for _, size in wanted) != term.size_bytes:
        raise IntegrityError("E-HUB-XET", "a shard gives a run of chunks another length than they have")
    with path.open("rb") as stream:
        data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))  # mapped while a view of it lives
    at = 0
    for offset, size in wanted:
        if at + size > low and at < high:
            yield _unpack(data, offset)[max(0, low - at) : high - at]
        at += size


_CHUNKS: OrderedDict[tuple[str, int, int], tuple[tuple[int, int], ...]] = OrderedDict()
_CHUNKS_LOCK = threading.Lock()


def _chunks(path: Path) -> tuple[tuple[int, int], ...]:
    """(offset, unpacked size) of each chunk. The last answers are remembered: a shard has many terms per xorb."""
    try:
        stat = path.stat()
        key = (str(path), stat.st_ino, stat.st_size)
        with _CHUNKS_LOCK:
            if key in _CHUNKS:
                return _CHUNKS[key]
        if stat.st_size == 0:
            raise IntegrityError("E-HUB-XET", "an empty xorb")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            chunks = tuple(_walk(data))
    except FileNotFoundError as error:
        raise NotFoundError("E-HUB-XORB", "a shard names a xorb that is not here", where=path.name) from error
    with _CHUNKS_LOCK:
        _CHUNKS[key] = chunks
        while len(_CHUNKS) > 64:
            _CHUNKS.popitem(last=False)
    return chunks


def _walk(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(data) and data[at : at + len(_FOOTER)] != _FOOTER:
        if at + 8 > len(data):
            raise IntegrityError("E-HUB-XET", "a xorb ends inside a chunk")
        first, second = _CHUNK_HEAD.unpack_from(data, at)
        packed, unpacked = first >> 8, second >> 8
        if first & 0xFF != 0 or second & 0xFF > 2 or unpacked > _MAX_CHUNK_BYTES or at + 8 + packed > len(data):
            raise IntegrityError("E-HUB-XET", "a xorb holds a chunk that cannot be read")
        yield at, unpacked
        at += 8 + packed


def _unpack(data: memoryview, at: int) -> bytes | memoryview:
    first, second = _CHUNK_HEAD.unpack_from(data, at)
    packed, scheme, size = first >> 8, second & 0xFF, second >> 8
    body: bytes | memoryview = data[at + 8 : at + 8 + packed]
    if scheme != 0:
        try:
            body = lz4.frame.LZ4FrameDecompressor().decompress(body, max_length=size + 1)
        except RuntimeError as error:
            raise IntegrityError("E-HUB-XET", "a chunk does not unpack") from error
    if len(body) != size:
        raise IntegrityError("E-HUB-XET", "a chunk has another length than it says")
    return _ungroup(body) if scheme == 2 else body


def _ungroup(data: bytes | memoryview) -> bytes:
    """Undo byte grouping: all first bytes of the 4-byte words came first, then all second ones, and so on."""
    out, at = bytearray(len(data)), 0
    for lane in range(4):
        count = (len(data) + 3 - lane) // 4
        out[lane::4] = data[at : at + count]
        at += count
    return bytes(out)


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
