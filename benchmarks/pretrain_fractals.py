"""Pretrain the bundled backbone test_resnet.fractal from scratch on fractals drawn by code.

The idea is Kataoka et al., "Pre-training without Natural Images", ACCV 2020: each class is a random iterated function
system, each picture a variation of it. The systems are drawn by their singular values (Anderson and Farrell,
"Improving Fractal Pre-training", WACV 2022), which gives shapes that neither collapse nor blow up.

Run again: python -m benchmarks pretrain_fractals    (about 2 minutes on two cores; seeded; another CPU rounds otherwise)
Legend: N pictures, K maps, P points; B batch, C channels, H height, W width.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hubtool.core.settings import BUNDLED

NAME = "test_resnet.fractal"
ARCHITECTURE = "test_resnet"
SIZE = 64
NUM_CLASSES = 100
NUM_PER_CLASS = 100
NUM_EPOCHS = 12
BATCH_SIZE = 128
LR = 4e-3
NUM_THREADS = 2

Floats = NDArray[np.floating[Any]]


# ---- the pictures


def draw_system(rng: np.random.Generator) -> dict[str, Floats]:
    """A random system of 2 to 5 affine maps, as angles, singular values, mirrors and shifts."""
    num_maps = int(rng.integers(2, 6))
    while True:
        first = rng.random((4096, num_maps))
        second = first * rng.random((4096, num_maps))
        spread = (first + 2 * second).sum(1)
        good = np.flatnonzero((spread >= (5 + num_maps) / 2) & (spread <= (6 + num_maps) / 2))
        if len(good):
            break
    return {
        "angles_K2": rng.uniform(-np.pi, np.pi, (num_maps, 2)),
        "singular_K2": np.stack([first[good[0]], second[good[0]]], -1),
        "mirrors_K2": rng.choice([-1.0, 1.0], (num_maps, 2)),
        "shifts_K2": rng.uniform(-1, 1, (num_maps, 2)),
    }


def draw_class(
    rng: np.random.Generator, system: dict[str, Floats], num: int, *, jitter: float = 1.0
) -> NDArray[np.uint8]:
    """``num`` variations of one system as pictures (N, H, W): the chaos game with 256 points at once, 40 steps each."""
    num_maps = len(system["angles_K2"])
    angles = system["angles_K2"] + rng.normal(0, 0.08 * jitter, (num, num_maps, 2))
    scale = rng.uniform(1 - 0.1 * jitter, 1 + 0.05 * jitter, (num, num_maps, 2))
    singular = np.minimum(system["singular_K2"] * scale, 0.98)
    shifts = system["shifts_K2"] + rng.normal(0, 0.08 * jitter, (num, num_maps, 2))
    maps = _rotation(angles[..., 0]) @ (singular[..., :, None] * np.eye(2)) @ _rotation(angles[..., 1])
    maps = maps * system["mirrors_K2"][:, None, :]
    weight = np.maximum(np.abs(np.linalg.det(maps)), 0.01)
    chance = np.cumsum(weight / weight.sum(-1, keepdims=True), -1)[:, None, :]
    numbers = np.concatenate([maps.reshape(num, num_maps, 4), shifts], -1).astype(np.float32)
    row = np.arange(num)[:, None]
    point = np.zeros((num, 256, 2), np.float32)
    points = []
    for step in range(52):
        choice = np.minimum((rng.random((num, 256, 1)) > chance).sum(-1), num_maps - 1)
        a, b, c, d, e, f = np.moveaxis(numbers[row, choice], -1, 0)
        x, y = point[..., 0], point[..., 1]
        point = np.stack([a * x + b * y + e, c * x + d * y + f], -1)
        if step >= 12:  # before, the points have not reached the attractor
            points.append(point)
    return _rasterise(np.concatenate(points, 1))


def _rotation(angle: Floats) -> Floats:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _rasterise(points_NP2: Floats) -> NDArray[np.uint8]:
    """Points to grey pictures, centred and scaled by their spread; eight points make a pixel white."""
    num = len(points_NP2)
    centred = points_NP2 - points_NP2.mean(1, keepdims=True)
    spread = centred.std(axis=(1, 2), keepdims=True) + 1e-6
    place = (centred / (spread * 5.2) + 0.5) * SIZE
    is_inside = ((place >= 0) & (place < SIZE)).all(-1)
    column, line = np.moveaxis(place.astype(np.int64), -1, 0)
    flat = (np.arange(num)[:, None] * SIZE + line) * SIZE + column
    hits = np.bincount(flat[is_inside], minlength=num * SIZE * SIZE).reshape(num, SIZE, SIZE)
    pictures: NDArray[np.uint8] = (np.minimum(np.log1p(hits) / np.log1p(8), 1) * 255).astype(np.uint8)
    return pictures


def draw_pictures(seed: int) -> tuple[Tensor, Tensor]:
    """The whole training set: uint8 (N, H, W) and class numbers (N,). Systems that fill under 12 % are left out."""
    rng = np.random.default_rng(seed)
    pictures: list[NDArray[np.uint8]] = []
    while len(pictures) < NUM_CLASSES:
        system = draw_system(rng)
        if (draw_class(rng, system, 1, jitter=0) > 0).mean() >= 0.12:
            pictures.append(draw_class(rng, system, NUM_PER_CLASS))
    labels = np.repeat(np.arange(NUM_CLASSES), NUM_PER_CLASS)
    return torch.from_numpy(np.concatenate(pictures)), torch.from_numpy(labels)


def augment(pictures_BHW: Tensor, generator: torch.Generator) -> Tensor:
    """Turn (±30°), scale, stretch, shift, sometimes coarsen, colour. Returns x_BCHW, normalised to mean 0.5, std 0.5.

    No mirroring and no full turns: whether a stroke bends left or right is worth learning.
    """
    num = len(pictures_BHW)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*(shape or (num,)), generator=generator) * (high - low) + low

    angle, shrink = uniform(-math.pi / 6, math.pi / 6), 1 / uniform(0.6, 1.1)
    stretch = torch.exp(uniform(-0.2, 0.2))
    warp = torch.zeros(num, 2, 3)
    warp[:, 0, 0], warp[:, 0, 1] = torch.cos(angle) * shrink * stretch, -torch.sin(angle) * shrink / stretch
    warp[:, 1, 0], warp[:, 1, 1] = torch.sin(angle) * shrink * stretch, torch.cos(angle) * shrink / stretch
    warp[:, :, 2] = uniform(-0.15, 0.15, num, 2)
    grey = pictures_BHW[:, None].float() / 255
    grey = functional.grid_sample(
        grey, functional.affine_grid(warp, list(grey.shape), align_corners=False), align_corners=False
    )
    grey = torch.cat([_coarsen(part, generator) for part in grey.split(max(1, num // 4))])
    ink, paper = uniform(0.3, 1, num, 3, 1, 1), uniform(0, 0.3, num, 3, 1, 1)
    is_grey = (uniform(0, 1) < 0.5)[:, None, None, None]
    ink = torch.where(is_grey, ink.mean(1, keepdim=True), ink)
    paper = torch.where(is_grey, torch.zeros_like(paper), paper)
    return (paper + (ink - paper) * grey - 0.5) / 0.5


def _coarsen(grey_B1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Every second time: down to 8 to 32 pixels and up again, as small or unsharp pictures look."""
    if torch.rand((), generator=generator) >= 0.5:
        return grey_B1HW
    size = int(torch.randint(8, 33, (), generator=generator))
    coarse = functional.interpolate(
        functional.interpolate(grey_B1HW, size=size, mode="area"), size=SIZE, mode="bilinear"
    )
    return coarse / coarse.amax((1, 2, 3), keepdim=True).clamp(min=0.05)


# ---- the network


def pretrain(pictures_NHW: Tensor, labels_N: Tensor, seed: int, num_epochs: int = NUM_EPOCHS) -> nn.Module:
    """AdamW, one epoch of warm-up, cosine to zero, label smoothing 0.1."""
    import timm

    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(ARCHITECTURE, num_classes=NUM_CLASSES).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    num_batches = len(pictures_NHW) // BATCH_SIZE
    model.train()
    for epoch in range(num_epochs):
        order = torch.randperm(len(pictures_NHW), generator=generator)[: num_batches * BATCH_SIZE]
        num_right, start = 0, time.monotonic()
        for batch, index in enumerate(order.split(BATCH_SIZE)):
            done = (epoch * num_batches + batch) / (num_epochs * num_batches)
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1.0, done * num_epochs) * (1 + math.cos(math.pi * done)) / 2
            logits = model(augment(pictures_NHW[index], generator))
            loss = functional.cross_entropy(logits, labels_N[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            num_right += int((logits.argmax(1) == labels_N[index]).sum())
        share = num_right / (num_batches * BATCH_SIZE)
        print(f"epoch {epoch + 1:2}: {share:.3f} right in {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


def config() -> dict[str, object]:
    """config.json as timm writes and reads it."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": NUM_CLASSES,
        "num_features": 96,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "fractal",
            "custom_load": False,
            "input_size": [3, SIZE, SIZE],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": NUM_CLASSES,
            "pool_size": [2, 2],
            "first_conv": "conv1.0",
            "classifier": "fc",
            "license": "apache-2.0",
        },
    }


def save(model: nn.Module, directory: Path) -> None:
    from safetensors.torch import save as to_bytes

    from hubtool.core.files import make_dirs, write_bytes, write_text

    make_dirs(directory)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / "model.safetensors", to_bytes(state, metadata={"format": "pt"}))
    write_text(directory / "config.json", json.dumps(config(), indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=BUNDLED / "backbones" / NAME, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(NUM_THREADS)
    start = time.monotonic()
    pictures_NHW, labels_N = draw_pictures(options.seed)
    print(f"{len(pictures_NHW)} pictures drawn in {time.monotonic() - start:.0f} s", flush=True)
    model = pretrain(pictures_NHW, labels_N, options.seed)
    save(model, options.out)
    print(f"{options.out} written after {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
