"""A full disk, and a kill or an error at each system call of a commit. `make prove` runs them."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.core.ids import RepoId
from hubtool.server.store import Store
from hubtool.server.upkeep import fsck
from tests.server.clients import Client, Http, Served, commit_lines, put

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


SYSCALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "mkdir")
SYSCALLS += ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
WHO = ("hub", "fast-import", "update-ref")  # the processes of a push that write
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")


def _fresh(root: Path) -> str:
    store = Store(root)
    repo = store.repos.create("models", RepoId("lab/net"), author="ada")
    head = repo.git.resolve("main")
    store.close()
    return head


def _push(root: Path, who: str, bin_: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    """A push in a process of its own, with strace around the hub or around one of its git children."""
    words = ["strace", "-qq", *strace]
    command = [sys.executable, "-c", PUSH, str(root)]
    env = dict(os.environ)
    if who == "hub":
        command = [*words, *command]
    else:
        git = shutil.which("git")
        traced = shlex.join([*words, str(git)])
        bin_.mkdir(exist_ok=True)
        (bin_ / "git").write_text(
            f'#!/bin/sh\ncase " $* " in *" {who} "*) exec {traced} "$@";; *) exec {git} "$@";; esac\n'
        )
        (bin_ / "git").chmod(0o755)
        env["PATH"] = f"{bin_}:{env['PATH']}"
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=env)


def _places(tmp_path: Path, who: str) -> dict[str, list[int]]:
    """For each system call: which of its invocations touch the store (the n-th of that call in that process)."""
    root, log = tmp_path / "counted", tmp_path / "calls.txt"
    _fresh(root)
    done = _push(root, who, tmp_path / "bin", "-y", "-o", str(log), "-e", f"trace={','.join(SYSCALLS)}")
    assert "acknowledged" in done.stdout, done.stderr
    seen, places = dict.fromkeys(SYSCALLS, 0), {name: [] for name in SYSCALLS}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is not None and match[1] in seen:
            seen[match[1]] += 1
            if str(root) in line or "net.git" in line:
                places[match[1]].append(seen[match[1]])
    shutil.rmtree(root)
    return places


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("who", WHO)
def test_a_fault_at_each_system_call_of_a_push(tmp_path: Path, who: str, fault: str) -> None:
    """Whichever call on the store fails: it is clean, what was acknowledged is there, and the next push succeeds."""
    num, num_acknowledged = 0, 0
    places = _places(tmp_path, who)
    for syscall, numbers in places.items():
        for n in numbers:
            num_acknowledged += _try(tmp_path, who, f"inject={syscall}:{fault}:when={n}")
            num += 1
    touched = {name: len(numbers) for name, numbers in places.items() if numbers}
    sys.stderr.write(f"\n{who}, {fault}: {num} places {touched}, {num_acknowledged} acknowledged all the same\n")
    assert touched["fsync"] and touched["openat"] and num > 8


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize("num_bytes", [1, 1000])
def test_a_write_that_says_more_than_it_wrote_is_noticed(tmp_path: Path, num_bytes: int) -> None:
    """The hub looks at the length of what it wrote before that gets a name."""
    for n in _places(tmp_path, "hub")["write"]:
        _try(tmp_path, "hub", f"inject=write:retval={num_bytes}:when={n}")


def _try(tmp_path: Path, who: str, injection: str) -> bool:
    """One push with one fault, on a store of its own; whether it was acknowledged.

    strace injects into calls that it traces only, so the log shows that the fault came.
    """
    root = tmp_path / "faulty"
    before = _fresh(root)
    log, syscall = tmp_path / "fault.txt", injection.removeprefix("inject=").partition(":")[0]
    done = _push(root, who, tmp_path / "bin", "-o", str(log), "-e", f"trace={syscall}", "-e", injection)
    assert re.search(r"\(INJECTED\)|killed by SIGKILL", log.read_text(errors="replace")), injection
    is_acknowledged = "acknowledged" in done.stdout
    store = Store(root)
    repo = store.repos.find("models", RepoId("lab/net"))
    head = repo.git.resolve("main")
    assert fsck(store).findings == (), (injection, done.stderr)
    if is_acknowledged:
        assert head != before and repo.git.entry(head, "w.bin") is not None, injection
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert not last or last.startswith(("hubtool.core.errors.", "OSError: ")), (injection, done.stderr)
    store.close()
    again = _push(root, "nobody", tmp_path / "bin")
    assert "acknowledged" in again.stdout, (injection, again.stderr)
    shutil.rmtree(root)
    return is_acknowledged


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


def test_a_full_disk_refuses_a_git_push_whole(small_disk: Path, tmp_path: Path) -> None:
    """Wherever the disk is full: git's writes come short there, as they do nowhere else."""
    root = small_disk / "hub"
    with Served(root) as hub:
        http, client = Http(hub.url), Client(hub.url, tmp_path / "home", None)
        http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "net"])
        net, ends = client.home / "net", []
        for num_bytes in (20_000_000, 12_000_001, *range(6_000_000, 11_500_000, 499_999), 1000):
            before = http("GET", "/api/models/lab/net").json["sha"]
            (net / "blob.txt").write_bytes(os.urandom(num_bytes))
            client.run(["git", "add", "."], cwd=net)
            client.run(["git", "commit", "-qm", str(num_bytes)], cwd=net, **identity)
            said = client.run(["git", "push", "origin", "main"], cwd=net, check=False)
            sha = http("GET", "/api/models/lab/net").json["sha"]
            local = client.run(["git", "rev-parse", "HEAD"], cwd=net).strip()
            ends.append(sha == local)
            assert sha in (before, local), said
            if sha == before:
                assert "error" in said or "fatal" in said, said
                client.run(["git", "reset", "-q", "--hard", "HEAD^"], cwd=net)
            store = Store(root)
            assert fsck(store).findings == (), (num_bytes, said)
            store.close()
        assert not ends[0] and ends[-1], "too large for the disk; and small, when all that came before left no litter"
