"""A torchvision model as the timm architecture that computes the same: found by shapes, proven by logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hubtool.backbones import from_timm, layout, weights
from hubtool.core.errors import HubtoolError
from hubtool.core.files import write_json
from hubtool.records.backbone import Preprocess

_RTOL = 1e-5
_NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
} | {
    f"regnet_{kind}_{size}": f"regnet{kind}_{number}"
    for kind in "xy"
    for size, number in {
        "400mf": "004", "800mf": "008", "1_6gf": "016", "3_2gf": "032", "8gf": "080", "16gf": "160", "32gf": "320",
        "128gf": "1280",
    }.items()
}  # fmt: skip
_SAME_NAME = ("resnet", "resnext", "wide_resnet", "densenet", "vgg", "efficientnet_b", "convnext")


def name_of(architecture: str) -> str | None:
    """timm's name of a torchvision architecture that may map; None when none is known."""
    if architecture in _NAMES:
        return _NAMES[architecture]
    return architecture if architecture.startswith(_SAME_NAME) else None


def find(original: nn.Module, architecture: str, preprocess: Preprocess, num_classes: int) -> nn.Module | None:
    """The timm model with the weights of ``original`` (torchvision, in eval mode), or None where it is not lossless.

    First timm's own filter for the family, then pairing by shape in order; either is right exactly when the logits agree.
    """
    name = name_of(architecture)
    if name is None:
        return None
    state = original.state_dict()
    args: dict[str, object] = {"num_classes": num_classes}
    if preprocess.in_chans != 3:
        args["in_chans"] = preprocess.in_chans
    if architecture.startswith("vit_") and tuple(preprocess.img_size) != (224, 224):
        args["img_size"] = tuple(preprocess.img_size)
    x_BCHW = torch.randn((2, preprocess.in_chans, *preprocess.img_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = original(x_BCHW)
        twin = from_timm.create_from(name, args, state)
        if twin is None or not _is_close(ours, twin(x_BCHW)):
            twin = _by_shape(name, args, state)
        return twin if twin is not None and _is_close(ours, twin(x_BCHW)) else None


def _is_close(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= _RTOL * (float(ours.abs().max()) or 1.0)


def _by_shape(name: str, args: Mapping[str, object], state: Mapping[str, Tensor]) -> nn.Module | None:
    try:
        twin = from_timm.create(name, args, is_filled=False).eval()
    except HubtoolError:
        return None
    paired = _pair(twin.state_dict(), state)
    if paired is None:
        return None
    twin.load_state_dict(paired)
    return twin


def _pair(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Each name of timm's with the tensor of the same size, first with first; a convolution may stand for a matrix."""
    queues: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for tensor in state.values():
        queues[_shape(tensor)].append(tensor)
    paired: dict[str, Tensor] = {}
    for name, like in wanted.items():
        queue = queues[_shape(like)]
        if not queue:
            return None
        paired[name] = queue.pop(0).reshape(like.shape)
    return None if any(queues.values()) else paired


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.shape[0], tensor.numel()) if tensor.ndim > 1 else tuple(tensor.shape)


def write(twin: nn.Module, preprocess: Preprocess, classes: tuple[str, ...], directory: Path) -> None:
    config = from_timm.config(twin, preprocess, len(classes)) | {"label_names": list(classes)}
    weights.save(twin.state_dict(), directory / weights.WEIGHTS_NAME)
    write_json(directory / layout.CONFIG_NAME, config)
