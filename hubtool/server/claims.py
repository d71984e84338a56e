"""What a repository claims (result.json) and who made it true again (reproductions/ID.json), as its page shows them.

Both were written by whoever pushed: what is not in its form is left out, and a record that says more than its own
numbers give, or is about another result, does not count. The records are imported with the first page that needs
them: a hub starts without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hubtool.core.errors import HubtoolError

if TYPE_CHECKING:
    from hubtool.records.run import Result

MAX_RESULT_BYTES = 1 << 20
_MAX_CLAIMS = 30
_MAX_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Attempt:
    """One record. ``problem`` says why it does not count; it is empty for one that does."""

    id: str
    path: str
    state: str
    commit: str
    device: str
    weights: str
    problem: str


@dataclass(frozen=True, slots=True)
class Claims:
    """``num_params`` counts parameters alone, as the card does; None without a result."""

    rows: list[dict[str, str]] = field(default_factory=list)
    num_params: int | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """In one line: claimed, or how often reproduced, and how often not."""
        from hubtool.records.reproductions import REPRODUCED

        counted = [attempt for attempt in self.attempts if not attempt.problem]
        num = sum(attempt.state in REPRODUCED for attempt in counted)
        if not counted:
            return "Claimed; nobody has published a reproduction yet."
        of = f" of {len(counted)}" if num < len(counted) else ""
        return f"Reproduced by {num}{of} published {'attempt' if len(counted) == 1 else 'attempts'}."


def read_claims(paths: Iterable[str], read: Callable[[str, int], bytes]) -> Claims:
    """``paths`` are the files of the commit; ``read(path, limit)`` gives one, empty where it is missing or larger."""
    from hubtool.records import reproductions
    from hubtool.records.run import Result

    try:
        result = Result.from_json(read("result.json", MAX_RESULT_BYTES), "result.json")
    except HubtoolError:
        return Claims()
    rows = [
        {
            "name": claim.name,
            "value": f"{claim.value:.4g}",
            "tolerance": f"{claim.tolerance:.2g}",
            "num_samples": f"{claim.num_samples:,}",
        }
        for claim in result.claims[:_MAX_CLAIMS]
    ]
    named = sorted(path for path in paths if reproductions.NAME.fullmatch(path))[:_MAX_ATTEMPTS]
    attempts = [attempt for path in named if (attempt := _attempt(path, read, result)) is not None]
    return Claims(rows, result.num_params, attempts)


def _attempt(path: str, read: Callable[[str, int], bytes], result: Result) -> Attempt | None:
    from hubtool.records import reproductions
    from hubtool.records.reports import Reproduction

    try:
        record = Reproduction.from_json(read(path, reproductions.MAX_BYTES), path)
    except HubtoolError:
        return None
    verdict, record_id = record.verdict, path.removeprefix(f"{reproductions.FOLDER}/").removesuffix(".json")
    problem = reproductions.problem(record, result) if record.id == record_id else "it was changed after it was written"
    return Attempt(
        id=record_id[:8],
        path=path,
        state=verdict.state,
        commit=record.commit[:8],
        device=verdict.measured_numerics.device,
        weights="equal" if verdict.weights_equal else "other" if record.measured_weights_digest else "none",
        problem=problem or "",
    )
