"""What two processes compute beside one: how far weights and losses lie apart, from the order of the summation alone.

python -m benchmarks processes          about a minute on two quiet cores
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

ROWS = {
    "head alone": ("freeze=all",),
    "everything, BatchNorm trained": ("freeze=none",),
    "everything, BatchNorm trained, bf16": ("freeze=none", "train.precision=bf16"),
}
RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
freeze: all
data: {img_size: 32, val_fraction: 0.25}
train: {epochs: 2, batch_size: 16, grad_accum_steps: 4, optimizer: {name: adamw, lr: 1e-3}}
run: {log: {tensorboard: false}}
"""


def main(_arguments: list[str]) -> int:
    import numpy as np

    from hubtool.core.settings import BUNDLED
    from hubtool.data.images import write_png
    from hubtool.jobs.finetune import finetune

    with tempfile.TemporaryDirectory() as folder, np.load(BUNDLED / "digits" / "digits.npz") as arrays:
        root = Path(folder)
        (root / "mine.yaml").write_text(RECIPE)
        for index, (image_HW, label) in enumerate(zip(arrays["images"][:91], arrays["labels"][:91], strict=True)):
            path = root / "digits" / str(label) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image_HW)
        print("91 digits, micro-batches of 4, an incomplete last step; two processes against one:")
        for name, overrides in ROWS.items():
            runs = [root / f"{name}-{number}" for number in (1, 2)]
            for number, run in enumerate(runs, 1):
                finetune(
                    root / "mine.yaml",
                    data=root / "digits",
                    run=run,
                    overrides=overrides,
                    device="cpu",
                    num_workers=0,
                    num_processes=number,
                    cache_root=root / "cache",
                )
            print(f"{name:36} {_apart(runs[0], runs[1])}")
    return 0


def _apart(one: Path, two: Path) -> str:
    """The largest difference of a weight relative to the largest weight of its tensor; that of the loss of a step."""
    from hubtool.records.rundir import RunDir
    from hubtool.training.checkpoint import selected_tensors

    tensors = [selected_tensors(run / "checkpoints" / RunDir(run).result().selected.checkpoint) for run in (one, two)]
    pairs = [(a.double(), tensors[1][name].double()) for name, a in tensors[0].items()]
    weights = max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)
    losses = [_losses(run) for run in (one, two)]
    assert losses[0].keys() == losses[1].keys(), "the same steps"
    first = next(iter(losses[0]))
    apart = {step: abs(losses[0][step] - losses[1][step]) / losses[0][step] for step in losses[0]}
    return (
        f"weights {weights:.1e} (relative, the farthest), loss of the first step {apart[first]:.1e}, "
        f"of the farthest {max(apart.values()):.1e}, {len(apart)} steps"
    )


def _losses(run: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return {e["global_step"]: e["value"] for e in events if e["tag"] == "loss" and e["split"] == "train"}
