"""Writing history: a commit is built from operations, made durable, and then put on its branch by one compare-and-swap.

git's fast-import writes the objects (fsynced; a small commit as loose files, a large one as one pack) below a hidden
ref; ``update-ref`` then moves the branch from the parent that was read, or refuses. A kill between the two leaves
objects nobody refers to, never half a commit.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from hubtool.core.errors import ConflictError, NotFoundError, UsageError
from hubtool.core.ids import CommitSha, RepoPath
from hubtool.server.gitdir import HIDDEN_REFS, Commit, GitDir
from hubtool.server.gitprocess import git_environment, git_error, git_program, kept_fds, run_git
from hubtool.server.pointers import Pointer

STALE = "The branch was updated since you opened this page. Please refresh and try again."
_MAX_TRIES = 20
_MAX_MESSAGE = 64 << 10


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes waiting in a spool file."""

    spool: IO[bytes]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a file: its bytes, or the pointer to an object."""

    path: RepoPath
    source: Content | Pointer
    line: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a file, or a folder with all below it."""

    path: RepoPath
    line: int = 0


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Draft:
    """What a client asks to be committed on ``branch``. ``parent`` is the head it has seen, if it says so."""

    branch: str
    operations: Sequence[Operation]
    message: str
    author: str
    parent: CommitSha | None = None


def write_commit(git: GitDir, draft: Draft) -> CommitSha:
    """Commit and return the new head.

    Raises NotFoundError (no such branch, deleted path not there), UsageError (paths that cannot stand together),
    ConflictError E-HUB-STALE when ``draft.parent`` is no longer the head. Without a parent it follows a moving branch.
    A draft that was committed already (its reply was lost) gives that commit again.
    """
    ref = f"refs/heads/{draft.branch}"
    for attempt in range(_MAX_TRIES):
        head = git.ref(ref)
        if head is None:
            raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {draft.branch}")
        if draft.parent is not None and draft.parent != head:
            return _already_there(git, draft, head)
        new = build_commit(git, draft, CommitSha(head))
        try:
            git.update_refs([(ref, new, head)])
        except ConflictError:
            time.sleep(min(0.2, 0.005 * 2**attempt))
            continue
        return new
    raise ConflictError("E-HUB-BUSY", "the branch keeps moving", do="try again")


def _already_there(git: GitDir, draft: Draft, head: str) -> CommitSha:
    """The head, if it is this very draft on the parent that was named."""
    commit = git.commit(head)
    is_same = commit.parents == (draft.parent,) and commit.author == draft.author and _is_message(commit, draft.message)
    if is_same and draft.parent is not None:
        with contextlib.suppress(NotFoundError, UsageError):
            if git.commit(build_commit(git, draft, draft.parent)).tree == commit.tree:
                return CommitSha(head)
    who = f"the head is {head[:8]} by {commit.author}, {max(0, round(time.time()) - commit.time)} s ago"
    raise ConflictError("E-HUB-STALE", STALE, where=who)


def _is_message(commit: Commit, message: str) -> bool:
    return commit.message == _clean(message).rstrip("\n")


def build_commit(git: GitDir, draft: Draft, parent: CommitSha) -> CommitSha:
    """The commit object on ``parent``; no branch moves."""
    before = run_git(git.path, "ls-tree", "-r", "-z", "--name-only", parent).decode("utf-8", "surrogateescape")
    check_paths(set(before.split("\0")[:-1]), draft.operations)
    name = f"{HIDDEN_REFS}/{secrets.token_hex(12)}"
    command = [git_program(), f"--git-dir={git.path}", "fast-import", "--quiet", "--done", "--date-format=raw"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=git_environment(),
        cwd="/",
        bufsize=1 << 20,
        pass_fds=kept_fds(),
    ) as child:
        assert child.stdin is not None and child.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            _feed(child.stdin, draft, parent, name)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        stderr = child.stderr.read()
        status = child.wait()
    if status != 0:
        (git.path / f"fast_import_crash_{child.pid}").unlink(missing_ok=True)
        raise git_error(stderr, git.path)
    new = git.ref(name)
    assert new is not None
    # Nobody else knows this ref, so it goes without git, which would lock all packed refs for it.
    (git.path / name).unlink(missing_ok=True)
    return CommitSha(new)


def _feed(stream: IO[bytes], draft: Draft, parent: str, ref: str) -> None:
    """The draft in fast-import's language (git help fast-import)."""
    puts = [op for op in draft.operations if isinstance(op, Put)]
    for mark, put in enumerate(puts, start=1):
        stream.write(b"blob\nmark :%d\n" % mark)
        if isinstance(put.source, Pointer):
            data = put.source.encode()
            stream.write(b"data %d\n" % len(data) + data + b"\n")
        else:
            stream.write(b"data %d\n" % put.source.size_bytes)
            _copy(put.source, stream)
            stream.write(b"\n")
    message, who = _clean(draft.message).encode(), f"{draft.author} <{draft.author}@users.noreply.hub>"
    stamp = f"{who} {int(time.time())} +0000"
    stream.write(f"commit {ref}\nauthor {stamp}\ncommitter {stamp}\ndata {len(message)}\n".encode() + message + b"\n")
    stream.write(f"from {parent}\n".encode())
    for op in draft.operations:
        if isinstance(op, Delete):
            stream.write(b"D " + _quoted(op.path) + b"\n")
    for mark, put in enumerate(puts, start=1):
        stream.write(b"M 100644 :%d " % mark + _quoted(put.path) + b"\n")
    stream.write(b"done\n")


def _copy(content: Content, stream: IO[bytes]) -> None:
    content.spool.seek(content.offset)
    left = content.size_bytes
    while left:
        chunk = content.spool.read(min(left, 1 << 20))
        if not chunk:
            raise EOFError("the spool file is short")
        stream.write(chunk)
        left -= len(chunk)


def _quoted(path: str) -> bytes:
    return b'"' + path.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _clean(message: str) -> str:
    """A message git keeps as it is: no NUL, no surrogates, bounded."""
    text = message.replace("\0", "").encode("utf-8", "replace").decode()
    return text[:_MAX_MESSAGE] or "update"


def check_paths(before: set[str], operations: Sequence[Operation]) -> None:
    """Whether the operations fit the files that are there; raises naming the line."""
    after = set(before)
    for op in operations:
        if isinstance(op, Delete):
            gone = {str(op.path)} & after or {path for path in before if path.startswith(f"{op.path}/")}
            if not gone:
                raise NotFoundError("E-HUB-ENTRY", f"{op.path} does not exist", where=f"line {op.line}")
            after -= gone
    puts = [op for op in operations if isinstance(op, Put)]
    folded = {_fold(path): path for path in after}
    folders = {_fold(parent): parent for path in after for parent in _parents(path)}
    seen: set[str] = set()
    for put in puts:
        where, key = f"line {put.line}", _fold(put.path)
        if put.path in seen:
            raise UsageError("E-HUB-COMMIT", f"{put.path} stands twice in the commit", where=where)
        seen.add(put.path)
        twin = folded.get(key)
        if twin is not None and twin != put.path:
            raise UsageError("E-HUB-COMMIT", f"{put.path} differs from {twin} by its spelling only", where=where)
        clash = folders.get(key) or next((folded[_fold(p)] for p in _parents(put.path) if _fold(p) in folded), None)
        if clash is not None:
            raise UsageError("E-HUB-COMMIT", f"{put.path} and {clash} cannot be a file and a folder", where=where)
        for parent in _parents(put.path):
            if folders.setdefault(_fold(parent), parent) != parent:
                other = folders[_fold(parent)]
                raise UsageError("E-HUB-COMMIT", f"{parent}/ differs from {other}/ by its spelling only", where=where)
        folded[key] = put.path


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _parents(path: str) -> Iterable[str]:
    return (path[: match.start()] for match in re.finditer("/", path))


def squash(git: GitDir, branch: str, message: str, author: str) -> CommitSha:
    """Replace the history of ``branch`` by one commit with the same files."""
    ref = f"refs/heads/{branch}"
    head = git.ref(ref)
    if head is None:
        raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {branch}")
    tree = git.commit(head).tree
    new = run_git(git.path, "commit-tree", tree, stdin=_clean(message).encode(), env=identity(author)).decode().strip()
    git.update_refs([(ref, new, head)])
    return CommitSha(new)


def identity(author: str) -> dict[str, str]:
    """The environment that makes git write ``author``."""
    mail = f"{author}@users.noreply.hub"
    names = {f"GIT_{role}_NAME": author for role in ("AUTHOR", "COMMITTER")}
    return names | {f"GIT_{role}_EMAIL": mail for role in ("AUTHOR", "COMMITTER")}
