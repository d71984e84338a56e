"""What the upkeep of a hub reports."""

from __future__ import annotations

from typing import Literal

from hubtool.records.strict import Record


class HubFinding(Record):
    """One thing that is damaged or missing. ``where`` names the repository, object or file."""

    kind: Literal["object", "git", "pointer", "accounts"]
    where: str
    what: str


class FsckReport(Record):
    """``is_clean`` when every object has its digest, every ref and every pointer leads to whole bytes."""

    num_repos: int
    num_objects: int
    size_bytes: int
    findings: tuple[HubFinding, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not self.findings


class GcReport(Record):
    num_objects: int
    freed_bytes: int
    num_kept: int


class BackupReport(Record):
    directory: str
    num_repos: int
    num_objects: int
    size_bytes: int


class HubToken(Record):
    """A token without its text, which is shown once when it is made. Times in seconds since 1970."""

    id: str
    user: str
    access: str
    label: str
    created_at: float
    expires_at: float | None
    is_live: bool
