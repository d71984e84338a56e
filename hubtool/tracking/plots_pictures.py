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

from hubtool.tracking.plots_style import RIGHT, WRONG, figure, shorten, written

Array = np.ndarray[Any, np.dtype[Any]]
MAX_THUMBNAILS = 2000
THUMBNAIL_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture with its label: ``is_right`` None where there is no right or wrong. ``note`` is a second line."""

    image: Image.Image
    truth: str
    predicted: str
    confidence: float
    is_right: bool | None
    note: str = ""


def predictions(shown: Sequence[Shown], path: Path, *, title: str = "predictions") -> tuple[Path, Path]:
    """A grid of pictures: right ones framed in green with a tick, wrong ones in red with a cross and the true class."""
    num_columns = min(6, max(1, len(shown)))
    num_rows = max(1, -(-len(shown) // num_columns))
    with figure(1.75 * num_columns + 0.2, 2.25 * num_rows + 0.4, path) as fig:
        axes = fig.subplots(num_rows, num_columns, squeeze=False).ravel()
        for axis, one in zip(axes, shown, strict=False):
            _draw(axis, one)
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return written(path)


def _draw(axis: Any, one: Shown) -> None:
    color = RIGHT if one.is_right else WRONG if one.is_right is not None else "#555555"
    axis.imshow(np.asarray(one.image.convert("RGB")), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(True)
        side.set_color(color)
        side.set_linewidth(2.4)
        side.set_linestyle("solid" if one.is_right is not False else (0, (3, 1.5)))
    mark = "" if one.is_right is None else "✓ " if one.is_right else "✗ "
    lines = [f"{mark}{shorten(one.predicted, 14)} · {one.confidence:.0%}"]
    if one.is_right is False:
        lines.append(f"true: {shorten(one.truth, 15)}")
    if one.note:
        lines.append(one.note)
    axis.set_xlabel("\n".join(lines), fontsize=8, color=color, labelpad=3)


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
    Image.fromarray(picture_HWC).save(stream, format="PNG")
    return stream.getvalue()
