"""Backbones as they are written down: where one comes from, what it expects, its parts, and what trains when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.core.digests import sha256_json
from hubtool.records.strict import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash", "border"]
Library = Literal["timm", "torchvision", "transformers"]
PROCESSOR_NAME = "preprocessor_config.json"
CONFIG_NAMES = ("config.json", PROCESSOR_NAME)  # how a model is built and what it is fed


class FileDigest(Record):
    """One file: its path with ``/``, its size and the sha256 of its bytes."""

    path: str
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Origin(Record):
    """Where the files come from: exactly one of a hub repository, a URL, a directory of this machine.

    ``revision`` is a commit once it is pinned. ``directory`` never enters a digest or a package.
    ``hub`` is the endpoint it was pulled from, unless that is the public hub.
    """

    repo_id: str | None = None
    url: str | None = None
    directory: str | None = None
    hub: str | None = None
    revision: str | None = None
    files: tuple[FileDigest, ...] = ()


class Preprocess(Record):
    """How a picture becomes the model's input: one value for recipe, transforms, cache key, config.json and predict.

    ``img_size`` is (height, width) in pixels; the short side is resized to ``img_size / crop_pct`` and the centre cropped
    (``crop_mode`` center), or the picture is squashed to that size. ``mean`` and ``std`` have one value per channel, on [0, 1].
    """

    img_size: tuple[int, int]
    in_chans: Annotated[int, Field(ge=1, le=16)] = 3
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


class BackboneEntry(Record):
    """A backbone that was pulled, is bundled, or is known to the catalogue.

    ``ref`` is pinned once pulled. ``digests_from`` says who vouches for the digests: ``published`` (the hub's own listing,
    a URL's hash prefix, this package) or ``first_pull`` (trust on first use); None: not pulled yet.
    """

    ref: str
    library: Library
    architecture: str
    origin: Origin
    license: str | None = None
    num_params: int | None = None
    num_features: int | None = None
    num_classes: int | None = None
    preprocess: Preprocess
    digests_from: Literal["published", "first_pull"] | None = None

    def as_random(self) -> BackboneEntry:
        """The same architecture for random weights: of its files only those that say how it is built, nobody's licence."""
        files = tuple(file for file in self.origin.files if file.path in CONFIG_NAMES)
        return self.model_copy(update={"origin": Origin(files=files), "license": None, "digests_from": None})

    def files_digest(self) -> str:
        """What names the backbone's bytes: the digest over its files' paths and sha256."""
        return sha256_json(sorted((f.path, f.sha256) for f in self.origin.files))


class Part(Record):
    """One part of a model, in the order of the forward pass. Names are those of ``named_parameters`` and so on.

    ``modules`` lists every module inside, parameter-free ones too (dropout, drop-path): they follow the part's mode.
    """

    name: str
    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


class Parts(Record):
    """stem, stage1… or block1… or named children, neck, head: every parameter and buffer in exactly one."""

    parts: tuple[Part, ...]

    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def part_of(self, parameter: str) -> str:
        return next(p.name for p in self.parts if parameter in p.parameters or parameter in p.buffers)


class Phase(Record):
    """A span of epochs with one set of trainable tensors. A function of (resolved recipe, parts) alone.

    ``trainable`` gives each trainable parameter its lr scale (part scale times layer decay);
    ``eval_modules`` names the modules that stay in eval mode, never the root.
    """

    first_epoch: Annotated[int, Field(ge=0)]
    num_epochs: Annotated[int, Field(ge=1)]
    trainable: dict[str, float]
    eval_modules: tuple[str, ...] = ()


class LayerRow(Record):
    """One part in the table of ``hubtool show``. ``output_shape`` is without the batch; ``flops`` per picture
    (one multiply-add is 2)."""

    part: str
    output_shape: tuple[int, ...] | None
    num_params: int
    flops: int | None
    is_trainable: bool
    norm_mode: Literal["train", "eval", "none"]
    is_before_frontier: bool


class LayerTable(Record):
    """The layers of a model under a recipe; ``frontier`` says where the frozen prefix ends, or why it cannot be cut."""

    rows: tuple[LayerRow, ...]
    num_params: int
    num_trainable: int
    frontier: str
