from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hubtool.core.errors import StorageError
from hubtool.package.tensors import opened
from hubtool.training.staging import Pace, Staging, encoded, not_finite


def make_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "weight": torch.randn(3, 4, requires_grad=True),
        "channels last": torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(5, 7).t(),
        "with gaps": torch.randn(6, 6)[:, ::2],
        "größe/x": torch.tensor(3.0),
        "counter": torch.tensor(5),
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(5, dtype=torch.bfloat16),
        "large": torch.randn(700, 700),
        "nothing": torch.zeros(0, 3),
        "one of a row": torch.randn(7, 5)[:, 2][3:4],
    }


def test_the_copies_hold_what_was_there_and_their_memory_is_kept() -> None:
    tensors, staging = make_tensors(), Staging()
    copies = staging.copies(tensors)
    assert all(torch.equal(copies[name], value) and not copies[name].requires_grad for name, value in tensors.items())
    assert copies["channels last"].stride() == tensors["channels last"].stride()
    places = {name: value.data_ptr() for name, value in copies.items()}
    tensors["large"].zero_()
    assert copies["large"].any()
    again = staging.copies({name: value for name, value in tensors.items() if name != "half"})
    assert again.keys() == tensors.keys() - {"half"}
    assert all(again[name].data_ptr() == places[name] for name in again.keys() - {"with gaps"})
    assert not again["large"].any()


class Clocks:
    """A thread that works a millisecond between two looks at its clock, and what it was told to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worked_s = self.now_s = 0.0
        self.waited_s: list[float] = []
        monkeypatch.setattr(time, "thread_time", self.work)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(threading.Event, "wait", lambda _, timeout_s: self.waited_s.append(timeout_s))

    def work(self) -> float:
        self.worked_s += 0.001
        return self.worked_s


def test_a_save_takes_a_small_share_of_the_time_or_what_there_is_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two milliseconds of work in three pieces; the fourth save waits for the disk besides."""
    clocks, chunks = Clocks(monkeypatch), [b"x" * (1 << 20), b"", b"y"]
    pace = Pace()
    for now_s in (0.0, 1.0, 1.02, 1.04, 1.06):
        clocks.now_s = now_s
        pace.begin()
        assert b"".join(pace.pieces(chunks)) == b"".join(chunks)
        clocks.now_s += 0.01 * (now_s == 1.04)
        pace.end()
    saves = [clocks.waited_s[i : i + 3] for i in range(0, 15, 3)]
    for waited_s in saves[:3]:  # of a second there would be more
        assert waited_s == pytest.approx([0, *[0.001 * (1 / 0.03 - 1)] * 2])
    assert saves[3] == pytest.approx([0, *[0.001 * (0.7 * 0.02 / 0.002 - 1)] * 2])
    assert saves[4] == pytest.approx([0, *[0.001 * ((0.7 * 0.02 - 0.008) / 0.002 - 1)] * 2])


def test_a_save_begins_as_if_its_copying_had_been_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, pace = Clocks(monkeypatch), Pace()
    pace.begin()
    pace.rest(0.01)
    pace.rest()
    assert clocks.waited_s == pytest.approx([0.01 * (1 / 0.03 - 1), 0.001 * (1 / 0.03 - 1)])


def test_nobody_who_waits_for_a_save_waits_for_its_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.training.staging._LEAST_SHARE", 1e-9)
    pace, pieces = Pace(), []
    pace.begin()

    def save() -> None:
        pieces.extend(pace.pieces([b"x"] * 10))

    thread = threading.Thread(target=save, daemon=True)
    thread.start()
    pace.hurry()
    thread.join(30)
    assert not thread.is_alive() and len(pieces) == 10


def test_what_no_checkpoint_can_hold_is_refused_at_once() -> None:
    with pytest.raises(StorageError, match=r"phase is of torch\.complex64"):
        Staging().copies({"phase": torch.zeros(2, dtype=torch.complex64)})


def test_the_file_is_read_by_the_formats_own_library(tmp_path: Path) -> None:
    tensors = make_tensors()
    data = b"".join(encoded(tensors))
    read = safetensors.torch.load(data)
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read[name], value) and read[name].dtype == value.dtype
    (tmp_path / "x").write_bytes(data)
    with opened(tmp_path / "x") as found:
        assert len(found) == len(tensors)
    assert data == b"".join(encoded(dict(reversed(tensors.items()))))
    assert data == b"".join(encoded({name: value.contiguous() for name, value in tensors.items()}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found(bad: float) -> None:
    tensors = make_tensors()
    assert not_finite(tensors) is None
    assert not_finite({"wide": torch.full((4,), 1e308, dtype=torch.float64)}) is None
    tensors["large"][3, 5] = bad
    tensors["large"][3, 6] = -bad
    assert not_finite(tensors) == "large"
