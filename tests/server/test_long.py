"""Races, kills, many files, large files. `make prove` runs them; each prints the figures it found."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from hubtool.server.store import Store
from hubtool.server.upkeep import fsck
from tests.server.clients import Client, Http, Served, commit_lines, put

pytestmark = pytest.mark.prove
NET = "/api/models/lab/net"


def _say(text: str) -> None:
    """A figure for whoever runs this with -s."""
    sys.stderr.write(text + "\n")


def _new(url: str) -> Http:
    http = Http(url)
    assert http("POST", "/api/repos/create", {"name": "net", "organization": "lab"}).status in (200, 409)
    return http


def _clean(root: Path) -> None:
    store = Store(root)
    try:
        assert fsck(store).findings == ()
    finally:
        store.close()


def test_eight_pushers_a_hundred_rounds_one_winner_each(tmp_path: Path) -> None:
    with Served(tmp_path / "hub") as hub:
        http = _new(hub.url)
        for round_ in range(100):
            parent = http("GET", NET).json["sha"]
            statuses: list[int] = []

            def push(i: int, round_: int = round_, parent: str = parent, statuses: list[int] = statuses) -> None:
                body = commit_lines(put(f"f{i}.txt", b"%d" % round_), parent=parent, summary=f"{round_} by {i}")
                statuses.append(Http(hub.url)("POST", f"{NET}/commit/main", body).status)

            threads = [threading.Thread(target=push, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert statuses.count(200) == 1 and set(statuses) <= {200, 409, 412}, statuses
        assert len(http("GET", f"{NET}/commits/main?limit=1000").json) == 102 - 1
    _clean(tmp_path / "hub")


@pytest.mark.parametrize("without_xet", [False, True], ids=["xet", "lfs"])
def test_a_thousand_small_files(tmp_path: Path, without_xet: bool) -> None:
    with Served(tmp_path / "hub") as hub:
        client = Client(hub.url, tmp_path / "home", None)
        began = time.monotonic()
        client.python(
            """
            import pathlib
            from huggingface_hub import HfApi, snapshot_download
            source = pathlib.Path("many"); source.mkdir()
            for i in range(1000):
                folder = source / f"d{i % 30}"; folder.mkdir(exist_ok=True)
                (folder / (f"{i}.bin" if i % 10 == 0 else f"{i}.txt")).write_bytes(str(i).encode() * 50)
            HfApi().create_repo("lab/net")
            HfApi().upload_folder(repo_id="lab/net", folder_path=source)
            there = pathlib.Path(snapshot_download("lab/net", local_dir="there"))
            for path in source.rglob("*.*"):
                assert (there / path.relative_to(source)).read_bytes() == path.read_bytes(), path
            """,
            HF_HUB_DISABLE_XET="1" if without_xet else "0",
        )
        _say(
            f"\n1,000 files pushed and pulled: {time.monotonic() - began:.1f} s, hub peak {hub.peak_bytes() >> 20} MiB"
        )
    _clean(tmp_path / "hub")


@pytest.mark.parametrize("without_xet", [False, True], ids=["xet", "lfs"])
def test_two_gigabytes_in_bounded_memory(tmp_path: Path, without_xet: bool) -> None:
    size = 2_000_000_000
    with Served(tmp_path / "hub") as hub:
        client = Client(hub.url, tmp_path / "home", None)
        (client.home / "source").mkdir()
        with (client.home / "source/big.safetensors").open("wb") as stream:
            for _ in range(size // 50_000_000):
                stream.write(os.urandom(50_000_000))
        began = time.monotonic()
        client.python(
            """
            from huggingface_hub import HfApi
            HfApi().create_repo("lab/net")
            HfApi().upload_folder(repo_id="lab/net", folder_path="source")
            """,
            HF_HUB_DISABLE_XET="1" if without_xet else "0",
        )
        push_s, began = time.monotonic() - began, time.monotonic()
        client.python(
            """
            from huggingface_hub import hf_hub_download
            hf_hub_download("lab/net", "big.safetensors", local_dir="there")
            """
        )
        pull_s = time.monotonic() - began
        digests = []
        for path in (client.home / "source/big.safetensors", client.home / "there/big.safetensors"):
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        assert digests[0] == digests[1]
        peak = hub.peak_bytes()
        _say(f"\n2 GB: push {push_s:.1f} s, pull {pull_s:.1f} s, hub peak {peak >> 20} MiB")
        assert peak < 300 << 20


def test_parallel_pulls_while_others_push(tmp_path: Path) -> None:
    """50 pulls of 100 MB at once while 4 push: no error, no corrupt byte, bounded memory."""
    with Served(tmp_path / "hub") as hub:
        http = _new(hub.url)
        data = os.urandom(100_000_000)
        oid = hashlib.sha256(data).hexdigest()
        _push_lfs(hub.url, data)
        stop, failures, waits = threading.Event(), [], []

        def push(i: int) -> None:
            for n in itertools.count():
                if stop.is_set():
                    return
                if Http(hub.url)("POST", f"{NET}/commit/main", commit_lines(put(f"p{i}", b"%d" % n))).status != 200:
                    failures.append(f"push {i}")

        def pull() -> None:
            began = time.monotonic()
            reply = Http(hub.url)("GET", "/lab/net/resolve/main/w.bin", timeout=300)
            waits.append(time.monotonic() - began)
            if reply.status != 200 or hashlib.sha256(reply.body).hexdigest() != oid:
                failures.append(f"pull {reply.status}")

        pushers = [threading.Thread(target=push, args=(i,)) for i in range(4)]
        pullers = [threading.Thread(target=pull) for _ in range(50)]
        for thread in (*pushers, *pullers):
            thread.start()
        for thread in pullers:
            thread.join()
        stop.set()
        for thread in pushers:
            thread.join()
        waits.sort()
        num = len(http("GET", f"{NET}/commits/main?limit=1000").json)
        _say(
            f"\n50 pulls: p50 {waits[25]:.1f} s, p99 {waits[-1]:.1f} s; {num} commits; peak {hub.peak_bytes() >> 20} MiB"
        )
        assert failures == [] and hub.peak_bytes() < 300 << 20


def _push_lfs(url: str, data: bytes, path: str = "w.bin") -> str:
    """A large file by git-lfs's calls; returns the commit."""
    http, oid = Http(url), hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    answer = http("POST", "/lab/net.git/info/lfs/objects/batch", body).json["objects"][0]
    if "actions" in answer:
        href = "/" + answer["actions"]["upload"]["href"].split("/", 3)[3]
        assert http("PUT", href, data, timeout=120).status == 200
    line = {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid, "size": len(data)}}
    reply = http("POST", f"{NET}/commit/main", commit_lines(line, put(f"{path}.txt", oid.encode())))
    assert reply.status == 200, reply
    return str(reply.json["commitOid"])


@pytest.mark.parametrize("seconds", [20.0, 300.0], ids=["short", "five-minutes"])
def test_killed_again_and_again_nothing_acknowledged_is_lost(tmp_path: Path, seconds: float) -> None:
    """Four push and four pull meanwhile: what is pulled is what was acknowledged, or nothing."""
    hub = Served(tmp_path / "hub")
    _new(hub.url)
    stop, acknowledged, surprises, pulled = threading.Event(), [], [], [0]

    def pull(i: int) -> None:
        chance = random.Random(-1 - i)
        while not stop.is_set():
            if not acknowledged:
                time.sleep(0.05)
                continue
            _, path, data = chance.choice(acknowledged)
            try:
                reply = Http(hub.url)("GET", f"/lab/net/resolve/main/{path}")
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # the hub is down just now, or went down in the middle of its answer
                continue
            pulled[0] += 1
            if (reply.status, reply.body) != (200, data):
                surprises.append(f"pull of {path}: {reply.status}, {len(reply.body)} of {len(data)} bytes")

    def push(i: int) -> None:
        chance = random.Random(i)
        for n in itertools.count():
            if stop.is_set():
                return
            data = chance.randbytes(chance.randrange(10, 300_000))
            try:
                acknowledged.append((_push_lfs(hub.url, data, f"{i}-{n}.bin"), f"{i}-{n}.bin", data))
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # the hub is down just now
            except AssertionError as error:
                surprises.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4) for work in (push, pull)]
    for thread in threads:
        thread.start()
    deadline, kills, chance = time.monotonic() + seconds, 0, random.Random(0)
    while time.monotonic() < deadline:
        time.sleep(chance.uniform(0.5, 3))
        hub.kill()
        kills += 1
        _clean(tmp_path / "hub")
        hub.start()
    stop.set()
    for thread in threads:
        thread.join()
    hub_http = Http(hub.url)
    history = {c["id"] for page in range(50) for c in hub_http("GET", f"{NET}/commits/main?limit=1000&p={page}").json}
    assert all(sha in history for sha, _, _ in acknowledged), "an acknowledged commit is gone"
    for _, path, data in random.Random(1).sample(acknowledged, min(50, len(acknowledged))):
        assert hub_http("GET", f"/lab/net/resolve/main/{path}").body == data
    _say(f"\n{kills} kills, {len(acknowledged)} acknowledged pushes, all there; {pulled[0]} pulls")
    hub.kill()
    _clean(tmp_path / "hub")
    assert surprises == [], surprises[:3]
