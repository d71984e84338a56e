"""The journal keeps what was committed, forgets what was torn, and cuts back to a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hubtool.core.errors import IntegrityError
from hubtool.tracking.journal import Journal, encode, read_events
from tracking.written import scalar


def test_events_come_back_in_order_and_equal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "logs/metrics.jsonl")
    events = [scalar(step, tag, split) for step in range(5) for tag in ("loss", "lr") for split in ("train", "val")]
    for event in events:
        journal.append(event)
    size_bytes = journal.commit()
    journal.close()
    assert list(read_events(tmp_path / "logs/metrics.jsonl")) == events
    assert size_bytes == (tmp_path / "logs/metrics.jsonl").stat().st_size == sum(len(encode(e)) for e in events)


def test_absent_fields_are_not_written(tmp_path: Path) -> None:
    assert encode(scalar(1, value=0.5)) == (
        b'{"epoch":0,"global_step":1,"kind":"scalar","split":"train","tag":"loss","value":0.5}\n'
    )


def test_a_resume_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.append(scalar(1))
    size_bytes = journal.commit()
    journal.append(scalar(2, value=9.0))
    journal.commit()
    journal.close()

    again = Journal(path)
    again.cut_back(size_bytes)
    again.append(scalar(2))
    again.commit()
    assert list(again.replay()) == [scalar(1), scalar(2)]


@pytest.mark.parametrize(
    "torn", [b'{"global_step":3,"ep', b"\0" * 40, b"\0" * 40 + b"\n", b'{"global_step":3}\n', b"\n"]
)
def test_a_torn_end_is_cut_when_the_journal_is_opened(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = encode(scalar(1)) + encode(scalar(2))
    path.write_bytes(whole + torn)
    journal = Journal(path)
    assert journal.size_bytes == len(whole)
    assert path.read_bytes() == whole
    journal.append(scalar(3))
    assert [e.global_step for e in journal.replay()] == [1, 2, 3]


def test_every_length_of_a_torn_line_leaves_the_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first, second = encode(scalar(1)), encode(scalar(2))
    for length in range(len(second)):
        path.write_bytes(first + second[:length])
        journal = Journal(path)
        assert list(journal.replay()) == [scalar(1)]
        journal.close()


@pytest.mark.parametrize("size_bytes", [1, 10_000])
def test_a_size_that_is_not_of_this_journal_is_refused(tmp_path: Path, size_bytes: int) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(scalar(1))
    with pytest.raises(IntegrityError, match="no line that ends at byte"):
        journal.cut_back(size_bytes)
    assert list(journal.replay()) == [scalar(1)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(encode(scalar(1)) + b'{"global_step":-4,"epoch":0,"tag":"loss","value":1}\n' + encode(scalar(3)))
    with pytest.raises(IntegrityError) as caught:
        list(Journal(path).replay())
    assert "line 2" in caught.value.line()
    assert "global_step" in caught.value.line()


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from hubtool.records.log import Event
from hubtool.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
for step in range(100000):
    journal.append(Event(global_step=step, epoch=0, tag="loss", value=0.5))
    if step % 7 == 0:
        print(step, journal.commit(), flush=True)
"""
    path = tmp_path / "metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(30)][-1]
        os.kill(child.pid, signal.SIGKILL)
    step, size_bytes = (int(word) for word in said.split())
    journal = Journal(path)
    steps = [event.global_step for event in journal.replay()]
    assert steps == list(range(len(steps)))
    assert len(steps) > step
    journal.cut_back(size_bytes)
    assert [event.global_step for event in journal.replay()] == list(range(step + 1))
