"""Plots and grids that show pictures of the data; they stay in the run unless the user lets them go.

Pictures come as Pillow images from the caller, so that they are read by the one reader there is (data/images).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hubtool.tracking.plots_style import DPI, RIGHT, WRONG, figure, shorten

Array = np.ndarray[Any, np.dtype[Any]]
MAX_THUMBNAILS = 2000
THUMBNAIL_SIZE = 32
_CELL = (1.75, 2.25)  # inches: a picture with its lines
_SIDE = 1.55  # inches: the square a picture stands in


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture with its label: ``is_right`` None where there is no right or wrong. ``note`` is a second line."""

    image: Image.Image
    truth: str
    predicted: str
    confidence: float
    is_right: bool | None
    note: str = ""


def predictions(shown: Sequence[Shown], path: Path, *, title: str = "predictions") -> Path:
    """A grid of pictures, in PNG: right ones framed in green with a tick, wrong ones in red with a cross and the true class.

    All stand in one pair of axes, in inches from the upper left corner, made as large as they are shown before they are
    drawn: a pair of axes for each, and resampling by matplotlib, take six times as long.
    """
    num_columns = min(6, max(1, len(shown)))
    num_rows = max(1, -(-len(shown) // num_columns))
    width, height = _CELL[0] * num_columns + 0.2, _CELL[1] * num_rows + 0.4
    with figure(width, height, path, is_laid_out=True, suffixes=(".png",)) as fig:
        axes = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0.1, 0.22, title, fontsize=10.5, va="center")
        for number, one in enumerate(shown):
            row, column = divmod(number, num_columns)
            _draw(axes, one, left=0.15 + _CELL[0] * column, top=0.4 + _CELL[1] * row)
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return path


def _draw(axes: Any, one: Shown, *, left: float, top: float) -> None:
    """One picture in the middle of its square, framed, and the lines below it."""
    from matplotlib.patches import Rectangle

    color = RIGHT if one.is_right else WRONG if one.is_right is not None else "#555555"
    image = _fitted(one.image.convert("RGB"), round(_SIDE * DPI))
    width, height = image.width / DPI, image.height / DPI
    x, y = left + (_SIDE - width) / 2, top + (_SIDE - height) / 2
    axes.imshow(np.asarray(image), extent=(x, x + width, y + height, y), interpolation="nearest", resample=False)
    dash = "solid" if one.is_right is not False else (0, (3, 1.5))
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=2.4, linestyle=dash))
    mark = "" if one.is_right is None else "✓ " if one.is_right else "✗ "
    lines = [f"{mark}{shorten(one.predicted, 14)} · {one.confidence:.0%}"]
    if one.is_right is False:
        lines.append(f"true: {shorten(one.truth, 15)}")
    if one.note:
        lines.append(one.note)
    below = y + height + 0.06
    axes.text(left + _SIDE / 2, below, "\n".join(lines), fontsize=8, color=color, ha="center", va="top")


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """As large as fits into ``side`` x ``side`` pixels: smaller by averages, larger by whole pixels repeated."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def grid_png(pictures_NHWC: Array, *, max_pictures: int = 64) -> bytes:
    """Pictures (uint8) as one PNG, left to right and top to bottom, two pixels apart."""
    pictures = pictures_NHWC[:max_pictures]
    num_columns = max(1, round(len(pictures) ** 0.5 + 0.49))
    return _png(_tiled(pictures, num_columns, gap=2))


def unnormalized(x_BCHW: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """A batch as it entered the model → uint8 pictures (B, H, W, 3); other than three channels show their mean."""
    channels = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)
    x_BHWC = np.moveaxis(np.asarray(x_BCHW, dtype=np.float32), 1, 3) * channels[1] + channels[0]
    if x_BHWC.shape[3] != 3:
        x_BHWC = np.repeat(x_BHWC.mean(axis=3, keepdims=True), 3, axis=3)
    return np.asarray(np.clip(x_BHWC * 255 + 0.5, 0, 255), dtype=np.uint8)


def embedding_arrays(features_ND: Array, labels: Sequence[str], images: Sequence[Image.Image] = ()) -> dict[str, Array]:
    """What an event of kind ``embedding`` holds: features, labels and one sprite of thumbnails; 2000 points at most."""
    arrays: dict[str, Array] = {
        "features": np.asarray(features_ND, dtype=np.float32)[:MAX_THUMBNAILS],
        "labels": np.asarray([str(label) for label in labels][:MAX_THUMBNAILS], dtype=np.str_),
    }
    if images:
        size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
        thumbnails = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images[:MAX_THUMBNAILS]])
        side = int(np.ceil(len(thumbnails) ** 0.5))
        sprite = _tiled(thumbnails, side, gap=0, num_rows=side)
        arrays |= {"sprite": np.frombuffer(_png(sprite), dtype=np.uint8), "thumbnail": np.asarray(size)}
    return arrays


def _tiled(pictures_NHWC: Array, num_columns: int, *, gap: int, num_rows: int = 0) -> Array:
    num, height, width, channels = pictures_NHWC.shape
    num_rows = num_rows or max(1, -(-num // num_columns))
    shape = (num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, channels)
    canvas = np.full(shape, 255, dtype=np.uint8)
    for number, picture in enumerate(pictures_NHWC):
        top, left = (number // num_columns) * (height + gap), (number % num_columns) * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _png(picture_HWC: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture_HWC).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
