"""Large files as such: listed, taken out of the history, lent to another repository."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import ConflictError, HubtoolError
from hubtool.core.ids import Oid, RepoId
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.gitprocess import run_git
from hubtool.server.history import drop_files, known_pointers, large_files, pointers
from hubtool.server.store import Store
from hubtool.server.upkeep import fsck
from tests.server.clients import Client, Http, commit_lines


def send(http: Http, repo: str, data: bytes) -> str:
    """Upload bytes to a repository; their oid."""
    oid = hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    href = http("POST", f"/{repo}.git/info/lfs/objects/batch", body).json["objects"][0]["actions"]["upload"]["href"]
    assert http("PUT", "/" + href.split("/", 3)[3], data).status == 200
    return oid


def pointer(path: str, oid: str) -> dict[str, Any]:
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid}}


def commit(http: Http, repo: str, *operations: dict[str, Any], branch: str = "main") -> str:
    reply = http("POST", f"/api/models/{repo}/commit/{branch}", commit_lines(*operations))
    assert reply.status == 200, reply
    return str(reply.json["commitOid"])


@pytest.fixture
def net(http_: Http) -> Http:
    for name in ("net", "other"):
        assert http_("POST", "/api/repos/create", {"name": name, "organization": "lab"}).status == 200
    return http_


def test_a_file_is_taken_out_of_all_branches_and_tags(client: Client, root: Path) -> None:
    """By the official client; what was before it, beside it and after it stays."""
    client.python("""
        import os
        from huggingface_hub import CommitOperationAdd as Add, HfApi, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
        api = HfApi()
        api.create_repo("lab/net")
        before = api.create_commit("lab/net", [Add("ö d.bin", b"text, at first")], commit_message="M 100644 x").oid
        kept, doomed = os.urandom(50_000), os.urandom(60_000)
        api.create_commit("lab/net", [Add("kept.bin", kept), Add("ö d.bin", doomed), Add("d/n.bin", doomed)],
            commit_message="both")
        api.create_tag("lab/net", tag="v1", tag_message="annotated")
        api.create_branch("lab/net", branch="dev")
        api.create_commit("lab/net", [Add("late.txt", b"late")], commit_message="late", revision="dev")
        listed = {f.size: f for f in api.list_lfs_files("lab/net")}
        assert set(listed) == {14, 50_000, 60_000}, listed
        old = api.model_info("lab/net").sha
        api.permanently_delete_lfs_files("lab/net", [listed[60_000]])
        assert {f.size for f in api.list_lfs_files("lab/net")} == {14, 50_000}
        for revision in ("main", "v1", "dev"):
            files = set(api.list_repo_files("lab/net", revision=revision))
            assert files == {".gitattributes", "kept.bin"} | ({"late.txt"} if revision == "dev" else set()), files
            assert open(hf_hub_download("lab/net", "kept.bin", revision=revision), "rb").read() == kept
        assert [c.title for c in api.list_repo_commits("lab/net", revision="dev")] == [
            "late", "both", "M 100644 x", "initial commit"]
        assert before in [c.commit_id for c in api.list_repo_commits("lab/net")], "commits before it keep their names"
        try:
            hf_hub_download("lab/net", "d/n.bin", revision=old, force_download=True)
            raise SystemExit("still served from the old commit")
        except EntryNotFoundError:
            pass
    """)
    store = Store(root)
    assert fsck(store).findings == ()
    store.close()


def test_a_removal_that_is_not_whole_is_refused(net: Http) -> None:
    oid = send(net, "lab/net", b"one" * 99)
    head = commit(net, "lab/net", pointer("w.bin", oid))
    batch = "/api/models/lab/net/lfs-files/batch"
    assert net("POST", batch, {"deletions": {"sha": [oid], "rewriteHistory": False}}).status == 400
    assert net("POST", batch, {"deletions": {"sha": [oid, "0" * 64]}}).status == 404
    assert net("POST", batch, {"deletions": {"sha": ["../x"]}}).status == 422
    assert net("POST", batch, {"deletions": {"sha": [oid] * 1001}}).status == 413
    assert net("POST", batch, {}).status == 400 and net("GET", "/api/models/lab/net").json["sha"] == head
    reply = net("POST", "/api/models/lab/other/lfs-files/batch", {"deletions": {"sha": [oid]}})
    assert reply.status == 404, "another repository's file"


def test_the_list_pages_and_names_the_newest_first(net: Http, hub: EmbeddedHub) -> None:
    for i in range(5):
        commit(net, "lab/net", pointer("w.bin", send(net, "lab/net", b"%d" % i * 200)))
    found, path = [], "/api/models/lab/net/lfs-files?limit=2"
    while path:
        reply = net("GET", path)
        found += [item["oid"] for item in reply.json]
        path = reply.headers.get("link", "").partition(">")[0][1 + len(hub.url) :]
    assert sorted(found) == sorted(hashlib.sha256(b"%d" % i * 200).hexdigest() for i in range(5))
    tips = [item["ref"] for item in net("GET", "/api/models/lab/net/lfs-files").json]
    assert tips.count("refs/heads/main") == 1 and tips.count(None) == 4, "old versions are listed too"


def test_a_file_is_lent_without_being_sent(net: Http, root: Path) -> None:
    data = b"weights" * 999
    oid = send(net, "lab/net", data)
    commit(net, "lab/net", pointer("w.bin", oid))
    lend = "/api/models/lab/net/lfs-files/duplicate"
    files = [{"xetHash": "0" * 64, "sha256": oid, "filename": "w.bin"}, {"sha256": "1" * 64, "filename": "none"}]
    line = commit_lines(pointer("copy.bin", oid))
    assert net("POST", "/api/models/lab/other/commit/main", line).status == 400, "not before"
    reply = net("POST", lend, {"target": {"type": "model", "name": "lab/other"}, "files": files})
    assert [f["sha256"] for f in reply.json["failed"]] == ["1" * 64]
    assert net("POST", "/api/models/lab/other/commit/main", line).status == 200
    assert net("GET", "/lab/other/resolve/main/copy.bin").body == data
    assert len(list((root / "objects").glob("*/*"))) == 1
    assert net("POST", lend, {"target": {"name": "lab/none"}, "files": files}).status == 404
    assert net("POST", lend, {"target": {"type": "space", "name": "lab/x"}, "files": []}).status == 501
    assert net("POST", lend, {"target": {"name": "lab/other"}, "files": [3]}).status == 422


def test_lending_needs_the_right_to_read_here_and_to_write_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "hub")
    tokens = {}
    for name in ("ada", "bob"):
        store.accounts.add_user(name)
        tokens[name] = store.accounts.add_token(name)[1]
    store.close()
    with EmbeddedHub(tmp_path / "hub", is_open=False) as hub:
        ada, bob = Http(hub.url, tokens["ada"]), Http(hub.url, tokens["bob"])
        for http, name, visibility in ((ada, "secret", "private"), (ada, "shown", "public"), (bob, "mine", "public")):
            assert http("POST", "/api/repos/create", {"name": name, "visibility": visibility}).status == 200
        oids = {name: send(ada, f"ada/{name}", name.encode() * 99) for name in ("secret", "shown")}
        target = {"target": {"type": "model", "name": "bob/mine"}}

        def lend(http: Http, source: str, target: dict[str, Any] = target) -> int:
            body = target | {"files": [{"sha256": oids[source], "filename": "w"}]}
            return http("POST", f"/api/models/ada/{source}/lfs-files/duplicate", body).status

        assert lend(bob, "secret") == 404 and lend(ada, "shown") == 403 and lend(Http(hub.url), "shown") == 401
        assert lend(bob, "shown") == 200
        stolen = {"files": [{"sha256": oids["secret"], "filename": "w"}]} | target
        reply = bob("POST", "/api/models/ada/shown/lfs-files/duplicate", stolen)
        assert len(reply.json["failed"]) == 1, "only what that repository has"
        removal = {"deletions": {"sha": [oids["shown"]]}}
        assert bob("POST", "/api/models/ada/shown/lfs-files/batch", removal).status == 403


def test_a_commit_copies_within_its_repository(client: Client) -> None:
    client.python("""
        import os
        from huggingface_hub import CommitOperationAdd as Add, CommitOperationCopy as Copy, HfApi, hf_hub_download
        api, weights = HfApi(), os.urandom(500_000)
        api.create_repo("lab/net")
        first = api.create_commit("lab/net", [Add("w.bin", weights), Add("t.txt", b"text")], commit_message="first").oid
        api.create_commit("lab/net", [Copy("w.bin", "sub/copy.bin"), Copy("t.txt", "t2.txt", src_revision=first)],
            commit_message="copies")
        assert open(hf_hub_download("lab/net", "sub/copy.bin"), "rb").read() == weights
        assert open(hf_hub_download("lab/net", "t2.txt"), "rb").read() == b"text"
    """)


@pytest.mark.parametrize("ref", ["refs/pr/1", "refs/keep/x"])
def test_a_file_is_taken_out_of_refs_of_any_name(net: Http, root: Path, ref: str) -> None:
    oid = send(net, "lab/net", b"one" * 99)
    head = commit(net, "lab/net", pointer("w.bin", oid))
    store = Store(root)
    repo = store.repos.find("models", RepoId("lab/net"))
    run_git(repo.path, "update-ref", ref, head)
    assert net("POST", "/api/models/lab/net/lfs-files/batch", {"deletions": {"sha": [oid]}}).json == {"success": True}
    assert pointers(repo.path) == {}
    named = run_git(repo.path, "for-each-ref", "--format=%(refname)").decode().split()
    assert named == sorted(["refs/heads/main", ref])
    assert not repo.has_object(Oid(oid))
    store.close()


def test_a_ref_that_cannot_be_written_anew_is_named_and_nothing_changes(net: Http, root: Path) -> None:
    oid = send(net, "lab/net", b"one" * 99)
    commit(net, "lab/net", pointer("w.bin", oid))
    store = Store(root)
    repo = store.repos.find("models", RepoId("lab/net"))
    lone = run_git(repo.path, "rev-parse", "HEAD:w.bin").decode().strip()
    run_git(repo.path, "update-ref", "refs/keep/lone", lone)
    before = run_git(repo.path, "for-each-ref")
    with pytest.raises(ConflictError, match="refs/keep/lone"):
        drop_files(repo.git, {Oid(oid)})
    assert run_git(repo.path, "for-each-ref") == before
    reply = net("POST", "/api/models/lab/net/lfs-files/batch", {"deletions": {"sha": [oid]}})
    assert reply.status == 409 and repo.has_object(Oid(oid))
    store.close()


def test_a_commit_is_listed_once_and_a_damaged_one_again(net: Http, root: Path) -> None:
    oid = send(net, "lab/net", b"one" * 99)
    commit(net, "lab/net", pointer("w.bin", oid))
    store = Store(root)
    git = store.repos.find("models", RepoId("lab/net")).git
    sha = git.resolve("main")
    tree = git.path / "objects" / git.commit(sha).tree[:2] / git.commit(sha).tree[2:]
    good, mode = tree.read_bytes(), tree.stat().st_mode
    tree.unlink()
    tree.write_bytes(b"damaged")
    with pytest.raises(HubtoolError):
        large_files(git.path, sha)
    tree.unlink()
    tree.write_bytes(good)
    tree.chmod(mode)
    assert large_files(git.path, sha) == (oid,) and large_files(git.path, sha) is large_files(git.path, sha)
    assert net("GET", "/api/models/lab/net/lfs-files").json[0]["ref"] == "refs/heads/main"
    store.close()


def test_the_history_is_read_once_until_a_ref_moves(net: Http, root: Path) -> None:
    first = send(net, "lab/net", b"one" * 99)
    commit(net, "lab/net", pointer("w.bin", first))
    store = Store(root)
    repo = store.repos.find("models", RepoId("lab/net"))
    once = known_pointers(repo.path)
    assert known_pointers(repo.path) is once
    second = send(net, "lab/net", b"two" * 99)
    commit(net, "lab/net", pointer("v.bin", second))
    assert {item["oid"] for item in net("GET", "/api/models/lab/net/lfs-files").json} == {first, second}
    repo.unlink_object(Oid(second))
    assert repo.object_age(Oid(second)) is None
    assert [item["oid"] for item in net("GET", "/api/models/lab/net/lfs-files").json] == [first]
    store.close()
