"""The catalogue: every pretrained model that timm and torchvision know, as one small file that needs neither to be read.

Importing timm alone takes seconds, building 1,800 networks to count their parameters takes minutes; so both were done
once, by ``python -m benchmarks build_catalogue``, with the library versions written in.

The file is JSON, one row a line: ``[ref, architecture, origin, license, num_params, num_features, num_classes, p]``;
``p`` counts into the table ``preprocess``, ``origin`` is a repository, a URL, or null for ``timm/NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hubtool.core.errors import IntegrityError, NotFoundError
from hubtool.core.settings import BUNDLED
from hubtool.records.backbone import BackboneEntry, Library, Origin, Preprocess
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/catalogue/v1"] = "hubtool/catalogue/v1"
CATALOGUE = BUNDLED / "catalogue.json"


class Catalogue(Record):
    """``versions`` are those of the libraries the entries were taken from."""

    versions: dict[str, str]
    entries: tuple[BackboneEntry, ...]


def write_catalogue(catalogue: Catalogue) -> bytes:
    """One spelling for one catalogue: rows in the order of their references."""
    table: dict[str, int] = {}
    rows = [_row(entry, table) for entry in sorted(catalogue.entries, key=lambda entry: entry.ref)]
    head = {"schema": SCHEMA, "versions": dict(sorted(catalogue.versions.items()))}
    lines = [f'"{key}":{_compact(value)}' for key, value in head.items()]
    lines.append('"preprocess":[\n' + ",\n".join(table) + "\n]")
    lines.append('"rows":[\n' + ",\n".join(_compact(row) for row in rows) + "\n]")
    return ("{" + ",\n".join(lines) + "}\n").encode()


def _row(entry: BackboneEntry, table: dict[str, int]) -> list[object]:
    preprocess = table.setdefault(_compact(entry.preprocess.to_dict()), len(table))
    place = entry.origin.repo_id or entry.origin.url
    origin = None if place == _usual_place(entry.ref) else place
    counts = [entry.num_params, entry.num_features, entry.num_classes]
    return [entry.ref, entry.architecture, origin, entry.license, *counts, preprocess]


def _usual_place(ref: str) -> str | None:
    return f"timm/{ref.removeprefix('timm:')}" if ref.startswith("timm:") else None


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


@cache
def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Some 30 ms for 1,900 rows. Raises IntegrityError where the file is not what was written."""
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        table = [Preprocess.model_validate_json(json.dumps(value)) for value in content["preprocess"]]
        entries = tuple(_entry(row, table) for row in content["rows"])
        return Catalogue(versions=content["versions"], entries=entries)
    except FileNotFoundError as error:
        raise NotFoundError("E-CATALOGUE-404", "the catalogue is not here", where=str(path)) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError(
            "E-CATALOGUE", "the catalogue is damaged", where=str(path), do="install hubtool again"
        ) from error


def _entry(row: list[Any], table: list[Preprocess]) -> BackboneEntry:
    ref, architecture, place, license_, num_params, num_features, num_classes, preprocess = row
    source = ref.partition(":")[0]
    library: Library = "torchvision" if source == "torchvision" else "timm"
    place = place or _usual_place(ref)
    origin = Origin(url=place) if "://" in (place or "") else Origin(repo_id=place)
    return BackboneEntry(
        ref=ref,
        library=library,
        architecture=architecture,
        origin=origin,
        license=license_,
        num_params=num_params,
        num_features=num_features,
        num_classes=num_classes,
        preprocess=table[preprocess],
    )


def unversioned(ref: str) -> str:
    """``timm:NAME@COMMIT`` → ``timm:NAME``: one model under one name; a torchvision revision is a weights name and stays."""
    return ref if ref.startswith(("torchvision:", "local:")) else ref.partition("@")[0]


def completed(entries: Iterable[BackboneEntry], catalogue: Catalogue) -> list[BackboneEntry]:
    """Each entry with the counts that its own files do not tell taken from the catalogue."""
    known = {entry.ref: entry for entry in catalogue.entries}
    return [_filled(entry, known.get(unversioned(entry.ref))) for entry in entries]


def _filled(entry: BackboneEntry, known: BackboneEntry | None) -> BackboneEntry:
    if known is None:
        return entry
    names = ("license", "num_params", "num_features", "num_classes")
    gaps = {name: getattr(known, name) for name in names if getattr(entry, name) is None}
    return entry.model_copy(update=gaps) if gaps else entry
