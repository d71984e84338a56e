"""What the caches hold: repositories of each hub under its own directory, plain URLs under their sha256."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from hubtool.core.errors import SecurityError
from hubtool.core.ids import CommitSha, RepoId


def repositories(cache_dir: Path) -> list[tuple[str, str, Path]]:
    """(repo_id, commit, snapshot directory) of every model snapshot in a cache of the client library."""
    found: list[tuple[str, str, Path]] = []
    for folder in sorted(cache_dir.glob("models--*--*")):
        owner, _, name = folder.name.removeprefix("models--").partition("--")
        for snapshot in sorted((folder / "snapshots").glob("*")):
            try:
                found.append((RepoId(f"{owner}/{name}"), CommitSha(snapshot.name), snapshot))
            except SecurityError:
                continue
    return found


def size_of(directory: Path) -> int:
    """Bytes on disk below ``directory``; links to the same file count once."""
    seen = {path.resolve() for path in _files(directory)}
    return sum(path.stat().st_size for path in seen if path.exists())


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def last_used(directory: Path) -> float:
    """When a file below was last read or written, in seconds since 1970."""
    return max((max(s.st_atime, s.st_mtime) for s in (path.stat() for path in _files(directory))), default=0.0)


def remove_snapshot(snapshot: Path) -> None:
    """Remove one snapshot with the blobs that no other snapshot uses."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(snapshot.parents[2]).delete_revisions(snapshot.name).execute()
    repository = snapshot.parents[1]
    if not any((repository / "snapshots").glob("*")):
        shutil.rmtree(repository, ignore_errors=True)
