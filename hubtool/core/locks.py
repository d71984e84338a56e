"""One writer per directory. The kernel drops the lock of a dead process, so nothing is ever stale.

Where two hosts share a directory their kernels may not know of each other's locks: the holder of a lock with a heartbeat
touches the file, and another host takes it over only when it has not done so for a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hubtool.core.errors import ConflictError, from_os_error
from hubtool.core.files import TEMP_PREFIX

BEAT_S = 15.0
SILENCE_S = 60.0
ORPHAN_S = 5.0  # a child that was forked by a killed holder, and has not come to its own program yet, holds the lock on


@contextmanager
def hold(path: Path, what: str, *, wait_s: float = 0.0, has_heartbeat: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` for the block; ``what`` names the locked thing in the error.

    Raises ConflictError with the holder's pid, host and age when it is not free within ``wait_s`` seconds.
    The file stays behind (removing it would let two processes lock two files of one name). ``has_heartbeat`` is for what is
    held long, in a directory that hosts may share.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    try:
        _acquire(fd, what, wait_s)
        if has_heartbeat:
            _refuse_living(fd, path, what)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
        try:
            with _beating(fd) if has_heartbeat else nullcontext():
                yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextmanager
def _beating(fd: int) -> Iterator[None]:
    """Touch the file every quarter of a minute while the block runs."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_S):
            with suppress(OSError):
                os.utime(fd)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _refuse_living(fd: int, path: Path, what: str) -> None:
    """The lock is free as far as this kernel knows. Raises ConflictError where another host has touched it lately."""
    holder = _read_holder(fd)
    if holder is None or holder["host"] == platform.node():
        return
    silent_s = _now_there(path) - os.fstat(fd).st_mtime
    if silent_s < SILENCE_S:
        raise ConflictError(
            "E-LOCKED",
            f"{what} is in use by pid {holder['pid']} on {holder['host']}, alive {max(0, round(silent_s))} s ago",
            do=f"wait for it to end, or stop it; after {SILENCE_S:.0f} s without a sign of life it is taken over",
        )


def _now_there(path: Path) -> float:
    """The time by the clock that stamps the files there: that of a file server may differ from ours."""
    probe = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError as error:
        raise from_os_error(error, str(probe)) from error
    finally:
        probe.unlink(missing_ok=True)


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
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            waited_s = time.monotonic() - began
            if waited_s >= wait_s and (waited_s >= ORPHAN_S or not _is_holder_dead(fd)):
                raise ConflictError(
                    "E-LOCKED", f"{what} is in use by {_holder(fd)}", do="wait for it to end, or stop it"
                ) from None
            time.sleep(0.02)


def _is_holder_dead(fd: int) -> bool:
    """Whether the process that wrote itself into the file was one of this host, and is no more."""
    holder = _read_holder(fd)
    if holder is None or holder["host"] != platform.node():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, and alive
        pass
    return False


def _holder(fd: int) -> str:
    holder = _read_holder(fd)
    if holder is None:
        return "another process"
    return f"pid {holder['pid']} on {holder['host']}, {max(0, round(time.time() - holder['since']))} s ago"


def _read_holder(fd: int) -> dict[str, Any] | None:
    """Who wrote itself into the file; None for an empty or unreadable one."""
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return {"pid": int(holder["pid"]), "host": str(holder["host"]), "since": float(holder["since"])}
    except (ValueError, KeyError, TypeError):
        return None
