"""Write the catalogue of known backbones, registry.json and model_cards/ from the installed libraries, offline.

Licences, preprocessing and places come from the libraries' own tables (through hubtool.backbones.sources); parameters
and features are counted on networks built on the meta device, without memory and without weights.

Run: python -m benchmarks build_catalogue            writes all three (some five minutes on one core)
     python -m benchmarks build_catalogue --cards    writes registry.json and model_cards/ from the catalogue that is there
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks._curated import CURATED, curated_entry
from hubtool.backbones import sources
from hubtool.core.files import make_dirs, write_bytes, write_text
from hubtool.core.refs import BackboneRef, parse_backbone_ref
from hubtool.core.settings import PACKAGE
from hubtool.package.backbone_card import render
from hubtool.records.backbone import BackboneEntry
from hubtool.records.catalogue import CATALOGUE, Catalogue, read_catalogue, write_catalogue
from hubtool.records.registry import Registry

TOP = PACKAGE.parent
_NO_DRAWS = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


def versions() -> dict[str, str]:
    import timm
    import torchvision

    return {"timm": timm.__version__, "torchvision": torchvision.__version__.partition("+")[0]}


def references() -> list[str]:
    """Every pretrained tag of timm and every classification weights of torchvision, as references."""
    import timm
    from torchvision.models import get_model_weights, list_models

    tags = [f"timm:{name}" for name in timm.list_models(pretrained=True)]
    builders = [name for name in list_models() if _is_classifier(name)]
    return tags + [f"torchvision:{name}@{weights.name}" for name in builders for weights in get_model_weights(name)]


def _is_classifier(name: str) -> bool:
    from torchvision.models import get_model_builder

    module: str = get_model_builder(name).__module__
    return module.rpartition(".")[0] == "torchvision.models"


def described(ref: BackboneRef) -> BackboneEntry:
    """What the library's own offline table says."""
    return sources.describe(ref, sources.locate(ref), None)


def counted(entry: BackboneEntry, known: dict[object, tuple[int, int | None]]) -> BackboneEntry:
    """The entry with parameters (the published head included) and the width of its pooled features."""
    key = (entry.library, entry.architecture, entry.num_classes, entry.preprocess.img_size)
    if key not in known:
        known[key] = _count(entry)
    num_params, num_features = known[key]
    counts = {"num_params": entry.num_params or num_params, "num_features": entry.num_features or num_features}
    return entry.model_copy(update=counts)


def _count(entry: BackboneEntry) -> tuple[int, int | None]:
    import torch

    name = parse_backbone_ref(entry.ref).name
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build = _torchvision_model if entry.library == "torchvision" else _timm_model
        model, pooled = build(name)
        x_BCHW = torch.empty(1, entry.preprocess.in_chans, *entry.preprocess.img_size)
        num_params = sum(parameter.numel() for parameter in model.parameters())
        return num_params, _width(pooled, x_BCHW)


def _width(pooled: Callable[[Any], Any], x_BCHW: Any) -> int | None:
    """The last dimension of what stands before the classifier; None where a model has several or none."""
    try:
        feats = pooled(x_BCHW)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError):
        return None
    shape = getattr(feats, "shape", None)
    return int(shape[-1]) if shape is not None and len(shape) == 2 else None


def _timm_model(name: str) -> tuple[Any, Callable[[Any], Any]]:
    import timm

    model = timm.create_model(name).eval()
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


def _torchvision_model(name: str) -> tuple[Any, Callable[[Any], Any]]:
    """The features are what the last linear (or convolutional) classifier takes in. RegNet computes its widths by tensors."""
    import torch
    from torchvision.models import get_model, regnet

    widths = regnet.BlockParams.from_init_params

    def widths_on_cpu(**kwargs: Any) -> Any:
        with torch.device("cpu"):
            return widths(**kwargs)

    with patch.object(regnet.BlockParams, "from_init_params", widths_on_cpu):
        model = get_model(name, weights=None, **_NO_DRAWS.get(name, {}))
    heads = [m for m in model.eval().modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    return model, lambda x: torch.empty(1, heads[-1].weight.shape[1])


def build_catalogue(refs: Iterable[str], tell: Callable[[str], None] = print) -> Catalogue:
    entries: list[BackboneEntry] = []
    known: dict[object, tuple[int, int | None]] = {}
    start = time.monotonic()
    for ref in refs:
        entries.append(counted(described(parse_backbone_ref(ref)), known))
        if len(entries) % 200 == 0:
            tell(f"{len(entries)} models after {time.monotonic() - start:.0f} s")
    return Catalogue(versions=versions(), entries=tuple(entries))


def build_registry(catalogue: Catalogue) -> Registry:
    return Registry(backbones={name: curated_entry(name, catalogue) for name in CURATED})


def write_cards(registry: Registry, directory: Path) -> None:
    """One card per entry; what a person wrote below the generated part stays; a card without an entry goes."""
    make_dirs(directory)
    for path in directory.glob("*.md"):
        if path.stem not in registry.backbones:
            path.unlink()
    for name, entry in registry.backbones.items():
        path = directory / f"{name}.md"
        write_text(path, render(name, entry, path.read_text() if path.exists() else ""))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cards", action="store_true", help="only registry.json and model_cards/")
    options = parser.parse_args(arguments)
    if not options.cards:
        write_bytes(CATALOGUE, write_catalogue(build_catalogue(references())))
    catalogue = read_catalogue()
    registry = build_registry(catalogue)
    registry.write(TOP / "registry.json")
    write_cards(registry, TOP / "model_cards")
    print(f"{len(catalogue.entries)} models in the catalogue, {len(registry.backbones)} in registry.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
