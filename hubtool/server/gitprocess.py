"""Running git: what a child may see, one-shot commands, and the long-lived readers of packed objects."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO

from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError, StorageError

_ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    "PATH": os.defpath,
}


_kept_fds: list[int] = []


def keep_open(fd: int) -> None:
    """Let every git child inherit ``fd``: a lock held on it lives as long as the last of them."""
    os.set_inheritable(fd, True)
    _kept_fds.append(fd)


def let_go(fd: int) -> None:
    _kept_fds.remove(fd)
    os.close(fd)


def kept_fds() -> tuple[int, ...]:
    return tuple(_kept_fds)


def git_environment() -> dict[str, str]:
    """What a git child may see: our settings only, never the user's configuration or secrets."""
    return _ENV


@lru_cache(maxsize=1)
def git_program() -> str:
    """Where git is. Raises StorageError when it is not installed."""
    program = shutil.which("git")
    if program is None:
        raise StorageError("E-HUB-GIT", "git is not installed", do="install git 2.36 or newer")
    return program


def run_git(
    directory: Path, *args: str, stdin: bytes | IO[bytes] | None = None, env: dict[str, str] | None = None
) -> bytes:
    """Run git; raises StorageError with its last line when it fails."""
    done = try_git(directory, args, stdin, env)
    if done.returncode != 0:
        raise git_error(done.stderr, directory)
    return done.stdout


def try_git(
    directory: Path, args: Iterable[str], stdin: bytes | IO[bytes] | None, env: dict[str, str] | None
) -> subprocess.CompletedProcess[bytes]:
    source: dict[str, object] = {"stdin": subprocess.DEVNULL}
    if isinstance(stdin, bytes):
        source = {"input": stdin}
    elif stdin is not None:
        source = {"stdin": stdin}
    command = [git_program(), f"--git-dir={directory}", *args]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command,
        capture_output=True,
        check=False,
        env=git_environment() | (env or {}),
        cwd="/",
        pass_fds=kept_fds(),
        **source,
    )


def git_error(stderr: bytes, directory: Path) -> HubtoolError:
    text = stderr.decode("utf-8", "replace").strip().replace(str(directory), directory.name)
    last = text.splitlines()[-1] if text else "git failed"
    if any(word in text for word in ("No space left", "Out of diskspace", "Disk quota")):
        return StorageError("E-DISK-FULL", "the disk is full", do="free some space and try again")
    return StorageError("E-HUB-GIT", last[:300])


class _Batch:
    """One ``git cat-file --batch-command`` process; requests take turns."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, sha: str, max_bytes: int) -> tuple[str, bytes]:
        with self._lock:
            kind, size_bytes, _ = self._ask("info", sha)
            if size_bytes > max_bytes:
                raise StorageError("E-HUB-LARGE", f"the git object has {size_bytes} bytes", where=sha)
            # The stream of the very process that was asked: git dies of a damaged object in the middle of its answer.
            _, size_bytes, stream = self._ask("contents", sha)
            data = stream.read(size_bytes + 1)[:-1]
        if len(data) != size_bytes:
            raise IntegrityError("E-HUB-DAMAGED", "a git object is damaged", where=sha)
        return kind, data

    def size_bytes(self, sha: str) -> int:
        with self._lock:
            return self._ask("info", sha)[1]

    def _ask(self, verb: str, sha: str) -> tuple[str, int, IO[bytes]]:
        """(kind, size, the stream its content follows on)."""
        child = self._process()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(f"{verb} {sha}\n".encode())
            child.stdin.flush()
            words = child.stdout.readline().decode("ascii", "replace").split()
        except BrokenPipeError:
            words = []
        if len(words) != 3 or not words[2].isdigit():
            if not words:
                self.close()
            raise NotFoundError("E-HUB-REVISION", f"Invalid rev id: {sha}")
        return words[1], int(words[2]), child.stdout

    def _process(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [git_program(), f"--git-dir={self._directory}", "cat-file", "--batch-command"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=git_environment(),
                cwd="/",
                pass_fds=kept_fds(),
            )
        return self._child

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            child.wait()


class _Batches:
    """The processes of the repositories last read, a few at a time; the directory's inode is part of the key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._by_key: OrderedDict[tuple[str, int], _Batch] = OrderedDict()

    def of(self, directory: Path) -> _Batch:
        try:
            key = (str(directory), directory.stat().st_ino)
        except FileNotFoundError as error:
            raise NotFoundError("E-HUB-REPO", "Repository not found") from error
        with self._lock:
            batch = self._by_key.pop(key, None) or _Batch(directory)
            self._by_key[key] = batch
            old = self._by_key.popitem(last=False)[1] if len(self._by_key) > self._limit else None
        if old is not None:
            with old._lock:
                old.close()
        return batch

    def close(self) -> None:
        with self._lock:
            batches, self._by_key = list(self._by_key.values()), OrderedDict()
        for batch in batches:
            with batch._lock:
                batch.close()


BATCHES = _Batches(16)


def close_processes() -> None:
    """End the long-lived git processes of this process."""
    BATCHES.close()
