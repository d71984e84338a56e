"""Augmentation on 8-bit pictures, one draw at a time, from a ``random.Random`` alone. Pillow, no torch.

``light``   a random crop of 35 to 100 % of the area, mirrored in half of the cases
``strong``  a random crop of 8 to 100 %, mirrored, one operation of TrivialAugment (wide; Müller and Hutter 2021), and in a
            quarter of the cases a rectangle erased (Zhong et al. 2017)

The operations are those of ``torchvision.transforms.v2`` on Pillow pictures, pixel for pixel; written out here because a
worker that imported torchvision would take five seconds and 300 MB to start. Of a ``random.Random`` only ``random()`` is
used, the one method whose values Python promises to keep.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageEnhance, ImageOps

from hubtool.core.errors import UsageError
from hubtool.data.crops import Frame, colour, plain, resized

POLICIES = ("none", "light", "strong")
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_NUM_MAGNITUDES = 31


def draw(image: Image.Image, frame: Frame, policy: str, seed: int) -> Image.Image:
    """A picture of the frame's size; ``image`` has the mode of ``in_chans`` and is left as it is."""
    source = random.Random(seed)
    if policy == "none":
        return plain(image, frame)
    if policy == "light":
        return _mirrored(_random_crop(image, frame, source, least_area=0.35), source)
    if policy == "strong":
        return _strong(image, frame, source)
    raise UsageError("E-DATA-POLICY", f"unknown policy {policy!r}", do="policies: " + ", ".join(POLICIES))


def _strong(image: Image.Image, frame: Frame, source: random.Random) -> Image.Image:
    image = _mirrored(_random_crop(image, frame, source, least_area=0.08), source)
    name = OPERATIONS[int(source.random() * len(OPERATIONS))]
    magnitude = int(source.random() * _NUM_MAGNITUDES) / (_NUM_MAGNITUDES - 1)
    sign = -1 if source.random() < 0.5 else 1
    image = operate(image, frame, name, sign * magnitude)
    return _erased(image, frame, source) if source.random() < 0.25 else image


def _random_crop(image: Image.Image, frame: Frame, source: random.Random, *, least_area: float) -> Image.Image:
    """Szegedy et al.'s "Going Deeper with Convolutions" crop, as torchvision's RandomResizedCrop draws it.

    Ten tries for a box of an aspect of 3/4 to 4/3 inside the picture, then the largest centred one of a permitted aspect.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * (least_area + source.random() * (1 - least_area))
        aspect = math.exp(math.log(3 / 4) + source.random() * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        x, y = source.random(), source.random()
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            break
    else:
        w, h = max(1, min(width, round(height * 4 / 3))), max(1, min(height, round(width * 4 / 3)))
        left, top = (width - w) // 2, (height - h) // 2
    return resized(image.crop((left, top, left + w, top + h)), (frame.height, frame.width), frame.interpolation)


def _mirrored(image: Image.Image, source: random.Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if source.random() < 0.5 else image


def _erased(image: Image.Image, frame: Frame, source: random.Random) -> Image.Image:
    """With a rectangle of 2 to 33 % of the area, at an aspect of 0.3 to 3.3, in the colour of the mean."""
    for _ in range(10):
        area = frame.height * frame.width * (0.02 + source.random() * 0.31)
        aspect = math.exp(math.log(0.3) + source.random() * (math.log(3.3) - math.log(0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        x, y = source.random(), source.random()
        if h < frame.height and w < frame.width:
            left, top = int(x * (frame.width - w + 1)), int(y * (frame.height - h + 1))
            image = image.copy()
            image.paste(colour(frame), (left, top, left + w, top + h))
            break
    return image


def operate(image: Image.Image, frame: Frame, name: str, magnitude: float) -> Image.Image:
    """One operation of TrivialAugment, ``magnitude`` in [-1, 1]; colours change, an alpha channel only moves."""
    if name == "identity":
        return image
    if name == "rotate":
        return image.rotate(135 * magnitude, fillcolor=colour(frame))
    if name in ("shear_x", "shear_y", "translate_x", "translate_y"):
        return _moved(image, frame, name, magnitude)
    if image.mode in ("LA", "RGBA"):
        result = _recoloured(image.convert(image.mode[:-1]), name, magnitude)
        result.putalpha(image.getchannel("A"))
        return result
    return _recoloured(image, name, magnitude)


def _moved(image: Image.Image, frame: Frame, name: str, magnitude: float) -> Image.Image:
    """Sheared about the centre by up to 0.99, or shifted by up to a seventh (TrivialAugment's 32 pixels of 224)."""
    shear = 0.99 * magnitude
    matrix = {
        "shear_x": (1.0, shear, -shear * image.height * 0.5, 0.0, 1.0, 0.0),
        "shear_y": (1.0, 0.0, 0.0, shear, 1.0, -shear * image.width * 0.5),
        "translate_x": (1.0, 0.0, -float(int(magnitude * image.width / 7)), 0.0, 1.0, 0.0),
        "translate_y": (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude * image.height / 7))),
    }[name]
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=colour(frame)
    )


def _recoloured(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    factor = 1 + 0.99 * magnitude
    if name == "brightness":
        return ImageEnhance.Brightness(image).enhance(factor)
    if name == "color":
        return ImageEnhance.Color(image).enhance(factor)
    if name == "contrast":
        return ImageEnhance.Contrast(image).enhance(factor)
    if name == "sharpness":
        return ImageEnhance.Sharpness(image).enhance(factor)
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(6 * abs(magnitude)))
    if name == "solarize":
        return ImageOps.solarize(image, round(255 * (1 - abs(magnitude))))
    return ImageOps.autocontrast(image) if name == "autocontrast" else ImageOps.equalize(image)
