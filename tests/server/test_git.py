"""git and Debian's git-lfs against the hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hubtool
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.gitprocess import run_git
from hubtool.server.store import Store
from hubtool.server.upkeep import fsck
from tests.server.clients import Client, Http, commit_lines, put

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.mark.parametrize("suffix", ["", ".git"])
def test_clone_push_lfs_and_pull(client: Client, hub: EmbeddedHub, http_: Http, root: Path, suffix: str) -> None:
    assert http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"}).status == 200
    url = f"{hub.url}/lab/net{suffix}"
    client.run(["git", "lfs", "install", "--skip-repo"])
    client.run(["git", "clone", "-q", url, "one"], **IDENTITY)
    one = client.home / "one"
    data = os.urandom(3_000_000)
    (one / "model.safetensors").write_bytes(data)
    (one / "note.txt").write_text("hello")
    client.run(["git", "add", "."], cwd=one)
    client.run(["git", "commit", "-qm", "weights"], cwd=one, **IDENTITY)
    client.run(["git", "push", "-q", "origin", "main"], cwd=one, **IDENTITY)
    assert http_("GET", "/lab/net/resolve/main/model.safetensors").body == data
    tree = {entry["path"]: entry for entry in http_("GET", "/api/models/lab/net/tree/main").json}
    assert tree["model.safetensors"]["lfs"]["size"] == len(data)

    client.run(["git", "clone", "-q", url, "two"], **IDENTITY)
    assert (client.home / "two/model.safetensors").read_bytes() == data
    assert http_("POST", "/api/models/lab/net/commit/main", commit_lines(put("api.txt", b"by api"))).status == 200
    client.run(["git", "pull", "-q"], cwd=client.home / "two", **IDENTITY)
    assert (client.home / "two/api.txt").read_text() == "by api", "API commits and pushes are one history"
    store = Store(root)
    assert fsck(store).findings == ()
    store.close()


def test_a_push_that_lost_the_race_is_refused(client: Client, hub: EmbeddedHub, http_: Http) -> None:
    http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "one"], **IDENTITY)
    http_("POST", "/api/models/lab/net/commit/main", commit_lines(put("api.txt", b"first")))
    (client.home / "one/late.txt").write_text("late")
    client.run(["git", "add", "."], cwd=client.home / "one")
    client.run(["git", "commit", "-qm", "late"], cwd=client.home / "one", **IDENTITY)
    said = client.run(["git", "push"], cwd=client.home / "one", check=False, **IDENTITY)
    assert "rejected" in said and "fetch first" in said


def test_a_tree_with_a_dot_git_entry_is_refused(client: Client, hub: EmbeddedHub, http_: Http) -> None:
    http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "one"], **IDENTITY)
    script = (
        "blob=$(echo evil | git hash-object -w --stdin); "
        "inner=$(printf '100755 blob %s\\thook\\n' $blob | git mktree); "
        "tree=$(printf '040000 tree %s\\t.git\\n' $inner | git mktree); "
        "git update-ref refs/heads/evil $(git commit-tree $tree -m evil -p HEAD); git push origin evil"
    )
    said = client.run(["sh", "-c", script], cwd=client.home / "one", check=False, **IDENTITY)
    assert "hasDotgit" in said
    assert [b["name"] for b in http_("GET", "/api/models/lab/net/refs").json["branches"]] == ["main"]


def test_a_pointer_whose_bytes_were_not_sent_is_refused_whole(client: Client, hub: EmbeddedHub, http_: Http) -> None:
    http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    client.run(["git", "lfs", "install", "--skip-repo"])
    client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "one"], **IDENTITY)
    one, before = client.home / "one", http_("GET", "/api/models/lab/net").json["sha"]
    (one / "sub").mkdir()
    (one / "sub/model.safetensors").write_bytes(os.urandom(70_000))
    client.run(["git", "add", "."], cwd=one)
    client.run(["git", "commit", "-qm", "weights"], cwd=one, **IDENTITY)
    (one / "later.txt").write_text("a commit on top hides nothing")
    client.run(["git", "add", "."], cwd=one)
    client.run(["git", "commit", "-qm", "later"], cwd=one, **IDENTITY)
    push = ["git", "push", "origin", "main", "HEAD:refs/heads/other"]
    said = client.run(push, cwd=one, check=False, GIT_LFS_SKIP_PUSH="1", **IDENTITY)
    assert "sub/model.safetensors" in said and "git lfs push --all" in said and "rejected" in said
    assert http_("GET", "/api/models/lab/net").json["sha"] == before, "no branch moved"
    assert [b["name"] for b in http_("GET", "/api/models/lab/net/refs").json["branches"]] == ["main"]
    client.run(["git", "lfs", "push", "--all", "origin"], cwd=one, **IDENTITY)
    client.run(push, cwd=one, GIT_LFS_SKIP_PUSH="1", **IDENTITY)
    data = (one / "sub/model.safetensors").read_bytes()
    assert http_("GET", "/lab/net/resolve/other/sub/model.safetensors").body == data


def test_a_pointer_to_another_repositorys_bytes_is_refused(client: Client, hub: EmbeddedHub, http_: Http) -> None:
    for name in ("mine", "theirs"):
        http_("POST", "/api/repos/create", {"name": name, "organization": "lab"})
    client.run(["git", "lfs", "install", "--skip-repo"])
    client.run(["git", "clone", "-q", f"{hub.url}/lab/theirs"], **IDENTITY)
    theirs = client.home / "theirs"
    (theirs / "w.safetensors").write_bytes(b"theirs" * 99)
    client.run(["git", "add", "."], cwd=theirs)
    client.run(["git", "commit", "-qm", "w"], cwd=theirs, **IDENTITY)
    client.run(["git", "push", "-q", "origin", "main"], cwd=theirs, **IDENTITY)
    push = ["git", "push", f"{hub.url}/lab/mine", "main:refs/heads/stolen"]
    said = client.run(push, cwd=theirs, check=False, GIT_LFS_SKIP_PUSH="1", **IDENTITY)
    assert "E-HUB-OBJECT" in said
    assert [b["name"] for b in http_("GET", "/api/models/lab/mine/refs").json["branches"]] == ["main"]


def test_only_branches_and_tags_are_pushed(client: Client, hub: EmbeddedHub, http_: Http, root: Path) -> None:
    http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "one"], **IDENTITY)
    one = client.home / "one"
    for ref in ("refs/pr/1", "refs/keep/x"):
        said = client.run(["git", "push", "origin", f"HEAD:{ref}"], cwd=one, check=False)
        assert f"error[E-HUB-REF] {ref}" in said, said
    client.run(["git", "push", "-q", "origin", "HEAD:refs/tags/v1", "HEAD:refs/heads/dev"], cwd=one)
    git_dir = root / "repos/models/lab/net.git"
    named = run_git(git_dir, "for-each-ref", "--format=%(refname)").decode().split()
    assert named == ["refs/heads/dev", "refs/heads/main", "refs/tags/v1"]
    run_git(git_dir, "update-ref", "refs/keep/old", "refs/heads/main")
    client.run(["git", "push", "-q", "origin", ":refs/keep/old"], cwd=one)
    assert b"keep" not in run_git(git_dir, "for-each-ref"), "what an earlier push left can be taken away"


def test_a_fault_of_the_hub_tells_the_pusher_none_of_its_places(
    client: Client, hub: EmbeddedHub, http_: Http, root: Path
) -> None:
    http_("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    client.run(["git", "clone", "-q", f"{hub.url}/lab/net", "one"], **IDENTITY)
    shutil.rmtree(root / "xorbs")
    (root / "xorbs").write_text("in the way")
    said = client.run(["git", "push", "origin", "HEAD:dev"], cwd=client.home / "one", check=False)
    assert "error[E-" in said and "pre-receive hook declined" in said
    assert "Traceback" not in said and str(root) not in said, said


def test_any_other_fault_of_the_hook_is_one_line() -> None:
    """Started where no repository can be."""
    program = [sys.executable, "-P", "-c", "from hubtool.server.received import main; main()"]
    place = str(Path(hubtool.__file__).parents[1])
    done = subprocess.run(
        program, check=False, cwd="/", input="", capture_output=True, text=True, env={"PYTHONPATH": place}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error[E-HUB-INTERNAL]") and done.stderr.count("\n") == 1, done.stderr
