"""Which samples form micro-batch m of step s: a pure function of (seed, number of samples, batch size).

A step is one optimizer update over ``batch_size`` samples, computed in micro-batches of ``batch_size / grad_accum_steps``.
The micro-batch is the unit of BatchNorm, of mixup's partners and of draws inside modules, whatever process computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hubtool.core.seeds import Address

Draw = tuple[str, int]
PLAIN: Draw = ("plain", 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """``samples`` index the split; ``draw`` says which picture of them is wanted: purpose and step of their addresses."""

    epoch: int
    global_step: int
    index: int
    samples: tuple[int, ...]
    draw: Draw = PLAIN

    @property
    def addresses(self) -> tuple[Address, ...]:
        purpose, step = self.draw
        return tuple(Address(purpose=purpose, step=step, index=sample) for sample in self.samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The order of a whole training. ``policy`` and ``views`` are the recipe's augmentation."""

    num_samples: int
    batch_size: int
    grad_accum_steps: int
    seed: int
    policy: str = "none"
    views: int = 0

    @property
    def micro_size(self) -> int:
        return self.batch_size // self.grad_accum_steps

    @property
    def steps_per_epoch(self) -> int:
        """An incomplete last step counts. A lone last sample does not: no BatchNorm can normalise over one picture,
        and the next epoch's order leaves out another."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + (rest > 1 or full == 0)

    def step(self, global_step: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of one step; sizes of an incomplete step differ by one at most."""
        return _step(self, global_step)

    def steps(self, first: int, end: int, *, rank: int = 0, num_processes: int = 1) -> Iterator[MicroBatch]:
        """The micro-batches of the steps ``first`` up to ``end`` that fall to process ``rank``."""
        for global_step in range(first, end):
            parts = self.step(global_step)
            yield from parts[slice(*share(len(parts), rank, num_processes))]

    def draw(self, epoch: int) -> Draw:
        """What pictures an epoch trains on: a new draw of each in each epoch, or one of K fixed views."""
        if self.policy == "none":
            return PLAIN
        return "augment", epoch % self.views if self.views else epoch

    @property
    def is_fixed(self) -> bool:
        """Whether the same pictures come again, so that what is computed from them may be kept."""
        return self.policy == "none" or self.views > 0


def share(num_parts: int, rank: int, num_processes: int) -> tuple[int, int]:
    """First and end of the micro-batches of a step that a process computes: neighbouring ones, as evenly as it goes."""
    return num_parts * rank // num_processes, num_parts * (rank + 1) // num_processes


def plain_batches(num_samples: int, micro_size: int) -> Iterator[MicroBatch]:
    """Every sample once, in order, plainly preprocessed: for evaluation."""
    for index, first in enumerate(range(0, num_samples, micro_size)):
        samples = tuple(range(first, min(first + micro_size, num_samples)))
        yield MicroBatch(epoch=0, global_step=0, index=index, samples=samples)


@lru_cache(maxsize=512)  # asked for when an epoch is prepared, when it is fed and when it is trained
def _step(plan: Plan, global_step: int) -> tuple[MicroBatch, ...]:
    epoch, step = divmod(global_step, plan.steps_per_epoch)
    order = _order(plan.seed, epoch, plan.num_samples)
    samples = order[step * plan.batch_size : (step + 1) * plan.batch_size]
    num_parts = -(-len(samples) // plan.micro_size)
    return tuple(
        MicroBatch(
            epoch=epoch,
            global_step=global_step,
            index=index,
            samples=part,
            draw=plan.draw(epoch),
        )
        for index, part in enumerate(_parts(samples, num_parts))
    )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_samples: int) -> tuple[int, ...]:
    """Sorted by 64 random bits each. PCG64's raw stream is fixed by numpy's promise, ``permutation`` is not (NEP 19)."""
    bits = np.random.PCG64(Address(purpose="order", step=epoch).seed(seed)).random_raw(num_samples)
    return tuple(np.argsort(bits, kind="stable").tolist())


def _parts(samples: Sequence[int], num_parts: int) -> Iterator[tuple[int, ...]]:
    size, longer = divmod(len(samples), num_parts)
    first = 0
    for part in range(num_parts):
        end = first + size + (part < longer)
        yield tuple(samples[first:end])
        first = end
