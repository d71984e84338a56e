"""Small models and recipes made by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hubtool.backbones import head, parts, sources
from hubtool.core.files import write_json
from hubtool.core.refs import parse_backbone_ref
from hubtool.records.backbone import BackboneEntry, Parts
from hubtool.records.recipe import Recipe
from hubtool.records.resolve import ResolvedRecipe, resolve


def test_resnet_directory(directory: Path, num_classes: int = 7) -> Path:
    """A directory in timm's format with a random test_resnet, as a repository or a bundled backbone has it."""
    import timm

    from hubtool.backbones import weights

    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=num_classes)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    directory.mkdir(parents=True, exist_ok=True)
    weights.save(model.state_dict(), directory / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "num_classes": num_classes, "mean": [0.5] * 3, "std": [0.5] * 3}
    cfg |= {"interpolation": "bilinear", "crop_pct": 1.0, "classifier": "fc", "first_conv": "conv1.0"}
    write_json(
        directory / "config.json",
        {"architecture": "test_resnet", "num_classes": num_classes, "pretrained_cfg": cfg},
    )
    return directory


test_resnet_directory.__test__ = False  # type: ignore[attr-defined]


def entry_of(reference: str, directory: Path | None = None) -> BackboneEntry:
    ref = parse_backbone_ref(reference)
    return sources.describe(ref, sources.locate(ref), directory)


def resolved_of(entry: BackboneEntry, *, pretrained: bool = True, **sections: Any) -> ResolvedRecipe:
    recipe = Recipe.model_validate({"backbone": {"ref": entry.ref, "pretrained": pretrained}, **sections}, strict=False)
    return resolve(recipe, entry)


def with_head(
    entry: BackboneEntry, directory: Path | None, resolved: ResolvedRecipe, num_outputs: int = 3
) -> tuple[nn.Module, Parts]:
    model = sources.build(
        entry, directory, pretrained=resolved.backbone.pretrained, preprocess=resolved.preprocess, seed=1
    )
    head.attach(model, resolved.head, num_outputs=num_outputs, seed=5, library=entry.library)
    return model, parts.find_parts(model, entry.library)


def pictures(resolved: ResolvedRecipe, num: int = 4) -> torch.Tensor:
    preprocess = resolved.preprocess
    generator = torch.Generator().manual_seed(9)
    return torch.randn((num, preprocess.in_chans, *preprocess.img_size), generator=generator)
