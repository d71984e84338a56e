"""The backbones of registry.json: which ones, and what no installed library says about four of them."""

from __future__ import annotations

from typing import Any

from hubtool.core.digests import sha256_file
from hubtool.core.refs import parse_backbone_ref
from hubtool.core.settings import BUNDLED
from hubtool.records.backbone import BackboneEntry, FileDigest, Origin, Preprocess
from hubtool.records.catalogue import Catalogue

# Well known, of every usual kind and size; where timm has several weights, those fine-tuned on ImageNet-1k, best first.
CURATED = {
    "test_resnet.fractal": "bundled:test_resnet.fractal",
    "resnet18": "timm:resnet18.a1_in1k",
    "resnet50": "timm:resnet50.a1_in1k",
    "efficientnet_b0": "timm:efficientnet_b0.ra_in1k",
    "efficientnet_b1": "timm:efficientnet_b1.ft_in1k",
    "efficientnet_b2": "timm:efficientnet_b2.ra_in1k",
    "efficientnet_b3": "timm:efficientnet_b3.ra2_in1k",
    "efficientnet_b4": "timm:efficientnet_b4.ra2_in1k",
    "efficientnet_b5": "timm:efficientnet_b5.sw_in12k_ft_in1k",
    "efficientnet_b6": "timm:tf_efficientnet_b6.ns_jft_in1k",
    "efficientnet_b7": "timm:tf_efficientnet_b7.ns_jft_in1k",
    "mobilenetv3_large": "timm:mobilenetv3_large_100.ra_in1k",
    "mobilenetv4_small": "timm:mobilenetv4_conv_small.e2400_r224_in1k",
    "convnext_tiny": "timm:convnext_tiny.fb_in22k_ft_in1k",
    "convnext_base": "timm:convnext_base.fb_in22k_ft_in1k",
    "vit_tiny": "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_small": "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_base": "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "deit_small": "timm:deit_small_patch16_224.fb_in1k",
    "swin_tiny": "timm:swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
    "dinov2_small": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "timm:vit_base_patch14_dinov2.lvd142m",
    "torchvision_resnet50": "torchvision:resnet50@IMAGENET1K_V2",
    "torchvision_convnext_tiny": "torchvision:convnext_tiny@IMAGENET1K_V1",
    "torchvision_vit_b_16": "torchvision:vit_b_16@IMAGENET1K_V1",
    "hf_vit_base": "hf:google/vit-base-patch16-224",
    "hf_swin_tiny": "hf:microsoft/swin-tiny-patch4-window7-224",
    "hf_convnext_tiny": "hf:facebook/convnext-tiny-224",
    "hf_dinov2_small": "hf:facebook/dinov2-small",
}

_HALF = (0.5, 0.5, 0.5)
_SQUASHED: dict[str, object] = {"crop_pct": 1.0, "crop_mode": "squash"}

# The repositories were not reached when this was written: licence and preprocessing are what is published about each
# elsewhere, and `hubtool pull` reads config.json and preprocessor_config.json again. Parameters are counted.
# (architecture, licence, classes, features, preprocessing beside 224 x 224); parameters are counted from the config.
_HUB: dict[str, tuple[str, int, int, dict[str, object]]] = {
    "google/vit-base-patch16-224": (
        "ViTForImageClassification", 1000, 768, {"interpolation": "bilinear", "mean": _HALF, "std": _HALF} | _SQUASHED,
    ),
    "microsoft/swin-tiny-patch4-window7-224": ("SwinForImageClassification", 1000, 768, _SQUASHED),
    "facebook/convnext-tiny-224": ("ConvNextForImageClassification", 1000, 768, {"crop_pct": 0.875}),
    "facebook/dinov2-small": ("Dinov2Model", 0, 768, {"crop_pct": 0.875}),  # its classifier reads class token and mean
}  # fmt: skip
_HUB_CONFIGS = {
    "facebook/dinov2-small": {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
}


def curated_entry(name: str, catalogue: Catalogue) -> BackboneEntry:
    """The entry of one name; raises KeyError where the catalogue does not know its reference."""
    ref = CURATED[name]
    source = ref.partition(":")[0]
    if source == "bundled":
        return _bundled(ref)
    if source == "hf":
        return _of_hub(ref)
    return next(entry for entry in catalogue.entries if entry.ref == ref)


def _bundled(ref: str) -> BackboneEntry:
    from hubtool.backbones import sources

    directory = BUNDLED / "backbones" / ref.partition(":")[2]
    entry = sources.describe(parse_backbone_ref(ref), Origin(), directory)
    files = tuple(
        FileDigest(path=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(directory.iterdir())
    )
    counts = {"num_params": _stored_params(directory), "num_features": 96}
    return entry.model_copy(update={"origin": Origin(files=files), "digests_from": "published", **counts})


def _stored_params(directory: object) -> int:
    from math import prod

    from safetensors import safe_open

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    with safe_open(f"{directory}/model.safetensors", "pt") as weights:
        names = [name for name in weights.offset_keys() if not name.endswith(buffers)]
        return sum(prod(weights.get_slice(name).get_shape()) for name in names)


def _of_hub(ref: str) -> BackboneEntry:
    repo_id = ref.partition(":")[2]
    architecture, num_classes, num_features, preprocess = _HUB[repo_id]
    return BackboneEntry(
        ref=ref,
        library="transformers",
        architecture=_model_class(architecture).config_class.model_type,
        origin=Origin(repo_id=repo_id),
        license="apache-2.0",
        num_params=_params_of_config(architecture, num_classes, _HUB_CONFIGS.get(repo_id, {})),
        num_features=num_features,
        num_classes=num_classes,
        preprocess=Preprocess.model_validate({"img_size": (224, 224), **preprocess}),
    )


def _model_class(architecture: str) -> Any:
    import transformers

    return getattr(transformers, architecture)


def _params_of_config(architecture: str, num_classes: int, changed: dict[str, int]) -> int:
    """Parameters of the class under its default configuration, which is that of the base models, built without memory."""
    import torch

    model_class = _model_class(architecture)
    config = model_class.config_class(num_labels=num_classes, **changed)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(config).parameters())
