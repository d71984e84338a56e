"""Pictures as tensors: preprocessing, and augmentation at an Address.

Shapes: B batch, H height, W width, C channels. Geometry and colour work on 8-bit Pillow pictures; here they become
float32 in [0, 1], less the mean, by the standard deviation. A draw depends on (seed, Address) alone: it comes from a
``random.Random`` of that seed, of which only ``random()`` is used, the one method whose values Python promises to keep.

Policies, on the picture as decoded:

``none``    preprocessing alone
``light``   a random crop of 35 to 100 % of the area, mirrored in half of the cases
``strong``  a random crop of 8 to 100 %, mirrored, one operation of TrivialAugment (wide; Müller and Hutter 2021), and in a
            quarter of the cases a rectangle erased (Zhong et al. 2017)
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hubtool.core.errors import UsageError
from hubtool.core.seeds import Address
from hubtool.data import crops

if TYPE_CHECKING:
    from hubtool.data.images import Picture
    from hubtool.records.backbone import Preprocess

POLICIES = ("none", "light", "strong")
_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_NUM_MAGNITUDES = 31


def preprocess(image: Picture, preprocess: Preprocess) -> torch.Tensor:
    """x_CHW float32 of a picture in the mode of ``in_chans``: timm's evaluation transform, bit for bit."""
    return _to_tensor(crops.plain(image, crops.frame_of(preprocess)), preprocess)


def augment(image: Picture, preprocess: Preprocess, policy: str, address: Address, seed: int) -> torch.Tensor:
    """x_CHW float32 of one draw of ``policy`` (none, light, strong) at ``address``."""
    return _to_tensor(draw(image, crops.frame_of(preprocess), policy, address.seed(seed)), preprocess)


def draw(image: Picture, frame: crops.Frame, policy: str, seed: int) -> Picture:
    """The same before it becomes a tensor: an 8-bit picture of the frame's size."""
    source = random.Random(seed)
    if policy == "none":
        return crops.plain(image, frame)
    if policy == "light":
        return crops.light(image, frame, source)
    if policy == "strong":
        return strong(image, frame, source)
    raise UsageError("E-DATA-POLICY", f"unknown policy {policy!r}", do="policies: " + ", ".join(POLICIES))


def strong(image: Picture, frame: crops.Frame, source: random.Random) -> Picture:
    image = crops.mirrored(crops.random_crop(image, frame, source, least_area=0.08), source)
    name = _OPERATIONS[int(source.random() * len(_OPERATIONS))]
    magnitude = int(source.random() * _NUM_MAGNITUDES) / (_NUM_MAGNITUDES - 1)
    sign = -1 if source.random() < 0.5 else 1
    image = _operate(image, frame, name, magnitude, sign)
    return crops.erased(image, frame, source) if source.random() < 0.25 else image


def _operate(image: Picture, frame: crops.Frame, name: str, magnitude: float, sign: int) -> Picture:
    """One operation of TrivialAugment with ``magnitude`` in [0, 1]; colours change, an alpha channel only moves."""
    import torchvision.transforms.v2.functional as F  # noqa: N812 - its name everywhere

    if name == "identity":
        return image
    if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        fill = list(frame.fill)
        if name == "rotate":
            turned: Picture = F.rotate(image, sign * 135 * magnitude, fill=fill)
            return turned
        shear = math.degrees(math.atan(sign * 0.99 * magnitude))
        # TrivialAugment's 32 pixels of 224, in proportion
        shift = sign * magnitude / 7
        moved: Picture = F.affine(
            image,
            angle=0.0,
            translate=[
                int(shift * frame.width) if name == "translate_x" else 0,
                int(shift * frame.height) if name == "translate_y" else 0,
            ],
            scale=1.0,
            shear=[shear if name == "shear_x" else 0.0, shear if name == "shear_y" else 0.0],
            fill=fill,
        )
        return moved
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = _recolour(F, image.convert(image.mode[:-1]), name, magnitude, sign)
        image.putalpha(alpha)
        return image
    return _recolour(F, image, name, magnitude, sign)


def _recolour(F: Any, image: Picture, name: str, magnitude: float, sign: int) -> Picture:
    factor = 1 + sign * 0.99 * magnitude
    found: Picture = {
        "brightness": lambda: F.adjust_brightness(image, factor),
        "color": lambda: F.adjust_saturation(image, factor),
        "contrast": lambda: F.adjust_contrast(image, factor),
        "sharpness": lambda: F.adjust_sharpness(image, factor),
        "posterize": lambda: F.posterize(image, 8 - round(6 * magnitude)),
        "solarize": lambda: F.solarize(image, 255 * (1 - magnitude)),
        "autocontrast": lambda: F.autocontrast(image),
        "equalize": lambda: F.equalize(image),
    }[name]()
    return found


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
