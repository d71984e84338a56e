"""The records of reproductions that lie beside a package, reproductions/ID.json, and which of them count for its result.

A record is named by its own digest; it counts where it is about the very result that is claimed and does not contradict
itself. Nobody signs it: it says what to expect, the way to know is to reproduce.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hubtool.core.errors import HubtoolError, IntegrityError
from hubtool.records.claims import State, judge, overall
from hubtool.records.environment import differences
from hubtool.records.reports import Reproduction
from hubtool.records.run import Result

FOLDER = "reproductions"
NAME = re.compile(r"reproductions/([0-9a-f]{16})\.json")
# What a hub, its client, or a reproduction adds beside a package; its manifest does not list it.
BESIDE = re.compile(rf"\.gitattributes|\.cache/huggingface/.*|{NAME.pattern}")
MAX_BYTES = 1 << 20
REPRODUCED: tuple[State, ...] = ("exact", "within tolerance")

# The better a state, the more a record has to show for it.
_RANK: dict[State, int] = {"exact": 0, "within tolerance": 1, "not checkable": 2, "not reproduced": 3}


def path_of(record_id: str) -> str:
    return f"{FOLDER}/{record_id}.json"


def read(directory: Path, record_id: str) -> Reproduction:
    """The record beside the package in ``directory``. Raises NotFoundError, or IntegrityError for one that was changed."""
    path = directory / path_of(record_id)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise IntegrityError("E-REPRODUCTION", "longer than any record", where=path_of(record_id))
    record = Reproduction.read(path)
    if record.id != record_id:
        raise IntegrityError("E-REPRODUCTION", f"its digest begins with {record.id}", where=path_of(record_id))
    return record


def found(directory: Path) -> tuple[str, ...]:
    """The ids of what lies beside the package in ``directory``, sorted; not yet read."""
    names = (f"{FOLDER}/{path.name}" for path in (directory / FOLDER).glob("*.json") if path.is_file())
    return tuple(sorted(match[1] for name in names if (match := NAME.fullmatch(name))))


def counted(directory: Path, result: Result) -> tuple[str, ...]:
    """The ids of those that count for ``result``."""
    return tuple(record_id for record_id in found(directory) if problem_of(directory, record_id, result) is None)


def problem_of(directory: Path, record_id: str, result: Result) -> str | None:
    """Why the record does not count for ``result``; None where it does."""
    try:
        return problem(read(directory, record_id), result)
    except HubtoolError as error:
        return error.what


def problem(record: Reproduction, result: Result) -> str | None:
    claimed = (result.recipe_digest, result.data_digest, result.backbone_digest, result.weights_digest)
    named = (record.recipe_digest, record.data_digest, record.backbone_digest, record.claimed_weights_digest)
    claims = tuple(one.claim for one in record.verdict.claims)
    if named != claimed or claims != result.claims or record.verdict.claimed_numerics != result.numerics:
        return "it is about another result"
    return contradiction(record)


def contradiction(record: Reproduction) -> str | None:
    """Where the record says more than its own numbers give; None where it does not."""
    verdict = record.verdict
    for one in verdict.claims:
        again = judge(one.claim, one.measured, one.reason)
        if again.state != one.state:
            return f"{one.claim.name} is said to be {one.state}, its numbers give {again.state}"
    is_equal = record.measured_weights_digest == record.claimed_weights_digest
    if verdict.weights_equal != is_equal:
        return f"the weights are said to be {'equal' if verdict.weights_equal else 'other'}, their digests are not"
    if verdict.numerics_differ != differences(verdict.claimed_numerics, verdict.measured_numerics):
        return "the numerics differ otherwise than it says"
    best = overall(verdict.claims, weights_equal=is_equal, numerics_differ=verdict.numerics_differ)
    if best == "exact" and verdict.findings:
        best = "within tolerance"
    return f"it says {verdict.state}, its claims give {best}" if _RANK[verdict.state] < _RANK[best] else None


def tally(records: Iterable[Reproduction]) -> dict[State, int]:
    """State → how many records have it, the best first; states that no record has are left out."""
    numbers = Counter(record.verdict.state for record in records)
    return {state: numbers[state] for state in _RANK if numbers[state]}


def num_reproduced(records: Iterable[Reproduction]) -> int:
    return sum(record.verdict.state in REPRODUCED for record in records)
