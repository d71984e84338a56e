"""The body of a commit: lines of JSON, of which each is one operation (HUB: ``/api/models/…/commit/main``)."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hubtool.core.errors import HubtoolError, from_os_error
from hubtool.core.ids import CommitSha, Oid, RepoPath, Revision
from hubtool.server.call import Limits
from hubtool.server.commits import Content, Delete, Draft, Operation, Put
from hubtool.server.pointers import Pointer, parse_pointer
from hubtool.server.refusals import Refusal


def _bad(line: int, what: str) -> Refusal:
    return Refusal(400, f"line {line} of the commit: {what}", code="E-HUB-COMMIT")


class CommitParser:
    """Takes lines, writes file contents to a spool file that has no name, and gives a draft. A context manager."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._limits = limits
        self._line = 0
        self._header: dict[str, Any] | None = None
        self._operations: list[Operation] = []
        path = directory / f"spool-{secrets.token_hex(12)}"
        try:
            self._spool: IO[bytes] = path.open("x+b")
            path.unlink()
        except OSError as error:
            raise from_os_error(error, "the commit") from error

    def __enter__(self) -> CommitParser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def feed(self, line: bytes) -> None:
        """One line; raises Refusal 400 that names it."""
        self._line += 1
        if not line.strip():
            return
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if not isinstance(key, str) or not isinstance(value, dict):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _bad(self._line, 'not of the form {"key": …, "value": {…}}') from error
        if key == "header":
            self._read_header(value)
            return
        if self._header is None:
            raise _bad(self._line, "the header must come first")
        if len(self._operations) >= self._limits.commit_operations:
            raise Refusal(413, f"More than {self._limits.commit_operations} operations", code="E-HUB-COUNT")
        self._operations.append(self._operation(key, value))

    def _read_header(self, value: dict[str, Any]) -> None:
        if self._header is not None:
            raise _bad(self._line, "a second header")
        for key in ("summary", "description", "parentCommit"):
            if not isinstance(value.get(key), str | None):
                raise _bad(self._line, f"{key} must be a text")
        self._header = value

    def _operation(self, key: str, value: dict[str, Any]) -> Operation:
        path = value.get("path")
        if not isinstance(path, str):
            raise _bad(self._line, "path must be a text")
        try:
            if key == "file":
                return Put(RepoPath(path), self._content(value), self._line)
            if key == "lfsFile":
                return Put(RepoPath(path), self._pointer(value), self._line)
            if key in ("deletedFile", "deletedFolder", "deletedEntry"):
                return Delete(RepoPath(path.strip("/") if key != "deletedFile" else path.rstrip("/")), self._line)
        except HubtoolError as error:
            status = 422 if error.code == "E-PATH-INVALID" else 400
            raise Refusal(status, f"line {self._line} of the commit: {error}", code=error.code) from error
        raise _bad(self._line, f"there is no operation {key[:40]!r}")

    def _content(self, value: dict[str, Any]) -> Content | Pointer:
        """Where the bytes wait; the text of a pointer is one, and its object must be here like any other's."""
        text, encoding = value.get("content"), value.get("encoding", "base64")
        if not isinstance(text, str) or encoding not in ("base64", "utf-8"):
            raise _bad(self._line, "content must be a text in base64")
        try:
            data = base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
        except (binascii.Error, ValueError) as error:
            raise _bad(self._line, "content is not valid base64") from error
        pointer = parse_pointer(data)
        if pointer is not None:
            return pointer
        try:
            offset = self._spool.seek(0, 2)
            self._spool.write(data)
        except OSError as error:
            raise from_os_error(error, "the commit") from error
        return Content(self._spool, offset, len(data))

    def _pointer(self, value: dict[str, Any]) -> Pointer:
        oid, size = value.get("oid"), value.get("size", -1)
        if value.get("algo", "sha256") != "sha256" or not isinstance(oid, str):
            raise _bad(self._line, "algo must be sha256 and oid a text")
        if not isinstance(size, int) or isinstance(size, bool):
            raise _bad(self._line, "size must be a number")
        return Pointer(Oid(oid), size)

    def draft(self, branch: Revision, author: str) -> Draft:
        """What was read; raises Refusal 400 when the header is missing."""
        if self._header is None:
            raise _bad(max(1, self._line), "the header is missing")
        parent = self._header.get("parentCommit")
        message = (self._header.get("summary") or "").strip() or "update"
        if self._header.get("description"):
            message += f"\n\n{self._header['description']}"
        try:
            parent_sha = CommitSha(parent) if parent else None
        except HubtoolError as error:
            raise _bad(1, "parentCommit is no commit") from error
        return Draft(branch, tuple(self._operations), message, author, parent_sha)

    def with_pointers(self, draft: Draft, size_of: Callable[[Oid], int | None]) -> Draft:
        """Fill in the sizes of large files; raises Refusal 400 for one that was not uploaded to this repository."""
        operations: list[Operation] = []
        for op in draft.operations:
            if isinstance(op, Put) and isinstance(op.source, Pointer):
                size = size_of(op.source.oid)
                if size is None:
                    raise _bad(op.line, f"the file {op.path} ({op.source.oid}) was not uploaded to this repository")
                if op.source.size_bytes not in (-1, size):
                    raise _bad(op.line, f"{op.path} has {size} bytes, not {op.source.size_bytes}")
                operations.append(replace(op, source=Pointer(op.source.oid, size)))
            else:
                operations.append(op)
        return replace(draft, operations=tuple(operations))
