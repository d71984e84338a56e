"""A real run of two short epochs on drawn pictures and the bundled backbone, made once for the jobs that come after it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack

RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
freeze: {through: stage3}
data: {img_size: 32, val_fraction: 0.25}
train: {epochs: 2, batch_size: 8, optimizer: {name: adamw, lr: 2e-3}, seed: 5}
"""


def draw_pictures(root: Path, *, num: int = 48, classes: tuple[str, ...] = ("left", "middle", "right")) -> Path:
    """Noise with a bar whose place tells the class."""
    source = np.random.default_rng(0)
    for number in range(num):
        label = number % len(classes)
        pixels = source.integers(0, 120, (24, 24, 3), dtype=np.uint8)
        pixels[:, 8 * label : 8 * label + 6] += 130
        folder = root / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"private-{number:03d}.png")
    return root


def write_recipe(path: Path, text: str = RECIPE) -> Path:
    path.write_text(text)
    return path


@cache
def place() -> Path:
    return Path(mkdtemp(prefix="hubtool-finished-"))


@cache
def data() -> Path:
    return draw_pictures(place() / "data")


@cache
def run() -> Path:
    """Do not change it: copy it."""
    recipe = write_recipe(place() / "recipe.yaml")
    return Path(finetune(recipe, data=data(), run=place() / "run", num_workers=0).run)


@cache
def package() -> Path:
    """Do not change it: copy it."""
    return Path(pack(run(), out=place() / "package").package)
