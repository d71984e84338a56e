"""A repository's tree listing, which is not trusted, and whether bytes on disk are what it promised. No network."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hubtool.core.digests import git_blob_sha1, sha256_file
from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError
from hubtool.core.ids import RepoPath, case_twins
from hubtool.records.backbone import FileDigest

MAX_FILES = 100_000
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".joblib")
_MAX_INDEX_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One file of the listing; ``oid`` is the sha256 of a large file, git's blob id (40 digits) of a small one."""

    path: RepoPath
    size_bytes: int
    oid: str


def check_paths(paths: list[str]) -> list[RepoPath]:
    """Every path as a RepoPath. Raises SecurityError for one that leaves the repository, or two that are one on some disk."""
    checked = [RepoPath(path) for path in paths]
    twins = case_twins(paths)
    if twins:
        raise SecurityError(
            "E-PATH-TWINS", f"the repository holds {twins[0]!a} and {twins[1]!a}", do="one disk takes them for the same"
        )
    return checked


def is_weights(path: str) -> bool:
    return path.endswith(".safetensors") or path == INDEX


def is_pickle(path: str) -> bool:
    return path.lower().endswith(_PICKLES)


def choose(paths: Collection[str], wanted: Collection[str], *, where: str, take_pickle: bool = False) -> list[str]:
    """What to fetch: the paths that a name or glob of ``wanted`` means (a glob never crosses a directory).

    Where weights are wanted and the only ones are pickles: SecurityError, or with ``take_pickle`` one of them too.
    Raises NotFoundError where nothing wanted is there.
    """
    present = [path for path in sorted(paths) if not is_pickle(path) and _is_wanted(path, wanted)]
    if any(is_weights(path) for path in present):
        return present
    if wanted and not any(is_weights(name) or is_pickle(name) for name in wanted):
        if not present:
            raise NotFoundError("E-HUB-ENTRY", f"no {' or '.join(wanted)} in it", where=where)
        return present
    pickles = sorted((path for path in paths if is_pickle(path)), key=lambda path: (not _is_wanted(path, wanted), path))
    if not pickles:
        raise NotFoundError("E-REF-WEIGHTS", "no model.safetensors in it", where=where, do="name another repository")
    if not take_pickle:
        raise SecurityError(
            "E-SEC-PICKLE",
            f"the only weights are pickles ({', '.join(pickles[:3])})",
            where=where,
            do="a pickle can run code when it is loaded",
            hint="--convert-isolated reads it in a child process without network and keeps the tensors alone",
        )
    return [*present, pickles[0]]


def _is_wanted(path: str, wanted: Collection[str]) -> bool:
    return any(path.count("/") == name.count("/") and fnmatchcase(path, name) for name in wanted)


def shards_of(index: Path, paths: Collection[str], *, where: str) -> list[str]:
    """The files a sharded index names. Raises SecurityError for a name that leaves the repository or is no safetensors
    file, IntegrityError for one that is not there."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("too large")
        names = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("E-WEIGHTS-INDEX", f"{INDEX} cannot be read", where=where) from error
    for name in sorted(names):
        if not RepoPath(name).endswith(".safetensors"):
            raise SecurityError("E-WEIGHTS-INDEX", f"{INDEX} names {name!a}", where=where)
        if name not in paths:
            raise IntegrityError("E-WEIGHTS-SHARD", f"the shard {name} is missing", where=where)
    return sorted(names)


def problem(path: Path, listed: Listed) -> str | None:
    """What differs between the file and its listing, or None."""
    size_bytes = path.stat().st_size
    if size_bytes != listed.size_bytes:
        return f"want {listed.size_bytes} bytes got {size_bytes}"
    got = sha256_file(path) if len(listed.oid) == 64 else git_blob_sha1(path)
    kind = "sha256" if len(listed.oid) == 64 else "git blob"
    return None if got == listed.oid else f"want {kind} {listed.oid} got {got}"


def digest_files(directory: Path, names: Iterable[str]) -> tuple[FileDigest, ...]:
    """The digests of files as they lie on this disk."""
    paths = [(name, directory / name) for name in sorted(names)]
    return tuple(
        FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path)) for name, path in paths
    )


def differing(directory: Path, files: Iterable[FileDigest]) -> list[str]:
    """One line for each file that is missing or is not what its digest says."""
    problems = []
    for file in files:
        path = directory / file.path
        try:
            if path.stat().st_size != file.size_bytes:
                problems.append(f"{file.path}: want {file.size_bytes} bytes got {path.stat().st_size}")
            elif (got := sha256_file(path)) != file.sha256:
                problems.append(f"{file.path}: want sha256 {file.sha256} got {got}")
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{file.path}: missing")
    return problems
