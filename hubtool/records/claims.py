"""A claim, and what became of it when somebody ran it again."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import Sha256
from hubtool.records.environment import Difference, Numerics
from hubtool.records.strict import Record

State = Literal["exact", "within tolerance", "not reproduced", "not checkable"]
SHARES = frozenset({"top1", "top5", "balanced_accuracy", "macro_f1", "auroc", "average_precision"})


class Claim(Record):
    """A number that the evidence gives. ``tolerance`` is absolute and fixed at pack time."""

    metric: str
    split: str
    value: Annotated[float, Field(allow_inf_nan=False)]
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_samples: int
    evidence: str
    evidence_sha256: Sha256

    @property
    def name(self) -> str:
        return f"{self.split}/{self.metric}"


def tolerance_of(metric: str, value: float, num_samples: int) -> float:
    """How far a second measurement may lie off.

    Shares: 1.96·sqrt(p(1-p)/n), the half width of a 95 % normal interval, with p kept off 0 and 1 by Laplace's
    (n·p+1)/(n+2), for at p = 1 the plain form would allow no error at all. Other numbers: a tenth of the value.
    """
    if metric in SHARES:
        p = (num_samples * value + 1) / (num_samples + 2)
        return 1.96 * math.sqrt(p * (1 - p) / num_samples)
    return 0.1 * abs(value)


class ClaimVerdict(Record):
    """One claim measured again. ``reason`` says what is missing when it is not checkable."""

    claim: Claim
    measured: float | None
    state: State
    reason: str = ""


class Verdict(Record):
    """The whole comparison. ``exact`` needs the weights digest and every claim equal, on equal Numerics."""

    state: State
    claims: tuple[ClaimVerdict, ...]
    weights_equal: bool
    numerics_differ: tuple[Difference, ...] = ()
    findings: tuple[str, ...] = ()
    claimed_numerics: Numerics
    measured_numerics: Numerics


def judge(claim: Claim, measured: float | None, reason: str = "") -> ClaimVerdict:
    if measured is None:
        return ClaimVerdict(claim=claim, measured=None, state="not checkable", reason=reason)
    if measured == claim.value:
        state: State = "exact"
    else:
        state = "within tolerance" if abs(measured - claim.value) <= claim.tolerance else "not reproduced"
    return ClaimVerdict(claim=claim, measured=measured, state=state)


def overall(
    verdicts: tuple[ClaimVerdict, ...], *, weights_equal: bool, numerics_differ: tuple[Difference, ...]
) -> State:
    """The worst of the claims; ``exact`` only with equal weights on equal Numerics."""
    states = {verdict.state for verdict in verdicts}
    if "not reproduced" in states:
        return "not reproduced"
    if not states or "not checkable" in states:
        return "not checkable"
    if states == {"exact"} and weights_equal and not numerics_differ:
        return "exact"
    return "within tolerance"
