"""From Addresses to tensors: pictures of one split, decoded ahead by worker processes.

What a batch holds is a function of the Addresses, the seed and the files; the number of workers cannot change a bit.
torch is imported when the first batch is put together, so that the workers decode while the caller still imports it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hubtool.core.seeds import Address
from hubtool.data.crops import frame_of
from hubtool.data.kept import Kept
from hubtool.data.pool import Pool, slots_for
from hubtool.data.worker import Request, raise_error
from hubtool.records.backbone import Preprocess
from hubtool.records.dataset import Sample

if TYPE_CHECKING:
    import torch


class ImageLoader:
    """The pictures of ``samples``, an index into them being an Address's ``index``.

    ``Address(purpose="plain")`` is preprocessing alone, any other purpose draws ``policy`` at that address. ``kept`` may hold
    plain pixels of an earlier decoding. ``load`` may be called again and again; a new call drops what the last one still
    had ahead. Close it in the end.
    """

    def __init__(
        self,
        root: Path,
        samples: tuple[Sample, ...],
        *,
        preprocess: Preprocess,
        policy: str,
        seed: int,
        num_workers: int,
        kept: Kept | None = None,
    ) -> None:
        self._root = root
        self._samples = samples
        self._preprocess = preprocess
        self._frame = frame_of(preprocess)
        self._policy = policy
        self._seed = seed
        # a worker costs what twenty small pictures do; how many there are changes no byte
        self._num_workers = min(num_workers, len(samples) // 8)
        self.num_ahead = slots_for(self._num_workers, self._frame.size_bytes)
        self._kept = kept if kept and kept.frame == self._frame else None
        self._pool: Pool | None = None
        self._round = 0

    @property
    def num_samples(self) -> int:
        return len(self._samples)

    def load(self, batches: Iterable[Sequence[Address]]) -> Iterator[torch.Tensor]:
        """x_BCHW float32 of each batch in order; decoding starts with this call, not with the first ``next``.

        Raises DataError (E-DATA-CHANGED) for a picture that is not the indexed one any more.
        """
        if self._pool is not None:
            self._pool.forget()
        self._round += 1
        ahead = _Ahead(self, iter(batches))
        ahead.fill()
        return self._batches(ahead, self._round)

    def _batches(self, ahead: _Ahead, round_: int) -> Iterator[torch.Tensor]:
        frame = self._frame
        while (batch := ahead.next_batch()) is not None:
            pixels_BHWC = np.empty((len(batch), frame.height, frame.width, frame.in_chans), np.uint8)
            for row, address in zip(pixels_BHWC, batch, strict=True):
                if round_ != self._round:
                    raise RuntimeError("load() was called again: this iterator has ended")
                ahead.take_into(row, address)
            from hubtool.data.transforms import normalize

            yield normalize(pixels_BHWC, self._preprocess)

    @property
    def pool(self) -> Pool:
        """The workers, started when a picture has to be decoded for the first time."""
        if self._pool is None:
            self._pool = Pool(self._num_workers, slot_bytes=self._frame.size_bytes, num_slots=self.num_ahead)
        return self._pool

    def kept_pixels(self, address: Address) -> memoryview | None:
        """What need not be decoded again."""
        if self._kept is None or self._policy_at(address):
            return None
        return self._kept.get(self._samples[address.index].sha256)

    def _policy_at(self, address: Address) -> str | None:
        return None if address.purpose == "plain" or self._policy == "none" else self._policy

    def request(self, address: Address) -> Request:
        sample, policy = self._samples[address.index], self._policy_at(address)
        seed = address.seed(self._seed) if policy else 0
        return ["pixels", str(self._root / str(sample.path)), sample.sha256, self._frame, policy, seed]

    def where(self, address: Address) -> str:
        return str(self._samples[address.index].path)

    def close(self) -> None:
        """End the workers. May be called twice."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class _Ahead:
    """The pictures that are asked for already, as far as there is room: each with its kept pixels, or None for the pool's."""

    def __init__(self, loader: ImageLoader, batches: Iterator[Sequence[Address]]) -> None:
        self._loader = loader
        self._batches = batches
        self._known: deque[Sequence[Address]] = deque()
        self._asking: Iterator[Address] = iter(())
        self._asked: deque[memoryview | None] = deque()
        self._is_over = False

    def fill(self) -> None:
        while len(self._asked) < self._loader.num_ahead:
            address = next(self._asking, None)
            if address is not None:
                pixels = self._loader.kept_pixels(address)
                if pixels is None:
                    self._loader.pool.submit(self._loader.request(address))
                self._asked.append(pixels)
            elif not self._ask_next():
                return

    def _ask_next(self) -> bool:
        batch = None if self._is_over else next(self._batches, None)
        if batch is None:
            self._is_over = True
            return False
        self._known.append(batch)
        self._asking = iter(batch)
        return True

    def next_batch(self) -> Sequence[Address] | None:
        self.fill()
        return self._known.popleft() if self._known else None

    def take_into(self, row: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], address: Address) -> None:
        pixels = self._asked.popleft()
        if pixels is None:
            found, pixels = self._loader.pool.take()
            raise_error(found, self._loader.where(address))
        row[...] = np.frombuffer(pixels, np.uint8, row.size).reshape(row.shape)
        self.fill()
