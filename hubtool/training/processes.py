"""The processes of a run. One alone is the common case; several share out the micro-batches of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """``rank`` 0 writes. ``sum_up`` adds gradients and a number over the processes; the sum is the same in each."""

    @property
    def rank(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    def sum_up(self, parameters: Sequence[Tensor], number: float) -> float: ...

    def average_buffers(self, buffers: Sequence[Tensor]) -> None: ...


class Alone:
    """One process: there is nothing to exchange."""

    rank = 0
    num_processes = 1

    def sum_up(self, parameters: Sequence[Tensor], number: float) -> float:
        return number

    def average_buffers(self, buffers: Sequence[Tensor]) -> None:
        pass
