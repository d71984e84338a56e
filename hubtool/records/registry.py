"""registry.json: backbones under short names, with licence, preprocessing and digests."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.core.files import make_dirs
from hubtool.core.locks import hold
from hubtool.core.settings import shipped
from hubtool.records.backbone import BackboneEntry
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/registry/v1"] = "hubtool/registry/v1"
FILE_NAME = "registry.json"


class Published(Record):
    """A model that was pushed: ``hub`` is the endpoint, or ``local``."""

    repo_id: str
    hub: str
    commit: str
    license: str


class Registry(Record):
    """``backbones`` by name; ``published`` by repository id. Names are sorted when written."""

    schema_: Annotated[Literal["hubtool/registry/v1"], Field(alias="schema")] = SCHEMA
    backbones: dict[str, BackboneEntry] = {}
    published: dict[str, Published] = {}

    def find(self, ref: str) -> BackboneEntry | None:
        """By name, or by the reference an entry has."""
        if ref in self.backbones:
            return self.backbones[ref]
        return next((entry for entry in self.backbones.values() if entry.ref == ref), None)


def read_registry(path: Path) -> Registry | None:
    """None where there is no file, or where the file is another program's registry.json."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        schema = json.loads(data).get("schema")
    except (ValueError, AttributeError):
        return None
    if not isinstance(schema, str) or not schema.startswith("hubtool/registry/"):
        return None
    if schema != SCHEMA:
        raise UsageError("E-REGISTRY-SCHEMA", f"{schema} needs a newer hubtool", where=str(path))
    return Registry.from_json(data, str(path))


def read_all(home: Path) -> list[Registry]:
    """In the order they count: ./registry.json where it is ours, the one under HUBTOOL_HOME, the shipped one."""
    paths = (Path(FILE_NAME), home / FILE_NAME, shipped(FILE_NAME))
    return [registry for path in paths if (registry := read_registry(path)) is not None]


def add_backbone(path: Path, name: str, entry: BackboneEntry) -> None:
    """Enter or replace one backbone; concurrent writers take turns."""
    _update(path, lambda registry: registry.model_copy(update={"backbones": {**registry.backbones, name: entry}}))


def add_published(path: Path, published: Published) -> None:
    _update(
        path,
        lambda registry: registry.model_copy(
            update={"published": {**registry.published, published.repo_id: published}}
        ),
    )


def _update(path: Path, change: Callable[[Registry], Registry]) -> None:
    make_dirs(path.parent)
    with hold(path.with_name(f".{path.name}.lock"), "the registry", wait_s=10):
        change(read_registry(path) or Registry()).write(path)


def missing(name: str, registries: list[Registry]) -> NotFoundError:
    known = sorted({key for registry in registries for key in registry.backbones})
    near = difflib.get_close_matches(name, known, n=3)
    return NotFoundError(
        "E-REF-404",
        f"no backbone {name!a} in the registries",
        do=f"did you mean {' or '.join(near)}?" if near else "write SOURCE:NAME, as in timm:resnet18.a1_in1k",
    )
