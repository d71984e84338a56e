"""evidence/seeds.json: what the same recipe gives with other seeds, and how far a further training may therefore lie off."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.claims import Claim
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/seeds/v1"] = "hubtool/seeds/v1"
SEEDS_NAME = "evidence/seeds.json"
MIN_RUNS = 3
# Student's t at 97.5 % by degrees of freedom; beyond them the normal value is at most 4 % too small.
_T: tuple[float, ...] = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_T += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True, kw_only=True)
class Band:
    """A metric over ``num`` seeds: its mean and sample standard deviation."""

    mean: float
    sd: float
    num: int

    def tolerance(self, value: float) -> float:
        """How far from ``value`` a training with one more seed lies in 19 of 20 cases: the 95 % prediction interval of a
        normal sample, seen from the claimed value."""
        t = _T[self.num - 2] if self.num - 2 < len(_T) else 1.96
        return abs(value - self.mean) + t * self.sd * math.sqrt(1 + 1 / self.num)


class SeedRun(Record):
    seed: int
    metrics: dict[str, float]


class Seeds(Record):
    """The recipe trained with several seeds, all else equal; the first is the claimed run itself."""

    schema_: Annotated[Literal["hubtool/seeds/v1"], Field(alias="schema")] = SCHEMA
    split: str
    runs: Annotated[tuple[SeedRun, ...], Field(min_length=1)]

    def band(self, metric: str) -> Band | None:
        """None for fewer than three seeds, a metric that not every one has, and one that is the same in all."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if len(values) < max(MIN_RUNS, len(self.runs)) or len(set(values)) == 1:
            return None
        return Band(mean=statistics.fmean(values), sd=statistics.stdev(values), num=len(values))


def banded(claims: tuple[Claim, ...], seeds: Seeds | None) -> tuple[Claim, ...]:
    """The claims with their band as the tolerance where there is one."""
    if seeds is None:
        return claims
    found = []
    for claim in claims:
        band = seeds.band(claim.metric)
        tolerance = claim.tolerance if band is None else band.tolerance(claim.value)
        found.append(claim.model_copy(update={"tolerance": tolerance}))
    return tuple(found)
