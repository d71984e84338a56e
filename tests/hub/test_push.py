"""A push against the real server, through a line that breaks: all or nothing, once, on the parent that was seen."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import (
    ConflictError,
    HubtoolError,
    IntegrityError,
    SecurityError,
    StorageError,
    UnavailableError,
)
from hubtool.core.ids import RepoId, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import fetch_package
from hubtool.hub.push import plan, push, read_head
from hubtool.server.embedded import EmbeddedHub
from tests.hub.broken_line import BrokenLine

REPO = "ada/flowers"
CARD = b"---\nlicense: mit\n---\n# flowers\n"
WEIGHTS = bytes(range(256)) * 800


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EmbeddedHub]:
    with EmbeddedHub(tmp_path / "root") as running:
        yield running


def client_of(url: str, tmp_path: Path, name: str = "cache", **changes: Any) -> Hub:
    return Hub(**{"endpoint": url, "name": url, "cache_dir": tmp_path / name, "retry_wait_s": 0.01, **changes})


def make(directory: Path, **changes: bytes | None) -> Path:
    """A package; None takes a file out."""
    files = {"README.md": CARD, "config.json": b"{}", "model.safetensors": WEIGHTS, "evidence/val.json": b"[1]"}
    for name, data in {**files, **changes}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "hubtool.json")
    listed = [
        {
            "path": p.relative_to(directory).as_posix(),
            "size_bytes": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in paths
    ]
    head = {"schema": "hubtool/package/v1", "hubtool": "0.1.0", "layout": "timm", "license": "mit", "files": listed}
    (directory / "hubtool.json").write_text(json.dumps({**head, "base_model": None, "base_revision": None}))
    return directory


def do_push(client: Hub, package: Path, **options: Any) -> str:
    return push(client, plan(client, package, REPO, **options), package)


def commits(client: Hub) -> list[Any]:
    return client.call(REPO, lambda api: api.list_repo_commits(REPO))


def head_of(client: Hub) -> dict[str, str]:
    head = read_head(client, RepoId(REPO), Revision("main"))
    if head is None or head.snapshot is None:
        return {}
    return {name: file.oid for name, file in head.snapshot.files.items() if name != ".gitattributes"}


def test_a_push_is_one_commit_and_comes_back_whole(hub: EmbeddedHub, tmp_path: Path) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    first = plan(client, package, REPO)
    assert (first.is_new_repo, first.is_private, first.parent, first.unchanged) == (True, True, None, ())
    commit = push(client, first, package)
    made = commits(client)
    assert made[0].commit_id == commit
    assert len([c for c in made if c.title.startswith("Push")]) == 1
    fetched = fetch_package(client_of(hub.url, tmp_path, "other"), REPO, None, tmp_path / "fetched")
    assert fetched.commit == commit
    assert (fetched.directory / "model.safetensors").read_bytes() == WEIGHTS


def test_a_second_push_sends_nothing(hub: EmbeddedHub, tmp_path: Path) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    commit = do_push(client, package)
    again = plan(client, package, REPO)
    assert (again.adds, again.deletes, again.parent) == ((), (), commit)
    assert len(again.unchanged) == 5
    assert push(client, again, package) == commit


def test_a_changed_package_sends_what_changed_and_deletes_what_it_no_longer_has(
    hub: EmbeddedHub, tmp_path: Path
) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    do_push(client, package)
    client.call(
        REPO, lambda api: api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO), again=False
    )
    make(package, **{"evidence/val.json": None, "evidence/test.json": b"[2]"})
    second = plan(client, package, REPO)
    assert [file.path for file in second.adds] == ["evidence/test.json", "hubtool.json"]
    assert second.deletes == ("evidence/val.json",)
    push(client, second, package)
    assert head_of(client).keys() == {
        "README.md", "config.json", "model.safetensors", "evidence/test.json", "hubtool.json", "notes.txt"
    }  # fmt: skip


def test_public_only_when_asked(hub: EmbeddedHub, tmp_path: Path) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    push(client, plan(client, package, "ada/open", is_public=True), package)
    do_push(client, package)
    assert client.call("ada/open", lambda api: api.model_info("ada/open")).private is False
    assert client.call(REPO, lambda api: api.model_info(REPO)).private is True


def test_another_branch(hub: EmbeddedHub, tmp_path: Path) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    main = do_push(client, package)
    assert do_push(client, package, revision="try") == main
    branch = do_push(client, make(package, **{"config.json": b"{ }"}), revision="try")
    refs = client.call(REPO, lambda api: api.list_repo_refs(REPO)).branches
    assert {ref.name: ref.target_commit for ref in refs} == {"main": main, "try": branch}


def test_a_moved_branch_is_told_with_who_moved_it(hub: EmbeddedHub, tmp_path: Path) -> None:
    client, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    do_push(client, package)
    mine = make(tmp_path / "mine", **{"config.json": b'{"by": "me"}'})
    stale = plan(client, mine, REPO)
    theirs = do_push(client, make(package, **{"config.json": b'{"by": "them"}'}))
    before = head_of(client)
    with pytest.raises(ConflictError) as caught:
        push(client, stale, mine)
    assert caught.value.exit_code == 7
    assert f"main is now {theirs[:8]} (by " in caught.value.what
    assert "ago)" in caught.value.what
    assert caught.value.do == "run it again to push on top"
    assert head_of(client) == before
    do_push(client, mine)


def test_of_two_racing_pushes_one_wins(hub: EmbeddedHub, tmp_path: Path) -> None:
    do_push(client_of(hub.url, tmp_path), make(tmp_path / "package"))
    outcomes: list[str | HubtoolError] = []
    gate = threading.Barrier(3)

    def race(number: int) -> None:
        client = client_of(hub.url, tmp_path, f"cache{number}")
        package = make(tmp_path / f"package{number}", **{"config.json": b"[%d]" % number})
        mine = plan(client, package, REPO)
        gate.wait()
        try:
            outcomes.append(push(client, mine, package))
        except HubtoolError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [outcome for outcome in outcomes if isinstance(outcome, HubtoolError)]
    assert len(errors) == 2
    assert all(isinstance(error, ConflictError) for error in errors)


@pytest.mark.parametrize(
    "is_whole",
    [pytest.param(False, id="around the commit"), pytest.param(True, marks=pytest.mark.prove, id="anywhere")],
)
def test_a_push_cut_at_a_request_is_all_or_nothing(hub: EmbeddedHub, tmp_path: Path, is_whole: bool) -> None:
    """Each request in turn never arrives, or its answer never comes back; what is on the hub is the old or the new.

    The whole sweep changes the weights too, so that each part of their upload is cut once.
    """
    direct, package = client_of(hub.url, tmp_path), make(tmp_path / "package")
    do_push(direct, package)

    def change(mark: bytes) -> None:
        make(package, **{"config.json": b"[%b]" % mark, **({"model.safetensors": mark + WEIGHTS} if is_whole else {})})

    with BrokenLine(hub.url) as line:
        change(b"0")
        do_push(client_of(line.url, tmp_path, "line", max_attempts=1), package)
        seen = line.seen
    (post,) = (number for number, what in enumerate(seen, 1) if "/commit/" in what)
    numbers = range(1, len(seen) + 1) if is_whole else (post,)
    cuts = [(number, moment) for number in numbers for moment in ("before", "after")]
    for index, (number, moment) in enumerate(cuts, 1):
        old = head_of(direct)
        change(b"%d" % index)
        with BrokenLine(hub.url, cut=lambda n, what, at=number, m=moment: m if n == at else None) as line:
            client = client_of(line.url, tmp_path, f"cut{index}", max_attempts=1)
            try:
                do_push(client, package)
                is_done = True
            except UnavailableError:
                is_done = False
        new = head_of(direct)
        data = (package / "config.json").read_bytes()
        config = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        assert new == old or new["config.json"] == config
        assert not is_done or new["config.json"] == config
        if new == old:
            do_push(direct, package)
    assert len([c for c in commits(direct) if c.title.startswith("Push")]) == 2 + len(cuts)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_lost_reply_is_found_out(hub: EmbeddedHub, tmp_path: Path, max_attempts: int) -> None:
    package = make(tmp_path / "package")
    do_push(client_of(hub.url, tmp_path), package)
    make(package, **{"config.json": b"[2]"})
    with BrokenLine(hub.url, cut=lambda n, what: "after" if "/commit/" in what else None) as line:
        commit = do_push(client_of(line.url, tmp_path, "line", max_attempts=max_attempts), package)
    made = commits(client_of(hub.url, tmp_path))
    assert made[0].commit_id == commit
    assert len([c for c in made if c.title.startswith("Push")]) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(413, StorageError), (507, StorageError), (503, UnavailableError), (412, ConflictError)]
)
def test_a_commit_the_hub_cannot_take(hub: EmbeddedHub, tmp_path: Path, status: int, kind: type[HubtoolError]) -> None:
    package = make(tmp_path / "package")
    do_push(client_of(hub.url, tmp_path), package)
    before = head_of(client_of(hub.url, tmp_path))
    make(package, **{"config.json": b"[2]"})
    with BrokenLine(hub.url, status=lambda what: status if "/commit/" in what else None) as line, pytest.raises(kind):
        do_push(client_of(line.url, tmp_path, "line"), package)
    assert head_of(client_of(hub.url, tmp_path)) == before


def test_a_hub_that_kept_other_bytes_is_found_out(hub: EmbeddedHub, tmp_path: Path) -> None:
    """After the commit the listing names another digest for the weights."""
    package = make(tmp_path / "package")
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    has_committed = threading.Event()

    def tamper(what: str, body: bytes) -> bytes:
        if "/commit/" in what:
            has_committed.set()
        return body.replace(oid.encode(), b"0" * 64) if has_committed.is_set() and "/tree/" in what else body

    with BrokenLine(hub.url, tamper=tamper) as line, pytest.raises(IntegrityError, match=r"model\.safetensors"):
        do_push(client_of(line.url, tmp_path, "line"), package)


def test_what_was_changed_after_packing_is_not_sent(hub: EmbeddedHub, tmp_path: Path) -> None:
    package = make(tmp_path / "package")
    (package / "config.json").write_bytes(b"[]")
    with pytest.raises(IntegrityError, match=r"config\.json: want sha256"):
        plan(client_of(hub.url, tmp_path), package, REPO)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_is_not_on_the_manifest_is_not_sent(hub: EmbeddedHub, tmp_path: Path, kind: str) -> None:
    import os

    package = make(tmp_path / "package")
    match kind:
        case "file":
            (package / "token.txt").write_text("x")
        case "link":
            (package / "config.json").rename(tmp_path / "elsewhere")
            (package / "config.json").symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(package / "pipe")
    with pytest.raises(IntegrityError if kind == "file" else SecurityError):
        plan(client_of(hub.url, tmp_path), package, REPO)


def test_a_manifest_that_names_what_lies_outside(hub: EmbeddedHub, tmp_path: Path) -> None:
    package = make(tmp_path / "package")
    manifest = json.loads((package / "hubtool.json").read_text())
    manifest["files"][0]["path"] = "../elsewhere"
    (package / "hubtool.json").write_text(json.dumps(manifest))
    with pytest.raises(SecurityError):
        plan(client_of(hub.url, tmp_path), package, REPO)
