"""The runs and logs commands: what a person, a script and a pipe see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tracking.written import finished_run

from hubtool.cli.main import run


@pytest.fixture
def root(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    finished_run(Path("runs/linear-probe-test_resnet.fractal-0a1b2c3d"), seed=1, skill=1.0)
    finished_run(Path("runs/last-stage-test_resnet.fractal-4e5f6a7b"), seed=2, skill=3.0, lr=3e-3)
    return Path("runs")


def test_list_in_three_modes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("  ")] == [
        "  optimizer.lr=0.003",
        "  optimizer.lr=0.001",
    ]
    assert max(map(len, text.splitlines())) <= 80
    assert run(["runs", "ls", "-q", "--sort", "name"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "runs/last-stage-test_resnet.fractal-4e5f6a7b",
        "runs/linear-probe-test_resnet.fractal-0a1b2c3d",
    ]
    assert run(["runs", "list", "--json"]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["runs"]} == {"finished"}


def test_show_reads_well(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "show", "runs/last-stage-test_resnet.fractal-4e5f6a7b"]) == 0
    text = capsys.readouterr().out
    assert "3 of 3 epochs in 1 min 16 s" in text
    assert ": 3 classes" in text
    assert next(line for line in text.splitlines() if line.endswith("best")).split()[:2] == ["3", "30"]


def test_a_long_run_shows_its_first_best_and_last_epochs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(root / "long", num_epochs=40)
    assert run(["runs", "show", str(root / "long")]) == 0
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split()[0] for line in lines[4:] if (line and line.split()[0].isdigit()) or line.strip() == "…"]
    assert epochs == [*"1234", "…", *(str(n) for n in range(33, 41))]


def test_compare_fits_80_columns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "compare", *map(str, sorted(root.iterdir()))]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if not line.startswith("curves:")) <= 80
    assert "McNemar's exact test: p = " in text
    assert "✓" in text


def test_prune_without_a_person_only_shows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "prune"]) == 0
    captured = capsys.readouterr()
    assert "could be freed; nothing was removed (--yes)" in captured.out
    assert "checkpoint e001-s000010" in captured.err
    assert run(["runs", "prune", "--yes", "-q"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert len(list(root.glob("*/checkpoints/e*"))) == 2


def test_logs_prints_the_directory_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "runs/last-stage-test_resnet.fractal-4e5f6a7b"
    assert run(["logs", name, "--export", "csv"]) == 0
    assert run(["logs", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == str(Path(name, "logs/tensorboard").absolute())
    assert run(["logs", "runs/nothing", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E-RUN-404"
