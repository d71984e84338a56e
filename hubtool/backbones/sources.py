"""From a backbone reference to a model: where it lies, what to fetch, what it is, the module. No network.

``match ref.source`` stands here and nowhere else; the libraries are imported when a reference of theirs is named.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.core.collector import uncollected
from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError, UsageError
from hubtool.core.refs import BackboneRef
from hubtool.core.settings import BUNDLED
from hubtool.records.backbone import PROCESSOR_NAME, BackboneEntry, Library, Origin, Preprocess

if TYPE_CHECKING:
    from torch import nn

_FROM_A_REPOSITORY = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    PROCESSOR_NAME,
)


@uncollected()
def locate(ref: BackboneRef) -> Origin:
    """The unpinned place of a backbone; raises NotFoundError with the nearest names."""
    match ref.source:
        case "timm":
            from hubtool.backbones import timm_table

            return timm_table.locate(ref.name)
        case "torchvision":
            from hubtool.backbones import from_torchvision

            return from_torchvision.locate(ref.name, ref.revision)
        case "hf":
            return Origin(repo_id=ref.name, revision=ref.revision)
        case "local":
            return Origin(directory=str(_directory(ref, Path(ref.name).expanduser())))
        case _:
            return Origin(directory=str(_directory(ref, BUNDLED / "backbones" / ref.name)))


def _directory(ref: BackboneRef, directory: Path) -> Path:
    if directory.is_dir():
        return directory.absolute()
    if ref.source == "bundled":
        known = sorted(p.name for p in directory.parent.iterdir()) if directory.parent.is_dir() else []
        near = difflib.get_close_matches(ref.name, known, n=1, cutoff=0.3) or known[:3]
        do = f"did you mean {' or '.join(f'bundled:{name}' for name in near)}?" if near else ""
        raise NotFoundError("E-REF-404", f"hubtool ships no backbone {ref.name!a}", do=do)
    if directory.exists():
        raise UsageError("E-REF-INVALID", "local: names a file", where=str(directory), do="name its directory")
    raise NotFoundError("E-REF-404", "no such directory", where=str(directory))


@uncollected()
def wanted_files(ref: BackboneRef) -> tuple[str, ...]:
    """What to fetch of a repository, as names and globs; those present are taken. Empty: one plain URL."""
    if ref.source == "timm":
        from hubtool.backbones import timm_table

        other = timm_table.weights_file(ref.name)
        if other is not None:
            return ("config.json", other)
        return _FROM_A_REPOSITORY[:4] if timm_table.locate(ref.name).repo_id else ()
    return _FROM_A_REPOSITORY if ref.source == "hf" else ()


@uncollected()
def describe(ref: BackboneRef, origin: Origin, directory: Path | None) -> BackboneEntry:
    """What is known of it: from its files, or without them from the library's own offline table."""
    match ref.source:
        case "timm":
            from hubtool.backbones import timm_table

            return timm_table.describe(str(ref), ref.name, origin, directory)
        case "torchvision":
            from hubtool.backbones import from_torchvision

            return from_torchvision.describe(str(ref), ref.name, ref.revision, origin)
        case _:
            place = directory or (Path(origin.directory) if origin.directory else None)
            if place is None:
                raise NotFoundError("E-BACKBONE-FILES", f"{ref} is not here", do=f"`hubtool pull {ref}`")
            return _without_head(_describe_directory(str(ref), origin, place), place)


def _without_head(entry: BackboneEntry, directory: Path) -> BackboneEntry:
    """A package with a head of ours beside it, as a backbone: it has no classifier that a library could load."""
    from hubtool.backbones import layout

    return entry if layout.head_place(directory) is None else entry.model_copy(update={"num_classes": 0})


def _describe_directory(ref: str, origin: Origin, directory: Path) -> BackboneEntry:
    library = library_of(directory)
    if library == "transformers":
        from hubtool.backbones import from_transformers

        return from_transformers.describe(ref, origin, directory)
    if library == "torchvision":
        from hubtool.backbones import from_torchvision

        return from_torchvision.describe_directory(ref, origin, directory)
    from hubtool.backbones import timm_table

    return timm_table.describe_directory(ref, origin, directory)


def library_of(directory: Path) -> Library:
    """Which library a directory's config.json speaks to; refuses what would need remote code or a local class."""
    from hubtool.backbones import layout

    config = layout.read_config(directory)
    if "auto_map" in config or "custom_pipelines" in config:
        raise SecurityError(
            "E-SEC-REMOTE-CODE", "this repository needs code of its own to run", where=directory.name,
            do="hubtool never runs remote code; choose a model whose class is in timm or transformers",
        )  # fmt: skip
    if config.get("hubtool", {}).get("library") == "torchvision":
        return "torchvision"
    if "architecture" in config:
        return "timm"
    if "model_type" in config:
        return "transformers"
    raise IntegrityError(
        "E-CONFIG",
        "config.json names no architecture (timm) and no model_type (transformers)",
        where=directory.name,
        do="a PyTorchModelHubMixin repository needs its own class, which hubtool does not run",
    )


@uncollected()
def build(
    entry: BackboneEntry,
    directory: Path | None,
    *,
    pretrained: bool,
    preprocess: Preprocess,
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The model in eval mode with its original head.

    Weights go through the strict loader: anything missing, unexpected or of another shape is an IntegrityError (5).
    Without ``pretrained`` they are random, drawn from ``seed``. The first convolution is adapted to
    ``preprocess.in_chans``, position embeddings to ``preprocess.img_size``, by the library's own functions.
    """
    from hubtool.backbones import layout

    place = directory or (Path(entry.origin.directory) if entry.origin.directory else None)
    options = {"pretrained": pretrained, "preprocess": preprocess, "drop_path": drop_path, "seed": seed}
    match entry.library:
        case "timm":
            from hubtool.backbones import from_timm as library
        case "torchvision":
            from hubtool.backbones import from_torchvision as library  # type: ignore[no-redef]
        case "transformers":
            from hubtool.backbones import from_transformers as library  # type: ignore[no-redef]
    model = library.build(entry, place, **options).eval()  # type: ignore[arg-type]
    if place is not None and layout.head_place(place) is not None:
        model.hubtool_is_headless = True  # its classifier was replaced by one that lies beside the weights
    return model


def build_empty(entry: BackboneEntry, directory: Path | None, *, preprocess: Preprocess) -> nn.Module:
    """The architecture without weights, on the meta device where its constructor allows: for shapes and counts."""
    import torch

    from hubtool.backbones.modules import unfilled

    try:
        with torch.device("meta"):
            return build(entry, directory, pretrained=False, preprocess=preprocess)
    except (NotImplementedError, RuntimeError, UsageError):
        with unfilled():  # it computes with tensors while it is made
            return build(entry, directory, pretrained=False, preprocess=preprocess)
