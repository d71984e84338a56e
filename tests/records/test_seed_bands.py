"""How far one more seed may lie off."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.records.claims import Claim
from hubtool.records.seed_bands import Band, SeedRun, Seeds, banded


def seeds_of(*values: float) -> Seeds:
    return Seeds(split="val", runs=tuple(SeedRun(seed=i, metrics={"top1": v}) for i, v in enumerate(values)))


def claim_of(value: float) -> Claim:
    return Claim(
        metric="top1", split="val", value=value, tolerance=0.25, num_samples=9, evidence="e", evidence_sha256="0" * 64
    )


def test_by_hand() -> None:
    band = seeds_of(0.8, 0.9, 1.0).band("top1")
    assert band is not None
    assert (band.mean, band.sd, band.num) == (pytest.approx(0.9), pytest.approx(0.1), 3)
    assert band.tolerance(0.8) == pytest.approx(0.1 + 4.303 * 0.1 * (4 / 3) ** 0.5)
    [claim] = banded((claim_of(0.8),), seeds_of(0.8, 0.9, 1.0))
    assert claim.tolerance == band.tolerance(0.8)


@pytest.mark.parametrize("values", [(0.8,), (0.8, 0.9), (0.9, 0.9, 0.9)])
def test_where_there_is_no_band_the_tolerance_stays(values: tuple[float, ...]) -> None:
    assert seeds_of(*values).band("top1") is None
    assert banded((claim_of(0.8),), seeds_of(*values)) == (claim_of(0.8),) == banded((claim_of(0.8),), None)
    assert seeds_of(0.8, 0.9, 1.0).band("loss") is None


@pytest.mark.parametrize("num", [3, 6, 40])
def test_it_holds_one_more_seed_in_19_of_20_cases_about_the_mean(num: int) -> None:
    """The half width about the mean; about a claimed value, which lies off it, the tolerance holds more."""
    draws = np.random.default_rng(0).normal(size=(6000, num + 1))
    held = 0
    for row in draws:
        mean = float(row[:num].mean())
        band = Band(mean=mean, sd=float(row[:num].std(ddof=1)), num=num)
        held += abs(row[num] - mean) <= band.tolerance(mean)
    assert held / len(draws) == pytest.approx(0.95, abs=0.012)
