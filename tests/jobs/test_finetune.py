"""Whole fine-tunes on drawn pictures and the bundled backbone: killed, stopped, starved, and asked to do what it must refuse."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hubtool.core.errors import ConflictError, DataError, UsageError
from hubtool.jobs.finetune import finetune
from hubtool.records.evidence import Predictions
from hubtool.records.rundir import RunDir
from hubtool.training.session import Session
from jobs.killing import assert_same
from jobs.nursery import Nursery

pytestmark = pytest.mark.usefixtures("blank_plots")

RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
head: {drop_rate: 0.2}
freeze: {through: stage3}
data: {img_size: 32, val_fraction: 0.25, augment: {policy: light}}
train: {epochs: 4, batch_size: 8, grad_accum_steps: 2, optimizer: {name: adamw, lr: 2e-3}, seed: 5}
run: {save_every: 2, log: {tensorboard: false}}
"""


def draw_pictures(root: Path, num: int = 48, num_classes: int = 3) -> Path:
    """Noise with a bar whose place tells the class."""
    source = np.random.default_rng(0)
    for number in range(num):
        label = number % num_classes
        pixels = source.integers(0, 120, (24, 24, 3), dtype=np.uint8)
        pixels[4 + 6 * label : 8 + 6 * label] += 100
        path = root / f"class{label}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetune")
    draw_pictures(root / "pictures")
    (root / "mine.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    yield opened
    opened.close()


def call(shared: Path, run: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    given = {"recipe": str(shared / "mine.yaml"), "data": str(shared / "pictures"), "run": str(run)}
    return given | {"overrides": list(overrides), "device": "cpu", "num_workers": 0} | options


@pytest.fixture(scope="module")
def unbroken(shared: Path, nursery: Nursery) -> tuple[RunDir, float]:
    """The run that nothing happened to, and how long it took."""
    run = RunDir(shared / "unbroken")
    nursery.run(call(shared, shared / "warm-up", "train.epochs=1"))
    began = time.monotonic()
    assert nursery.run(call(shared, run.path)) == 0
    return run, time.monotonic() - began


def test_workers_cannot_change_a_bit(shared: Path, nursery: Nursery, unbroken: tuple[RunDir, float]) -> None:
    run = RunDir(shared / "two-workers")
    assert nursery.run(call(shared, run.path, num_workers=2)) == 0
    assert_same(run, unbroken[0])


def test_rows_of_val_are_checked_too(shared: Path, nursery: Nursery, tmp_path: Path, home: Path) -> None:
    """Where train's rows are new ones, only val reads what another run left."""
    with_cache = {"HUBTOOL_HOME": str(home)}
    options = ["train.epochs=1", "data.augment.views=1"]
    assert nursery.run(call(shared, tmp_path / "first", *options), environ=with_cache) == 0
    for rows in (home / "cache" / "activations").glob("*/rows.bin"):
        rows.write_bytes(bytes(byte ^ 1 for byte in rows.read_bytes()))
    runs = {use_cache: RunDir(tmp_path / f"{use_cache}") for use_cache in (True, False)}
    for use_cache, run in runs.items():
        order = call(shared, run.path, *options, "train.seed=6", use_cache=use_cache)
        assert nursery.run(order, environ=with_cache) == 0
    assert_same(runs[True], runs[False])


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.augment.views=2",),
        ("freeze=all", "unfreeze=[{at_epoch: 2, through: stage3}]", "data.augment.policy=none"),
    ],
    ids=["views", "unfreeze"],
)
def test_the_cache_cannot_change_a_bit(
    shared: Path, nursery: Nursery, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """Live, cached, and taken from the cache that the second run left; at the unfreeze the cut moves."""
    runs = [RunDir(tmp_path / name) for name in ("live", "cached", "again")]
    for run in runs:
        assert nursery.run(call(shared, run.path, *overrides, use_cache=run is not runs[0])) == 0
        assert_same(run, runs[0])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)]
)
def test_a_signal_finishes_the_step_saves_and_says_so(
    shared: Path, nursery: Nursery, unbroken: tuple[RunDir, float], number: signal.Signals, code: int
) -> None:
    """The victim sees the signal once its first checkpoint stands, so that it is in the middle of training."""
    run = RunDir(shared / f"stopped-{number.name}")
    pid = nursery.start(call(shared, run.path, "run.save_every=1"))
    wait_for_a_checkpoint(run)
    os.kill(pid, number)
    found, error = nursery.wait()
    assert (found, number.name in error, "saved at step" in error) == (code, True, True)
    assert nursery.run(call(shared, run.path, "run.save_every=1")) == 0
    assert_same(run, unbroken[0])


def wait_for_a_checkpoint(run: RunDir) -> None:
    deadline = time.monotonic() + 30
    while not list(run.checkpoints.glob("e0*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_disk_that_is_full_is_one_clean_error_and_the_run_goes_on_later(
    shared: Path, nursery: Nursery, unbroken: tuple[RunDir, float]
) -> None:
    """RLIMIT_FSIZE stands for a full disk; the checkpoint of the last stage is larger than that."""
    run = RunDir(shared / "starved")
    nursery.start(call(shared, run.path), limit_bytes=200_000)
    code, error = nursery.wait()
    assert (code, error.startswith("error[E-DISK-LIMIT]")) == (8, True)
    assert not [path for path in run.path.rglob("*") if path.name.startswith(".tmp")]
    assert nursery.run(call(shared, run.path)) == 0
    assert_same(run, unbroken[0])


def test_the_run_directory_is_what_the_design_says(unbroken: tuple[RunDir, float]) -> None:
    run = unbroken[0]
    names = {path.name for path in run.path.iterdir()} - {".lock"}
    assert names == {
        "recipe.yaml", "resolved.json", "options.json", "environment.json", "data.json",
        "checkpoints", "logs", "evidence", "plots", "result.json",
    }  # fmt: skip
    result = run.result()
    assert result.is_frozen_equal
    assert result.num_trainable < result.num_params
    assert len(list(run.checkpoints.iterdir())) <= 2
    assert (run.checkpoints / result.selected.checkpoint).is_dir()
    found = Predictions.read(run.path / result.claims[0].evidence)
    assert [s.sha256 for s in run.data().splits["val"]] == list(found.samples)
    assert {path.name for path in run.plots.iterdir()} >= {"curves.png", "confusion_matrix.png"}


def test_a_finished_run_says_so_and_changes_nothing(shared: Path, unbroken: tuple[RunDir, float]) -> None:
    run = unbroken[0]
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"}
    report = finetune(shared / "mine.yaml", data=shared / "pictures", run=run.path, device="cpu", num_workers=0)
    assert report.status == "already"
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"} == before


def test_the_default_name_finds_its_run_again_and_new_starts_a_twin(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"data": shared / "pictures", "device": "cpu", "num_workers": 0}
    options["overrides"] = ["train.epochs=1", "freeze=all", "run.log.tensorboard=false"]
    first = finetune("linear-probe", **options)
    assert first.run.startswith("runs/linear-probe-test_resnet.fractal-")
    assert (first.status, finetune("linear-probe", **options).status) == ("finished", "already")
    twin = finetune("linear-probe", new=True, **options)
    assert twin.run == f"{first.run}-2"
    assert twin.result.weights_digest == first.result.weights_digest


def test_another_recipe_or_data_is_refused_field_by_field(
    shared: Path, nursery: Nursery, unbroken: tuple[RunDir, float], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"run": unbroken[0].path, "device": "cpu", "num_workers": 0}
    with pytest.raises(ConflictError) as caught:
        finetune(shared / "mine.yaml", data=shared / "pictures", overrides=["train.optimizer.lr=0.5"], **options)
    assert caught.value.code == "E-DRIFT"
    assert "train.optimizer.lr: 0.002 → 0.5" in str(caught.value)
    other = draw_pictures(tmp_path / "other", num=51)
    with pytest.raises(ConflictError, match=r"data.train: \d+ pictures"):
        finetune(shared / "mine.yaml", data=other, **options)


def test_drift_that_is_allowed_stands_in_the_result(shared: Path, nursery: Nursery, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    pid = nursery.start(call(shared, run.path))
    wait_for_a_checkpoint(run)
    os.kill(pid, signal.SIGKILL)
    nursery.wait()
    assert nursery.run(call(shared, run.path, "train.optimizer.lr=1e-3")) == 7
    assert nursery.run(call(shared, run.path, "train.optimizer.lr=1e-3", allow_drift=True)) == 0
    assert [d.field for d in run.result().drift] == ["train.optimizer.lr", "recipe.digest"]


@pytest.mark.parametrize("kind", ["recipe", "numerics"])
def test_drift_is_what_differs_from_the_checkpoint_whatever_a_killed_start_has_written(
    kind: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allowed start is killed before it has a checkpoint: the run is not stuck, and the drift stands in the result."""
    run = RunDir(tmp_path / "run")

    def go(*overrides: str, **options: Any) -> Any:
        given = call(shared, run.path, "run.save_every=1", "train.epochs=1", *overrides) | options
        given |= {"run": run.path, "data": shared / "pictures"}
        return finetune(given.pop("recipe"), **given)

    def kill(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("hubtool.training.loop.judged", kill)
        go()
    changed = ["train.optimizer.lr=1e-3"] if kind == "recipe" else []
    with monkeypatch.context() as patch:
        patch.setattr(Session, "feeds", kill)
        if kind == "numerics":
            patch.setattr("hubtool.training.numerics._cpu_capability", lambda: "OTHER")
        with pytest.raises(RuntimeError):
            go(*changed, allow_drift=True)
    if kind == "numerics":
        monkeypatch.setattr("hubtool.training.numerics._cpu_capability", lambda: "OTHER")
    with pytest.raises(ConflictError, match=f"{kind}[.]"):
        go(*changed)
    wanted = {"recipe": "recipe.digest", "numerics": "numerics.cpu_capability"}[kind]
    assert wanted in {d.field for d in go(*changed, allow_drift=True).result.drift}


def test_data_that_makes_another_number_of_steps_cannot_be_gone_on_with(
    shared: Path, nursery: Nursery, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    pid = nursery.start(call(shared, run.path))
    wait_for_a_checkpoint(run)
    os.kill(pid, signal.SIGTERM)
    nursery.wait()
    few = draw_pictures(tmp_path / "few", num=12)
    nursery.start(call(shared, run.path, data=str(few), allow_drift=True))
    code, error = nursery.wait()
    assert (code, "E-DRIFT-STEPS" in error) in ((7, True), (0, False))  # stopped so early that it still fits


def test_a_second_process_is_told_who_has_the_run(shared: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.held(), pytest.raises(ConflictError, match=r"in use by pid \d+"):
        finetune(shared / "mine.yaml", data=shared / "pictures", run=run.path, device="cpu", num_workers=0)


def test_places_that_cannot_be_a_run_are_refused_before_anything_is_written(shared: Path, tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for place in (pictures, pictures / "run", tmp_path, tmp_path / "file", tmp_path / "full"):
        with pytest.raises(UsageError) as caught:
            finetune(shared / "mine.yaml", data=pictures, run=place, device="cpu", num_workers=0)
        assert caught.value.code == "E-RUN-PLACE"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "pictures"]


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("freeze.through=stage9", "E-FREEZE-NOMATCH"),
        ("train.optimizer.name=adamwx", "E-OPTIMIZER"),
        ("train.select.metric=val/auroc", "E-SELECT"),
        ("train.select.metric=val/top5", "E-SELECT"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    shared: Path, tmp_path: Path, override: str, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        finetune(
            shared / "mine.yaml",
            data=shared / "pictures",
            run=tmp_path / "run",
            overrides=[override],
            device="cpu",
            num_workers=0,
        )
    assert caught.value.code == code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["changes", "vanishes"])
def test_a_picture_that_changes_under_the_run_is_named(
    how: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubtool.training import loop

    pictures = draw_pictures(tmp_path / "pictures")
    real_step = loop._step

    def step(global_step: int, *rest: Any) -> Any:
        if global_step == 2:
            for path in pictures.rglob("*.png"):
                if how == "changes":
                    path.write_bytes(path.read_bytes() + b"x")
                else:
                    path.unlink()
        return real_step(global_step, *rest)

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(DataError) as caught:
        finetune(shared / "mine.yaml", data=pictures, run=tmp_path / "run", device="cpu", num_workers=0)
    assert (caught.value.code, caught.value.where.endswith(".png")) == ("E-DATA-CHANGED", True)
