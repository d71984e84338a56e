"""hubtool.json: the manifest of a package."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import FileDigest, Sha256
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/package/v1"] = "hubtool/package/v1"
MANIFEST_NAME = "hubtool.json"

Layout = Literal["timm", "transformers", "torchvision", "hubtool"]


class PackageManifest(Record):
    """Every file but itself with its digest; ``layout`` says who loads it; ``base_revision`` is the backbone's commit."""

    schema_: Annotated[Literal["hubtool/package/v1"], Field(alias="schema")] = SCHEMA
    hubtool: str
    layout: Layout
    base_model: str | None
    base_revision: str | None
    license: str
    has_images: bool = False
    has_names: bool = False
    files: tuple[FileDigest, ...]


class PackedWeights(Record):
    """evidence/weights.json: what the packed files hold, over all tensors and for each.

    ``weights_digest`` equals the result's where the layout changes nothing (no folding, no renaming)."""

    weights_digest: Sha256
    tensors: dict[str, Sha256]


class Snippet(Record):
    """Code that was run when the package was made, and what it printed; OWNER/NAME stands in the repository's place."""

    library: str
    version: str
    code: str
    output: str


class Snippets(Record):
    """evidence/snippets.json."""

    snippets: tuple[Snippet, ...]
