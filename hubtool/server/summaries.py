"""What is known of a commit of a repository, computed once: card, files, tags, sizes.

A commit never changes, so the answers are remembered by its sha (and the repository's key) as long as there is room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
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


class CommitFiles:
    """Files of one commit, read for show: what cannot be read is left out, and told in ``is_whole``.

    Bytes that are damaged or not here now may be here again later, so nothing that lacks them may be remembered.
    """

    def __init__(self, store: Store, repo: Repo, entries: Iterable[Entry]) -> None:
        self.is_whole = True
        self._store, self._repo = store, repo
        self._entries = {entry.path: entry for entry in entries if entry.kind == "blob"}

    def read(self, path: str, limit: int) -> bytes | None:
        """A small file; None when it is missing, larger than ``limit``, or cannot be read."""
        entry = self._entries.get(path)
        if entry is None or entry.true_size_bytes > limit:
            return None
        return self.part(path, 0, entry.true_size_bytes)

    def part(self, path: str, start: int, stop: int) -> bytes | None:
        """The bytes ``start`` to ``stop`` of a file that is there; None when they cannot be read."""
        entry = self._entries[path]
        try:
            if entry.pointer is None:
                return b"".join(self._repo.git.read_blob(entry))[start:stop]
            if self._repo.has_object(entry.pointer.oid):
                return b"".join(self._store.objects.read(entry.pointer.oid, start, min(stop, entry.pointer.size_bytes)))
        except HubtoolError:
            pass
        self.is_whole = False
        return None


_MEMORY: OrderedDict[tuple[str, str], Summary] = OrderedDict()
_LOCK = threading.Lock()


def summarize(store: Store, repo: Repo, sha: CommitSha) -> Summary:
    key = (str(repo.path), sha)
    with _LOCK:
        if key in _MEMORY:
            _MEMORY.move_to_end(key)
            return _MEMORY[key]
    entries = tuple(repo.git.list_tree(sha))
    files = CommitFiles(store, repo, entries)
    summary = _compute(repo, sha, entries, files)
    if files.is_whole:
        with _LOCK:
            _MEMORY[key] = summary
            while sum(len(item.entries) for item in _MEMORY.values()) > _MAX_REMEMBERED_FILES and len(_MEMORY) > 1:
                _MEMORY.popitem(last=False)
    return summary


def _compute(repo: Repo, sha: CommitSha, entries: tuple[Entry, ...], files: CommitFiles) -> Summary:
    readme = files.read("README.md", cards.MAX_CARD_BYTES)
    card = cards.parse_card((readme or b"").decode("utf-8", "replace"))
    config = files.read("config.json", cards.MAX_CONFIG_BYTES)
    library, pipeline = _word(card.data.get("library_name")), _word(card.data.get("pipeline_tag"))
    if library is None and repo.kind == "models" and config is not None:
        library = "timm" if cards.is_timm(config) else "transformers" if b'"model_type"' in config else None
    weights = "model.safetensors"
    has_weights = any(entry.path == weights and entry.kind == "blob" for entry in entries)
    return Summary(
        commit=repo.git.commit(sha),
        card=card,
        entries=entries,
        library=library,
        pipeline=pipeline,
        tags=tuple(cards.tags_of(card.data, library, pipeline)),
        config=cards.model_config(config),
        parameters=cards.safetensors_parameters(lambda start, stop: files.part(weights, start, stop) or b"")
        if has_weights
        else None,
    )


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
