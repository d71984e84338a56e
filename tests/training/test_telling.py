"""What a person is told while a phase trains, and that it changes no byte of the log but wall times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.progress import Note, SilentReporter, SilentTask, Task
from hubtool.records.recipe import Train
from hubtool.records.state import Best, Position
from hubtool.tracking.journal import read_events
from hubtool.training import telling
from training import tiny

TRAIN = Train.model_validate({"epochs": 3, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}})


class Heard(SilentReporter):
    """Asks for the note after every step, as a terminal may."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows: list[dict[str, str]] = []

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        heard, told = self, {"note": ""}

        class Bar(SilentTask):
            def advance(self, amount: float = 1) -> None:
                note: Any = told["note"]
                heard.lines.append(note() if callable(note) else note)

            def note(self, text: Note) -> None:
                told["note"] = text  # type: ignore[assignment]

            def row(self, cells: Mapping[str, str]) -> None:
                heard.rows.append(dict(cells))

        yield Bar()


def run_with(reporter: SilentReporter, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tiny.Run:
    monkeypatch.setattr(tiny, "SILENT", reporter)
    run = tiny.Run(directory, TRAIN)
    run.go()
    return run


def test_a_listener_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    loud = run_with(heard, tmp_path / "loud", monkeypatch)
    silent = run_with(SilentReporter(), tmp_path / "silent", monkeypatch)
    assert loud.events() == silent.events()
    assert [row["epoch"] for row in heard.rows] == ["1", "2", "3"]
    assert [row["step"] for row in heard.rows] == ["3", "6", "9"]
    assert sum(row[""] == "best" for row in heard.rows) >= 1
    assert heard.lines[1].startswith("epoch 1/3 loss ") and "best" not in heard.lines[1]
    assert heard.lines[-1].startswith("epoch 3/3 loss ") and " best " in heard.lines[-1]
    values = {(e.tag, e.global_step): e.value for e in read_events(loud.directory / "metrics.jsonl")}
    assert heard.rows[2]["train loss"] == f"{values['epoch_loss', 9]:.4f}"
    assert all((values["wall_images_per_second", step] or 0) > 0 for step in (3, 6, 9))


def test_pace_counts_the_steps_alone() -> None:
    told = telling.Told()
    told.begin(Position(num_seen=100))
    time.sleep(0.05)
    rate = told.end(Position(num_seen=110))
    assert 50 < rate < 200
    time.sleep(0.05)
    assert told.rate(Position(num_seen=0)) == rate, "while it is evaluated the last rate stands"


@pytest.mark.parametrize(
    ("position", "value", "expected"),
    [
        (Position(), None, "epoch 1/3 0.0 images/s"),
        (Position(loss_sum=3.0, num_seen=4), None, "epoch 1/3 loss 0.750 0.0 images/s"),
        (
            Position(epoch=3, best=Best(checkpoint="c", epoch=2, global_step=6, value=0.25)),
            0.5,
            "epoch 3/3 val/loss 0.500 best 0.250 0.0 images/s",
        ),
    ],
)
def test_the_line(position: Position, value: float | None, expected: str) -> None:
    told = telling.Told()
    told.value = value
    told.begin(position)
    train: Any = TRAIN.model_copy(update={"select": TRAIN.select.model_copy(update={"metric": "val/loss"})})
    assert telling.line(train, position, told) == expected


def test_asking_costs_microseconds() -> None:
    told, position = telling.Told(), Position(loss_sum=1.0, num_seen=4)
    ask: Callable[[], str] = lambda: telling.line(TRAIN, position, told)  # noqa: E731
    began = time.perf_counter()
    for _ in range(2000):
        ask()
    assert (time.perf_counter() - began) / 2000 < 100e-6
