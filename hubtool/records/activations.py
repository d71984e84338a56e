"""The cache of a frozen prefix's activations as it is written down."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import Preprocess, Sha256
from hubtool.records.environment import Numerics
from hubtool.records.strict import Record

PIXELS = 1  # to be raised when decoding, cropping or augmenting gives other pixels
SCHEMA: Literal["hubtool/activations/v2"] = "hubtool/activations/v2"


class ActivationsKey(Record):
    """What the activations of a picture depend on, beside the picture and the draw of its augmentation.

    ``weights`` is over the digests of the frozen tensors, ``micro_size`` the one batch shape they are computed in, ``pixels``
    the version of how a file becomes the pixels of a draw.
    """

    schema_: Annotated[Literal["hubtool/activations/v2"], Field(alias="schema")] = SCHEMA
    architecture: str
    weights: Sha256
    cut: str
    pixels: int = PIXELS
    preprocess: Preprocess
    precision: str
    micro_size: int
    numerics: Numerics


class Activation(Record):
    """One tensor of a row: torch's name of its dtype, its shape without the batch."""

    dtype: str
    shape: tuple[int, ...]


class About(Record):
    """about.json of a cache directory. A row is the bytes of ``tensors`` one after the other, ``row_bytes`` in all.

    ``nonce`` is drawn when the directory is made: one that was removed and made anew is another.
    """

    key: ActivationsKey
    tensors: tuple[Activation, ...]
    row_bytes: int
    nonce: str = ""


class CacheRow(Record):
    """A cache directory in ``hubtool cache list``; ``last_used_s`` is seconds since the epoch."""

    name: str
    architecture: str
    num_rows: int
    size_bytes: int
    last_used_s: float
