"""Pictures as tensors: preprocessing, and augmentation at an Address.

Shapes: B batch, H height, W width, C channels. Geometry and colour work on 8-bit Pillow pictures (``crops``, ``policies``);
here they become float32 in [0, 1], less the mean, by the standard deviation. A draw depends on (seed, Address) alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hubtool.core.seeds import Address
from hubtool.data import crops, policies

if TYPE_CHECKING:
    from hubtool.data.images import Picture
    from hubtool.records.backbone import Preprocess


def preprocess(image: Picture, preprocess: Preprocess) -> torch.Tensor:
    """x_CHW float32 of a picture in the mode of ``in_chans``: timm's evaluation transform, bit for bit."""
    return _to_tensor(crops.plain(image, crops.frame_of(preprocess)), preprocess)


def augment(image: Picture, preprocess: Preprocess, policy: str, address: Address, seed: int) -> torch.Tensor:
    """x_CHW float32 of one draw of ``policy`` (none, light, strong) at ``address``."""
    return _to_tensor(policies.draw(image, crops.frame_of(preprocess), policy, address.seed(seed)), preprocess)


def normalize(
    pixels_BHWC: torch.Tensor | np.ndarray[tuple[int, ...], np.dtype[np.uint8]], preprocess: Preprocess
) -> torch.Tensor:
    """x_BCHW float32, contiguous, of 8-bit pixels. The operations and their order are timm's: / 255, - mean, / std."""
    x_BCHW = torch.as_tensor(pixels_BHWC).permute(0, 3, 1, 2)
    x_BCHW = x_BCHW.to(torch.float32, memory_format=torch.contiguous_format)
    mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    return x_BCHW.div_(255).sub_(mean).div_(std)


def _to_tensor(image: Picture, preprocess: Preprocess) -> torch.Tensor:
    pixels = np.array(image, dtype=np.uint8).reshape(1, image.height, image.width, preprocess.in_chans)
    return normalize(pixels, preprocess)[0]
