"""One trainer's whole process, from start to exit: its times, the peak anonymous memory of its tree, its output."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLED_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``cpu_s``: user and system time of the whole tree. ``anonymous_bytes``: the largest sum over the tree of ``Pss_Anon``,
    where a page that processes share since a fork counts once."""

    wall_s: float
    cpu_s: float
    anonymous_bytes: int
    stdout: str


def measure(command: Sequence[str], *, environment: Mapping[str, str], directory: Path) -> Measured:
    """Run ``command`` in a fresh process. Raises RuntimeError with the end of what it said when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=dict(environment), cwd=directory)
        peak, is_over = [0], threading.Event()

        def sample() -> None:
            while not is_over.wait(SAMPLED_EVERY_S):
                peak[0] = max(peak[0], sum(_anonymous_bytes(pid) for pid in _tree(process.pid)))

        sampler = threading.Thread(target=sample)
        sampler.start()
        _, status, used = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started
        is_over.set()
        sampler.join()
        out.seek(0), err.seek(0)
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{err.read()[-3000:]}")
        return Measured(wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, anonymous_bytes=peak[0], stdout=out.read())


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found.extend(map(int, children.read_text().split()))
    return found


def _anonymous_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return 1024 * int(line.split()[1])
    return 0
