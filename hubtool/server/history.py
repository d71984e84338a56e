"""A repository's history as a whole: the pointers in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hubtool.server.gitprocess import run_git
from hubtool.server.pointers import MAX_POINTER_BYTES, Pointer, parse_pointer


def pointers(
    directory: Path, heads: Iterable[str] | None = None, env: dict[str, str] | None = None
) -> dict[Pointer, str]:
    """Every pointer in the whole history, with a path it stands at; with ``heads``, in what they bring that is new."""
    paths = _blob_paths(directory, heads, env)
    if not paths:
        return {}
    facts = run_git(directory, "cat-file", "--batch-check", stdin=b"\n".join([*paths, b""]), env=env)
    small = [line.split()[0] for line in facts.splitlines() if _is_small_blob(line)]
    found: dict[Pointer, str] = {}
    for sha, data in _contents(directory, small, env):
        pointer = parse_pointer(data)
        if pointer is not None:
            found[pointer] = paths[sha].decode("utf-8", "replace")
    return found


def _blob_paths(directory: Path, heads: Iterable[str] | None, env: dict[str, str] | None) -> dict[bytes, bytes]:
    span = ["--all"] if heads is None else ["--stdin", "--not", "--all"]
    text = None if heads is None else "".join(f"{head}\n" for head in heads).encode()
    listed = run_git(directory, "rev-list", "--objects", "--filter=object:type=blob", *span, stdin=text, env=env)
    rows = (line.partition(b" ") for line in listed.splitlines())
    return {sha: path for sha, _, path in rows if path}


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
