"""What a person types to name a backbone or a repository.

Grammar::

    backbone   = SOURCE ":" NAME [ "@" REVISION ]     SOURCE: timm, torchvision, hf, local, bundled
    repository = OWNER "/" NAME [ "@" REVISION ]

Parsing says what was written; filling in defaults (a bare registry name, a tag, a revision) is another function's work.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from hubtool.core.errors import SecurityError, UsageError
from hubtool.core.ids import RepoId, Revision

SOURCES = ("timm", "torchvision", "hf", "local", "bundled")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneRef:
    """``SOURCE:NAME[@REVISION]``; for ``local`` the name is a directory, for ``torchvision`` the revision is a weights name."""

    source: str
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class RepoRef:
    """``OWNER/NAME[@REVISION]`` on some hub."""

    repo_id: RepoId
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id + (f"@{self.revision}" if self.revision else "")


def has_source(text: str) -> bool:
    """Whether ``text`` is written as ``SOURCE:…`` with a word before the colon (``C:\\dir`` is not)."""
    head, colon, _ = text.partition(":")
    return bool(colon) and len(head) > 1 and head.isidentifier()


def parse_backbone_ref(text: str) -> BackboneRef:
    """Parse ``SOURCE:NAME[@REVISION]``.

    Raises UsageError for an unknown source or a missing one, SecurityError for a name that no source can have.
    """
    source, colon, rest = text.partition(":")
    if not colon:
        raise UsageError(
            "E-REF-SOURCE",
            f"{text!a} names no source",
            do=f"write timm:{text} or torchvision:{text}" if _MODEL_NAME.fullmatch(text) else "write SOURCE:NAME",
            hint="sources: " + ", ".join(SOURCES),
        )
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, n=1)
        raise UsageError(
            "E-REF-SOURCE",
            f"unknown source {source!a} in {text!a}",
            do=f"did you mean {near[0]}:{rest}?" if near else "sources: " + ", ".join(SOURCES),
        )
    if source == "local":
        if not rest or "\0" in rest:
            raise UsageError("E-REF-INVALID", "local: names no directory", do="write local:DIRECTORY")
        return BackboneRef(source=source, name=rest)
    name, at, revision = rest.partition("@")
    if at and not revision:
        raise UsageError("E-REF-INVALID", f"{text!a} ends with '@'", do="name a revision after it")
    if source == "hf":
        name = RepoId(name)
    elif not _MODEL_NAME.fullmatch(name) or ".." in name:
        raise SecurityError("E-REF-INVALID", f"{name!a} is no model name", where=ascii(text))
    return BackboneRef(source=source, name=name, revision=Revision(revision) if revision else None)


def parse_repo_ref(text: str) -> RepoRef:
    """Parse ``OWNER/NAME[@REVISION]``; raises SecurityError for what no hub can have."""
    name, at, revision = text.partition("@")
    if at and not revision:
        raise UsageError("E-REF-INVALID", f"{text!a} ends with '@'", do="name a revision after it")
    return RepoRef(repo_id=RepoId(name), revision=Revision(revision) if revision else None)
