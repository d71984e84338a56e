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


def remove_snapshot(cache_dir: Path, repo_id: str, commit: str) -> int:
    """Remove one snapshot with the blobs no other snapshot uses; returns the bytes freed."""
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir(cache_dir)
    strategy = info.delete_revisions(commit)
    strategy.execute()
    folder = cache_dir / f"models--{repo_id.replace('/', '--')}"
    if not any((folder / "snapshots").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    return int(strategy.expected_freed_size)
