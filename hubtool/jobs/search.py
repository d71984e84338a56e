"""hubtool search: find a backbone by name, licence, size, offline and without importing any library that holds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from hubtool.core.errors import UsageError
from hubtool.core.settings import read_settings
from hubtool.records.backbone import BackboneEntry
from hubtool.records.catalogue import completed, read_catalogue, unversioned
from hubtool.records.registry import Registry, read_all
from hubtool.records.reports import SearchReport

Sort = Literal["name", "params", "size", "license"]

_LAST = float("inf")
_ORDERS: dict[str, Callable[[BackboneEntry], Any]] = {
    "name": lambda entry: entry.ref,
    "params": lambda entry: (_LAST if entry.num_params is None else entry.num_params, entry.ref),
    "size": lambda entry: (max(entry.preprocess.img_size), entry.ref),
    "license": lambda entry: (entry.license is None, entry.license or "", entry.ref),
}


def search(
    text: str = "",
    *,
    source: str | None = None,
    license: str | None = None,
    max_params: int | None = None,
    input_size: int | None = None,
    sort: Sort = "name",
    limit: int | None = None,
) -> SearchReport:
    """The pretrained models of timm and torchvision, and all that the registries know, that fit every condition.

    Each word of ``text`` must begin a word of the reference or of a registry's name (``vit`` finds ``vit_base`` and
    ``tiny_vit``, not ``levit``); where no model has it so, it may stand anywhere. ``license`` is an identifier, or
    ``unknown``; ``max_params`` leaves out what has more, or an unknown number; ``input_size`` is in pixels.
    ``limit`` None: all. Under a second in a fresh process.
    """
    if sort not in _ORDERS:
        raise UsageError("E-SEARCH-SORT", f"cannot sort by {sort!r}", do=f"choose one of {', '.join(_ORDERS)}")
    named = _everything(read_all(read_settings().home))
    fits = [
        (words, entry)
        for words, entry in named
        if (source is None or entry.ref.partition(":")[0] == source)
        and (license is None or (entry.license or "unknown").casefold() == license.casefold())
        and (max_params is None or (entry.num_params is not None and entry.num_params <= max_params))
        and (input_size is None or input_size in entry.preprocess.img_size)
    ]
    found = sorted(_matching(text, fits), key=_ORDERS[sort])
    return SearchReport(rows=tuple(found[:limit]), num_found=len(found))


def _everything(registries: list[Registry]) -> list[tuple[str, BackboneEntry]]:
    """(what is searched, entry), each model once: the first registry that knows it before the catalogue.

    A pulled entry stands for the catalogue's one of that name; one that only the shipped registry names does not hide it.
    """
    catalogue = read_catalogue()
    names: dict[str, list[str]] = {}
    entries: dict[str, BackboneEntry] = {}
    for registry in registries:
        for name, entry in registry.backbones.items():
            key = unversioned(entry.ref)
            names.setdefault(key, []).append(name)
            has_more = key in entries and not entries[key].origin.files and bool(entry.origin.files)
            if key not in entries or has_more:
                entries[key] = entry
    for entry in catalogue.entries:
        entries.setdefault(entry.ref, entry)
    filled = completed(entries.values(), catalogue)
    return [
        (" ".join([entry.ref, *names.get(key, ())]).casefold(), entry)
        for key, entry in zip(entries, filled, strict=True)
    ]


def _matching(text: str, named: list[tuple[str, BackboneEntry]]) -> list[BackboneEntry]:
    for word in text.casefold().split():
        begins = re.compile(r"(?:^|[^a-z0-9])" + re.escape(word))
        named = [row for row in named if begins.search(row[0])] or [row for row in named if word in row[0]]
    return [entry for _, entry in named]
