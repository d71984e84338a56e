"""Files of a repository: the tree, single files with ranges, and which paths exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from hubtool.core.errors import NotFoundError, SecurityError
from hubtool.core.ids import CommitSha, RepoPath
from hubtool.server.access import Rule
from hubtool.server.answers import INERT, Streamed, disposition, is_unchanged, range_of
from hubtool.server.bodies import read_form
from hubtool.server.call import Call, Route
from hubtool.server.gitdir import Commit, Entry, GitDir
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo

_MAX_PATHS = 1000


def entry_json(entry: Entry, commit: Commit | None = None) -> dict[str, Any]:
    if entry.kind == "tree":
        value: dict[str, Any] = {"type": "directory", "oid": entry.oid, "size": 0, "path": _text(entry.path)}
    else:
        value = {"type": "file", "oid": entry.oid, "size": entry.true_size_bytes, "path": _text(entry.path)}
        if entry.pointer is not None:
            pointer = {"oid": entry.pointer.oid, "size": entry.pointer.size_bytes, "pointerSize": entry.size_bytes}
            value["lfs"] = pointer
    if commit is not None:
        value["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": iso(commit.time)}
    return value


def _text(path: str) -> str:
    """A path that git took but that is no UTF-8 is shown with marks in place of the bad bytes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def get_tree(call: Call) -> Any:
    git = call.repo.git
    sha = git.resolve(call.revision)
    path = call.path if call.params.get("path") else ""
    is_expanded = call.flag("expand")
    entries = git.list_tree(sha, path, is_recursive=call.flag("recursive"))
    start, limit = call.number("cursor", 0, 1 << 40), call.number("limit", 100 if is_expanded else 1000)
    page = entries[start : start + max(1, limit)]
    commits = last_commits(git, sha, page) if is_expanded else {}
    value = [entry_json(entry, commits.get(entry.path)) for entry in page]
    if start + len(page) >= len(entries):
        return value
    return json_page(value, call.next_link(cursor=start + len(page)))


def json_page(value: Any, headers: dict[str, str]) -> Response:
    """One page of a list; ``headers`` lead to the next."""
    return Response(json.dumps(value).encode(), headers=headers, media_type="application/json")


def last_commits(git: GitDir, sha: str, entries: list[Entry]) -> dict[str, Commit]:
    """The commit that last changed each entry (files and folders), found in one walk of the history."""
    from hubtool.server.gitprocess import run_git

    wanted = {entry.path for entry in entries}
    found: dict[str, Commit] = {}
    output = run_git(
        git.path, "log", "--format=%x00%H", "--name-only", "-z", "--no-renames", "--root", "-m", "--max-count=2000", sha
    )
    current = ""
    for chunk in output.split(b"\0"):
        text = chunk.decode("utf-8", "surrogateescape").lstrip("\n")
        if len(text) == 40 and set(text) <= set("0123456789abcdef"):
            current = text
            continue
        parts = text.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in wanted:
                wanted.discard(path)
                found[path] = git.commit(current)
        if not wanted:
            break
    oldest = git.commit(current or sha)
    return found | dict.fromkeys(wanted, oldest)


async def post_paths_info(call: Call) -> Any:
    from starlette.concurrency import run_in_threadpool

    form = await read_form(call.request)
    paths = form.get("paths", [])
    if len(paths) > _MAX_PATHS:
        raise Refusal(413, f"At most {_MAX_PATHS} paths at once", code="E-HUB-COUNT")
    is_expanded = form.get("expand", [""])[0].lower() == "true"
    return await run_in_threadpool(_paths_info, call, paths, is_expanded)


def _paths_info(call: Call, paths: list[str], is_expanded: bool) -> list[dict[str, Any]]:
    git = call.repo.git
    sha = git.resolve(call.revision)
    found = []
    for path in paths:
        try:
            entry = git.entry(sha, RepoPath(path.strip("/")))
        except SecurityError:
            continue  # no file can have that name
        if entry is not None:
            found.append(entry)
    commits = last_commits(git, sha, found) if is_expanded else {}
    return [entry_json(entry, commits.get(entry.path)) | _xet_hash(call, entry) for entry in found]


def _xet_hash(call: Call, entry: Entry) -> dict[str, str]:
    """Told here alone: it is what a client needs to copy between repositories, and plain HTTP is the quicker way to pull."""
    oid = entry.pointer.oid if entry.pointer else None
    is_in_chunks = oid is not None and call.repo.has_object(oid) and call.store.objects.parts(oid) is not None
    return {"xetHash": oid} if oid is not None and is_in_chunks else {}


def resolve(call: Call) -> Response:
    """One file, whole or in part. A missing one still names the commit: clients remember that it is not there."""
    git = call.repo.git
    sha = git.resolve(call.revision)
    try:
        entry = git.entry(sha, call.path)
    except SecurityError:
        entry = None
    if entry is None or entry.kind != "blob":
        path = call.params["path"][:500]
        headers = {"X-Repo-Commit": sha}
        raise Refusal(404, f"Entry not found: {path}", code="E-HUB-ENTRY", hub_code="EntryNotFound", headers=headers)
    return _file_response(call, call.repo, sha, entry)


def _file_response(call: Call, repo: Repo, sha: CommitSha, entry: Entry) -> Response:
    etag = f'"{entry.pointer.oid if entry.pointer else entry.oid}"'
    size_bytes = entry.true_size_bytes
    headers = {
        **INERT,
        "X-Repo-Commit": sha,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": disposition(entry.path.rpartition("/")[2]),
        "Cache-Control": "no-cache" if call.access.settings(repo).visibility == "public" else "private, no-cache",
        "Access-Control-Expose-Headers": "X-Repo-Commit,ETag,X-Linked-Size,X-Linked-ETag",
    }
    if entry.pointer is not None:
        headers |= {"X-Linked-Size": str(size_bytes), "X-Linked-Etag": etag}
        if not repo.has_object(entry.pointer.oid) or not call.store.objects.has(entry.pointer.oid):
            message = "The bytes of this file were never uploaded to this repository"
            raise Refusal(404, message, code="E-HUB-OBJECT", hub_code="EntryNotFound", headers={"X-Repo-Commit": sha})
    if is_unchanged(call.request, etag):
        return Response(None, 304, headers={key: headers[key] for key in ("ETag", "X-Repo-Commit", "Cache-Control")})
    part = range_of(call.request, etag, size_bytes)
    start, stop = part or (0, size_bytes)
    headers["Content-Length"] = str(stop - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    status = 200 if part is None else 206
    if call.request.method == "HEAD":
        return Response(None, status, headers=headers)
    if start == 0 and "X-HF-Download-Counter" in call.request.headers:
        call.store.count_download(repo.kind, repo.id)
    if entry.pointer is not None:
        return Streamed(call.store.objects.spans(entry.pointer.oid, start, stop), status, headers)
    return Streamed(_cut(repo.git.read_blob(entry), start, stop), status, headers)


def _cut(chunks: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    at = 0
    for chunk in chunks:
        piece = chunk[max(0, start - at) : max(0, stop - at)]
        at += len(chunk)
        if piece:
            yield piece
        if at >= stop:
            return


def read_file(call: Call, repo: Repo, sha: str, path: str, limit: int) -> bytes | None:
    """A small file of a commit; None when it is missing, not shown to this repository, or larger than ``limit``."""
    entry = repo.git.entry(sha, path)
    if entry is None or entry.kind != "blob" or entry.true_size_bytes > limit:
        return None
    if entry.pointer is not None and not repo.has_object(entry.pointer.oid):
        return None
    try:
        return b"".join(
            repo.git.read_blob(entry) if entry.pointer is None else call.store.objects.read(entry.pointer.oid)
        )
    except NotFoundError:
        return None


ROUTES = (
    Route(methods=("GET",), path="/api/{kind}/{owner}/{name}/tree/{rev}", rule=Rule.READ, endpoint=get_tree),
    Route(
        methods=("GET",), path="/api/{kind}/{owner}/{name}/tree/{rev}/{path:path}", rule=Rule.READ, endpoint=get_tree
    ),
    Route(
        methods=("POST",),
        path="/api/{kind}/{owner}/{name}/paths-info/{rev}",
        rule=Rule.READ,
        endpoint=post_paths_info,
    ),
    Route(
        methods=("GET", "HEAD"),
        path="{prefix}/{owner}/{name}/resolve/{rev}/{path:path}",
        rule=Rule.READ,
        endpoint=resolve,
    ),
    Route(
        methods=("GET", "HEAD"), path="{prefix}/{owner}/{name}/raw/{rev}/{path:path}", rule=Rule.READ, endpoint=resolve
    ),
)
