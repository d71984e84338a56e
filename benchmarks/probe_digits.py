"""Measure the bundled backbone on the digits: frozen linear probe against random weights and raw pixels.

For each seed the digits are split per class at random, 80 % to fit and 20 % to score; "5 a class" fits on five of the
80 % only. The probe is logistic regression (scikit-learn, L2, C = 1) on standardised pooled features; "random weights" is
the same network as timm initialises it, another draw for each seed; "raw pixels" takes the 64 grey values.

Run: python -m benchmarks probe_digits    (under a minute on two cores)
Legend: N pictures, B batch, C channels, H height, W width, D features.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hubtool.core.settings import BUNDLED

BACKBONE = BUNDLED / "backbones" / "test_resnet.fractal"
NUM_SEEDS = 10
NUM_FEW = 5

Array = NDArray[Any]


def load_digits() -> tuple[Array, Array]:
    """The bundled digits: uint8 (1797, 8, 8) and labels (1797,)."""
    with np.load(BUNDLED / "digits" / "digits.npz") as digits:
        return digits["images"], digits["labels"].astype(np.int64)


def as_input(images_NHW: Array, size: int = 64) -> Tensor:
    """x_BCHW as the backbone's config.json says: RGB, bicubic to 64 x 64, mean and standard deviation 0.5."""
    from PIL import Image

    pictures = [
        np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        for image in images_NHW
    ]
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def features(model: nn.Module, x_BCHW: Tensor) -> Array:
    """Pooled features (N, D) in eval mode."""
    body: Any = model.eval()
    with torch.no_grad():
        parts = [body.forward_head(body.forward_features(part), pre_logits=True) for part in x_BCHW.split(256)]
    feats_ND: Array = torch.cat(parts).numpy()
    return feats_ND


def split(labels_N: Array, seed: int) -> tuple[Array, Array, Array]:
    """Indices (all to fit, five a class to fit, to score)."""
    rng = np.random.default_rng(seed)
    fit, few, score = [], [], []
    for digit in range(10):
        index = rng.permutation(np.flatnonzero(labels_N == digit))
        num_score = round(0.2 * len(index))
        score.append(index[:num_score])
        fit.append(index[num_score:])
        few.append(index[num_score : num_score + NUM_FEW])
    return np.concatenate(fit), np.concatenate(few), np.concatenate(score)


def probe(feats_ND: Array, labels_N: Array, fit: Array, score: Array) -> float:
    """The share of ``score`` that logistic regression fitted on ``fit`` gets right."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=3000))
    return float(model.fit(feats_ND[fit], labels_N[fit]).score(feats_ND[score], labels_N[score]))


def measure(num_seeds: int = NUM_SEEDS, backbone: Path = BACKBONE) -> dict[str, dict[str, list[float]]]:
    """Shares right: ``{features: {"80/20": [per seed], "5 a class": [per seed]}}``."""
    import timm

    images_NHW, labels_N = load_digits()
    x_BCHW = as_input(images_NHW)
    fractal = features(timm.create_model(f"local-dir:{backbone}", pretrained=True), x_BCHW)
    raw = images_NHW.reshape(len(images_NHW), -1).astype(np.float32)
    shares: dict[str, dict[str, list[float]]] = {}
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        random = features(timm.create_model("test_resnet", num_classes=100), x_BCHW)
        fit, few, score = split(labels_N, seed)
        for name, feats_ND in (("fractal", fractal), ("random weights", random), ("raw pixels", raw)):
            row = shares.setdefault(name, {"80/20": [], "5 a class": []})
            row["80/20"].append(probe(feats_ND, labels_N, fit, score))
            row["5 a class"].append(probe(feats_ND, labels_N, few, score))
    return shares


def table(shares: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: mean ± standard deviation over the seeds, in percent."""
    columns = list(next(iter(shares.values())))
    lines = ["| features | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, row in shares.items():
        cells = [f"{100 * np.mean(row[c]):.1f} ± {100 * np.std(row[c], ddof=1):.1f} %" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    shares = measure(max(2, options.seeds))
    print(json.dumps(shares) if options.json else table(shares))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
