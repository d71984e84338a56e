"""A run directory as finetune would leave it, and readers of what the sinks wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hubtool.core.digests import sha256_bytes
from hubtool.records import metrics
from hubtool.records.backbone import Preprocess
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.environment import Environment, Numerics
from hubtool.records.evidence import Predictions
from hubtool.records.log import Event
from hubtool.records.recipe import Recipe
from hubtool.records.resolve import PinnedBackbone, ResolvedData, ResolvedRecipe
from hubtool.records.run import Result, RunOptions, Selected
from hubtool.records.rundir import RunDir
from hubtool.records.state import Best, Position
from hubtool.tracking.journal import Journal
from hubtool.training.checkpoint import Checkpoints, TrainState

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


def tensorboard_steps(run_dir: Path) -> dict[str, list[int]]:
    """The steps of every tag of every kind."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = ("scalars", "images", "histograms", "tensors")
    reader = EventAccumulator(
        str(run_dir / "logs/tensorboard"), size_guidance=dict.fromkeys(kinds, 0), purge_orphaned_data=False
    )
    reader.Reload()
    read = dict(zip(kinds, (reader.Scalars, reader.Images, reader.Histograms, reader.Tensors), strict=True))
    return {f"{kind} {tag}": [e.step for e in read[kind](tag)] for kind in kinds for tag in reader.Tags()[kind]}


def wandb_records(run_dir: Path) -> list[dict[str, Any]]:
    [path] = (run_dir / "logs/wandb").glob("*run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def wandb_rows(run_dir: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in wandb_records(run_dir) if record["type"] == "history"]


def finished_run(
    path: Path,
    *,
    lr: float = 1e-3,
    num_epochs: int = 3,
    num_samples: int = 60,
    seed: int = 0,
    skill: float = 2.0,
    is_finished: bool = True,
) -> RunDir:
    """A whole run as finetune leaves it: three classes, checkpoints, journal, evidence, result. ``skill`` raises the logit
    of the right class."""
    place = RunDir(path)
    resolved = resolved_recipe(epochs=num_epochs, optimizer={"lr": lr})
    data = _data(num_samples)
    numerics = Numerics(device="cpu", cpu_capability="AVX2", num_threads=1, libraries={"torch": "2.15"})
    environment = Environment(numerics=numerics, os="Linux", machine="x86_64", python="3.11", hubtool="0.1", num_cpus=2)
    options = RunOptions(data_dir="/data", backbone=resolved.backbone.ref)
    place.begin(recipe=RECIPE.encode(), resolved=resolved, data=data, environment=environment, options=options)
    journal_of(path, 10 * num_epochs)
    checkpoints = Checkpoints(place.checkpoints, keep=3)
    position = Position(metric="val/loss")
    for epoch in range(1, num_epochs + 1):
        value = 1 / (10 * epoch + 1)
        position = position.model_copy(update={"epoch": epoch, "global_step": 10 * epoch, "value": value})
        best = Best(checkpoint=position.checkpoint_name, epoch=epoch, global_step=10 * epoch, value=value)
        position = position.model_copy(update={"best": best})
        tensors = {"fc.weight": torch.ones(3, 4) * epoch}
        checkpoints.publish(TrainState(position=position, tensors=tensors, optimizer={}))
    checkpoints.close()
    if is_finished:
        _finish(place, position, data, numerics, seed, skill)
    return place


def _data(num_samples: int) -> DataManifest:
    samples = [
        Sample(path=f"{i % 3}/{i:03d}.png", sha256=sha256_bytes(str(i).encode()), size_bytes=9, target=i % 3)
        for i in range(num_samples)
    ]
    return DataManifest(
        classes=("ant", "bee", "cat"),
        splits={"train": tuple(samples[:3]), "val": tuple(sorted(samples, key=lambda s: s.sha256))},
    )


def _finish(place: RunDir, position: Position, data: DataManifest, numerics: Numerics, seed: int, skill: float) -> None:
    samples = data.splits["val"]
    targets = np.asarray([sample.target for sample in samples])
    logits_NK = np.random.default_rng(seed).normal(size=(len(samples), 3)).astype(np.float32)
    logits_NK[np.arange(len(samples)), targets] += skill
    predictions = Predictions(
        split="val", samples=tuple(s.sha256 for s in samples), targets=targets, logits_NK=logits_NK
    )
    evidence = place.evidence("val")
    predictions.write(place.path / evidence)
    digest = sha256_bytes((place.path / evidence).read_bytes())
    best = position.best
    assert best is not None
    Result(
        claims=metrics.claims_of("classification", predictions, evidence=evidence, evidence_sha256=digest),
        recipe_digest=place.resolved().digest(),
        data_digest=data.digest(),
        backbone_digest=place.resolved().backbone.digest(),
        weights_digest="0" * 64,
        selected=Selected(
            checkpoint=best.checkpoint,
            epoch=best.epoch,
            global_step=best.global_step,
            metric="val/loss",
            value=best.value,
        ),
        is_frozen_equal=True,
        num_params=12,
        num_trainable=12,
        numerics=numerics,
        wall_s=75.5,
    ).write(place.path / "result.json")
