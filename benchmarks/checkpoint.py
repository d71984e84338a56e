"""Size and time of a head-only checkpoint, published durably: beside the tensors' own bytes, and beside torch.save.

python -m benchmarks checkpoint
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from pathlib import Path

ROUNDS = 50


def main(_arguments: list[str]) -> int:
    import timm
    import torch

    from hubtool.records.state import Position
    from hubtool.training.checkpoint import Checkpoints, TrainState

    model = timm.create_model("resnet18", num_classes=10)
    head = {name: value.detach().clone() for name, value in model.state_dict().items() if name.startswith("fc.")}
    moments = {
        f"{name}/{part}": torch.zeros_like(value) for name, value in head.items() for part in ("exp_avg", "exp_avg_sq")
    }
    own_bytes = sum(t.numel() * t.element_size() for t in (*head.values(), *moments.values()))
    wall_ms = []
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = Checkpoints(Path(directory) / "checkpoints")
        for step in range(ROUNDS):
            state = TrainState(position=Position(global_step=step + 1, epoch=1), tensors=head, optimizer=moments)
            started = time.perf_counter()
            path = checkpoints.publish(state)
            wall_ms.append(1000 * (time.perf_counter() - started))
        written = sum(file.stat().st_size for file in path.iterdir())
    stream = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": moments}, stream)
    print(
        f"head-only checkpoint of resnet18, 10 classes: {written:,} bytes, {written - own_bytes:,} above its tensors' {own_bytes:,}"
    )
    print(f"published and fsynced: median {statistics.median(wall_ms):.1f} ms, worst of {ROUNDS} {max(wall_ms):.1f} ms")
    print(f"torch.save of model and optimizer: {stream.tell():,} bytes, ratio {stream.tell() / written:.0f}")
    return 0
