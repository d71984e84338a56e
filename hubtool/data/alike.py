"""Which pictures are likely the same one under another encoding, size or EXIF: a difference hash, then the grey levels.

Of the 9 x 9 grey levels of ``looks``, neighbours are compared to the right and downwards: 64 places, two directions, and a
bit each for "rises" and "falls" by more than ``STEP`` levels, 256 bits. Even areas set none, so that noise of an encoder is
no difference there. Two pictures are likely one when of the bits set in either at most ``LIMIT`` differ (the Hamming distance
over the bits in the union), and their levels differ by at most ``LEVELS_LIMIT`` of their contrast (root mean square over
standard deviation): by the hash alone two handwritten digits of one class can be one. What sets fewer than ``MIN_BITS`` bits
is too even to be told apart and is compared with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.core.progress import Reporter
from hubtool.data.looks import SIDE, SIZE_BYTES, Looks
from hubtool.data.pool import Pool, slots_for

Array = np.ndarray[Any, np.dtype[Any]]

STEP = 4
MIN_BITS = 16
LIMIT = 0.2
LEVELS_LIMIT = 0.15


@dataclass(frozen=True, slots=True)
class Alike:
    """``distance`` is the share of differing bits; both are named by their sha256, which are never equal."""

    first: str
    second: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """N pictures that can be told apart: names, levels_NL, bits_NW (four words of 64), the number of bits set, by which they
    are sorted."""

    names: tuple[str, ...]
    levels_NL: Array
    bits_NW: Array
    counts_N: Array
    num_even: int


def hashed(looks: Mapping[str, bytes]) -> Hashed:
    """``looks`` by sha256. ``num_even`` counts those that are too even."""
    names = sorted(looks)
    levels_NL = np.frombuffer(b"".join(looks[name] for name in names), np.uint8).reshape(len(names), SIZE_BYTES)
    t_NYX = levels_NL.reshape(-1, SIDE, SIDE).astype(np.int16)
    right, down = t_NYX[:, :-1, 1:] - t_NYX[:, :-1, :-1], t_NYX[:, 1:, :-1] - t_NYX[:, :-1, :-1]
    bits = np.stack([right > STEP, right < -STEP, down > STEP, down < -STEP], axis=1).reshape(len(names), 256)
    counts = bits.sum(1)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] >= MIN_BITS]
    return Hashed(
        names=tuple(names[i] for i in order),
        levels_NL=levels_NL[order].astype(np.float32),
        bits_NW=np.packbits(bits[order], axis=1).view(np.uint64).reshape(-1, 4),
        counts_N=counts[order],
        num_even=len(names) - len(order),
    )


def nearest(ours: Hashed, theirs: Hashed, *, advance: Callable[[float], None]) -> list[Alike]:
    """For each of ours the likeliest other picture among theirs, where there is one. ``advance`` hears of each of ours."""
    found = []
    for name, levels_L, bits_W, count in zip(ours.names, ours.levels_NL, ours.bits_NW, ours.counts_N, strict=True):
        # With a share of LIMIT at most, neither can have many more bits than the other.
        low, high = np.searchsorted(theirs.counts_N, [count * (1 - LIMIT), count / (1 - LIMIT) + 1])
        near = _near(levels_L, bits_W, theirs, slice(int(low), int(high)))
        others = [(distance, other) for distance, other in near if other != name]
        if others:
            distance, other = min(others)
            found.append(Alike(name, other, distance))
        advance(1)
    return found


def _near(levels_L: Array, bits_W: Array, theirs: Hashed, part: slice) -> list[tuple[float, str]]:
    bits_MW = theirs.bits_NW[part]
    differing = np.bitwise_count(bits_MW ^ bits_W).sum(1, dtype=np.int64)
    shares = differing / np.bitwise_count(bits_MW | bits_W).sum(1, dtype=np.int64)
    at = np.flatnonzero(shares <= LIMIT)
    levels_ML = theirs.levels_NL[part][at]
    apart = np.sqrt(np.square(levels_ML - levels_L).mean(1))
    is_near = apart <= LEVELS_LIMIT * np.maximum(levels_L.std(), levels_ML.std(1))
    return [(float(shares[i]), theirs.names[part.start + int(i)]) for i in at[is_near]]


def look_through(
    root: Path, paths: Sequence[str], *, in_chans: int, num_workers: int, reporter: Reporter
) -> tuple[Looks, dict[str, str]]:
    """The looks of the files below ``root`` and path → sha256; what is gone or damaged is left out."""
    looks, sha256_of = Looks(), {}
    num_workers = min(num_workers, len(paths) // 8)
    with (
        Pool(num_workers, slot_bytes=SIZE_BYTES, num_slots=slots_for(num_workers, SIZE_BYTES)) as pool,
        reporter.task("looking for copies", len(paths), "pictures") as bar,
    ):
        position = 0
        for path in paths:
            while position < len(paths) and pool.num_waiting < pool.capacity:
                pool.submit(["check", str(root / paths[position]), in_chans, None, True])
                position += 1
            found, slot = pool.take()
            if "error" not in found and not found.get("bad"):
                looks.add(found["sha256"], slot)
                sha256_of[path] = found["sha256"]
            bar.advance()
    return looks, sha256_of
