"""The hub API by plain requests: answers, errors, limits, and what hostile requests get."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hubtool.core.ids import Oid
from hubtool.server.call import Limits
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.pointers import Pointer
from tests.server.clients import Http, commit_lines, put

NET, KEPT = "/api/models/lab/net", "/api/models/lab/kept"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedHub]:
    limits = Limits(commit_body_bytes=2 << 20, commit_line_bytes=1 << 20, commit_operations=50, object_bytes=1 << 20,
                    receive_s=1.0, header_bytes=16 << 10)  # fmt: skip
    with EmbeddedHub(tmp_path_factory.mktemp("api"), limits=limits) as hub:
        yield hub


@pytest.fixture
def net(shared: EmbeddedHub) -> Iterator[Http]:
    """A repository lab/net with a few files, made anew for each test."""
    http = Http(shared.url)
    assert http("POST", "/api/repos/create", {"name": "net", "organization": "lab"}).status == 200
    files = [put("a.txt", b"hello"), put("dir/b.txt", b"b"), put("dir/sub/c.txt", b"c"), put("e.bin", b"")]
    assert http("POST", f"{NET}/commit/main", commit_lines(*files)).status == 200
    yield http
    http("DELETE", "/api/repos/delete", {"name": "net", "organization": "lab"})


@pytest.fixture(scope="module")
def kept(shared: EmbeddedHub) -> Http:
    """lab/kept, which no test changes."""
    http = Http(shared.url)
    http("POST", "/api/repos/create", {"name": "kept", "organization": "lab"})
    files = [put("a.txt", b"hello"), put("dir/b.txt", b"b")]
    assert http("POST", "/api/models/lab/kept/commit/main", commit_lines(*files)).status == 200
    return http


def commit(http: Http, *operations: dict[str, Any], **options: Any) -> Any:
    return http("POST", f"{NET}/commit/main", commit_lines(*operations, **options))


def paths(http: Http, revision: str = "main") -> set[str]:
    return {e["path"] for e in http("GET", f"{NET}/tree/{revision}?recursive=true").json if e["type"] == "file"}


# Repositories


def test_create_again_is_409_with_the_url_the_client_reads(net: Http, shared: EmbeddedHub) -> None:
    reply = net("POST", "/api/repos/create", {"name": "NET", "organization": "Lab"})
    assert reply.status == 409 and reply.json["url"] == f"{shared.url}/lab/net", "names differ by more than case"


def test_a_moved_repository_redirects_before_the_body_is_sent(net: Http, shared: EmbeddedHub) -> None:
    move = {"fromRepo": "lab/net", "toRepo": "lab/elsewhere", "type": "model"}
    assert net("POST", "/api/repos/move", move).status == 200
    place = urlsplit(shared.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as stream:
        head = f"POST {NET}/commit/main HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {1 << 29}\r\n\r\n"
        stream.sendall(head.encode() + b"{")
        assert stream.recv(1 << 16).startswith(b"HTTP/1.1 307")
    back = {"fromRepo": "lab/elsewhere", "toRepo": "lab/net", "type": "model"}
    assert net("POST", "/api/repos/move", back).status == 200


def test_move_keeps_everything_and_the_old_name_leads_to_the_new(net: Http) -> None:
    sha = net("GET", NET).json["sha"]

    def move(old: str, new: str) -> None:
        body = {"fromRepo": f"lab/{old}", "toRepo": f"lab/{new}", "type": "model"}
        assert net("POST", "/api/repos/move", body).status == 200

    move("net", "moved")
    assert net("GET", "/api/models/lab/moved").json["sha"] == sha
    led = {
        "/api/models/LAB/Net/tree/main?recursive=true": "/api/models/lab/moved/tree/main?recursive=true",
        "/lab/net/resolve/main/dir%2Fb.txt": "/lab/moved/resolve/main/dir%2Fb.txt",
        "/lab/net": "/lab/moved",
        "/lab/net.git/info/refs?service=git-upload-pack": "/lab/moved.git/info/refs?service=git-upload-pack",
    }
    for old, new in led.items():
        reply = net("GET", old, headers={"Accept": "text/html"})
        assert (reply.status, reply.headers["location"]) == (307, new), old
    assert net("POST", f"{NET}/commit/main", commit_lines(put("x", b"y" * 300_000))).status == 307
    move("moved", "again")
    assert net("GET", NET).headers["location"] == "/api/models/lab/again", "two moves are one step"
    move("again", "net")
    assert net("GET", NET).json["sha"] == sha and net("GET", "/api/models/lab/again").status == 307
    assert net("POST", "/api/repos/create", {"name": "again", "organization": "lab"}).status == 200
    assert net("GET", "/api/models/lab/again").json["sha"] != sha, "a name that is taken anew is its own"
    assert net("DELETE", "/api/repos/delete", {"name": "again", "organization": "lab"}).status == 200
    assert net("GET", "/api/models/lab/again").status == 404
    assert net("DELETE", "/api/repos/delete", {"name": "net", "organization": "lab"}).status == 200
    assert net("GET", "/api/models/lab/moved").status == 404, "nothing leads to what is gone"


def test_settings_change_visibility_and_gating(net: Http) -> None:
    net("PUT", f"{NET}/settings", {"visibility": "private", "gated": "auto"})
    info = net("GET", NET).json
    assert info["private"] is True and info["gated"] == "auto"
    net("PUT", f"{NET}/settings", {"private": False, "gated": False})
    info = net("GET", NET).json
    assert info["private"] is False and info["gated"] is False
    assert net("PUT", f"{NET}/settings", {"gated": "manual"}).status == 501


def test_info_expands_what_is_asked_and_refuses_unknown_words(net: Http) -> None:
    assert set(net("GET", f"{NET}?expand=sha&expand=gguf").json) == {"id", "modelId", "sha"}
    assert net("GET", f"{NET}?expand=nonsense").status == 400


def test_lists_page_by_link_and_sort(net: Http, shared: EmbeddedHub) -> None:
    for i in range(3):
        net("POST", "/api/repos/create", {"name": f"page{i}", "organization": "lab"})
    found, path = [], "/api/models?author=lab&search=page&limit=2&sort=createdAt&direction=-1"
    while path:
        reply = net("GET", path)
        found += [model["id"] for model in reply.json]
        link = reply.headers.get("link", "")
        assert not link or link.startswith(f"<{shared.url}/api/models?")
        path = link.partition(">")[0][1 + len(shared.url) :]
    assert found == ["lab/page2", "lab/page1", "lab/page0"]


# Files


def test_resolve_ranges_and_conditions(net: Http) -> None:
    whole = net("GET", "/lab/net/resolve/main/a.txt")
    etag, sha = whole.headers["etag"], whole.headers["x-repo-commit"]
    assert whole.body == b"hello" and len(sha) == 40 and len(etag) == 42

    def ranged(value: str, **more: str) -> Any:
        headers = {"Range": value} | {key.replace("_", "-"): text for key, text in more.items()}
        return net("GET", "/lab/net/resolve/main/a.txt", headers=headers)

    assert (ranged("bytes=1-2").status, ranged("bytes=1-2").body) == (206, b"el")
    assert (
        ranged("bytes=3-").body == b"lo" and ranged("bytes=-2").body == b"lo" and ranged("bytes=0-99").body == b"hello"
    )
    assert ranged("bytes=1-2").headers["content-range"] == "bytes 1-2/5"
    assert (ranged("bytes=5-").status, ranged("bytes=5-").headers["content-range"]) == (416, "bytes */5")
    assert ranged("bytes=0-1,3-4").status == 200 and ranged("lines=1-2").status == 200
    assert ranged("bytes=1-2", If_Range=etag).status == 206 and ranged("bytes=1-2", If_Range='"other"').body == b"hello"
    assert net("GET", "/lab/net/resolve/main/a.txt", headers={"If-None-Match": etag}).status == 304
    head = net("HEAD", "/lab/net/resolve/main/a.txt")
    assert head.headers["content-length"] == "5" and head.body == b""
    assert net("GET", "/lab/net/resolve/main/e.bin").body == b""


def test_errors_speak_the_clients_words(net: Http) -> None:
    expected = {
        "/lab/none/resolve/main/a": "RepoNotFound",
        "/lab/net/resolve/nope/a.txt": "RevisionNotFound",
        "/lab/net/resolve/main/none.txt": "EntryNotFound",
        "/lab/net/resolve/main/dir": "EntryNotFound",
        f"{NET}/tree/main/none": "EntryNotFound",
        f"{NET}/revision/{'0' * 40}": "RevisionNotFound",
        "/api/models/nobody/none": "RepoNotFound",
    }
    for path, word in expected.items():
        reply = net("GET", path)
        assert (reply.status, reply.headers["x-error-code"]) == (404, word), path
        assert reply.json["error"] and reply.json["code"].startswith("E-") and reply.headers["x-request-id"]
    missing = net("HEAD", "/lab/net/resolve/main/none.txt")
    assert len(missing.headers["x-repo-commit"]) == 40, "the client remembers that the file is not there"


def test_tree_pages_and_paths_info(net: Http) -> None:
    assert [e["path"] for e in net("GET", f"{NET}/tree/main").json] == [".gitattributes", "a.txt", "dir", "e.bin"]
    first = net("GET", f"{NET}/tree/main?recursive=true&limit=3")
    assert len(first.json) == 3 and "cursor=3" in first.headers["link"]
    assert {e["path"] for e in net("GET", f"{NET}/tree/main/{'dir%2Fsub'}").json} == {"dir/sub/c.txt"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    found = net("POST", f"{NET}/paths-info/main", b"paths=a.txt&paths=dir&paths=..%2Fx&expand=True", form).json
    assert [e["path"] for e in found] == ["a.txt", "dir"] and found[0]["lastCommit"]["title"] == "test"
    assert net("POST", f"{NET}/paths-info/main", b"&".join([b"paths=x"] * 1001), form).status == 413


# Commits


def test_a_commit_adds_changes_and_deletes_in_one(net: Http) -> None:
    reply = commit(net, put("a.txt", b"new"), {"key": "deletedFolder", "value": {"path": "dir/"}}, put("dir2/x", b"x"))
    assert reply.status == 200 and reply.json["commitUrl"].endswith(f"/lab/net/commit/{reply.json['commitOid']}")
    assert paths(net) == {".gitattributes", "a.txt", "dir2/x", "e.bin"}
    assert net("GET", "/lab/net/resolve/main/a.txt").body == b"new"
    reply = commit(net, {"key": "deletedFile", "value": {"path": "dir2"}})
    assert reply.status == 200, "a folder named as a file goes too"
    assert commit(net, {"key": "deletedFile", "value": {"path": "none"}}).status == 404


def test_a_stale_parent_is_refused_and_a_repeated_commit_is_not(net: Http) -> None:
    parent = net("GET", NET).json["sha"]
    first = commit(net, put("x", b"1"), parent=parent).json["commitOid"]
    stale = commit(net, put("x", b"2"), parent=parent)
    assert stale.status == 412 and "branch was updated" in stale.json["error"] and first[:8] in stale.json["error"]
    again = commit(net, put("x", b"1"), parent=parent)
    assert (again.status, again.json["commitOid"]) == (200, first), "the reply was lost: the same push finds its commit"


def _raw(*lines: object) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)


HEAD_LINE = {"key": "header", "value": {"summary": "s"}}
OID = hashlib.sha256(b"never sent").hexdigest()
BAD_COMMITS: dict[str, tuple[bytes, int, str]] = {
    "no header": (_raw(put("a", b"")), 400, "line 1"),
    "empty": (b"", 400, "header"),
    "two headers": (_raw(HEAD_LINE, HEAD_LINE), 400, "line 2"),
    "not json": (_raw(HEAD_LINE, b"{"), 400, "line 2"),
    "deep json": (_raw(HEAD_LINE, b"[" * 100_000), 400, "line 2"),
    "no object": (_raw(HEAD_LINE, b"3"), 400, "line 2"),
    "unknown key": (_raw(HEAD_LINE, {"key": "exec", "value": {"path": "a"}}), 400, "line 2"),
    "bad base64": (_raw(HEAD_LINE, {"key": "file", "value": {"path": "a", "content": "%%%"}}), 400, "line 2"),
    "twice": (_raw(HEAD_LINE, put("a", b"1"), put("a", b"2")), 400, "line 3"),
    "case twin": (_raw(HEAD_LINE, put("A.TXT", b"1")), 400, "line 2"),
    "folder twin": (_raw(HEAD_LINE, put("Dir/new", b"1")), 400, "line 2"),
    "file under file": (_raw(HEAD_LINE, put("a.txt/b", b"1")), 400, "line 2"),
    "file over folder": (_raw(HEAD_LINE, put("dir", b"1")), 400, "line 2"),
    "not uploaded": (_raw(HEAD_LINE, {"key": "lfsFile", "value": {"path": "w", "oid": OID, "size": 9}}), 400, "line 2"),
    "the text of a pointer": (_raw(HEAD_LINE, put("w", Pointer(Oid(OID), 9).encode())), 400, "not uploaded"),
    "oid upper case": (_raw(HEAD_LINE, {"key": "lfsFile", "value": {"path": "w", "oid": OID.upper()}}), 400, "line 2"),
    "md5": (_raw(HEAD_LINE, {"key": "lfsFile", "value": {"path": "w", "oid": OID, "algo": "md5"}}), 400, "line 2"),
    "parent": (_raw({"key": "header", "value": {"summary": "s", "parentCommit": "../x"}}), 400, "parentCommit"),
    "surrogate": (_raw(HEAD_LINE, b'{"key":"file","value":{"path":"\\ud800","content":""}}'), 422, "line 2"),
    **{
        f"path {path}": (_raw(HEAD_LINE, put(path, b"")), 422, "line 2")
        for path in (
            "../x",
            "/etc/x",
            "a//b",
            ".git/hooks/x",
            "a/.GIT/x",
            "a\\..\\b",
            "x\n",
            "con",
            "a/./b",
            "",
            "a" * 2000,
            "e\u0301",
        )
    },
}


@pytest.mark.parametrize("case", BAD_COMMITS)
def test_a_bad_commit_names_its_line_and_changes_nothing(kept: Http, case: str) -> None:
    body, status, word = BAD_COMMITS[case]
    before = kept("GET", KEPT).json["sha"]
    reply = kept("POST", f"{KEPT}/commit/main", body)
    assert (reply.status, word in reply.json["error"]) == (status, True), reply.body
    assert kept("GET", KEPT).json["sha"] == before


def test_commit_limits(net: Http) -> None:
    assert commit(net, *(put(f"f{i}", b"") for i in range(51))).status == 413
    assert commit(net, put("big", b"x" * (1 << 20))).status == 413, "one line"
    assert commit(net, *(put(f"f{i}", b"x" * 300_000) for i in range(8))).status == 413, "the whole body"
    assert paths(net) == {".gitattributes", "a.txt", "dir/b.txt", "dir/sub/c.txt", "e.bin"}


def test_odd_names_and_bytes_survive(net: Http) -> None:
    names = {
        "with space.txt": b"\0\xff",
        "ünïcode/日本.txt": b"x",
        "quo'te.txt": b"q",
        "#hash%25.txt": b"h",
        "-dash": b"d",
    }
    assert commit(net, *(put(name, data) for name, data in names.items())).status == 200
    from urllib.parse import quote

    for name, data in names.items():
        assert net("GET", f"/lab/net/resolve/main/{quote(name)}").body == data, name


# Branches and tags


def test_branches_tags_history_and_squash(net: Http) -> None:
    assert net("POST", f"{NET}/branch/dev%2Fone", {}).status == 200
    assert net("POST", f"{NET}/branch/dev%2Fone", {}).status == 409
    assert net("POST", f"{NET}/branch/dev", {}).status == 409, "a name beside its own folder"
    assert net("POST", f"{NET}/branch/late", {"startingPoint": "nowhere"}).status == 404
    assert net("POST", f"{NET}/commit/dev%2Fone", commit_lines(put("dev.txt", b"d"))).status == 200
    assert "dev.txt" in paths(net, "dev%2Fone") and "dev.txt" not in paths(net)
    assert net("POST", f"{NET}/tag/main", {"tag": "v1", "message": "first"}).status == 200
    assert net("POST", f"{NET}/tag/main", {"tag": "v1"}).status == 409
    assert net("POST", f"{NET}/commit/v1", commit_lines(put("x", b""))).status == 400, "a tag is no branch"
    assert net("POST", f"{NET}/commit/nowhere", commit_lines(put("x", b""))).status == 404
    refs = net("GET", f"{NET}/refs").json
    assert {b["name"] for b in refs["branches"]} == {"main", "dev/one"} and refs["converts"] == []
    assert (
        refs["tags"][0]["targetCommit"] == net("GET", NET).json["sha"] == net("GET", f"{NET}/revision/v1").json["sha"]
    )
    assert net("DELETE", f"{NET}/branch/main").status == 403
    assert net("DELETE", f"{NET}/branch/dev%2Fone").status == 200
    assert net("DELETE", f"{NET}/tag/v1").status == 200 and net("DELETE", f"{NET}/tag/v1").status == 404
    before = paths(net)
    assert len(net("GET", f"{NET}/commits/main").json) == 2
    assert net("POST", f"{NET}/super-squash/main", {"message": "all in one"}).status == 200
    history = net("GET", f"{NET}/commits/main?limit=1").json
    assert [c["title"] for c in history] == ["all in one"] and paths(net) == before


def test_preupload_follows_gitattributes_and_gitignore(net: Http) -> None:
    def ask(name: str, size: int, **more: Any) -> Any:
        body = {"files": [{"path": name, "size": size, "sample": ""}]} | more
        return net("POST", f"{NET}/preupload/main", body).json["files"][0]

    assert ask("m.safetensors", 10)["uploadMode"] == "lfs" and ask("m.safetensors", 0)["uploadMode"] == "regular"
    assert ask("x.txt", 10)["uploadMode"] == "regular" and ask("x.txt", 50_000_000)["uploadMode"] == "lfs"
    assert len(ask("a.txt", 5)["oid"]) == 40 and ask("x.txt", 1)["shouldIgnore"] is False
    commit(
        net,
        put(".gitattributes", b"*.txt filter=lfs\n/top.txt -filter\n"),
        put(".gitignore", b"build/\n!keep\n*.tmp\n"),
    )
    assert ask("d/x.txt", 10)["uploadMode"] == "lfs" and ask("top.txt", 10)["uploadMode"] == "regular"
    assert (
        ask("build/x", 1)["shouldIgnore"] and ask("a/b.tmp", 1)["shouldIgnore"] and not ask("src/x", 1)["shouldIgnore"]
    )
    assert ask("only.log", 1, gitIgnore="*.log")["shouldIgnore"]
    assert net("POST", f"{NET}/preupload/main", {"files": [{"path": "a", "size": -1}]}).status == 400


def test_validate_yaml(net: Http) -> None:
    good = net("POST", "/api/validate-yaml", {"content": "---\nlicense: mit\n---\n"})
    assert good.status == 200 and good.json == {"errors": [], "warnings": []}
    for head in ("license: [", "a: 1\na: 2", "x: !!python/object:os.system x", "license: {a: b}", "&a x: *a"):
        bad = net("POST", "/api/validate-yaml", {"content": f"---\n{head}\n---\n"})
        assert bad.status == 400 and bad.json["errors"][0]["message"], head


# Large files


def test_uploads_that_are_not_what_they_say_leave_nothing(net: Http, shared: EmbeddedHub) -> None:
    data = os.urandom(1000)
    oid = hashlib.sha256(data).hexdigest()

    def batch(*objects: Any, **more: Any) -> Any:
        body = {"operation": "upload", "transfers": ["basic"], "objects": list(objects)} | more
        return net("POST", "/lab/net.git/info/lfs/objects/batch", body)

    for bad in ({"oid": oid.upper(), "size": 1}, {"oid": "../../x", "size": 1}, {"oid": f"sha256:{oid}", "size": 1},
                {"oid": oid[:9], "size": 1}, {"oid": oid, "size": -1}, {"oid": oid, "size": 1 << 60}, {"oid": oid}, 3):  # fmt: skip
        assert batch(bad).status == 422, bad
    assert batch(operation="delete").status == 422 and batch(hash_algo="md5").status == 422
    assert batch(*[{"oid": oid, "size": 1}] * 1001).status == 413
    href = batch({"oid": oid, "size": 1000}).json["objects"][0]["actions"]["upload"]["href"]
    path = href.removeprefix(shared.url)
    assert net("PUT", path, data[:999]).status == 422 and net("PUT", path, bytes(1000)).status == 422
    assert net("PUT", path, data + b"x").status == 422
    _send_and_hang_up(shared, f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc")
    deadline = time.monotonic() + 5
    incoming = Path(shared._root) / "incoming"
    while list(incoming.glob("obj-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(incoming.glob("obj-*")), "temporary files are gone"
    assert batch({"oid": oid, "size": 1000}).json["objects"][0].get("actions"), "and nothing became visible"


def _send_and_hang_up(hub: EmbeddedHub, text: str) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0)) as sock:
        sock.sendall(text.encode())


def test_multipart_uploads(net: Http, shared: EmbeddedHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.server.lfs.PART_BYTES", 100_000)
    monkeypatch.setattr("hubtool.server.lfs.MULTIPART_BYTES", 200_000)
    data = os.urandom(350_000)
    oid = hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": len(data)}]}
    answer = net("POST", "/lab/net.git/info/lfs/objects/batch", body).json
    upload = answer["objects"][0]["actions"]["upload"]
    size = int(upload["header"]["chunk_size"])
    assert answer["transfer"] == "multipart" and sorted(k for k in upload["header"] if k.isdigit()) == [
        "1",
        "2",
        "3",
        "4",
    ]
    small = body | {"objects": [{"oid": "a" * 64, "size": 200_000}]}
    assert net("POST", "/lab/net.git/info/lfs/objects/batch", small).json["transfer"] == "basic", (
        "one piece, written once"
    )
    short = lambda url: url.removeprefix(shared.url)  # noqa: E731
    for n in (4, 1, 2):
        part = net("PUT", short(upload["header"][str(n)]), data[(n - 1) * size : n * size])
        assert part.status == 200 and part.headers["etag"]
    assert net("POST", short(upload["href"]), {"oid": oid, "parts": []}).status == 422, "part 3 is missing"
    assert net("PUT", short(upload["header"]["3"]), data[:10]).status == 422
    assert net("PUT", short(upload["header"]["3"]), data[2 * size : 3 * size]).status == 200
    assert net("POST", short(upload["href"]), {"oid": oid, "parts": []}).status == 200
    pointer = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}
    assert commit(net, pointer).status == 200, "a copy names no size"
    reply = net("GET", "/lab/net/resolve/main/w.bin", headers={"Range": "bytes=99999-200000"})
    assert reply.body == data[99_999:200_001] and reply.headers["x-linked-etag"] == f'"{oid}"'


def _stored(http: Http, data: bytes) -> None:
    """lab/net/w.bin, kept whole."""
    oid = hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    href = http("POST", "/lab/net.git/info/lfs/objects/batch", body).json["objects"][0]["actions"]["upload"]["href"]
    assert http("PUT", "/" + href.split("/", 3)[3], data).status == 200
    assert commit(http, {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}).status == 200


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[EmbeddedHub]:
    """A hub that waits a second for a reader, with 30 MB in lab/net/w.bin."""
    with EmbeddedHub(tmp_path / "impatient", limits=Limits(send_s=1.0)) as hub:
        http = Http(hub.url)
        http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
        _stored(http, bytes(30_000_000))
        yield hub


def test_a_whole_object_is_sent_again_and_again_on_one_connection(net: Http, shared: EmbeddedHub) -> None:
    data = os.urandom(1 << 20)
    _stored(net, data)
    connection = http.client.HTTPConnection(urlsplit(shared.url).netloc)
    for low, high in ((0, 1 << 20), (5, 900_000), (0, 1), ((1 << 20) - 1, 1 << 20), (0, 1 << 20)):
        connection.request("GET", "/lab/net/resolve/main/w.bin", headers={"Range": f"bytes={low}-{high - 1}"})
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (206, data[low:high])
    connection.request("HEAD", "/lab/net/resolve/main/w.bin")
    assert connection.getresponse().read() == b""
    connection.close()


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stops reading"])
def test_a_reader_that_does_not_read_on_is_dropped(impatient: EmbeddedHub, leaves: bool) -> None:
    log = Path(impatient._root) / "logs/access.jsonl"
    with socket.create_connection(("127.0.0.1", urlsplit(impatient.url).port or 0)) as sock:
        sock.sendall(b"GET /lab/net/resolve/main/w.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 200 " in sock.recv(1000)
        if leaves:
            sock.close()
        deadline = time.monotonic() + 10
        while '"status": 499' not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["status"] == 499 and line["bytes"] < 30_000_000
    assert Http(impatient.url)("GET", "/lab/net/resolve/main/w.bin").body == bytes(30_000_000), "others are served"


def test_a_stored_file_that_was_cut_is_no_answer(net: Http, shared: EmbeddedHub) -> None:
    data = os.urandom(10_000)
    _stored(net, data)
    oid = hashlib.sha256(data).hexdigest()
    path = Path(shared._root) / "objects" / oid[:2] / oid[2:]
    path.write_bytes(data[:9_000])
    reply = net("GET", "/lab/net/resolve/main/w.bin")
    assert (reply.status, reply.json["code"]) == (500, "E-HUB-SHORT")
    assert net("GET", "/lab/net/resolve/main/w.bin", headers={"Range": "bytes=0-99"}).body == data[:100]


# The edge


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/lab/..%2f..%2fetc", "/api/models/%2e%2e/%2e%2e", "/api/models/lab/kept%00", "/api/models/lab/%c0%ae",
        "/api/models/lab/kept/tree/%2e%2e", "/api/models/lab/kept/tree/main%0d%0aX-Evil:1", "/api/models/lab/kept/tree/HEAD%5E",
        "/api/models/lab/kept/tree/main:a.txt", "/api/models/lab/kept/tree/@%7B-1%7D", "/api/models/lab%2Fnet/x",
        "/api/models/lab/kept.git", "/api/models/lab/con", "/api/models/" + "a" * 97 + "/b", "/api/models/l%C3%A4b/net",
        "/api/models/lab/kept/tree/--upload-pack=x", "/api/models/lab/kept/tree/main/%2e%2e%2f%2e%2e%2fconfig",
        "/lab/kept/resolve/main/..%2f..%2fconfig", "/lab/kept/resolve/main/%252e%252e%252fconfig", "/api/models?limit=x",
        "/api/models?sort=rm", "/lfs/objects/ABC", "/api/models/lab/kept/tree/main?cursor=-1",
    ],
)  # fmt: skip
def test_hostile_addresses_get_a_4xx(kept: Http, path: str) -> None:
    reply = kept("GET", path)
    assert 400 <= reply.status < 500 and set(reply.json) >= {"error", "code"}
    assert "x-evil" not in reply.headers and b"Traceback" not in reply.body


def test_host_and_method_tricks(net: Http) -> None:
    assert net("POST", NET, {}, {"X-HTTP-Method-Override": "DELETE"}).status == 405
    assert net("GET", NET, headers={"Host": "127.0.0.1@evil.example"}).status == 403
    assert net("BREW", NET).status == 405


def test_bodies_are_bounded_and_parsed_strictly(net: Http) -> None:
    for body in (b"[]", b"{", b'{"name": NaN}', b'{"name": "\\ud800"}', b"\xff", b"[" * 200_000, b'{"name": 3}'):
        assert net("POST", "/api/repos/create", body).status == 400, body[:20]
    assert net("POST", "/api/repos/create", b" " * (2 << 20)).status == 413
    bomb = zlib.compressobj(wbits=31)
    packed = bomb.compress(bytes(200 << 20)) + bomb.flush()
    assert len(packed) < (1 << 20)
    assert net("POST", "/api/repos/create", packed, {"Content-Encoding": "gzip"}).status == 413
    assert net("POST", "/api/repos/create", b"x", {"Content-Encoding": "br"}).status == 415
    assert net("POST", "/api/repos/create", b"\x1f\x8bxx", {"Content-Encoding": "gzip"}).status == 400


def test_headers_are_bounded(net: Http) -> None:
    assert net("GET", NET, headers={"X-Big": "x" * 17_000}).status in (400, 431)
    assert net("GET", NET, headers={f"X-{i}": "1" for i in range(200)}).status == 431
    assert net("GET", f"{NET}?x=" + "y" * 17_000).status in (400, 414)


def test_a_sender_that_stops_is_told_and_dropped(net: Http, shared: EmbeddedHub) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port or 0)) as sock:
        sock.sendall(b"POST /api/repos/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        sock.settimeout(5)
        assert b" 408 " in sock.recv(1000)


def test_a_sender_that_trickles_is_told_and_dropped(net: Http, shared: EmbeddedHub) -> None:
    """Each byte comes in time, and the body would take years."""
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port or 0)) as sock:
        sock.sendall(b"POST /api/repos/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
        sock.settimeout(0.1)
        answer, deadline = b"", time.monotonic() + 20
        while not answer and time.monotonic() < deadline:
            sock.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(1000)
        assert b" 408 " in answer


def test_a_body_of_unknown_length_is_hashed_like_any_other(net: Http, shared: EmbeddedHub) -> None:
    data = os.urandom(1000)
    oid = hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": 1000}]}
    href = net("POST", "/lab/net.git/info/lfs/objects/batch", body).json["objects"][0]["actions"]["upload"]["href"]
    path = href.removeprefix(shared.url)

    def send(*chunks: bytes) -> int:
        with contextlib.closing(http.client.HTTPConnection(urlsplit(shared.url).netloc)) as connection:
            connection.request("PUT", path, iter(chunks), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    assert send(data[:999]) == 422 and send(data, b"x") == 413 and send(b"x" * 1000) == 422
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port or 0)) as sock:
        sock.sendall(head + data)  # every byte, and never the end
    incoming, deadline = Path(shared._root) / "incoming", time.monotonic() + 5
    while list(incoming.glob("obj-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(incoming.glob("obj-*"))
    assert net("POST", "/lab/net.git/info/lfs/objects/batch", body).json["objects"][0].get("actions"), "not there"
    assert send(data[:500], data[500:]) == 200


def test_a_head_that_does_not_come_is_dropped(shared: EmbeddedHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.server.run.HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port or 0)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        sock.settimeout(5)
        assert sock.recv(1000) == b"", "slow loris"


def test_what_is_not_here_says_so(net: Http) -> None:
    for method, path in (
        ("GET", f"{NET}/discussions"),
        ("POST", "/api/collections"),
        ("GET", "/api/spaces"),
        ("POST", f"{NET}/duplicate"),
    ):
        reply = net(method, path, b"not json" if method == "POST" else None)
        assert reply.status == 501 and reply.headers["x-error-message"], path
    assert net("POST", f"{NET}/commit/main?create_pr=1", commit_lines(put("a", b""))).status == 501
    assert net("POST", "/api/repos/create", {"name": "s", "organization": "lab", "type": "space"}).status == 501
    assert net("GET", "/api/agent-harnesses").status == 404


def test_health_and_the_access_log(net: Http, shared: EmbeddedHub) -> None:
    assert net("GET", "/healthz").json == {"status": "ok"}
    net("GET", f"{NET}?expand=sha", headers={"Authorization": "Bearer hf_secretsecret"})
    path, deadline = Path(shared._root) / "logs/access.jsonl", time.monotonic() + 5
    while NET not in path.read_text().splitlines()[-1] and time.monotonic() < deadline:
        time.sleep(0.02)  # the line is written when the answer has left
    log = path.read_text()
    line = json.loads(log.splitlines()[-1])
    assert line["path"] == NET and line["status"] == 200 and line["user"] == "local" and line["wall_ms"] > 0
    assert "hf_secret" not in log and "expand" not in log


def test_a_name_in_another_place_is_just_a_name(net: Http) -> None:
    for owner in ("api", "datasets", "xet", "static"):
        assert net("POST", "/api/repos/create", {"name": "x", "organization": owner}).status == 400
