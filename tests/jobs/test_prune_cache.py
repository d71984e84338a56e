from __future__ import annotations

from pathlib import Path

from hubtool.core.locks import hold
from hubtool.jobs.cache import list_cache, prune_cache


def test_what_a_run_is_filling_is_not_pruned(home: Path) -> None:
    directories = [home / "cache" / "activations" / name for name in ("idle", "filling")]
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / "rows.bin").write_bytes(b"rows")
    with hold(directories[1] / ".lock", "it"):
        removed = prune_cache(list_cache())
    assert [entry["name"] for entry in removed] == ["idle"]
    assert [directory.is_dir() for directory in directories] == [False, True]
