"""The one durable writer, and walking a directory that is not trusted.

A file that matters is written to a temporary file beside its target, its length checked, fsynced, renamed over the
target, and the directory fsynced: after a crash a reader finds the old file or the new one, whole.
(The order is restic's and git-lfs's; ext4, xfs and btrfs may reorder an unsynced rename before its data.)

Every system call goes through a ``Disk``, so that a test can record them and replay each state a crash could leave.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from hubtool.core.digests import canonical_json
from hubtool.core.errors import DataError, SecurityError, StorageError, from_os_error

TEMP_PREFIX = ".tmp-hubtool-"


class Disk:
    """The system calls of the durable writer. Not thread-local, holds no state."""

    def create(self, path: Path, mode: int) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)

    def write(self, fd: int, data: memoryview | bytes) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


DISK = Disk()


def write_chunks(path: Path, chunks: Iterable[bytes], *, mode: int = 0o644, disk: Disk = DISK) -> int:
    """Write ``path`` durably from chunks; returns its size in bytes. Raises StorageError, the old file intact."""
    temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}")
    try:
        size_bytes = _write_new(temp, chunks, mode, disk, is_synced=True)
        disk.rename(temp, path)
        disk.fsync_dir(path.parent)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            if temp.exists():
                disk.unlink(temp)
    return size_bytes


def _write_new(path: Path, chunks: Iterable[bytes | memoryview], mode: int, disk: Disk, *, is_synced: bool) -> int:
    """Write a file that is not there yet, its length checked; returns its size in bytes."""
    fd = disk.create(path, mode)
    try:
        size_bytes = 0
        for chunk in chunks:
            write_all(fd, chunk, disk)
            size_bytes += len(chunk)
        if os.fstat(fd).st_size != size_bytes:
            raise StorageError("E-DISK-SHORT", "the file is shorter than what was written", where=str(path))
        if is_synced:
            disk.fsync(fd)
    finally:
        disk.close(fd)
    return size_bytes


def write_all(fd: int, data: bytes | memoryview, disk: Disk = DISK) -> None:
    """Write every byte: ``write(2)`` may take fewer than asked."""
    view = memoryview(data)
    while view:
        written = disk.write(fd, view)
        view = view[written:]


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644, disk: Disk = DISK) -> None:
    write_chunks(path, [data], mode=mode, disk=disk)


def write_text(path: Path, text: str, *, mode: int = 0o644, disk: Disk = DISK) -> None:
    write_chunks(path, [text.encode()], mode=mode, disk=disk)


def write_json(path: Path, value: object, *, mode: int = 0o644, disk: Disk = DISK) -> None:
    """Canonical JSON and a newline."""
    write_chunks(path, [canonical_json(value), b"\n"], mode=mode, disk=disk)


def make_dirs(path: Path, *, disk: Disk = DISK) -> None:
    """``mkdir -p`` with our error; what is made is durable."""
    try:
        missing = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for place in missing:
            with contextlib.suppress(PermissionError):  # a directory that may be written but not read
                disk.fsync_dir(place.parent)
    except FileExistsError as error:
        raise StorageError("E-DISK-NOTDIR", "a file stands where a directory is needed", where=str(path)) from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


@contextlib.contextmanager
def publish_dir(target: Path, *, disk: Disk = DISK) -> Iterator[Path]:
    """Fill a temporary directory beside ``target``; when the block ends well it becomes ``target`` in one rename.

    Everything in it is fsynced first. ``target`` must not exist. Raises StorageError; nothing is left behind.
    """
    make_dirs(target.parent)
    temp = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}")
    try:
        disk.mkdir(temp)
        yield temp
        for directory, _, names in os.walk(temp, topdown=False, onerror=_raise):
            for name in names:
                _fsync_file(Path(directory, name), disk)
            disk.fsync_dir(Path(directory))
        if target.exists():
            raise StorageError("E-DISK-EXISTS", "it is there already", where=str(target))
        disk.rename(temp, target)
        disk.fsync_dir(target.parent)
    except OSError as error:
        raise from_os_error(error, str(target)) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def write_inside(path: Path, data: bytes, *, disk: Disk = DISK) -> None:
    """Write a new file inside a ``publish_dir`` block, its length checked; the end of the block makes it durable."""
    write_chunks_inside(path, [data], disk=disk)


def write_chunks_inside(path: Path, chunks: Iterable[bytes | memoryview], *, disk: Disk = DISK) -> int:
    """The same from chunks; returns the file's size in bytes."""
    return _write_new(path, chunks, 0o644, disk, is_synced=False)


def _raise(error: OSError) -> None:
    """For ``os.walk``, which leaves out in silence what it cannot list: it would not be fsynced."""
    raise error


def _fsync_file(path: Path, disk: Disk) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def remove_dir(path: Path) -> None:
    """Remove a directory so that a kill leaves it whole or not at all under its name; what cannot be removed stays."""
    gone = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed writer left behind. Only for a directory whose lock is held."""
    for path in directory.glob(f"{TEMP_PREFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class AppendFile:
    """A file that grows by whole lines. One writer; ``append`` buffers nothing, ``sync`` makes it durable."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._disk = disk
        self._path = path
        try:
            is_new = not path.exists()
            self._fd = disk.open_append(path)
            if is_new:
                disk.fsync_dir(path.parent)
        except OSError as error:
            raise from_os_error(error, str(path)) from error

    def append(self, data: bytes) -> None:
        try:
            write_all(self._fd, data, self._disk)
        except OSError as error:
            raise from_os_error(error, str(self._path)) from error

    def sync(self) -> int:
        """Fsync; returns the size in bytes that is now durable."""
        try:
            self._disk.fsync(self._fd)
            return os.fstat(self._fd).st_size
        except OSError as error:
            raise from_os_error(error, str(self._path)) from error

    def cut_back(self, size_bytes: int) -> None:
        """Forget everything after ``size_bytes``, durably."""
        try:
            self._disk.truncate(self._fd, size_bytes)
            self._disk.fsync(self._fd)
        except OSError as error:
            raise from_os_error(error, str(self._path)) from error

    def close(self) -> None:
        self._disk.close(self._fd)


def safe_walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below ``root`` as (relative path with ``/``, path), in sorted order.

    Links that stay inside the root and point to a file are followed; a link that leaves the root, a link to a
    directory (it may loop), a FIFO, a socket or a device raises SecurityError. An unreadable directory raises DataError.
    """
    base = root.resolve()
    yield from _walk(base, base, "")


def _walk(base: Path, directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError("E-DATA-UNREADABLE", "the directory cannot be read", where=prefix or ".") from error
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield name, _followed(base, Path(entry.path), name)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(base, Path(entry.path), f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            yield name, Path(entry.path)
        else:
            raise SecurityError("E-PATH-SPECIAL", "neither a file nor a directory", where=name, do="take it out")


def _followed(base: Path, link: Path, name: str) -> Path:
    try:
        real = link.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise SecurityError("E-PATH-LINK", "a broken or looping link", where=name, do="take it out") from error
    if not real.is_relative_to(base):
        raise SecurityError("E-PATH-LINK", "a link that leaves the directory", where=name, do="copy the file instead")
    if not stat.S_ISREG(mode):
        raise SecurityError("E-PATH-LINK", "a link to something that is no file", where=name, do="take it out")
    return real
