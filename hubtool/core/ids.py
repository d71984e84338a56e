"""Names that come from outside, validated once at the border; deeper code trusts the type.

Each type is a ``str`` that can only be made from a valid spelling; paths and URLs are built from these alone.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Self

from hubtool.core.errors import SecurityError

# Letters, digits, '.', '_', '-'; at most 96 characters in all: the rule of the Hugging Face Hub.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_MAX_REPO_ID = 96
_HEX40 = re.compile(r"[0-9a-f]{40}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
# git check-ref-format's rules, and nothing that a shell, a URL or Windows would read otherwise.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
_MAX_PATH = 1024
_MAX_DEPTH = 32
_WINDOWS_NAMES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}


class RepoId(str):
    """``OWNER/NAME`` of a repository on a hub."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        owner, slash, name = text.partition("/")
        if (
            not slash
            or len(text) > _MAX_REPO_ID
            or any(not _NAME.fullmatch(part) or ".." in part or "--" in part for part in (owner, name))
            or name.endswith((".git", ".ipynb"))
        ):
            raise SecurityError(
                "E-REF-INVALID",
                f"{text!a} is no repository name",
                do=f"write OWNER/NAME in letters, digits, '.', '_', '-' ({_MAX_REPO_ID} characters at most)",
            )
        return super().__new__(cls, text)

    @property
    def owner(self) -> str:
        return self.partition("/")[0]

    @property
    def name(self) -> str:
        return self.partition("/")[2]


class CommitSha(str):
    """A git commit: 40 lower-case hex digits."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _HEX40.fullmatch(text):
            raise SecurityError("E-HUB-BADOID", f"{text!a} is no commit", do="40 hex digits are expected")
        return super().__new__(cls, text)


class Oid(str):
    """The id of stored bytes: a sha256 (64 lower-case hex digits)."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _HEX64.fullmatch(text):
            raise SecurityError("E-HUB-BADOID", f"{text!a} is no sha256", do="64 hex digits are expected")
        return super().__new__(cls, text)


class Revision(str):
    """A branch, tag or commit, by git's rules for names."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if (
            not _REVISION.fullmatch(text)
            or len(text) > 200
            or ".." in text
            or "//" in text
            or any(part.startswith(".") or part.endswith((".lock", ".")) for part in text.split("/"))
            or text.endswith("/")
        ):
            raise SecurityError("E-REF-INVALID", f"{text!a} is no revision", do="write a branch, tag or commit")
        return super().__new__(cls, text)


class RepoPath(str):
    """A file inside a repository: relative, ``/`` between the parts, no part that a file system reads otherwise."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        parts = text.split("/")
        if (
            not text
            or len(text.encode("utf-8", "surrogatepass")) > _MAX_PATH
            or len(parts) > _MAX_DEPTH
            or any(_is_bad_part(part) for part in parts)
            or unicodedata.normalize("NFC", text) != text
        ):
            raise SecurityError("E-PATH-INVALID", f"{text[:200]!a} is no path inside a repository")
        return super().__new__(cls, text)


def _is_bad_part(part: str) -> bool:
    lower = part.lower()
    return (
        part in ("", ".", "..")
        or len(part.encode("utf-8", "surrogatepass")) > 255
        or lower in (".git", "git~1")
        or lower.split(".")[0] in _WINDOWS_NAMES
        or part.endswith((" ", "."))
        or any(ord(c) < 32 or ord(c) == 127 or c in '\\:*?"<>|' or _is_invisible(c) for c in part)
    )


def _is_invisible(char: str) -> bool:
    """Bidirectional marks, zero-width characters and lone surrogates: they make two names look alike."""
    return ord(char) > 127 and unicodedata.category(char) in ("Cf", "Cs", "Co", "Cc")


def case_twins(paths: list[str]) -> tuple[str, str] | None:
    """The first two paths that one file system would take for the same, or ``a`` beside ``a/b``."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen:
            return seen[folded], path
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in seen:
                return seen[parent], path
    return None
