"""A repository's history as a whole: the pointers in it, and taking large files out of it."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from hubtool.core.errors import ConflictError
from hubtool.core.ids import Oid
from hubtool.server.gitdir import HIDDEN_REFS, NO_SHA, GitDir
from hubtool.server.gitprocess import run_git
from hubtool.server.pointers import MAX_POINTER_BYTES, Pointer, parse_pointer


def pointers(
    directory: Path, heads: Iterable[str] | None = None, env: dict[str, str] | None = None
) -> dict[Pointer, str]:
    """Every pointer in the whole history, with a path it stands at; with ``heads``, in what they bring that is new."""
    return {pointer: path for _, pointer, path in _pointer_blobs(directory, heads, env)}


def known_pointers(directory: Path) -> dict[Pointer, str]:
    """``pointers`` of the whole history, remembered until a ref moves. The caller changes nothing in it."""
    state = run_git(directory, "for-each-ref", "--format=%(objectname) %(refname)")
    return _pointers_at(directory, hashlib.sha256(state).digest())


@lru_cache(maxsize=32)
def _pointers_at(directory: Path, _state: bytes) -> dict[Pointer, str]:
    return pointers(directory)


@lru_cache(maxsize=8)  # a data set's tip may have a hundred thousand
def large_files(directory: Path, sha: str) -> tuple[Oid, ...]:
    """The large files that stand in one commit, remembered by it."""
    return tuple(entry.pointer.oid for entry in GitDir(directory).list_tree(sha) if entry.pointer is not None)


def _pointer_blobs(
    directory: Path, heads: Iterable[str] | None = None, env: dict[str, str] | None = None
) -> Iterator[tuple[bytes, Pointer, str]]:
    paths = _blob_paths(directory, heads, env)
    if not paths:
        return
    facts = run_git(directory, "cat-file", "--batch-check", stdin=b"\n".join([*paths, b""]), env=env)
    small = [line.split()[0] for line in facts.splitlines() if _is_small_blob(line)]
    for sha, data in _contents(directory, small, env):
        pointer = parse_pointer(data)
        if pointer is not None:
            yield sha, pointer, (paths[sha] or sha).decode("utf-8", "replace")


def _blob_paths(directory: Path, heads: Iterable[str] | None, env: dict[str, str] | None) -> dict[bytes, bytes]:
    span = ["--all"] if heads is None else ["--stdin", "--not", "--all"]
    text = None if heads is None else "".join(f"{head}\n" for head in heads).encode()
    listed = run_git(directory, "rev-list", "--objects", "--filter=object:type=blob", *span, stdin=text, env=env)
    rows = (line.partition(b" ") for line in listed.splitlines())
    return {sha: path for sha, _, path in rows}  # what a ref names itself has no path


def _is_small_blob(line: bytes) -> bool:
    words = line.split()
    return len(words) == 3 and words[1] == b"blob" and 100 <= int(words[2]) <= MAX_POINTER_BYTES


def _contents(directory: Path, shas: list[bytes], env: dict[str, str] | None) -> Iterator[tuple[bytes, bytes]]:
    """(sha, content) of small blobs, a thousand at a time."""
    for start in range(0, len(shas), 1000):
        data = run_git(directory, "cat-file", "--batch", stdin=b"\n".join([*shas[start : start + 1000], b""]), env=env)
        at = 0
        while at < len(data):
            end = data.index(b"\n", at)
            sha, _, size = data[at:end].split()
            at = end + 1 + int(size) + 1
            yield sha, data[end + 1 : at - 1]


def drop_files(git: GitDir, oids: set[Oid]) -> None:
    """Write every ref anew without the large files ``oids``.

    Commits before them keep their names, as far as none is signed: a signature does not outlive the writing, so a
    signed commit and those after it get other names.

    The new history is made beside the repository, fetched into it below a hidden name, and put in place by one
    compare-and-swap of all refs. Raises ConflictError when one of them moved meanwhile, or is none that can be written
    anew (it names a lone file, or a tag outside of refs/tags); nothing has changed then.
    """
    doomed = {sha for sha, pointer, _ in _pointer_blobs(git.path) if pointer.oid in oids}
    if not doomed:
        return
    before = {ref: sha for ref, sha in _refs(git.path, "refs").items() if not ref.startswith(f"{HIDDEN_REFS}/")}
    place = f"{HIDDEN_REFS}/{secrets.token_hex(12)}"
    options = ["--no-data", "--use-done-feature", "--reencode=no", "--signed-tags=strip"]
    exported = run_git(git.path, "fast-export", *options, f"--exclude={HIDDEN_REFS}/*", "--all")
    with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
        beside = Path(folder)
        run_git(beside, "init", "--quiet", "--bare", "--template=")
        (beside / "objects/info").mkdir(exist_ok=True)
        (beside / "objects/info/alternates").write_text(f"{git.path / 'objects'}\n")
        run_git(beside, "fast-import", "--quiet", "--done", stdin=b"".join(_without(exported, doomed)))
        try:
            fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", folder, f"refs/*:{place}/*"]
            run_git(git.path, *fetch)
            made = {f"refs/{ref.removeprefix(place)[1:]}": sha for ref, sha in _refs(git.path, place).items()}
            for ref in before:
                if ref in made and made[ref].encode() not in doomed:
                    continue
                raise ConflictError(
                    "E-HUB-REF", f"{ref} cannot be written without the file", do="delete that ref first"
                )
            git.update_refs((ref, made[ref], old) for ref, old in before.items())
        finally:
            git.update_refs((ref, NO_SHA, sha) for ref, sha in _refs(git.path, place).items())


def _refs(directory: Path, below: str) -> dict[str, str]:
    """Name → object of the refs below ``below``; those that only stand for another ref are left out."""
    lines = run_git(directory, "for-each-ref", "--format=%(objectname) %(refname) %(symref)", below)
    rows = [line.split(" ") for line in lines.decode("utf-8", "surrogateescape").splitlines()]
    return {ref: sha for sha, ref, symref in rows if not symref}


def _without(exported: bytes, doomed: set[bytes]) -> Iterator[bytes]:
    """A stream of git fast-export in which each change that puts a doomed blob removes what stood there instead."""
    at = 0
    while at < len(exported):
        end = exported.find(b"\n", at) + 1 or len(exported)
        line = exported[at:end]
        if line.startswith(b"data "):
            end += int(line[5:])
            line = exported[at:end]
        elif line.startswith(b"M "):
            _, _, sha, path = line.split(b" ", 3)
            line = b"D " + path if sha in doomed else line
        yield line
        at = end
