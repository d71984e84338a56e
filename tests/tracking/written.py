"""A run directory as finetune would leave it, and readers of what the sinks wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hubtool.records.backbone import Preprocess
from hubtool.records.log import Event
from hubtool.records.recipe import Recipe
from hubtool.records.resolve import PinnedBackbone, ResolvedData, ResolvedRecipe
from hubtool.tracking.journal import Journal

RECIPE = "schema: hubtool/recipe/v1\nbackbone: bundled:test_resnet.fractal\nfreeze: {through: stage3}\n"


def resolved_recipe(**train: Any) -> ResolvedRecipe:
    recipe = Recipe.model_validate({"backbone": "bundled:test_resnet.fractal", "train": train})
    return ResolvedRecipe(
        backbone=PinnedBackbone(
            ref="bundled:test_resnet.fractal",
            library="timm",
            architecture="test_resnet",
            pretrained=True,
            repo_id=None,
            url=None,
            revision=None,
            files=(),
        ),
        task=recipe.task,
        head=recipe.head,
        freeze=recipe.freeze,
        unfreeze=(),
        preprocess=Preprocess(img_size=(32, 32)),
        data=ResolvedData(val_fraction=0.2, labels="folders", augment=recipe.data.augment),
        train=recipe.train,
    )


def scalar(step: int, tag: str = "loss", split: str = "train", value: float | None = None) -> Event:
    return Event(
        global_step=step, epoch=step // 10, tag=tag, split=split, value=1 / (step + 1) if value is None else value
    )


def journal_of(run_dir: Path, num_steps: int) -> list[Event]:
    """Train loss at every step, val loss and top1 at every tenth."""
    journal = Journal(run_dir / "logs/metrics.jsonl")
    for step in range(1, num_steps + 1):
        journal.append(scalar(step))
        if step % 10 == 0:
            journal.append(scalar(step, split="val"))
            journal.append(scalar(step, "top1", "val", 1 - 1 / step))
    journal.commit()
    events = list(journal.replay())
    journal.close()
    return events


def tensorboard_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every scalar tag; nothing is purged or sampled by the reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = run_dir / "logs/tensorboard"
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def wandb_records(run_dir: Path) -> list[dict[str, Any]]:
    [path] = (run_dir / "logs/wandb").glob("*run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def wandb_rows(run_dir: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in wandb_records(run_dir) if record["type"] == "history"]
