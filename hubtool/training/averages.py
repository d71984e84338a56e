"""EMA: an exponential average of the trained tensors, which is then what is evaluated, claimed and packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Averages:
    """Averages of ``tensors`` (live references) with ``decay``; 0 keeps none. What is not floating point is copied.

    The decay of a step is ``min(decay, (1 + step) / (10 + step))``, so that the beginning does not weigh for ever
    (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float, restored: Mapping[str, Tensor]) -> None:
        self._live = dict(tensors) if decay else {}
        self._decay = decay
        self._means = {
            name: torch.empty_like(value, requires_grad=False).copy_(restored.get(f"{name}/ema", value).detach())
            for name, value in self._live.items()
        }

    def update(self, global_step: int) -> None:
        with torch.no_grad():
            self._update(global_step)

    def _update(self, global_step: int) -> None:
        decay = min(self._decay, (1 + global_step) / (10 + global_step))
        for name, value in self._live.items():
            if value.is_floating_point():
                self._means[name].lerp_(value.detach(), 1 - decay)
            else:
                self._means[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        return {f"{name}/ema": value for name, value in self._means.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in the model for the block."""
        own = {name: value.detach().clone() for name, value in self._live.items()}
        with torch.no_grad():
            for name, value in self._live.items():
                value.copy_(self._means[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._live.items():
                    value.copy_(own[name])
