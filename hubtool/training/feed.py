"""Pictures → features at the frozen frontier. B pictures of C x H x W; features are tuples of tensors, B first.

``Cut`` is the model in two: ``prefix``, the frozen part, and ``suffix``, what is trained. A model that cannot be cut, or has
nothing frozen before what is trained, is ``Whole``: its prefix is the identity.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hubtool.core.seeds import Address
from hubtool.training.numerics import torch_format
from hubtool.training.order import MicroBatch

Features = tuple[Tensor, ...]
Mix = Callable[[Tensor, MicroBatch], Tensor]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Loader(Protocol):
    """Pictures at addresses, decoded ahead of their use; the order is the caller's."""

    @property
    def num_samples(self) -> int: ...

    def load(self, batches: Iterable[Sequence[Address]]) -> Iterator[Tensor]: ...

    def close(self) -> None: ...


class Cut(Protocol):
    """``key`` names the cut for the cache, ``description`` says it to a person."""

    @property
    def key(self) -> str: ...

    @property
    def description(self) -> str: ...

    def prefix(self, x_BCHW: Tensor) -> Features: ...

    def suffix(self, features: Features, *, training: bool) -> Tensor: ...


class Feed(Protocol):
    """Features of micro-batches. ``prepare`` is told, before an epoch, which ones it will be asked for."""

    def prepare(self, batches: Iterable[MicroBatch]) -> None: ...

    def features(self, batches: Iterable[MicroBatch]) -> Iterator[Features]: ...


class Whole:
    """The uncut model. Its modes are those it was handed in with; evaluation changes them and puts them back."""

    key = "whole"

    def __init__(self, model: Any, reason: str) -> None:
        self.description = f"not cut: {reason}"
        self._model = model
        self._modes = {module: module.training for module in model.modules()}
        self._is_training = True

    def prefix(self, x_BCHW: Tensor) -> Features:
        return (x_BCHW,)

    def suffix(self, features: Features, *, training: bool) -> Tensor:
        if training != self._is_training:
            for module, mode in self._modes.items():
                module.training = training and mode
            self._is_training = training
        return self._model(features[0])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The precision of a recipe; fp32 computes as written."""
    if precision == "fp32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(device.type, dtype=_DTYPES[precision])
    return context


def padded(x: Tensor, size: int) -> Tensor:
    """``x`` with rows of zeros up to ``size``: another batch size would change the last bits of a row."""
    if len(x) == size:
        return x
    return torch.cat([x, x.new_zeros((size - len(x), *x.shape[1:]))])


class LiveFeed:
    """Decodes and runs the prefix each time. ``mix`` blends the pictures of a micro-batch before it."""

    def __init__(
        self,
        loader: Loader,
        cut: Cut,
        *,
        micro_size: int,
        device: torch.device,
        precision: str = "fp32",
        memory_format: str = "contiguous",
        mix: Mix | None = None,
    ) -> None:
        self._loader = loader
        self._cut = cut
        self.micro_size = micro_size
        self._device = device
        self._precision = precision
        self._format = torch_format(memory_format)
        self._mix = mix

    def prepare(self, batches: Iterable[MicroBatch]) -> None:
        pass

    def features(self, batches: Iterable[MicroBatch]) -> Iterator[Features]:
        under_way: deque[MicroBatch] = deque()

        def addresses() -> Iterator[Sequence[Address]]:
            for batch in batches:
                under_way.append(batch)
                yield batch.addresses

        for loaded_BCHW in self._loader.load(addresses()):
            batch = under_way.popleft()
            x_BCHW = self._moved(loaded_BCHW)
            yield self.prefix(self._mix(x_BCHW, batch) if self._mix else x_BCHW)

    def at(self, batches: Iterable[Sequence[Address]]) -> Iterator[Features]:
        """The same for plain lists of addresses; nothing is mixed."""
        for x_BCHW in self._loader.load(batches):
            yield self.prefix(self._moved(x_BCHW))

    def placed(self, features: Features) -> Features:
        """Kept features where and how the live ones lie: another layout would be another kernel and other bits."""
        return tuple(self._laid_out(self._moved(f)) for f in features)

    def _moved(self, x: Tensor) -> Tensor:
        """On the device. To a GPU from pinned memory, without waiting for the copy: only from there does it run beside work."""
        if self._device.type == "cuda":
            x = x.pin_memory()
        return x.to(self._device, non_blocking=True)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._format) if x.ndim == 4 else x.contiguous()

    def prefix(self, x_BCHW: Tensor) -> Features:
        """In the one fixed shape, so that a row does not depend on how many stand beside it."""
        with torch.no_grad(), autocast(self._device, self._precision):
            features = self._cut.prefix(self._laid_out(padded(x_BCHW, self.micro_size)))
        return tuple(self._laid_out(f[: len(x_BCHW)]) for f in features)
