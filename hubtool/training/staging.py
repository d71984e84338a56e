"""Copies of tensors that go on training, and the bytes of the files they are written to, beside it.

What the saving thread does here it does in numpy, on one core: torch would give that thread a second team of OpenMP's threads,
which compete with the training's and make libgomp put both to sleep sooner.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubtool.core.errors import StorageError

# The format's names (https://huggingface.co/docs/safetensors) of what a checkpoint may hold, and as what numpy takes the bytes.
_DTYPES = {
    torch.float64: ("F64", torch.int64),
    torch.float32: ("F32", torch.int32),
    torch.float16: ("F16", torch.int16),
    torch.bfloat16: ("BF16", torch.int16),
    torch.int64: ("I64", torch.int64),
    torch.int32: ("I32", torch.int32),
    torch.int16: ("I16", torch.int16),
    torch.int8: ("I8", torch.int8),
    torch.uint8: ("U8", torch.uint8),
    torch.bool: ("BOOL", torch.uint8),
}
_FEW_BYTES = 1 << 18
_PIECE_BYTES = 1 << 19
# Of the time to the next save: what it is spread over at most, and the share of that which it takes at least.
_SPREAD = 0.7
_LEAST_SHARE = 0.03


class Staging:
    """Memory for one copy of each tensor, kept from one save to the next: touching fresh pages costs more than the copying."""

    def __init__(self) -> None:
        self._places: dict[str, Tensor] = {}

    def copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, laid out as they are; good until the next call. Raises StorageError for a dtype no checkpoint holds."""
        was, self._places = self._places, {}
        for name, value in tensors.items():
            if value.dtype not in _DTYPES:
                raise StorageError("E-CKPT-DTYPE", f"{name} is of {value.dtype}, which no checkpoint can hold")
            source, place = value.detach(), was.get(name)
            if place is None or not _is_alike(place, source):
                place = torch.empty_like(source, device="cpu")
            self._places[name] = place.copy_(source)
        return dict(self._places)


class Pace:
    """Spreads a save's work over most of the time to the next save, in small pieces with rests between them.

    Training wants every core all the time, and a step computed by as many threads as there are cores waits for the one whose
    core was taken, whatever the other's priority: measured, a nicer thread delays it by all of its work. This save is taken
    to be as much work, and to wait for the disk as long, as the last one; the time to the next to be the longer of the last
    two: a save in the last step of an epoch is followed by that of the epoch's end. ``hurry`` ends the resting.

    One thread saves, from ``begin`` to ``end``; of it are ``rest`` and ``pieces``.
    """

    def __init__(self) -> None:
        self._hurried = threading.Event()
        self._begun_at: float | None = None
        self._intervals_s: deque[float] = deque(maxlen=2)
        self._worked_s = self._idle_s = self._rested_s = 0.0
        self._looked_at_s: float | None = None  # of the saving thread's clock
        self._share = _LEAST_SHARE

    def begin(self) -> None:
        was, self._begun_at = self._begun_at, time.monotonic()
        if was is not None:
            self._intervals_s.append(self._begun_at - was)
        if self._intervals_s:
            to_next_s = max(self._intervals_s)
            working_s = max(_SPREAD * to_next_s - self._idle_s, _LEAST_SHARE * to_next_s)
            self._share = min(1.0, max(_LEAST_SHARE, self._worked_s / max(working_s, 1e-3)))
        self._worked_s = self._rested_s = 0.0
        self._looked_at_s = None
        self._hurried.clear()

    def end(self) -> None:
        assert self._begun_at is not None
        self._idle_s = max(0.0, time.monotonic() - self._begun_at - self._worked_s - self._rested_s)

    def hurry(self) -> None:
        self._hurried.set()

    def rest(self, worked_s: float = 0.0) -> None:
        """For as long as the work since it last rested asks for: this thread's, and ``worked_s`` of another."""
        if self._looked_at_s is not None:
            worked_s += time.thread_time() - self._looked_at_s
        self._worked_s += worked_s
        began_at = time.monotonic()
        self._hurried.wait(worked_s * (1 / self._share - 1))
        self._rested_s += time.monotonic() - began_at
        self._looked_at_s = time.thread_time()

    def pieces(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The same bytes; rests before each piece."""
        for chunk in chunks:
            view = memoryview(chunk)
            for first in range(0, len(view), _PIECE_BYTES):
                self.rest()
                yield view[first : first + _PIECE_BYTES]


def encoded(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors file of ``tensors``, in pieces that are good until the next is asked for.

    No metadata, the widest dtype first and names in order: equal tensors have equal bytes, however they lie in memory.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        value = tensors[name]
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _DTYPES[value.dtype][0], "shape": list(value.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    few: list[bytes] = [len(head).to_bytes(8, "little"), head]
    for name in names:
        for data in _bytes_of(tensors[name]):
            if len(data) < _FEW_BYTES:
                few.append(bytes(data))
            if len(data) >= _FEW_BYTES or sum(map(len, few)) >= _FEW_BYTES:
                yield b"".join(few)
                few = []
            if len(data) >= _FEW_BYTES:
                yield data
    yield b"".join(few)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a value that is not finite."""
    for name, value in ((name, value.detach()) for name, value in tensors.items()):
        if not value.is_floating_point() or math.isfinite(float(value.sum())):
            continue  # one pass and no memory; a sum that overflows is looked at again
        if not bool(torch.isfinite(value).all()):
            return name
    return None


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def _bytes_of(value: Tensor) -> Iterator[memoryview]:
    """Its bytes in the order of its axes, some of the first axis at a time: laying them out takes new memory and time."""
    if not value.numel():
        return
    plain: Any = np.atleast_1d(value.detach().cpu().view(_DTYPES[value.dtype][1]).numpy())
    num = max(1, _PIECE_BYTES * len(plain) // plain.nbytes)
    for first in range(0, len(plain), num):
        part: Any = np.ascontiguousarray(plain[first : first + num])
        yield memoryview(part).cast("B")
