"""One bare git repository, read and written through git's own plumbing.

Loose objects and refs are read directly (they are small zlib files); what is packed comes from one long-lived
``git cat-file --batch`` per repository. Everything is written by git itself with ``core.fsync=all``.
"""

from __future__ import annotations

import contextlib
import errno
import re
import subprocess
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hubtool.core.errors import ConflictError, IntegrityError, NotFoundError
from hubtool.core.ids import CommitSha
from hubtool.server.gitprocess import BATCHES, git_environment, git_error, git_program, run_git, try_git
from hubtool.server.pointers import MAX_POINTER_BYTES, Pointer, parse_pointer

HIDDEN_REFS = "refs/hubtool"
NO_SHA = "0" * 40
_SHA = re.compile(r"[0-9a-f]{40}")
_DEAD_LOCK_S = 60.0  # git holds one for milliseconds
_MAX_LOOSE_BYTES = 1 << 20
_TREE_MODE = "40000"
CONFIG = {
    "core.fsync": "all",
    "core.fsyncMethod": "fsync",
    "core.logAllRefUpdates": "false",
    "core.filesRefLockTimeout": "1000",
    "gc.auto": "0",
    "receive.autogc": "false",
    "receive.fsckObjects": "true",
    "receive.denyDeleteCurrent": "refuse",
    "receive.denyNonFastForwards": "false",
    "receive.maxInputSize": str(1 << 30),
    "transfer.hideRefs": HIDDEN_REFS,
    "transfer.unpackLimit": "1000",
    "uploadpack.allowFilter": "true",
    "http.receivepack": "true",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a tree. ``pointer`` is set where git keeps a pointer to the object store."""

    path: str
    kind: str  # blob | tree
    oid: str
    size_bytes: int
    pointer: Pointer | None = None

    @property
    def true_size_bytes(self) -> int:
        return self.pointer.size_bytes if self.pointer else self.size_bytes


@dataclass(frozen=True, slots=True)
class Commit:
    sha: str
    tree: str
    parents: tuple[str, ...]
    author: str
    time: int
    message: str

    @property
    def title(self) -> str:
        return self.message.partition("\n")[0]


class GitDir:
    """Reads and writes one bare repository. Thread-safe; two processes may use the same directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # Refs

    def ref(self, name: str) -> str | None:
        """The commit or tag object a full ref name points to."""
        try:
            text = (self.path / name).read_text("ascii").strip()
            if _SHA.fullmatch(text):
                return text
        except UnicodeDecodeError:
            pass
        except OSError as error:
            _raise_unless_absent(error)
        return self._packed_refs().get(name)

    def _packed_refs(self) -> dict[str, str]:
        path = self.path / "packed-refs"
        try:
            stat = path.stat()
        except OSError as error:
            _raise_unless_absent(error)
            return {}
        return _read_packed_refs(str(path), stat.st_mtime_ns, stat.st_ino, stat.st_size)

    def refs(self) -> dict[str, str]:
        """Every branch and tag with the commit it stands for (annotated tags are followed)."""
        lines = run_git(
            self.path,
            "for-each-ref",
            "--format=%(refname) %(objectname) %(*objectname)",
            "refs/heads",
            "refs/tags",
            "refs/pr",
        )
        found = {}
        for line in lines.decode("utf-8", "replace").splitlines():
            name, sha, peeled = line.split(" ")
            found[name] = peeled or sha
        return found

    def update_refs(self, changes: Iterable[tuple[str, str, str]]) -> None:
        """Compare-and-swap: (ref, new, old) together or not at all; 40 zeros mean absent.

        Raises ConflictError when a ref no longer is ``old``.
        """
        lines = ["start", *(f"update {ref} {new} {old}" for ref, new, old in changes), "prepare", "commit", ""]
        done = try_git(self.path, ["update-ref", "--stdin"], "\n".join(lines).encode(), None)
        if done.returncode != 0:
            text = done.stderr.decode("utf-8", "replace")
            if ".lock" in text:
                self.drop_locks(_DEAD_LOCK_S)
            if any(s in text for s in ("cannot lock ref", "already exists", "but expected", "nable to lock", ".lock")):
                raise ConflictError("E-HUB-RACE", "the branch was changed meanwhile")
            raise git_error(done.stderr, self.path)

    def drop_locks(self, age_s: float = 0.0) -> None:
        """Remove lock files that a killed git left behind: those older than ``age_s``, or all when no git can be alive."""
        before = time.time() - age_s
        for path in (*self.path.glob("*.lock"), *(self.path / "refs").rglob("*.lock")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= before:
                    path.unlink()

    # Objects

    def resolve(self, revision: str) -> CommitSha:
        """The commit that a branch, tag, full ref or sha names. Raises NotFoundError."""
        names = [revision] if revision.startswith("refs/") else [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        for name in names:
            sha = self.ref(name)
            if sha is not None:
                return self._peel(sha)
        if _SHA.fullmatch(revision):
            with contextlib.suppress(NotFoundError):
                return self._peel(revision)
        raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {revision}")

    def _peel(self, sha: str) -> CommitSha:
        for _ in range(5):
            kind, data = self.read(sha)
            if kind == "commit":
                return CommitSha(sha)
            if kind != "tag":
                break
            sha = data[7:47].decode("ascii", "replace")
        raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {sha}")

    def read(self, sha: str, max_bytes: int = 64 << 20) -> tuple[str, bytes]:
        """(kind, content). Raises NotFoundError; StorageError when it is larger than ``max_bytes``."""
        loose = self._read_loose(sha)
        if loose is not None:
            return loose
        return BATCHES.of(self.path).read(sha, max_bytes)

    def _read_loose(self, sha: str) -> tuple[str, bytes] | None:
        path = self.path / "objects" / sha[:2] / sha[2:]
        try:
            if path.stat().st_size > _MAX_LOOSE_BYTES:
                return None
            data = zlib.decompressobj().decompress(path.read_bytes(), 4 * _MAX_LOOSE_BYTES)
        except OSError as error:
            _raise_unless_absent(error)
            return None
        except zlib.error as error:
            raise IntegrityError("E-HUB-DAMAGED", "a git object is damaged", where=sha) from error
        header, zero, content = data.partition(b"\0")
        kind, _, size = header.decode("ascii", "replace").partition(" ")
        if not zero or not size.isdigit():
            raise IntegrityError("E-HUB-DAMAGED", "a git object is damaged", where=sha)
        return (kind, content) if len(content) == int(size) else None

    def commit(self, sha: str) -> Commit:
        kind, data = self.read(sha)
        if kind != "commit":
            raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {sha}")
        return _parse_commit(sha, data)

    def entry(self, commit: str, path: str) -> Entry | None:
        """The file or directory at ``path``, or None."""
        oid, mode = self.commit(commit).tree, _TREE_MODE
        for part in path.split("/") if path else []:
            if mode != _TREE_MODE:
                return None
            found = self.tree_names(oid).get(part)
            if found is None:
                return None
            mode, oid = found
        if mode == _TREE_MODE:
            return Entry(path, "tree", oid, 0)
        return self._blob_entry(path, oid) if mode.startswith("100") else None

    def tree_names(self, oid: str) -> dict[str, tuple[str, str]]:
        """Name → (mode, oid) of one tree."""
        kind, data = self.read(oid)
        return _parse_tree(data) if kind == "tree" else {}

    def _blob_entry(self, path: str, oid: str) -> Entry:
        size_bytes, pointer = _blob_facts(self, oid)
        return Entry(path, "blob", oid, size_bytes, pointer)

    def blob_size(self, oid: str) -> int:
        loose = self._read_loose(oid)
        return len(loose[1]) if loose is not None else BATCHES.of(self.path).size_bytes(oid)

    def list_tree(self, commit: str, path: str = "", *, is_recursive: bool = True) -> list[Entry]:
        """The entries below ``path``, sorted by git. Raises NotFoundError when it is no directory."""
        start = self.entry(commit, path)
        if start is None or start.kind != "tree":
            raise NotFoundError("E-HUB-ENTRY", f"{path} does not exist on {commit}")
        flags = ["-r", "-t"] if is_recursive else []
        output = run_git(self.path, "ls-tree", "-z", "-l", *flags, start.oid)
        entries = []
        for line in output.split(b"\0")[:-1]:
            facts, _, raw = line.partition(b"\t")
            mode, kind, oid, size = facts.decode("ascii").split()
            full = (
                f"{path}/{raw.decode('utf-8', 'surrogateescape')}" if path else raw.decode("utf-8", "surrogateescape")
            )
            if kind == "tree":
                entries.append(Entry(full, "tree", oid, 0))
            elif mode.startswith("100"):
                pointer = _blob_facts(self, oid)[1] if int(size) <= MAX_POINTER_BYTES else None
                entries.append(Entry(full, "blob", oid, int(size), pointer))
        return entries

    def read_blob(self, entry: Entry) -> Iterator[bytes]:
        """The bytes git keeps, in chunks; a large blob is streamed from a process of its own. Raises IntegrityError."""
        if entry.size_bytes <= _MAX_LOOSE_BYTES:
            yield self.read(entry.oid)[1]
            return
        command = [git_program(), f"--git-dir={self.path}", "cat-file", "blob", entry.oid]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=git_environment()
        ) as child:
            assert child.stdout is not None
            missing = entry.size_bytes
            try:
                while chunk := child.stdout.read(1 << 20):
                    missing -= len(chunk)
                    yield chunk
            finally:
                child.kill()
        if missing:
            raise IntegrityError("E-HUB-DAMAGED", "a git object is damaged", where=entry.oid)

    def log(self, commit: str, *, skip: int, count: int) -> list[Commit]:
        """``count`` commits from ``commit`` back, after ``skip``."""
        shas = run_git(self.path, "rev-list", f"--skip={skip}", f"--max-count={count}", commit).decode().split()
        return [self.commit(sha) for sha in shas]

    def count_commits(self, commit: str) -> int:
        return int(run_git(self.path, "rev-list", "--count", commit))


def _raise_unless_absent(error: OSError) -> None:
    """A disk that cannot be read, or too many open files, must not look like a branch that is not there."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        raise error


def _parse_commit(sha: str, data: bytes) -> Commit:
    head, _, message = data.partition(b"\n\n")
    tree, parents, author, when = "", [], "", 0
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"tree":
            tree = value.decode("ascii")
        elif key == b"parent":
            parents.append(value.decode("ascii"))
        elif key == b"author" and not author:
            match = re.fullmatch(rb"(.*?) <[^>]*> (\d{1,12}) [+-]\d{4}", value)
            author, when = (match[1].decode("utf-8", "replace"), int(match[2])) if match else ("unknown", 0)
    return Commit(sha, tree, tuple(parents), author, when, message.decode("utf-8", "replace").rstrip("\n"))


def _parse_tree(data: bytes) -> dict[str, tuple[str, str]]:
    names, at = {}, 0
    while at < len(data):
        space = data.index(b" ", at)
        zero = data.index(b"\0", space)
        name = data[space + 1 : zero].decode("utf-8", "surrogateescape")
        names[name] = (data[at:space].decode("ascii"), data[zero + 1 : zero + 21].hex())
        at = zero + 21
    return names


@lru_cache(maxsize=256)
def _read_packed_refs(path: str, mtime_ns: int, inode: int, size: int) -> dict[str, str]:
    """The other arguments are the file's identity: a changed file is read again."""
    lines = Path(path).read_text("utf-8", "replace").splitlines()
    return {line[41:]: line[:40] for line in lines if len(line) > 41 and _SHA.fullmatch(line[:40])}


_FACTS: OrderedDict[str, tuple[int, Pointer | None]] = OrderedDict()
_FACTS_LOCK = threading.Lock()
_MAX_FACTS = 50_000


def _blob_facts(git: GitDir, oid: str) -> tuple[int, Pointer | None]:
    """Size and pointer of a blob, remembered by its id: what an id stands for never changes.

    A caller has walked to ``oid`` from a commit of its own repository, so the memory tells nobody of another's blob.
    """
    with _FACTS_LOCK:
        if oid in _FACTS:
            return _FACTS[oid]
    size_bytes = git.blob_size(oid)
    pointer = parse_pointer(git.read(oid)[1]) if 120 <= size_bytes <= MAX_POINTER_BYTES else None
    with _FACTS_LOCK:
        _FACTS[oid] = (size_bytes, pointer)
        while len(_FACTS) > _MAX_FACTS:
            _FACTS.popitem(last=False)
    return size_bytes, pointer
