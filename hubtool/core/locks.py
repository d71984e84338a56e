"""One writer per directory. The kernel drops the lock of a dead process, so nothing is ever stale."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubtool.core.errors import ConflictError, from_os_error


@contextmanager
def hold(path: Path, what: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` for the block; ``what`` names the locked thing in the error.

    Raises ConflictError with the holder's pid, host and age when it is not free within ``wait_s`` seconds.
    The file stays behind (removing it would let two processes lock two files of one name).
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    try:
        _acquire(fd, what, wait_s)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file now. A shared lock is tried for a moment; the file is not changed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def _acquire(fd: int, what: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise ConflictError(
                    "E-LOCKED", f"{what} is in use by {_holder(fd)}", do="wait for it to end, or stop it"
                ) from None
            time.sleep(0.02)


def _holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        age_s = max(0, round(time.time() - holder["since"]))
        return f"pid {holder['pid']} on {holder['host']}, {age_s} s ago"
    except (ValueError, KeyError, TypeError):
        return "another process"
