"""transformers' own files: the preprocessing that its processors do, in the forms that repositories have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hubtool.backbones import from_transformers
from hubtool.data.images import draw_pictures
from hubtool.data.transforms import preprocess
from hubtool.records.backbone import Origin, Preprocess

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
COMMON: dict[str, Any] = {"do_normalize": True, "do_resize": True}
# As old repositories have it (a number for the size, the name of a feature extractor), and as new ones have it.
PROCESSORS: dict[str, tuple[dict[str, Any], tuple[str, float, str]]] = {
    "vit": (
        COMMON | HALF | {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
        ("squash", 1.0, "bilinear"),
    ),
    "vit, newer": (
        COMMON | HALF | {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}},
        ("squash", 1.0, "bilinear"),
    ),
    "convnext": (
        COMMON | IMAGENET | {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, "resample": 3},
        ("center", 0.875, "bicubic"),
    ),
    "convnext, newer": (
        COMMON | IMAGENET | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "resample": 3},
        ("center", 0.875, "bicubic"),
    ),
    "convnext, large": (
        COMMON | IMAGENET | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
        ("squash", 1.0, "bicubic"),
    ),
    "dinov2": (
        COMMON | IMAGENET | {
            "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224}, "resample": 3,
        },
        ("center", 0.875, "bicubic"),
    ),
    "mobilenet": (
        COMMON | HALF | {
            "feature_extractor_type": "MobileNetV1FeatureExtractor", "size": {"shortest_edge": 256},
            "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 2,
        },
        ("center", 0.875, "bilinear"),
    ),
}  # fmt: skip


def described(directory: Path, processor: dict[str, Any]) -> Preprocess:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=5)
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return from_transformers.describe("hf:a/b", Origin(), directory).preprocess


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_come_as_the_processor_makes_them(name: str, tmp_path: Path) -> None:
    processor, wanted = PROCESSORS[name]
    found = described(tmp_path, processor)
    assert (found.crop_mode, pytest.approx(found.crop_pct), found.interpolation) == wanted
    picture = draw_pictures(1, 1)[0].resize((300, 200))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt").pixel_values[0]
    ours = preprocess(picture, found)
    assert ours.shape == theirs.shape
    # They resize on tensors, we on Pillow's pictures: an edge differs by a few levels, another crop by much more.
    assert float((ours - theirs).abs().mean()) < 0.03, np.asarray(ours).mean()
    shifted = torch.roll(theirs, shifts=4, dims=-1)
    assert float((ours - theirs).abs().mean()) < 0.5 * float((ours - shifted).abs().mean())
