"""Pictures and folders made by the tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hubtool.core.progress import SilentReporter


class Heard(SilentReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def picture(seed: int = 0, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Smooth waves and a little noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    num = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}[mode]
    waves = [128 + 70 * np.sin(x / rng.uniform(2, 20) + k) + 50 * np.cos(y / rng.uniform(2, 20)) for k in range(num)]
    pixels = (np.stack(waves, -1) + rng.normal(0, 6, (height, width, num))).clip(0, 255).astype(np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def folders(root: Path, classes: dict[str, int], *, suffix: str = ".png", first_seed: int = 0) -> Path:
    """``classes`` gives each folder (``cats``, ``train/cats``) its number of pictures, all different."""
    seed = first_seed
    for name, num in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(num):
            picture(seed).save(root / name / f"{index}{suffix}")
            seed += 1
    return root
