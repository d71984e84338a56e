from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hubtool.core import files
from hubtool.core.errors import SecurityError, StorageError
from hubtool.core.files import AppendFile, Disk, publish_dir, remove_leftovers, safe_walk, write_bytes


class FailingDisk(Disk):
    """Fails at the n-th call of one system call, or takes fewer bytes than asked."""

    def __init__(self, call: str, error: int, at: int = 1) -> None:
        self._call, self._error, self._at = call, error, at

    def __getattribute__(self, name: str) -> object:
        if name == object.__getattribute__(self, "_call"):
            at = object.__getattribute__(self, "_at") - 1
            object.__setattr__(self, "_at", at)
            if at == 0:
                raise OSError(object.__getattribute__(self, "_error"), "injected")
        return object.__getattribute__(self, name)


class ShortDisk(Disk):
    def write(self, fd: int, data: memoryview | bytes) -> int:
        return os.write(fd, data[:3])


@pytest.mark.parametrize("call", ["create", "write", "fsync", "close", "rename"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failing_write_leaves_the_old_file_and_no_leftover(tmp_path: Path, call: str, error: int) -> None:
    target = tmp_path / "state.json"
    write_bytes(target, b"old")
    with pytest.raises(StorageError):
        write_bytes(target, b"new", disk=FailingDisk(call, error))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"0123456789", disk=ShortDisk())
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_fsync_comes_before_rename_and_the_directory_after(tmp_path: Path) -> None:
    calls: list[str] = []

    class Recording(Disk):
        def __getattribute__(self, name: str) -> object:
            if not name.startswith("_"):
                calls.append(name)
            return object.__getattribute__(self, name)

    write_bytes(tmp_path / "a", b"x", disk=Recording())
    assert calls == ["create", "write", "fsync", "close", "rename", "fsync_dir"]


def test_publish_dir_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "e001"
    with publish_dir(target) as temp:
        (temp / "a").write_bytes(b"a")
        assert not target.exists()
    assert (target / "a").read_bytes() == b"a"
    with pytest.raises(RuntimeError), publish_dir(tmp_path / "e002") as temp:
        (temp / "a").write_bytes(b"a")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["e001"]
    with pytest.raises(StorageError, match="there already"), publish_dir(target):
        pass


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    (tmp_path / f"{files.TEMP_PREFIX}dead").mkdir()
    (tmp_path / f"{files.TEMP_PREFIX}file").write_bytes(b"")
    (tmp_path / "kept").write_bytes(b"")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


def test_append_and_cut_back(tmp_path: Path) -> None:
    log = AppendFile(tmp_path / "log")
    log.append(b"one\n")
    size_bytes = log.sync()
    log.append(b"two\n")
    log.cut_back(size_bytes)
    log.append(b"three\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\nthree\n"


def test_walk_is_sorted_and_stays_inside(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "b").mkdir(parents=True)
    (root / "b" / "2").write_bytes(b"")
    (root / "a").write_bytes(b"")
    (root / "c").symlink_to(root / "a")
    assert [name for name, _ in safe_walk(root)] == ["a", "b/2", "c"]


@pytest.mark.parametrize("kind", ["outside", "loop", "broken", "directory", "fifo"])
def test_walk_refuses_what_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"")
    (root / "sub").mkdir()
    if kind == "fifo":
        os.mkfifo(root / "x")
    else:
        goals = {"outside": tmp_path / "secret", "loop": root / "x", "broken": root / "none", "directory": root / "sub"}
        (root / "x").symlink_to(goals[kind])
    with pytest.raises(SecurityError):
        list(safe_walk(root))


def test_the_parents_of_what_is_made_are_synced(tmp_path: Path) -> None:
    synced: list[Path] = []

    class Recording(Disk):
        def fsync_dir(self, path: Path) -> None:
            synced.append(path)
            super().fsync_dir(path)

    files.make_dirs(tmp_path / "a" / "b", disk=Recording())
    assert synced == [tmp_path / "a", tmp_path]
    files.make_dirs(tmp_path / "a" / "b", disk=Recording())
    assert len(synced) == 2
