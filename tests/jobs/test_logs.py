"""logs: where they lie, any sink written anew from the journal, TensorBoard on loopback."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from tracking.written import finished_run, tensorboard_scalars, tensorboard_steps, wandb_rows

from hubtool.core.errors import ConflictError, NotFoundError, UsageError
from hubtool.jobs.logs import logs, open_log
from hubtool.records.rundir import RunDir
from jobs import finished
from jobs.nursery import Nursery

LOGGED = "run: {log: {wandb: {mode: offline, project: bars}}}\n"


@pytest.fixture
def place(tmp_path: Path, home: Path) -> RunDir:
    return finished_run(tmp_path / "runs/a")


def test_the_path_is_what_tensorboard_takes(place: RunDir) -> None:
    report = logs(place.path)
    assert report.directory == str(place.path / "logs/tensorboard")
    assert report.num_events == 36
    assert report.sinks == {}


def test_every_sink_is_written_anew_from_the_journal(place: RunDir) -> None:
    for name in ("tensorboard", "wandb", "csv"):
        for _ in range(2):
            report = logs(place.path, export=name)
            assert report.exported == str(place.path / "logs" / name)
    assert set(report.sinks) == {"tensorboard", "wandb", "csv"}
    steps = list(range(1, 31))
    assert [step for step, _ in tensorboard_scalars(place.path)["loss/train"]] == steps
    assert [row["_step"] for row in wandb_rows(place.path)] == steps
    assert len((place.path / "logs/csv/metrics.csv").read_text().splitlines()) == 37


def test_the_exported_wandb_file_ends_with_the_claims(place: RunDir) -> None:
    from tracking.written import wandb_records

    logs(place.path, export="wandb")
    summary: dict[str, object] = {}
    for record in wandb_records(place.path):
        if record["type"] == "summary":
            summary |= record["summary"].get("update", {})
    claim = place.result().claims[0]
    assert summary[f"claims/{claim.name}"] == claim.value
    assert summary["weights_digest"] == "0" * 64


def test_an_unknown_sink_and_a_missing_run_are_refused(place: RunDir) -> None:
    with pytest.raises(UsageError, match="no sink"):
        logs(place.path, export="mlflow")
    with pytest.raises(NotFoundError):
        logs(place.path.with_name("b"))


def test_a_run_in_training_is_not_written_to(place: RunDir) -> None:
    with place.held(), pytest.raises(ConflictError):
        logs(place.path, export="csv")
    assert not (place.path / "logs/csv").exists()


def test_tensorboard_answers_on_loopback_with_this_run(place: RunDir) -> None:
    report = logs(place.path, start_board=True)
    assert report.url is not None
    assert report.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{report.url}data/plugin/scalars/tags", timeout=10) as answer:
        tags = json.load(answer)
    assert set(tags["."]) >= {"loss/train", "loss/val", "top1/val"}


def test_more_can_be_logged_from_python(place: RunDir) -> None:
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hubtool.records.log import Event
    from hubtool.tracking import media

    logs(place.path, export="tensorboard")
    with open_log(place.path) as log:
        points = np.random.default_rng(0).normal(size=(1, 9, 3)).astype(np.float32)
        log.write(media.write_mesh(log.moment(), "scan", vertices_BNC=points))
        log.write(Event(global_step=30, epoch=3, split="val", tag="mine", value=0.25))
    found = EventAccumulator(str(place.path / "logs/tensorboard"))
    found.Reload()
    assert "scan/val_VERTEX" in found.Tags()["tensors"]
    assert [(e.step, e.value) for e in found.Scalars("mine/val")] == [(30, 0.25)]
    assert [step for step, _ in tensorboard_scalars(place.path)["loss/train"]] == list(range(1, 31))
    assert logs(place.path).num_events == 38

    with pytest.raises(UsageError, match="logged already"), open_log(place.path) as log:
        log.write(Event(global_step=30, epoch=3, split="val", tag="mine", value=0.5))
    assert logs(place.path).num_events == 38


@pytest.mark.prove  # tests/tracking/test_sinks.py kills a smaller run
def test_after_three_kills_of_the_whole_run_every_tag_has_each_step_once(tmp_path: Path) -> None:
    recipe = finished.write_recipe(tmp_path / "recipe.yaml", finished.RECIPE.replace("epochs: 2", "epochs: 6") + LOGGED)
    call = {"recipe": str(recipe), "data": str(finished.data()), "run": str(tmp_path / "run"), "num_workers": 0}
    journal = tmp_path / "run" / "logs/metrics.jsonl"
    nursery = Nursery()
    try:
        for num_lines in (8, 20, 32):
            pid = nursery.start(call)
            deadline = time.monotonic() + 60
            while not (journal.is_file() and journal.read_bytes().count(b"\n") >= num_lines):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(pid, signal.SIGKILL)
            assert nursery.wait()[0] == -signal.SIGKILL
        assert nursery.run(call) == 0
    finally:
        nursery.close()
    steps = tensorboard_steps(tmp_path / "run")
    assert {kind for kind, _, _ in (tag.partition(" ") for tag in steps)} == {
        "scalars", "images", "histograms", "tensors"
    }  # fmt: skip
    num_steps = steps["scalars loss/train"][-1]
    assert steps["scalars loss/train"] == list(range(1, num_steps + 1))
    assert len(steps["scalars loss/val"]) == 6
    doubled = {tag: found for tag, found in steps.items() if len(set(found)) < len(found) or found != sorted(found)}
    assert doubled == {}
    assert [row["_step"] for row in wandb_rows(tmp_path / "run")] == list(range(1, num_steps + 1))
