"""hubtool cache list | prune: what HUBTOOL_HOME/cache keeps to save time. The cache of the public hub is not ours alone
(timm and transformers read it), so it is neither listed nor pruned: ``hf cache`` does that."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hubtool.core.errors import SecurityError
from hubtool.core.locks import is_held
from hubtool.core.settings import read_settings
from hubtool.hub.cache import last_used, remove_snapshot, repositories, size_of

CacheEntry = dict[str, str | int]


def list_cache(*, older_than_days: int = 0) -> list[CacheEntry]:
    """Each entry as ``{"kind", "name", "path", "size_bytes", "last_used"}``, the least recently used first.

    Kinds: ``repository`` (fetched from a hub other than the public one), ``weights`` (from a URL, or converted),
    ``activations`` (of frozen prefixes).
    """
    root = read_settings().home / "cache"
    before = time.time() - older_than_days * 86400
    found = [(last_used(path), kind, name, path) for kind, name, path in _entries(root)]
    return [
        {
            "kind": kind,
            "name": name,
            "path": str(path),
            "size_bytes": size_of(path),
            "last_used": time.strftime("%Y-%m-%d", time.localtime(when)),
        }
        for when, kind, name, path in sorted(found)
        if when <= before or older_than_days <= 0
    ]


def prune_cache(entries: Iterable[CacheEntry]) -> list[CacheEntry]:
    """Remove entries that ``list_cache`` gave, but not what a run is filling; returns what was removed.

    Raises SecurityError for a path that is not in the cache.
    """
    root, removed = (read_settings().home / "cache").resolve(), []
    for entry in entries:
        path = Path(str(entry["path"]))
        if not path.resolve().is_relative_to(root) or path.resolve() == root:
            raise SecurityError("E-CACHE-PATH", "this does not lie in the cache", where=str(path))
        if is_held(path / ".lock"):
            continue
        if entry["kind"] == "repository":
            remove_snapshot(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
        removed.append(entry)
    return removed


def _entries(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, name, directory) of everything kept."""
    for kind, folder in (("weights", "url"), ("activations", "activations")):
        for path in sorted((root / folder).glob("*")):
            if path.is_dir():
                names = sorted(p.name for p in path.iterdir()) if kind == "weights" else []
                yield kind, f"{path.name[:12]}{f' ({names[0]})' if names else ''}", path
    for cache in sorted(root.glob("*")):
        for repo_id, commit, snapshot in repositories(cache):
            yield "repository", f"{repo_id}@{commit[:8]} ({cache.name})", snapshot
