"""The chunks of one xorb: how they come, how they lie in its file, and how they are read from there.

They come with a head of 8 bytes before each, and most of them packed (huggingface/hub-docs docs/xet, "Xorb"). They lie
one after another with the heads behind them, and unpacked where packing did not save a fifth. So weights, which hardly
pack, lie in long runs, and a run goes from the kernel to the socket.

    HUBXORB1    body body body …    head head head …    number of heads (4 bytes)

What an older hub has kept lies as it came; it is read all the same.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import lz4.frame

from hubtool.core.errors import IntegrityError
from hubtool.server.incoming import Incoming
from hubtool.server.spans import FileSpan, Span, read_exactly

_MAGIC = b"HUBXORB1"
_FOOTER = b"XETBLOB"
_HEAD = struct.Struct("<II")  # version and packed bytes, scheme and unpacked bytes: 8 bits and 24
_COUNT = struct.Struct("<I")
_MAX_CHUNK_BYTES = 1 << 20  # clients cut at 128 KiB
_MAX_CHUNKS = 1 << 14  # clients stop at 8192
_WORTH_PACKING = 0.8  # LZ4 makes float32 weights 0.95 of their size, bfloat16 0.86


@dataclass(frozen=True, slots=True)
class Head:
    """What is said of a chunk. ``scheme`` 0 is not packed, 1 is LZ4, 2 is LZ4 of grouped bytes."""

    packed: int
    scheme: int
    unpacked: int

    @classmethod
    def parse(cls, data: bytes, at: int = 0) -> Head:
        """Raises IntegrityError."""
        if len(data) < at + _HEAD.size:
            raise IntegrityError("E-HUB-XET", "a xorb ends inside a chunk")
        first, second = _HEAD.unpack_from(data, at)
        head = cls(first >> 8, second & 0xFF, second >> 8)
        is_told_wrong = head.scheme == 0 and head.packed != head.unpacked
        if first & 0xFF != 0 or head.scheme > 2 or head.unpacked > _MAX_CHUNK_BYTES or is_told_wrong:
            raise IntegrityError("E-HUB-XET", "a xorb holds a chunk that cannot be read")
        return head

    @property
    def wire_bytes(self) -> int:
        return _HEAD.size + self.packed

    def pack(self) -> bytes:
        return _HEAD.pack(self.packed << 8, self.unpacked << 8 | self.scheme)


class IncomingXorb:
    """A xorb being received: taken apart as it comes, and written down the way it is kept. Not thread-safe."""

    def __init__(self, incoming: Incoming) -> None:
        self.size_bytes = 0  # as received
        self._incoming = incoming
        self._heads: list[bytes] = []
        self._rest = b""
        self._is_over = False

    def write_pieces(self, pieces: Iterable[bytes]) -> None:
        """Raises IntegrityError when what comes is no xorb."""
        data = b"".join([self._rest, *pieces])
        if not self.size_bytes:
            self._incoming.write(_MAGIC)
        self.size_bytes += len(data) - len(self._rest)
        at = 0
        with memoryview(data) as view:
            while not self._is_over and len(data) - at >= len(_FOOTER):
                if data.startswith(_FOOTER, at):
                    self._is_over = True  # what a footer says of the chunks, their heads say too
                    break
                if len(data) - at < _HEAD.size:
                    break
                head = Head.parse(data, at)
                end = at + head.wire_bytes
                if end > len(data):
                    break
                self._keep(head, view[at + _HEAD.size : end])
                at = end
        self._rest = b"" if self._is_over else data[at:]

    def _keep(self, head: Head, body: bytes | memoryview) -> None:
        if head.scheme != 0 and head.packed > _WORTH_PACKING * head.unpacked:
            body = unpack(head, body)
            head = Head(head.unpacked, 0, head.unpacked)
        if len(self._heads) == _MAX_CHUNKS:
            raise IntegrityError("E-HUB-XET", f"a xorb of more than {_MAX_CHUNKS} chunks")
        self._heads.append(head.pack())
        self._incoming.write(body)

    def finish(self) -> Incoming:
        """The whole file, still under its temporary name. Raises IntegrityError when the last chunk is not whole."""
        if self._rest or not self.size_bytes:
            raise IntegrityError("E-HUB-XET", "a xorb ends inside a chunk" if self._rest else "an empty xorb")
        self._incoming.write(b"".join(self._heads) + _COUNT.pack(len(self._heads)))
        return self._incoming

    def discard(self) -> None:
        self._incoming.discard()


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes ``start`` to ``stop`` of the unpacked xorb: a run of chunks that lies as it is, or one that is packed."""

    start: int
    stop: int
    place: int
    head: Head | None


@dataclass(frozen=True, slots=True)
class Layout:
    """``heads`` and ``places`` (in the file) of all chunks; ``bounds`` are their ends, and 0, in the unpacked xorb, and
    ``wire_bounds`` in the one that clients read."""

    heads: tuple[Head, ...]
    places: array[int]
    bounds: array[int]
    wire_bounds: array[int]
    extents: tuple[Extent, ...]

    def pieces(self, file: IO[bytes], low: int, high: int) -> Iterator[Span]:
        """The bytes ``low`` to ``high`` of the unpacked xorb, extent by extent."""
        first = bisect_right(self.extents, low, key=lambda extent: extent.start) - 1
        for extent in self.extents[max(first, 0) :]:
            if extent.start >= high:
                return
            start, stop = max(low, extent.start) - extent.start, min(high, extent.stop) - extent.start
            if start >= stop:
                continue
            if extent.head is None:
                yield FileSpan(file, extent.place + start, extent.place + stop)
            else:
                body = read_exactly(file.fileno(), extent.place, extent.head.packed)
                yield unpack(extent.head, body)[start:stop]

    def wire_span(self, start: int, stop: int) -> tuple[int, int]:
        """Where the chunks ``start`` to ``stop`` (exclusive) lie, heads included, when each has its head before it."""
        return self.wire_bounds[start], self.wire_bounds[stop]

    def wire(self, fd: int, start: int, stop: int) -> Iterator[bytes]:
        """The bytes ``start`` to ``stop`` of the xorb with the head of each chunk before it, as clients read it."""
        first = max(bisect_right(self.wire_bounds, start) - 1, 0)
        for number in range(first, len(self.heads)):
            head, at = self.heads[number], self.wire_bounds[number]
            if at >= stop:
                return
            data = head.pack() + read_exactly(fd, self.places[number], head.packed)
            yield data[max(0, start - at) : stop - at]


def read_layout(fd: int) -> Layout:
    """Raises IntegrityError."""
    size_bytes = os.fstat(fd).st_size
    is_kept = os.pread(fd, len(_MAGIC), 0) == _MAGIC
    heads = tuple(_kept_heads(fd, size_bytes) if is_kept else _sent_heads(fd, size_bytes))
    places, bounds, wire_bounds = array("Q"), array("Q", [0]), array("Q", [0])
    runs: list[tuple[int, int, int, Head | None]] = []
    place = len(_MAGIC) if is_kept else 0
    for head in heads:
        place += 0 if is_kept else _HEAD.size
        start, stop = bounds[-1], bounds[-1] + head.unpacked
        places.append(place)
        bounds.append(stop)
        wire_bounds.append(wire_bounds[-1] + head.wire_bytes)
        if head.scheme != 0:
            runs.append((start, stop, place, head))
        elif runs and runs[-1][3] is None and runs[-1][2] + start - runs[-1][0] == place:
            runs[-1] = (runs[-1][0], stop, runs[-1][2], None)
        else:
            runs.append((start, stop, place, None))
        place += head.packed
    return Layout(heads, places, bounds, wire_bounds, tuple(Extent(*run) for run in runs))


def _kept_heads(fd: int, size_bytes: int) -> Iterator[Head]:
    end = size_bytes - _COUNT.size
    (count,) = _COUNT.unpack(read_exactly(fd, max(end, 0), _COUNT.size))
    first = end - count * _HEAD.size
    if first < len(_MAGIC):
        raise IntegrityError("E-HUB-XET", "the list of chunks of a kept xorb is damaged")
    data, place = read_exactly(fd, first, end - first), len(_MAGIC)
    for at in range(0, len(data), _HEAD.size):
        head = Head.parse(data, at)
        place += head.packed
        yield head
    if place != first:
        raise IntegrityError("E-HUB-XET", "the list of chunks of a kept xorb is damaged")


def _sent_heads(fd: int, size_bytes: int) -> Iterator[Head]:
    at = 0
    while at < size_bytes:
        data = os.pread(fd, _HEAD.size, at)
        if data.startswith(_FOOTER):
            return
        head = Head.parse(data)
        at += head.wire_bytes
        if at > size_bytes:
            raise IntegrityError("E-HUB-XET", "a xorb ends inside a chunk")
        yield head


def unpack(head: Head, body: bytes | memoryview) -> bytes:
    """The bytes of a packed chunk. Raises IntegrityError."""
    try:
        data = lz4.frame.LZ4FrameDecompressor().decompress(body, max_length=head.unpacked + 1)
    except RuntimeError as error:
        raise IntegrityError("E-HUB-XET", "a chunk does not unpack") from error
    if len(data) != head.unpacked:
        raise IntegrityError("E-HUB-XET", "a chunk has another length than it says")
    return _ungroup(data) if head.scheme == 2 else data


def _ungroup(data: bytes) -> bytes:
    """Undo byte grouping: all first bytes of the 4-byte words came first, then all second ones, and so on."""
    out, at = bytearray(len(data)), 0
    for lane in range(4):
        count = (len(data) + 3 - lane) // 4
        out[lane::4] = data[at : at + count]
        at += count
    return bytes(out)
