"""From a picture to the model's frame: the geometry of preprocessing, on 8-bit pixels.

``plain`` is timm's evaluation transform (``timm.data.create_transform(is_training=False)``), bit for bit on Pillow pictures:
packages are loaded by plain timm. Works by the methods of a Pillow picture and imports neither Pillow nor torch, so that
worker processes start in a tenth of a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hubtool.data.images import Picture
    from hubtool.records.backbone import Preprocess

_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling


class Frame(NamedTuple):
    """What of a Preprocess the geometry needs; travels to the workers as a JSON list."""

    height: int
    width: int
    in_chans: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    fill: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return self.height * self.width * self.in_chans


def frame_of(preprocess: Preprocess) -> Frame:
    fill = tuple(round(255 * value) for value in preprocess.mean)
    height, width = preprocess.img_size
    return Frame(
        height, width, preprocess.in_chans, preprocess.crop_pct, preprocess.crop_mode, preprocess.interpolation, fill
    )


def plain(image: Picture, frame: Frame) -> Picture:
    """Resize and crop without a draw. ``image`` has the mode of ``in_chans``; so has the result, of the frame's size."""
    target = (math.floor(frame.height / frame.crop_pct), math.floor(frame.width / frame.crop_pct))
    if frame.crop_mode == "squash":
        size = target
    elif frame.crop_mode == "border":
        size = _keep_ratio(image, target, is_longest=True)
    elif target[0] == target[1]:
        size = _short_side(image, target[0])
    else:
        size = _keep_ratio(image, target, is_longest=False)
    return _center(resized(image, size, frame.interpolation), frame)


def colour(frame: Frame) -> tuple[int, ...] | int:
    """What fills pixels that no picture has: the mean."""
    return tuple(frame.fill) if len(frame.fill) > 1 else frame.fill[0]


def _short_side(image: Picture, size: int) -> tuple[int, int]:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(size * long / short)
    return (new_long, size) if width <= height else (size, new_long)


def _keep_ratio(image: Picture, target: tuple[int, int], *, is_longest: bool) -> tuple[int, int]:
    width, height = image.size
    ratios = (height / target[0], width / target[1])
    ratio = max(ratios) if is_longest else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))  # timm fails where a side is rounded to nothing


def resized(image: Picture, size: tuple[int, int], interpolation: str) -> Picture:
    """To (height, width); of that size already, it is the picture itself."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), _RESAMPLING[interpolation])


def _center(image: Picture, frame: Frame) -> Picture:
    """The centre, rounded as torchvision and timm round; what lies outside of the picture gets the fill colour."""
    width, height = image.size
    left, top = (_offset(width, frame.width), _offset(height, frame.height))
    if (left, top, width, height) == (0, 0, frame.width, frame.height):
        return image
    result = image.crop((left, top, left + frame.width, top + frame.height))
    for box in (
        (0, 0, frame.width, -top),
        (0, height - top, frame.width, frame.height),
        (0, 0, -left, frame.height),
        (width - left, 0, frame.width, frame.height),
    ):
        if box[2] > box[0] and box[3] > box[1]:
            result.paste(colour(frame), box)
    return result


def _offset(size: int, wanted: int) -> int:
    return round((size - wanted) / 2.0) if size >= wanted else -((wanted - size) // 2)
