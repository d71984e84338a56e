"""A Feed from the cache: what nobody has computed yet is computed once, before the epoch that asks for it."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from hubtool.core.errors import ConflictError, StorageError
from hubtool.core.locks import hold
from hubtool.core.progress import Reporter
from hubtool.core.seeds import Address
from hubtool.records.dataset import Sample
from hubtool.records.evidence import Array
from hubtool.training.cache import FLUSH_BYTES, Activations, make_room
from hubtool.training.feed import Features, LiveFeed
from hubtool.training.order import Draw, MicroBatch


class CachedFeed:
    """Features from the cache; what is not there yet is computed when an epoch is prepared.

    ``watch`` is called between chunks and may raise. Where the cache cannot be used (too little space, a disk that is full,
    rows that are not the live ones bit for bit) the features are computed live, and that is said once.
    ``is_shared``: the processes of one run fill it together, each with the rows of its own micro-batches.
    """

    def __init__(
        self,
        live: LiveFeed,
        cache: Activations,
        samples: Sequence[Sample],
        *,
        seed: int,
        policy: str,
        limit_bytes: int | None,
        watch: Callable[[], None],
        reporter: Reporter,
        is_shared: bool = False,
    ) -> None:
        self._live = live
        self._kept: Activations | None = cache
        self._samples = samples
        self._draws = f"{policy}/{seed}"
        self._limit_bytes = limit_bytes
        self._watch = watch
        self._reporter = reporter
        self._is_shared = is_shared
        self._has_told = False
        self._rows: dict[Draw, Array] = {}  # of each sample under a draw its row in the cache, or -1

    def prepare(self, batches: Iterable[MicroBatch]) -> None:
        """Compute and keep what these micro-batches need and nobody has computed."""
        cache = self._cache
        if cache is None:
            return
        lacking = (batch for batch in batches if self._rows_of(batch).min() < 0)
        wanted = dict.fromkeys(a for batch in lacking for a in batch.addresses if self._table(batch.draw)[a.index] < 0)
        if not wanted:
            return
        try:
            self._ensure(cache, list(wanted))
        except (StorageError, ConflictError) as error:
            self._give_up(str(error))

    def features(self, batches: Iterable[MicroBatch]) -> Iterator[Features]:
        left = iter(batches)
        for batch in left:
            cache = self._cache
            if cache is None:
                yield from self._live.features(itertools.chain([batch], left))
                return
            rows = self._rows_of(batch)
            if rows.min() < 0:
                raise LookupError("a batch that was not prepared")
            if cache.forget_damaged(rows):
                yield self._again(batch)
            else:
                yield self._live.placed(cache.read(rows))

    def _again(self, batch: MicroBatch) -> Features:
        """Compute a batch live, some of whose kept rows are damaged; before the next epoch they are kept anew."""
        self._tell_damage()
        self._table(batch.draw)[list(batch.samples)] = -1
        return next(iter(self._live.at([batch.addresses])))

    def _table(self, draw: Draw) -> Array:
        if draw not in self._rows:
            self._rows[draw] = np.full(len(self._samples), -1, np.int64)
        return self._rows[draw]

    def _rows_of(self, batch: MicroBatch) -> Array:
        return self._table(batch.draw)[list(batch.samples)]

    def _tell_damage(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._reporter.warn("kept features were damaged on the disk, they are computed again")

    @property
    def _cache(self) -> Activations | None:
        """None where features are computed live."""
        return None if self._kept is None or self._kept.is_dead else self._kept

    def name(self, address: Address) -> bytes:
        """What a row is of: the picture's content and, if it is augmented, the draw."""
        draw = "plain" if address.purpose == "plain" else f"{self._draws}/{address.step}/{address.index}"
        return hashlib.sha256(f"{self._samples[address.index].sha256}/{draw}".encode()).digest()

    def _ensure(self, cache: Activations, wanted: list[Address]) -> None:
        names = [self.name(address) for address in wanted]
        is_old = [row is not None and row < cache.num_old for row in cache.rows(names)]
        old = list(itertools.compress(wanted, is_old))
        chosen = self._sample(old or wanted)
        known = [row for row in cache.rows(map(self.name, chosen)) if row is not None]
        if known and cache.forget_damaged(known):
            self._tell_damage()
        if None in cache.rows(names) and self._is_shared:
            self._fill_together(cache, names, wanted)
        elif None in cache.rows(names):
            with self._held(cache):
                cache.write(self._computed(self._missing(cache, names, wanted)))
        if not cache.is_checked or (old and not cache.is_old_checked):
            self._check(cache, chosen)
            cache.is_old_checked |= bool(old)
        rows = cache.rows(names)
        if None in rows:
            raise ConflictError("E-CACHE-GONE", "some of the kept features are missing")
        for address, row in zip(wanted, rows, strict=True):
            self._table((address.purpose, address.step))[address.index] = row

    def _missing(self, cache: Activations, names: list[bytes], wanted: list[Address]) -> list[tuple[bytes, Address]]:
        """What nobody has computed yet; room is made for it."""
        cache.refresh()
        known = dict(zip(names, cache.rows(names), strict=True))
        missing = list({n: a for n, a in zip(names, wanted, strict=True) if known[n] is None}.items())
        make_room(cache, len(missing) * cache.row_bytes, self._limit_bytes)
        return missing

    def _fill_together(self, cache: Activations, names: list[bytes], wanted: list[Address]) -> None:
        """Compute without the lock and take it for each block that is written."""
        computed = self._computed(self._missing(cache, names, wanted))
        num_chunks = max(1, FLUSH_BYTES // (cache.row_bytes * self._live.micro_size))
        while block := list(itertools.islice(computed, num_chunks)):
            with self._held(cache):
                cache.refresh()
                cache.write(block)

    @contextmanager
    def _held(self, cache: Activations) -> Iterator[None]:
        """Hold the cache's lock; while another run fills it, wait: it computes the same."""
        with ExitStack() as stack:
            for attempt in itertools.count():
                try:
                    stack.enter_context(hold(cache.directory / ".lock", "the activation cache"))
                    break
                except ConflictError as error:
                    if attempt == 0:
                        self._reporter.say(f"waiting for another run that computes the same features ({error.what})")
                self._watch()
                time.sleep(0.2)
            yield

    def _computed(self, missing: list[tuple[bytes, Address]]) -> Iterator[tuple[Sequence[bytes], Features]]:
        size = self._live.micro_size
        chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
        with self._reporter.task("frozen part, once", total=len(missing), unit="picture") as bar:
            batches = ([address for _, address in chunk] for chunk in chunks)
            for chunk, features in zip(chunks, self._live.at(batches), strict=True):
                yield [name for name, _ in chunk], features
                bar.advance(len(chunk))
                self._watch()

    def _sample(self, wanted: list[Address]) -> list[Address]:
        """One batch of them from everywhere."""
        size = self._live.micro_size
        stride = max(1, len(wanted) // size)
        return wanted[::-1][::stride][:size]

    def _check(self, cache: Activations, chosen: list[Address]) -> None:
        """Compute one batch of rows again, in other company, and compare every bit."""
        cache.is_checked = True
        live = next(iter(self._live.at([chosen])))
        rows = [row for row in cache.rows(map(self.name, chosen)) if row is not None]
        cached = self._live.placed(cache.read(rows))
        if not all(torch.equal(a, b) for a, b in zip(live, cached, strict=True)):
            cache.remove()
            raise ConflictError("E-CACHE-BITS", "cached features are not the live ones bit for bit")

    def _give_up(self, reason: str) -> None:
        self._kept = None
        self._reporter.warn(f"the frozen part is computed in every epoch: {reason}")
