"""What is known of a commit of a repository, computed once: card, files, tags, sizes.

A commit never changes, so the answers are remembered by its sha (and the repository's key) as long as there is room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hubtool.core.errors import HubtoolError
from hubtool.core.ids import CommitSha
from hubtool.server import cards
from hubtool.server.gitdir import Commit, Entry
from hubtool.server.repos import Repo
from hubtool.server.store import Store

_MAX_REMEMBERED_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Summary:
    commit: Commit
    card: cards.Card
    entries: tuple[Entry, ...]
    library: str | None
    pipeline: str | None
    tags: tuple[str, ...]
    config: dict[str, Any]
    parameters: dict[str, int] | None

    @property
    def files(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kind == "blob")

    @property
    def size_bytes(self) -> int:
        return sum(entry.true_size_bytes for entry in self.files)


_MEMORY: OrderedDict[tuple[str, str], Summary] = OrderedDict()
_LOCK = threading.Lock()


def summarize(store: Store, repo: Repo, sha: CommitSha) -> Summary:
    key = (str(repo.path), sha)
    with _LOCK:
        if key in _MEMORY:
            _MEMORY.move_to_end(key)
            return _MEMORY[key]
    summary = _compute(store, repo, sha)
    with _LOCK:
        _MEMORY[key] = summary
        while sum(len(item.entries) for item in _MEMORY.values()) > _MAX_REMEMBERED_FILES and len(_MEMORY) > 1:
            _MEMORY.popitem(last=False)
    return summary


def _compute(store: Store, repo: Repo, sha: CommitSha) -> Summary:
    git = repo.git
    entries = tuple(git.list_tree(sha))
    by_path = {entry.path: entry for entry in entries if entry.kind == "blob"}
    readme = _read(store, repo, by_path.get("README.md"), cards.MAX_CARD_BYTES)
    card = cards.parse_card((readme or b"").decode("utf-8", "replace"))
    config = _read(store, repo, by_path.get("config.json"), cards.MAX_CONFIG_BYTES)
    library, pipeline = _word(card.data.get("library_name")), _word(card.data.get("pipeline_tag"))
    if library is None and repo.kind == "models" and config is not None:
        library = "timm" if cards.is_timm(config) else "transformers" if b'"model_type"' in config else None
    return Summary(
        commit=git.commit(sha),
        card=card,
        entries=entries,
        library=library,
        pipeline=pipeline,
        tags=tuple(cards.tags_of(card.data, library, pipeline)),
        config=cards.model_config(config),
        parameters=_parameters(store, repo, by_path.get("model.safetensors")),
    )


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _read(store: Store, repo: Repo, entry: Entry | None, limit: int) -> bytes | None:
    if entry is None or entry.true_size_bytes > limit:
        return None
    return _part(store, repo, entry, 0, entry.true_size_bytes)


def _part(store: Store, repo: Repo, entry: Entry, start: int, stop: int) -> bytes | None:
    try:
        if entry.pointer is None:
            return b"".join(repo.git.read_blob(entry))[start:stop]
        if not repo.has_object(entry.pointer.oid):
            return None
        return b"".join(store.objects.read(entry.pointer.oid, start, min(stop, entry.pointer.size_bytes)))
    except HubtoolError:
        return None


def _parameters(store: Store, repo: Repo, entry: Entry | None) -> dict[str, int] | None:
    if entry is None:
        return None
    return cards.safetensors_parameters(lambda start, stop: _part(store, repo, entry, start, stop) or b"")
