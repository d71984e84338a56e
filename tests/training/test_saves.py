"""A checkpoint's save, struck at every system call that it makes: killed there, or told by the kernel that it failed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubtool.core.files import TEMP_PREFIX
from hubtool.training.checkpoint import Checkpoints

_CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,close,ftruncate"
_WAYS = {
    "killed": "signal=KILL",
    "disk full": "error=ENOSPC",
    "I/O error": "error=EIO",
    "short": "retval=1000",
}
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")


@dataclass(frozen=True, kw_only=True)
class Call:
    """The ``number``-th call of ``name`` that a save makes, as strace counts."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


class Saver:
    def __init__(self, root: Path) -> None:
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        script = str(Path(__file__).with_name("saving.py"))
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._root, self._num = root, 0
        assert self._out.readline() == "ready\n"
        self.calls = self._find_calls()

    def save(self, *options: str) -> tuple[Path, int, str]:
        """(directory, exit status, how it went) of a save under strace with ``options``."""
        self._num += 1
        directory = self._root / str(self._num) / "checkpoints"
        directory.parent.mkdir()
        self._in.write(f"{directory}\n")
        self._in.flush()
        pid = int(self._out.readline())
        watcher = subprocess.Popen(
            [
                "strace",
                "-y",
                "-p",
                str(pid),
                "-o",
                str(directory.with_name("trace")),
                "-e",
                f"trace={_CALLS}",
                *options,
            ],
            stderr=subprocess.PIPE,
        )
        assert watcher.stderr is not None
        said = watcher.stderr.readline().decode()
        if "attached" not in said:
            os.kill(pid, signal.SIGKILL)
            self._out.readline()
            watcher.communicate()
            pytest.skip(f"strace cannot watch a process here: {said.strip()}")
        os.kill(pid, signal.SIGCONT)
        code = int(self._out.readline())
        watcher.communicate()
        outcome = directory.with_name("outcome")
        return directory, code, outcome.read_text() if outcome.exists() else ""

    def _find_calls(self) -> list[Call]:
        """Those of an undisturbed save that touch its directory, in order."""
        directory, _, said = self.save()
        assert said == "saved"
        counts, found = Counter[str](), []
        for line in directory.with_name("trace").read_text().splitlines():
            match = re.match(r"(\w+)\(", line)
            if match:
                counts[match[1]] += 1
                if str(directory) in line:
                    found.append(Call(name=match[1], number=counts[match[1]]))
        return found

    def close(self) -> None:
        self._in.close()
        self._process.wait(timeout=60)
        self._out.close()


@pytest.fixture(scope="module")
def saver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saver]:
    opened = Saver(tmp_path_factory.mktemp("saves"))
    yield opened
    opened.close()


def strike(saver: Saver, call: Call, way: str) -> str:
    """How the save went; whatever it was, nothing is lost and nothing is left."""
    directory, code, said = saver.save("-e", f"inject={call.name}:{_WAYS[way]}:when={call.number}")
    where = f"{way} at {call}: {said}"
    assert (code == -signal.SIGKILL) == (way == "killed"), where
    assert code != 0 or said == "saved" or said.startswith("error[E-DISK"), where
    if said.startswith("error") and not call.name.startswith(("unlink", "rmdir", "close", "openat")):
        assert not [path for path in directory.iterdir() if path.name.startswith(TEMP_PREFIX)], where
    checkpoints = Checkpoints(directory, keep=1)
    newest = checkpoints.newest_valid()
    assert newest is not None, where
    assert newest[1].epoch == 2 or said != "saved", where
    assert not [path for path in directory.iterdir() if path.name.startswith(".")], where
    assert checkpoints.skipped == [], where
    checkpoints.close()
    return said or "killed"


def struck(saver: Saver, way: str, *, every: int) -> Counter[str]:
    calls = saver.calls if way != "short" else [call for call in saver.calls if call.name in ("write", "pwrite64")]
    assert {"openat", "write", "fsync", "rename", "mkdir", "close"} <= {call.name for call in saver.calls}
    return Counter(strike(saver, call, way).partition("]")[0] for call in calls[::every])


@pytest.mark.parametrize("way", _WAYS)
def test_a_save_struck_at_some_system_calls_loses_nothing(way: str, saver: Saver) -> None:
    assert struck(saver, way, every=7 if way != "short" else 2).total() >= 2


@pytest.mark.prove
@pytest.mark.parametrize("way", _WAYS)
def test_a_save_struck_at_every_system_call_loses_nothing(
    way: str, saver: Saver, capsys: pytest.CaptureFixture[str]
) -> None:
    found = struck(saver, way, every=1)
    told = ", ".join(f"{name.replace('error[', '')} {number}" for name, number in sorted(found.items()))
    with capsys.disabled():
        sys.stdout.write(f"\n{way} at each of {found.total()} system calls: {told}\n")
    if way == "short":
        assert found["saved"] == 0  # a byte that never arrived is always noticed


def test_files_that_cannot_be_listed_are_not_taken_for_durable(saver: Saver) -> None:
    """The walk that fsyncs them would leave out in silence what it cannot open."""
    directory, _, _ = saver.save()
    syncs = [c for c in saver.calls if c.name == "fsync"]
    assert len(syncs) >= 6  # four files, their directory, the one above
    for call in [c for c in saver.calls if c.name == "openat"]:
        directory, _, said = saver.save("-e", f"inject=openat:error=EIO:when={call.number}")
        if said == "saved":
            trace = directory.with_name("trace").read_text()
            assert len(re.findall(r"^fsync\(.* = 0$", trace, re.MULTILINE)) >= len(syncs), str(call)
