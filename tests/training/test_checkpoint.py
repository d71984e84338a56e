from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import IntegrityError, StorageError
from hubtool.core.files import Disk
from hubtool.records.state import Best, Position
from hubtool.training.checkpoint import Checkpoints, TrainState, read_state, selected_tensors


def make_state(epoch: int, *, value: float | None = 1.0, best: int | None = None, **tensors: Any) -> TrainState:
    """The state after ``epoch`` epochs of ten steps; ``best`` is the epoch of the best one (this one if not given)."""
    position = Position(epoch=epoch, global_step=10 * epoch, metric="val/loss", value=value)
    named = position.model_copy(update={"epoch": best or epoch, "global_step": 10 * (best or epoch)})
    chosen = Best(checkpoint=named.checkpoint_name, epoch=named.epoch, global_step=named.global_step, value=1.0)
    weights = {"fc.weight": torch.full((3, 512), float(epoch)), "fc.bias": torch.zeros(3)}
    return TrainState(
        position=position.model_copy(update={"best": chosen}),
        tensors=weights | tensors,
        optimizer={
            f"{name}/{key}": torch.ones_like(t) for name, t in weights.items() for key in ("exp_avg", "exp_avg_sq")
        },
    )


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name[:4] for path in checkpoints.directory.iterdir())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = make_state(3, extra=torch.arange(4, dtype=torch.int64), half=torch.ones(2, 2, dtype=torch.bfloat16))
    path = checkpoints.publish(state)
    again = read_state(path)
    assert path.name == "e003-s000030-val_loss=1.0000"
    assert again.position == state.position
    for was, now in ((state.tensors, again.tensors), (state.optimizer, again.optimizer)):
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) and was[name].dtype == now[name].dtype for name in was)


def test_a_head_only_checkpoint_is_at_most_4_kb_above_its_tensors(tmp_path: Path) -> None:
    state = make_state(1)
    path = Checkpoints(tmp_path).publish(state)
    tensors = [*state.tensors.values(), *state.optimizer.values()]
    own_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert sum(file.stat().st_size for file in path.iterdir()) <= own_bytes + 4096


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        checkpoints.publish(make_state(epoch, best=best))
    assert names(checkpoints) == ["e002", "e005"]
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.publish(make_state(6, best=2))
    assert names(checkpoints) == ["e002", "e005", "e006"]


@pytest.mark.parametrize(("mode", "wanted"), [("min", ["e001", "e003", "e006"]), ("max", ["e002", "e004", "e006"])])
def test_the_best_by_metric_are_kept_beside_the_last(mode: Any, wanted: list[str], tmp_path: Path) -> None:
    """The best one is named by the state; the others follow by their own value, those without one last."""
    best = 0
    values = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.8, 5: None, 6: 0.5}
    checkpoints = Checkpoints(tmp_path, keep=3, mode=mode)
    for epoch, value in values.items():
        sign = 1 if mode == "min" else -1
        if value is not None and (not best or sign * value < sign * (values[best] or 0)):
            best = epoch
        state = make_state(epoch, value=value)
        name = Position(epoch=best, global_step=10 * best, metric="val/loss", value=values[best]).checkpoint_name
        chosen = Best(checkpoint=name, epoch=best, global_step=10 * best, value=values[best] or 0)
        checkpoints.publish(dataclasses.replace(state, position=state.position.model_copy(update={"best": chosen})))
    assert names(checkpoints) == wanted


def test_the_newest_is_found_by_its_state_not_by_its_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    for epoch in (9, 10, 1000):
        checkpoints.publish(make_state(epoch))
    (tmp_path / "e1000-s010000-val_loss=1.0000").rename(tmp_path / "a name for people")
    with pytest.raises(IntegrityError):
        shutil.copytree(tmp_path, tmp_path.with_name("other"))
        found = Checkpoints(tmp_path.with_name("other"))
        for path in found.directory.iterdir():
            (path / "state.json").unlink()
        found.newest_valid()
    newest = checkpoints.newest_valid()
    assert newest is not None and newest[1].epoch == 10  # the best of 1000 is not where it says


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_passed_over_and_said(name: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    for epoch in (1, 2):
        checkpoints.publish(make_state(epoch))
    flip(tmp_path / "e002-s000020-val_loss=1.0000" / name)
    newest = checkpoints.newest_valid()
    assert newest is not None and newest[1].epoch == 1
    assert name in checkpoints.skipped[0]
    with pytest.raises(IntegrityError):
        read_state(tmp_path / "e002-s000020-val_loss=1.0000")


def test_a_half_directory_is_ignored_and_later_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.publish(make_state(1))
    half = tmp_path / "e002-s000020-val_loss=1.0000"
    shutil.copytree(tmp_path / "e001-s000010-val_loss=1.0000", half)
    (half / "MANIFEST.json").unlink()
    newest = checkpoints.newest_valid()
    assert newest is not None and newest[1].epoch == 1
    checkpoints.remove_after(newest[1])
    assert names(checkpoints) == ["e001"]


def test_only_half_directories_are_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "e001-s000010").mkdir()
    assert Checkpoints(tmp_path).newest_valid() is None


def test_when_all_are_damaged_each_reason_is_given(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    for epoch in (1, 2):
        flip(checkpoints.publish(make_state(epoch)) / "trainable.safetensors")
    with pytest.raises(IntegrityError) as caught:
        checkpoints.newest_valid()
    assert caught.value.code == "E-CKPT-NONE"
    assert str(caught.value).count("has not the digest") == 2


def test_a_checkpoint_whose_best_is_damaged_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    checkpoints.publish(make_state(1))
    flip(checkpoints.publish(make_state(2)) / "trainable.safetensors")
    checkpoints.publish(make_state(3, best=2))
    newest = checkpoints.newest_valid()
    assert newest is not None and newest[1].epoch == 1


class FailingDisk(Disk):
    """Fails at system call number ``at`` of a save, in one of the ways a disk fails."""

    def __init__(self, at: int, how: str) -> None:
        self.left = at
        self.how = how
        self.has_failed = False

    def _strike(self, call: str) -> bool:
        self.left -= 1
        if self.left >= 0 or self.has_failed:
            return False
        if self.how == "short" and call != "write":
            return False
        self.has_failed = True
        if self.how != "short":
            raise OSError(getattr(errno, self.how), os.strerror(getattr(errno, self.how)))
        return True

    def create(self, path: Path, mode: int) -> int:
        self._strike("create")
        return super().create(path, mode)

    def write(self, fd: int, data: memoryview | bytes) -> int:
        if self._strike("write"):
            return super().write(fd, bytes(data)[: len(data) // 2])
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._strike("fsync")
        super().fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._strike("rename")
        super().rename(source, target)

    def mkdir(self, path: Path) -> None:
        self._strike("mkdir")
        super().mkdir(path)

    def fsync_dir(self, path: Path) -> None:
        self._strike("fsync_dir")
        super().fsync_dir(path)


@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "EDQUOT", "EROFS", "short"])
def test_a_disk_that_fails_at_any_system_call_leaves_the_old_checkpoint(how: str, tmp_path: Path) -> None:
    num_struck = 0
    for at in range(40):
        directory = tmp_path / str(at)
        Checkpoints(directory).publish(make_state(1))
        disk = FailingDisk(at, how)
        checkpoints = Checkpoints(directory, disk=disk)
        try:
            checkpoints.publish(make_state(2))
        except StorageError as error:
            assert how != "short" and error.code.startswith("E-DISK")
        assert not [path for path in directory.iterdir() if path.name.startswith(".")]
        newest = Checkpoints(directory).newest_valid()
        assert newest is not None and newest[1].epoch >= 1
        num_struck += disk.has_failed
    assert num_struck >= 4


def test_a_save_in_the_background_fails_at_the_next_call(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, disk=FailingDisk(0, "ENOSPC"))
    checkpoints.publish_soon(make_state(1))
    with pytest.raises(StorageError, match="disk is full"):
        checkpoints.publish_soon(make_state(2))
    checkpoints.publish_soon(make_state(3))
    checkpoints.wait()
    assert names(checkpoints) == ["e003"]


def test_no_checkpoint_is_seen_before_its_log_is_durable(tmp_path: Path) -> None:
    checkpoints, seen = Checkpoints(tmp_path), []

    def full() -> None:
        seen.append(list(tmp_path.iterdir()))
        raise StorageError("E-DISK-FULL", "the disk is full")

    checkpoints.publish_soon(make_state(1), first=full)
    with pytest.raises(StorageError, match="disk is full"):
        checkpoints.wait()
    assert seen == [[]] and names(checkpoints) == []


def test_a_save_in_the_background_that_fails_last_is_not_lost(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, disk=FailingDisk(0, "ENOSPC"))
    checkpoints.publish_soon(make_state(1))
    with pytest.raises(StorageError, match="disk is full"):
        checkpoints.close()
    checkpoints.close()


def test_the_averages_are_what_is_selected(tmp_path: Path) -> None:
    state = make_state(1)
    averages = {f"{name}/ema": torch.full_like(value, 7.0) for name, value in state.tensors.items()}
    state = TrainState(position=state.position, tensors=state.tensors, optimizer={**state.optimizer, **averages})
    path = Checkpoints(tmp_path).publish(state)
    assert {float(value.flatten()[0]) for value in selected_tensors(path).values()} == {7.0}
