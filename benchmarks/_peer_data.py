"""What every trainer of the comparison is given: drawn photographs in class folders, and a backbone in timm's own format."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# A class is a colour, a density of strokes and their direction: easy to tell apart even for random features, as the
# comparison is of time and not of skill.
_HUES = (10, 50, 95, 135, 175, 215, 30, 115, 235, 75)


def draw_photos(root: Path, *, num_train: int, num_val: int, num_classes: int, seed: int = 0) -> None:
    """``root/{train,val}/<class>/*.jpg``: 500x375 JPEGs of about 60 kB, as a camera's smaller pictures weigh. Kept if there."""
    done = root.with_name(f"{root.name}.complete")
    if done.exists():
        return
    counts = {"train": num_train, "val": num_val}
    wanted = [(root, split, index, index % num_classes, seed) for split in counts for index in range(counts[split])]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_draw, *zip(*wanted, strict=True), chunksize=20))
    done.touch()


def _draw(root: Path, split: str, index: int, label: int, seed: int) -> None:
    folder = root / split / f"class{label}"
    folder.mkdir(parents=True, exist_ok=True)
    _photo(label, f"{seed}/{split}/{index}").save(folder / f"{index:05}.jpg", quality=90)


def _photo(label: int, seed: str) -> Image.Image:
    import random

    import numpy as np
    from PIL import Image, ImageDraw

    source = random.Random(seed)
    width, height = 500, 375
    rng = np.random.default_rng(source.getrandbits(32))
    # Light falling off, smooth shapes and sensor noise: what makes a JPEG of a photograph large and slow to decode.
    coarse = rng.integers(0, 255, (6, 8), dtype=np.uint8)
    value = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = rng.normal(0, 9, (height, width)).astype(np.int16)
    hue = np.full((height, width), (_HUES[label % 10] + source.randrange(-6, 7)) % 256, dtype=np.uint8)
    saturation = np.full((height, width), 170, dtype=np.uint8)
    bright = np.clip(90 + value // 3 + noise, 0, 255).astype(np.uint8)
    image = Image.merge("HSV", [Image.fromarray(band) for band in (hue, saturation, bright)]).convert("RGB")
    pen = ImageDraw.Draw(image)
    for _ in range(8 + 6 * (label % 5)):
        x, y, length = source.randrange(width), source.randrange(height), source.randrange(30, 120)
        ends = (x + length, y) if label % 2 else (x, y + length)
        pen.line((x, y, *ends), fill=tuple(source.randrange(256) for _ in range(3)), width=source.randrange(1, 6))
    return image


def make_backbone(directory: Path, architecture: str, *, seed: int = 0) -> Path:
    """``directory`` with config.json and model.safetensors, as ``timm.models.save_for_hf`` writes them. Kept if there.

    The weights are random, but the running statistics of BatchNorm are those of drawn noise, so that features are alive.
    """
    if (directory / "model.safetensors").exists():
        return directory
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    options = {"zero_init_last": False} if architecture.startswith("resnet") else {}
    model = timm.create_model(architecture, pretrained=False, num_classes=1000, **options)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # type: ignore[assignment]  # a plain average over the batches
        model.train()
        with torch.no_grad():
            for _ in range(2):
                model(torch.nn.functional.interpolate(torch.randn(8, 3, 28, 28), size=224, mode="bilinear"))
        for norm in norms:
            norm.momentum = 0.1
    directory.mkdir(parents=True, exist_ok=True)
    save_for_hf(model.eval(), str(directory), safe_serialization=True)
    return directory
