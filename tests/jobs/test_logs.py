"""logs: where they lie, any sink written anew from the journal, TensorBoard on loopback."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from tracking.written import finished_run, tensorboard_scalars, wandb_rows

from hubtool.core.errors import ConflictError, NotFoundError, UsageError
from hubtool.jobs.logs import logs
from hubtool.records.rundir import RunDir


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
