"""Pictures as tensors: preprocessing, and augmentation at an Address.

Shapes: B batch, H height, W width, C channels. Geometry works on 8-bit Pillow pictures (``crops``); here they become
float32 in [0, 1], less the mean, by the standard deviation. A draw depends on (seed, Address) alone.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from hubtool.core.errors import UsageError
from hubtool.core.seeds import Address
from hubtool.data import crops
from hubtool.records.backbone import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

POLICIES = ("none", "light", "strong")


def preprocess(image: Image, preprocess: Preprocess) -> torch.Tensor:
    """x_CHW float32 of a picture in the mode of ``in_chans``: timm's evaluation transform, bit for bit."""
    return _to_tensor(crops.plain(image, crops.frame_of(preprocess)), preprocess)


def augment(image: Image, preprocess: Preprocess, policy: str, address: Address, seed: int) -> torch.Tensor:
    """x_CHW float32 of one draw of ``policy`` (none, light, strong) at ``address``."""
    return _to_tensor(draw(image, crops.frame_of(preprocess), policy, address.seed(seed)), preprocess)


def draw(image: Image, frame: crops.Frame, policy: str, seed: int) -> Image:
    """The same before it becomes a tensor: an 8-bit picture of the frame's size."""
    source = random.Random(seed)
    if policy == "none":
        return crops.plain(image, frame)
    if policy == "light":
        return crops.light(image, frame, source)
    raise UsageError("E-DATA-POLICY", f"unknown policy {policy!r}", do="policies: " + ", ".join(POLICIES))


def normalize(pixels_BHWC: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """x_BCHW float32, contiguous. The operations and their order are timm's: / 255, - mean, / std."""
    x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    return x_BCHW.div_(255).sub_(mean).div_(std)


def normalize_numpy(
    pixels_BHWC: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], preprocess: Preprocess
) -> torch.Tensor:
    return normalize(torch.from_numpy(pixels_BHWC), preprocess)


def _to_tensor(image: Image, preprocess: Preprocess) -> torch.Tensor:
    pixels = np.array(image, dtype=np.uint8).reshape(1, image.height, image.width, preprocess.in_chans)
    return normalize(torch.from_numpy(pixels), preprocess)[0]
