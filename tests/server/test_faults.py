"""A full disk, and a kill or an error at each system call of a commit. `make prove` runs them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.core.ids import RepoId
from hubtool.server.store import Store
from hubtool.server.upkeep import fsck
from tests.server.clients import Http, Served, commit_lines, put

pytestmark = pytest.mark.prove

PUSH = """
import hashlib, sys
from pathlib import Path
from hubtool.core.ids import Oid, RepoId, RepoPath, Revision
from hubtool.server.commits import Draft, Put
from hubtool.server.pointers import Pointer
from hubtool.server.store import Store
store = Store(Path(sys.argv[1]))
repo = store.repos.find("models", RepoId("lab/net"))
data = b"weights" * 5000
oid = Oid(hashlib.sha256(data).hexdigest())
incoming = store.objects.receive()
incoming.write(data)
store.objects.publish(incoming, oid, len(data), lambda: repo.link_object(oid))
sha = repo.commit(Draft(Revision("main"), (Put(RepoPath("w.bin"), Pointer(oid, len(data))),), "w", "ada"))
print("acknowledged", sha, flush=True)
"""


def _fresh(root: Path) -> str:
    store = Store(root)
    repo = store.repos.create("models", RepoId("lab/net"), author="ada")
    head = repo.git.resolve("main")
    store.close()
    return head


def _push(root: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    command = [*strace, sys.executable, "-c", PUSH, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _calls(tmp_path: Path, syscall: str) -> int:
    root = tmp_path / "counted"
    _fresh(root)
    log = tmp_path / "calls.txt"
    _push(root, "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={syscall}", "-P", str(root))
    done = _push(tmp_path / "counted", "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={syscall}")
    assert "acknowledged" in done.stdout, done.stderr
    return len(re.findall(rf"\b{syscall}\(", log.read_text()))


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize("fault", ["signal=KILL", "error=ENOSPC", "error=EIO"])
@pytest.mark.parametrize("syscall", ["fsync", "rename", "link", "unlink", "mkdir", "ftruncate"])
def test_a_fault_at_each_system_call_of_a_commit(tmp_path: Path, syscall: str, fault: str) -> None:
    """Whichever call fails: the store is clean, and what was acknowledged is there."""
    num = _calls(tmp_path, syscall)
    for n in range(1, num + 1):
        root = tmp_path / f"{n}"
        before = _fresh(root)
        done = _push(
            root,
            "strace",
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            "trace=none",
            "-e",
            f"inject={syscall}:{fault}:when={n}",
        )
        store = Store(root)
        repo = store.repos.find("models", RepoId("lab/net"))
        head = repo.git.resolve("main")
        assert fsck(store).findings == (), (syscall, n)
        if "acknowledged" in done.stdout:
            assert head != before and repo.git.entry(head, "w.bin") is not None
        store.close()
        again = _push(root)
        assert "acknowledged" in again.stdout, (syscall, n, again.stderr)
        shutil.rmtree(root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """12 MB of disk, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_a_507_and_the_store_stays_clean(small_disk: Path) -> None:
    root = small_disk / "hub"
    with Served(root) as hub:
        http = Http(hub.url)
        http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
        data = os.urandom(20_000_000)
        oid = hashlib.sha256(data).hexdigest()
        body = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        href = http("POST", "/lab/net.git/info/lfs/objects/batch", body).json["objects"][0]["actions"]["upload"]["href"]
        reply = http("PUT", "/" + href.split("/", 3)[3], data)
        assert (reply.status, reply.json["code"]) == (507, "E-DISK-FULL")
        statuses = [
            http("POST", "/api/models/lab/net/commit/main", commit_lines(put(f"{i}", os.urandom(1_500_000)))).status
            for i in range(9)
        ]
        assert statuses[0] == 200 and statuses[-1] == 507 and set(statuses) == {200, 507}, statuses
        assert http("GET", "/api/models/lab/net").status == 200, "it still serves"
        assert not [path for path in (root / "incoming").iterdir() if path.stat().st_size], (
            "nothing half-received stays"
        )
    store = Store(root)
    assert fsck(store).findings == ()
    store.close()
