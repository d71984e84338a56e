"""Worker processes that decode pictures: requests go in, answers come out in the order of the requests.

A worker is a bare interpreter with Pillow (0.1 s to start, some 20 MB), not a fork of a process with threads and a GPU
in it, and not a spawn that runs the user's script again. It ends when its pipe does, whatever ends the parent.
Request i goes to worker i mod n, so that each answers in order and nobody waits on a select.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections import deque
from types import TracebackType
from typing import Self

from hubtool.core.errors import DataError, from_os_error
from hubtool.core.settings import PACKAGE
from hubtool.data.worker import Answer, Request, answer

MAX_SHARED_BYTES = 256 << 20
MAX_WAITING = 256  # requests a worker; their answers must fit into a pipe
_START = "import sys; sys.path.append(sys.argv[1]); from hubtool.data.worker import main; main(*map(int, sys.argv[2:]))"


class Pool:
    """``num_workers`` 0 works inside this process, when an answer is taken. Not for two threads at once.

    ``slot_bytes`` and ``num_slots`` size the shared memory; request i has slot i mod ``num_slots``, which is its own
    until ``num_slots`` more requests are submitted.
    """

    def __init__(self, num_workers: int, *, slot_bytes: int = 0, num_slots: int = 0) -> None:
        self._slot_bytes = slot_bytes
        self._num_slots = num_slots
        self._num_submitted = 0
        self._waiting: deque[tuple[int, Request]] = deque()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._shared = memoryview(b"")
        size_bytes = slot_bytes * num_slots
        if num_workers == 0:
            self._shared = memoryview(bytearray(size_bytes))
            return
        try:
            fd = _shared_file(size_bytes) if size_bytes else os.open(os.devnull, os.O_RDONLY)
            try:
                if size_bytes:
                    self._shared = memoryview(mmap.mmap(fd, size_bytes))
                for _ in range(num_workers):
                    self._workers.append(self._start(fd))
            finally:
                os.close(fd)
        except OSError as error:
            self.close()
            raise from_os_error(error, "starting the decoding processes") from error

    def _start(self, fd: int) -> subprocess.Popen[bytes]:
        arguments = [str(PACKAGE.parent), str(fd), str(self._slot_bytes), str(self._num_slots)]
        # One thread each: the workers are the parallelism. Unbuffered, as answers are read one by one.
        environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            env=environ,
            start_new_session=True,  # Ctrl-C is for the parent, which still needs its pictures to finish the step
        )

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """How many requests may wait at once."""
        limit = MAX_WAITING * max(1, len(self._workers))
        return min(limit, self._num_slots) if self._num_slots else limit

    def submit(self, request: Request) -> None:
        index = self._num_submitted
        self._num_submitted += 1
        self._waiting.append((index, request))
        if self._workers:
            worker = self._workers[index % len(self._workers)]
            line = json.dumps([self._slot(index), request]).encode() + b"\n"
            assert worker.stdin is not None
            try:
                worker.stdin.write(line)
                worker.stdin.flush()
            except BrokenPipeError:
                pass  # told when its answer is taken, with the picture it died of

    def take(self) -> tuple[Answer, memoryview]:
        """The answer to the oldest request and its slot; the slot is to be copied before the next ``submit``."""
        index, request = self._waiting.popleft()
        start = self._slot(index) * self._slot_bytes
        slot = self._shared[start : start + self._slot_bytes]
        if not self._workers:
            return answer(request, slot), slot
        worker = self._workers[index % len(self._workers)]
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line.endswith(b"\n"):
            raise DataError(
                "E-DATA-WORKER",
                f"the decoding process died of this picture (status {worker.wait()})",
                where=str(request[1]),
                do="take the picture out; if there is none wrong, look for a lack of memory",
            )
        found: Answer = json.loads(line)
        return found, slot

    def forget(self) -> None:
        """Drop what waits; the answers are read and thrown away."""
        while self._waiting:
            if self._workers:
                self.take()
            else:
                self._waiting.popleft()

    def close(self) -> None:
        """End the workers. May be called twice."""
        for worker in self._workers:
            for stream in (worker.stdin, worker.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except BrokenPipeError:
                    pass
        for worker in self._workers:
            try:
                worker.wait(timeout=2)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._workers = []
        self._waiting.clear()
        self._shared = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _slot(self, index: int) -> int:
        return index % self._num_slots if self._num_slots else 0


def slots_for(num_workers: int, slot_bytes: int) -> int:
    """How many slots keep ``num_workers`` busy while the parent computes: 256 a worker and 256 MiB in all at most, four a
    worker at least."""
    fitting = MAX_SHARED_BYTES // (slot_bytes * max(1, num_workers))
    return max(1, num_workers * min(MAX_WAITING, max(4, fitting)))


def _shared_file(size_bytes: int) -> int:
    """A file without a name that two processes can map."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("hubtool-pixels", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as stream:
            fd = os.dup(stream.fileno())
    os.ftruncate(fd, size_bytes)
    return fd


def default_workers() -> int:
    """Half the cores, two at least where there are two: the other half computes. How many there are changes no byte."""
    return max(min(2, os.cpu_count() or 1), (os.cpu_count() or 1) // 2)
