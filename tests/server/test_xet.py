"""Xet uploads: chunks in, whole files out, and nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lz4.frame
import pytest

from hubtool.server.embedded import EmbeddedHub
from hubtool.server.store import Store
from hubtool.server.upkeep import collect, fsck
from tests.server.clients import Client, Http, commit_lines


def chunk(data: bytes, scheme: int = 0) -> bytes:
    body = data if scheme != 2 else b"".join(data[lane::4] for lane in range(4))
    packed = lz4.frame.compress(body) if scheme else body
    return b"\0" + len(packed).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little") + packed


def _words(digest: str) -> bytes:
    return b"".join(int(digest[i : i + 16], 16).to_bytes(8, "little") for i in range(0, 64, 16))


def shard(*files: tuple[str, list[tuple[str, int, int, int]]]) -> bytes:
    """(sha256, [(xorb, start, stop, bytes)]) → the shard's bytes."""
    out = bytes(48)
    for sha256, terms in files:
        out += bytes(32) + struct.pack("<IIQ", 0x40000000, len(terms), 0)
        for xorb, start, stop, size in terms:
            out += _words(xorb) + struct.pack("<IIII", 0, size, start, stop)
        out += _words(sha256) + bytes(16)
    return out + b"\xff" * 32 + bytes(16)


class Cas:
    """A hand-made client of the upload address."""

    def __init__(self, hub: EmbeddedHub) -> None:
        self.http = Http(hub.url)
        self.http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
        self.renew()

    def renew(self) -> None:
        token = self.http("GET", "/api/models/lab/net/xet-write-token/main").json
        self.path = urlsplit(token["casUrl"]).path
        self.headers = {"Authorization": f"Bearer {token['accessToken']}"}

    def xorb(self, name: str, data: bytes) -> Any:
        return self.http("POST", f"{self.path}/v1/xorbs/default/{name}", data, self.headers)

    def shard(self, data: bytes) -> Any:
        return self.http("POST", f"{self.path}/v1/shards", data, self.headers)

    def commit(self, oid: str) -> Any:
        line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}
        return self.http("POST", "/api/models/lab/net/commit/main", commit_lines(line))


@pytest.fixture
def cas(hub: EmbeddedHub) -> Cas:
    return Cas(hub)


A, B = "a" * 64, "b" * 64


def push(cas: Cas) -> tuple[str, bytes]:
    """A file of seven chunks of all schemes out of two xorbs, some used twice."""
    parts = [os.urandom(3000), b"lz4 " * 999, os.urandom(4001), b"word" * 777, b"x"]
    assert cas.xorb(A, b"".join(chunk(p, s) for p, s in zip(parts[:3], (0, 1, 2), strict=True))).json == {
        "was_inserted": True
    }
    assert cas.xorb(A, chunk(b"other")).json == {"was_inserted": False}, "the first stays"
    assert cas.xorb(B, chunk(parts[3], 2) + chunk(parts[4], 1) + b"XETBLOB and a footer").status == 200
    data = b"".join(parts[:3] + parts[3:4] + parts[1:3] + parts[4:])
    oid = hashlib.sha256(data).hexdigest()
    sizes = [len(p) for p in parts]
    terms = [(A, 0, 3, sum(sizes[:3])), (B, 0, 1, sizes[3]), (A, 1, 3, sum(sizes[1:3])), (B, 1, 2, 1)]
    assert cas.shard(shard((oid, terms))).json == {"result": 1}
    assert cas.commit(oid).status == 200
    return oid, data


def test_a_file_is_put_together_whole_and_in_any_range(cas: Cas, root: Path) -> None:
    oid, data = push(cas)
    assert cas.http("GET", "/lab/net/resolve/main/w.bin").body == data
    assert cas.http("HEAD", "/lab/net/resolve/main/w.bin").headers["x-linked-size"] == str(len(data))
    chance = random.Random(0)
    for _ in range(60):
        low = chance.randrange(len(data))
        high = chance.randrange(low, len(data))
        reply = cas.http("GET", "/lab/net/resolve/main/w.bin", headers={"Range": f"bytes={low}-{high}"})
        assert (reply.status, reply.body) == (206, data[low : high + 1]), (low, high)
    assert not (root / "objects" / oid[:2] / oid[2:]).exists(), "it is kept as parts"
    store = Store(root)
    assert fsck(store).findings == ()
    store.close()


BAD_XORBS = {
    "empty": b"",
    "half a header": b"\0\1\0",
    "half a chunk": chunk(b"x" * 100)[:50],
    "unknown scheme": b"\0\1\0\0\7\1\0\0x",
    "too large when unpacked": b"\0\1\0\0\1\xff\xff\xffx",
    "another version": b"\1" + chunk(b"x")[1:],
}


@pytest.mark.parametrize("case", BAD_XORBS)
def test_a_damaged_xorb_is_refused(cas: Cas, case: str) -> None:
    assert cas.xorb(A, BAD_XORBS[case]).status == 422


def test_a_chunk_that_unpacks_to_more_than_it_says_is_refused(cas: Cas) -> None:
    bomb = lz4.frame.compress(bytes(50_000_000))
    cas.xorb(A, b"\0" + len(bomb).to_bytes(3, "little") + b"\1" + (100).to_bytes(3, "little") + bomb)
    assert cas.shard(shard((B, [(A, 0, 1, 100)]))).status == 422


def test_a_shard_that_does_not_fit_makes_nothing_visible(cas: Cas, root: Path) -> None:
    data = b"true bytes"
    oid = hashlib.sha256(data).hexdigest()
    cas.xorb(A, chunk(data))
    cases = {
        "another sha256": (shard((B, [(A, 0, 1, 10)])), 422),
        "no such xorb": (shard((oid, [(B, 0, 1, 10)])), 400),
        "no such chunk": (shard((oid, [(A, 0, 2, 10)])), 422),
        "an empty run": (shard((oid, [(A, 1, 1, 0)])), 422),
        "another length": (shard((oid, [(A, 0, 1, 11)])), 422),
        "cut off": (shard((oid, [(A, 0, 1, 10)]))[:150], 422),
        "a huge count": (bytes(48) + bytes(32) + struct.pack("<IIQ", 0x40000000, 0xFFFFFFFF, 0), 422),
        "no sha256": (bytes(48) + bytes(32) + struct.pack("<IIQ", 0, 0, 0) + b"\xff" * 48, 422),
        "nothing": (b"", 422),
    }
    for case, (body, status) in cases.items():
        assert cas.shard(body).status == status, case
    assert not list((root / "objects").glob("*/*"))
    assert cas.commit(oid).status == 400
    assert cas.shard(shard((oid, [(A, 0, 1, 10)]))).status == 200 and cas.commit(oid).status == 200


def test_names_and_tokens_open_one_area_only(cas: Cas) -> None:
    assert cas.xorb("../../secret", b"x").status in (400, 404) and cas.xorb("A" * 64, chunk(b"x")).status == 422
    elsewhere = cas.path.rpartition("/")[0] + "/" + "0" * 16
    assert cas.http("POST", f"{elsewhere}/v1/xorbs/default/{A}", chunk(b"x"), cas.headers).status == 404
    assert cas.http("POST", f"{cas.path}/v1/xorbs/default/{A}", chunk(b"x")).status == 401


def test_collection_keeps_the_chunks_of_files_and_begins_another_epoch(cas: Cas, root: Path) -> None:
    oid, data = push(cas)
    cas.xorb("c" * 64, chunk(b"never used"))
    store, before = Store(root), cas.path
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    collect(store)
    assert len(list(store.xorbs)) == 2 and cas.http("GET", "/lab/net/resolve/main/w.bin").body == data
    cas.renew()
    assert cas.path != before, "a client that remembers the removed chunk asks at another address"
    collect(store)
    kept = cas.path
    cas.renew()
    assert cas.path == kept, "nothing removed, nothing forgotten"
    cas.http("DELETE", "/api/repos/delete", {"name": "net", "organization": "lab"})
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    collect(store)
    assert list(store.xorbs) == [] and not store.objects.has(oid)  # type: ignore[arg-type]
    store.close()


def test_fsck_names_the_file_whose_chunk_is_damaged(cas: Cas, root: Path) -> None:
    oid, _ = push(cas)
    store = Store(root)
    for name in list(store.xorbs):
        path = store.xorbs.path(name)
        good = path.read_bytes()
        path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
        assert {f.kind for f in fsck(store).findings} == {"object", "pointer"} and fsck(store).findings[0].where == oid
        path.write_bytes(good)
    assert fsck(store).is_clean
    store.close()


def test_two_fine_tunes_of_one_body_cost_little_more_than_one(client: Client, root: Path) -> None:
    client.python("""
        import numpy as np
        from huggingface_hub import HfApi
        from safetensors.numpy import save_file
        body = np.random.default_rng(0).standard_normal(1_000_000, dtype=np.float32)
        for i in range(4):
            save_file({"body": body, "head": np.full((64, 10), i, np.float32)}, "model.safetensors")
            HfApi().create_repo(f"lab/tune{i}")
            HfApi().upload_file(repo_id=f"lab/tune{i}", path_in_repo="model.safetensors", path_or_fileobj="model.safetensors")
    """)
    stored = sum(p.stat().st_size for d in ("objects", "xorbs") for p in (root / d).rglob("*") if p.is_file())
    assert 3_000_000 < stored < 1.3 * 4_000_000, stored
