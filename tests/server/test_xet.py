"""Xet uploads: chunks in, whole files out, and nothing else."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import socket
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lz4.frame
import pytest

from hubtool.core.errors import IntegrityError
from hubtool.core.ids import Oid
from hubtool.server.chunks import IncomingXorb, read_layout
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.incoming import Incoming
from hubtool.server.spans import FileSpan
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
        self.sent: dict[str, bytes] = {}
        self.http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
        self.renew()

    def renew(self) -> None:
        token = self.http("GET", "/api/models/lab/net/xet-write-token/main").json
        self.path = urlsplit(token["casUrl"]).path
        self.headers = {"Authorization": f"Bearer {token['accessToken']}"}

    def xorb(self, name: str, data: bytes) -> Any:
        self.sent.setdefault(name, data)
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
    """A file of ten chunks of all schemes out of two xorbs, some used twice."""
    parts = [os.urandom(3000), os.urandom(500), b"lz4 " * 999, os.urandom(4001), b"word" * 777, b"x"]
    assert cas.xorb(A, b"".join(chunk(p, s) for p, s in zip(parts[:4], (0, 0, 1, 2), strict=True))).json == {
        "was_inserted": True
    }
    assert cas.xorb(A, chunk(b"other")).json == {"was_inserted": False}, "the first stays"
    assert cas.xorb(B, chunk(parts[4], 2) + chunk(parts[5], 1) + b"XETBLOB and a footer").status == 200
    data = b"".join(parts[:4] + parts[4:5] + parts[1:4] + parts[5:])
    oid = hashlib.sha256(data).hexdigest()
    sizes = [len(p) for p in parts]
    terms = [(A, 0, 4, sum(sizes[:4])), (B, 0, 1, sizes[4]), (A, 1, 4, sum(sizes[1:4])), (B, 1, 2, 1)]
    assert cas.shard(shard((oid, terms))).json == {"result": 1}
    assert cas.commit(oid).status == 200
    return oid, data


def check_ranges(cas: Cas, data: bytes, *, seed: int, num: int) -> None:
    """Any range of the pushed file is that of ``data``."""
    chance = random.Random(seed)
    for _ in range(num):
        low = chance.randrange(len(data))
        high = chance.randrange(low, len(data))
        reply = cas.http("GET", "/lab/net/resolve/main/w.bin", headers={"Range": f"bytes={low}-{high}"})
        assert (reply.status, reply.body) == (206, data[low : high + 1]), (low, high)


def keep_as_sent(cas: Cas, root: Path) -> None:
    """What a hub did that did not yet unpack."""
    for path in (root / "xorbs").glob("*/*"):
        path.with_name("fresh").write_bytes(cas.sent[path.name])
        path.with_name("fresh").replace(path)


KEPT = pytest.mark.parametrize("is_older", [False, True], ids=["kept", "as an older hub kept it"])


@KEPT
def test_a_file_is_put_together_whole_and_in_any_range(cas: Cas, root: Path, is_older: bool) -> None:
    oid, data = push(cas)
    if is_older:
        keep_as_sent(cas, root)
    assert cas.http("GET", "/lab/net/resolve/main/w.bin").body == data
    assert cas.http("HEAD", "/lab/net/resolve/main/w.bin").headers["x-linked-size"] == str(len(data))
    check_ranges(cas, data, seed=0, num=60)
    assert not (root / "objects" / oid[:2] / oid[2:]).exists(), "it is kept as parts"
    store = Store(root)
    assert fsck(store).findings == ()
    store.close()


def weights(num: int) -> bytes:
    """``num`` float32 that a client packs, and hardly makes smaller by it."""
    chance = random.Random(0)
    return b"".join(struct.pack("<f", chance.gauss(0, 0.02)) for _ in range(num))


def test_weights_lie_in_one_run_and_what_packs_well_stays_packed(cas: Cas, root: Path) -> None:
    body, zeros = weights(200_000), bytes(200_000)
    parts = [body[:400_000], os.urandom(1000), body[400_000:], zeros, body[:300_000]]
    cas.xorb(A, b"".join(chunk(part, scheme) for part, scheme in zip(parts, (2, 0, 2, 1, 2), strict=True)))
    data = b"".join(parts)
    oid = Oid(hashlib.sha256(data).hexdigest())
    terms = [(A, 0, 2, 401_000), (A, 2, 5, len(data) - 401_000)]
    assert cas.shard(shard((oid, terms))).status == 200 and cas.commit(oid).status == 200
    (path,) = (root / "xorbs").glob("*/*")
    assert path.stat().st_size < len(data) - len(zeros) + 2000
    store = Store(root)
    spans = [(span.stop - span.start) if isinstance(span, FileSpan) else len(span) for span in store.objects.spans(oid)]
    assert spans == [401_000, 400_000, 200_000, 300_000], "to the end of a term, of the run, of the chunk, of the run"
    assert store.objects.problem(oid) == ""
    store.close()
    check_ranges(cas, data, seed=1, num=30)


@pytest.mark.parametrize("footer", [b"", b"XETBLOB", b"XETBLOB and a footer"])
def test_a_xorb_is_taken_apart_the_same_however_it_comes(tmp_path: Path, footer: bytes) -> None:
    data = chunk(b"a" * 50) + chunk(b"word" * 50, 2) + chunk(b"") + chunk(os.urandom(40), 1) + footer
    kept = []
    for step in (len(data), 1, 7, 8, 9, 50):
        xorb = IncomingXorb(Incoming(tmp_path / f"{step}"))
        for at in range(0, len(data), step):
            xorb.write_pieces([data[at : at + step]])
        assert xorb.size_bytes == len(data)
        xorb.finish().settle()
        kept.append((tmp_path / f"{step}").read_bytes())
    assert len(set(kept)) == 1 and b"XETBLOB" not in kept[0]
    with (tmp_path / "1").open("rb") as file:
        layout = read_layout(file.fileno())
        assert b"".join(layout.wire(file.fileno(), 0, 1 << 20)) == (
            chunk(b"a" * 50) + chunk(b"word" * 50, 2) + chunk(b"") + chunk(kept[0][-76:-36])
        )


def test_each_damaged_byte_of_a_xorb_is_noticed(cas: Cas, root: Path) -> None:
    data = b"text" * 100 + os.urandom(30)
    first = chunk(data[:400], 1)
    packed = range(8, len(first))  # the mark of a kept file is as long as the head of a chunk
    cas.xorb(A, first + chunk(data[400:]))
    oid = Oid(hashlib.sha256(data).hexdigest())
    assert cas.shard(shard((oid, [(A, 0, 2, 430)]))).status == 200
    (path,) = (root / "xorbs").glob("*/*")
    good, store = path.read_bytes(), Store(root)
    assert store.objects.problem(oid) == ""
    for at in range(len(good)):
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]):
            path.write_bytes(bad)
            store.objects.forget()
            is_noticed = bool(store.objects.problem(oid))
            assert is_noticed or b"".join(store.objects.read(oid)) == data, "LZ4 can say one thing in two ways"
            assert is_noticed or packed.start <= at < packed.stop, at
    length_of_last = len(good) - 4 - 8 + 1
    path.write_bytes(good[:length_of_last] + b"\x1d\0\0\0\x1d" + good[length_of_last + 5 :])
    with path.open("rb") as file, pytest.raises(IntegrityError, match="list of chunks"):
        read_layout(file.fileno())
    store.close()


BAD_XORBS = {
    "empty": b"",
    "half a header": b"\0\1\0",
    "half a chunk": chunk(b"x" * 100)[:50],
    "unknown scheme": b"\0\1\0\0\7\1\0\0x",
    "too large when unpacked": b"\0\1\0\0\1\xff\xff\xffx",
    "another version": b"\1" + chunk(b"x")[1:],
    "two lengths of what is not packed": b"\0\2\0\0\0\1\0\0xx",
    "more chunks than a client makes": chunk(b"x") * 20_000,
}


@pytest.mark.parametrize("case", BAD_XORBS)
def test_a_damaged_xorb_is_refused(cas: Cas, case: str) -> None:
    assert cas.xorb(A, BAD_XORBS[case]).status == 422


def test_a_chunk_that_unpacks_to_more_than_it_says_is_refused(cas: Cas) -> None:
    bomb = lz4.frame.compress(bytes(50_000_000))
    head = b"\0" + len(bomb).to_bytes(3, "little") + b"\1"
    assert cas.xorb(A, head + (100).to_bytes(3, "little") + bomb).status == 422, (
        "it does not save: it is unpacked at once"
    )
    cas.xorb(B, head + (1 << 20).to_bytes(3, "little") + bomb)
    assert cas.shard(shard((B, [(B, 0, 1, 1 << 20)]))).status == 422


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


@KEPT
def test_fsck_names_the_file_whose_chunk_is_damaged(cas: Cas, root: Path, is_older: bool) -> None:
    oid, _ = push(cas)
    if is_older:
        keep_as_sent(cas, root)
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


COPY = """
    import os, pathlib
    from huggingface_hub import CommitOperationAdd as Add, CommitOperationCopy as Copy, HfApi, hf_hub_download
    from huggingface_hub.file_download import xet_get
    from huggingface_hub.utils._xet import XetFileData
    api = HfApi()
    block = os.urandom(1_500_000)
    weights = os.urandom(3_000_000) + block * 4 + os.urandom(100) + block
    api.create_repo("lab/net"); api.create_repo("lab/other", repo_type="dataset")
    api.create_commit("lab/net", [Add("w.bin", weights), Add("t.txt", b"text")], commit_message="first")
    (info,) = api.get_paths_info("lab/net", ["w.bin"])
    route = f"{os.environ['HF_ENDPOINT']}/api/models/lab/net/xet-read-token/main"
    xet_get(incomplete_path=pathlib.Path("fetched.bin"), xet_file_data=XetFileData(info.xet_hash, route),
        headers={}, expected_size=info.size)
    assert pathlib.Path("fetched.bin").read_bytes() == weights
    api.create_commit("lab/other", repo_type="dataset", commit_message="copies", operations=[
        Copy("w.bin", "copy.bin", src_repo_id="lab/net", src_repo_type="model"),
        Copy("t.txt", "t.txt", src_repo_id="lab/net", src_repo_type="model")])
    for name, data in (("copy.bin", weights), ("t.txt", b"text")):
        assert pathlib.Path(hf_hub_download("lab/other", name, repo_type="dataset")).read_bytes() == data
    print("ok")
"""


def test_the_client_fetches_in_chunks_and_copies_between_repositories(client: Client, root: Path) -> None:
    assert client.python(COPY).strip() == "ok"
    asked = [line for line in (root / "logs/access.jsonl").read_text().splitlines() if "/xet/chunks" in line]
    assert asked and all('"status": 206' in line for line in asked), "it really came in chunks"


@KEPT
def test_a_reconstruction_gives_any_range(cas: Cas, root: Path, is_older: bool) -> None:
    oid, data = push(cas)
    if is_older:
        keep_as_sent(cas, root)
    token = cas.http("GET", "/api/models/lab/net/xet-read-token/main")
    path, bearer = urlsplit(token.json["casUrl"]).path, {"Authorization": f"Bearer {token.json['accessToken']}"}
    assert token.headers["x-xet-access-token"] == token.json["accessToken"]
    url = f"{path}/v1/reconstructions/{oid}"
    chance = random.Random(0)
    spans = [(chance.randrange(len(data)), 1 + chance.randrange(len(data))) for _ in range(40)]
    for low, length in [(0, len(data)), *spans]:
        high = min(low + length, len(data))
        answer = cas.http("GET", url, headers=bearer | {"Range": f"bytes={low}-{high - 1}"}).json
        pieces = {}
        for name, infos in answer["fetch_info"].items():
            ends = [(info["range"]["start"], info["range"]["end"]) for info in infos]
            assert all(a[1] < b[0] for a, b in itertools.pairwise(ends)), "joined where they touch"
            for info in infos:
                part = info["url_range"]
                header = {"Range": f"bytes={part['start']}-{part['end']}"}
                raw = cas.http("GET", "/" + info["url"].split("/", 3)[3], headers=header)
                assert raw.status == 206
                pieces |= {(name, info["range"]["start"] + i): c for i, c in enumerate(unpacked(raw.body))}
        whole = b""
        for term in answer["terms"]:
            run = b"".join(pieces[term["hash"], i] for i in range(term["range"]["start"], term["range"]["end"]))
            assert len(run) == term["unpacked_length"]
            whole += run
        at = answer["offset_into_first_range"]
        assert whole[at : at + high - low] == data[low:high]
    assert cas.http("GET", url, headers=bearer | {"Range": f"bytes={len(data)}-"}).status == 416
    assert cas.http("GET", f"{path}/v1/reconstructions/{'0' * 64}", headers=bearer).status == 404
    assert cas.http("GET", url).status == 401 and cas.http("GET", url, headers=cas.headers).status == 401


def unpacked(data: bytes) -> list[bytes]:
    """The chunks of a piece of a xorb."""
    chunks, at = [], 0
    while at < len(data):
        packed = int.from_bytes(data[at + 1 : at + 4], "little")
        body = data[at + 8 : at + 8 + packed]
        body = lz4.frame.decompress(body) if data[at + 4] else body
        if data[at + 4] == 2:
            lanes, place = [], 0
            for lane in range(4):
                count = (len(body) + 3 - lane) // 4
                lanes.append(body[place : place + count])
                place += count
            body = bytes(lanes[i % 4][i // 4] for i in range(len(body)))
        chunks.append(body)
        at += 8 + packed
    return chunks


def test_a_link_to_chunks_opens_those_and_no_others(cas: Cas) -> None:
    """One xorb may hold chunks of a file that the caller may read and of one that they may not."""
    shown, hidden = b"shown" * 100, b"hidden" * 100
    cas.xorb(A, chunk(shown) + chunk(hidden))
    oid = hashlib.sha256(shown).hexdigest()
    assert cas.shard(shard((oid, [(A, 0, 1, len(shown))]))).status == 200 and cas.commit(oid).status == 200
    token = cas.http("GET", "/api/models/lab/net/xet-read-token/main").json
    url = urlsplit(token["casUrl"]).path + f"/v1/reconstructions/{oid}"
    answer = cas.http("GET", url, headers={"Authorization": f"Bearer {token['accessToken']}"}).json
    ((info,),) = answer["fetch_info"].values()
    link, part = "/" + info["url"].split("/", 3)[3], info["url_range"]
    assert shown in cas.http("GET", link, headers={"Range": f"bytes={part['start']}-{part['end']}"}).body
    for wanted in (None, f"bytes={part['start']}-{part['end'] + 1}", f"bytes={part['end'] + 1}-", "bytes=0-"):
        reply = cas.http("GET", link, headers={"Range": wanted} if wanted else {})
        assert reply.status == 403 and b"hidden" not in reply.body, wanted
    assert cas.http("GET", link[:-3], headers={"Range": "bytes=0-1"}).status == 403
    assert A not in str(answer), "what a sender calls a xorb is no name that a client keeps"


def a_link(cas: Cas) -> tuple[str, str, dict[str, str]]:
    """A file of one chunk beside another in its xorb: its oid, a link to its chunk, the range to ask for."""
    shown = b"shown" * 100
    cas.xorb(A, chunk(shown) + chunk(b"hidden" * 100))
    oid = hashlib.sha256(shown).hexdigest()
    assert cas.shard(shard((oid, [(A, 0, 1, len(shown))]))).status == 200 and cas.commit(oid).status == 200
    token = cas.http("GET", "/api/models/lab/net/xet-read-token/main").json
    url = urlsplit(token["casUrl"]).path + f"/v1/reconstructions/{oid}"
    answer = cas.http("GET", url, headers={"Authorization": f"Bearer {token['accessToken']}"}).json
    ((info,),) = answer["fetch_info"].values()
    part = info["url_range"]
    return oid, "/" + info["url"].split("/", 3)[3], {"Range": f"bytes={part['start']}-{part['end']}"}


def test_a_link_to_chunks_ends_with_the_file(cas: Cas, root: Path) -> None:
    oid, link, span = a_link(cas)
    assert cas.http("GET", link, headers=span).status == 206
    reply = cas.http("POST", "/api/models/lab/net/lfs-files/batch", {"deletions": {"sha": [oid]}})
    assert reply.json == {"success": True}
    assert len(list((root / "xorbs").glob("*/*"))) == 1, "the chunks are still there"
    assert cas.http("GET", link, headers=span).status == 404


def test_a_link_to_chunks_that_were_collected_is_refused(cas: Cas, root: Path) -> None:
    _, link, span = a_link(cas)
    for path in (root / "xorbs").glob("*/*"):
        path.unlink()
    assert cas.http("GET", link, headers=span).status == 404


def test_a_link_to_chunks_tells_nothing_of_what_lies_beside_them(cas: Cas, hub: EmbeddedHub) -> None:
    _, link, span = a_link(cas)
    reply = cas.http("GET", link, headers=span)
    assert reply.headers["content-range"] == span["Range"].replace("=", " ") + "/*"
    place = urlsplit(hub.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as stream:
        asked = f"HEAD {link} HTTP/1.1\r\nHost: {place.netloc}\r\nRange: {span['Range']}\r\nConnection: close\r\n\r\n"
        stream.sendall(asked.encode())
        head, _, body = b"".join(iter(lambda: stream.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206") and b"content-length: %d" % len(reply.body) in head.lower()
    assert body == b""
