"""fsck finds each damaged file, gc removes only what nobody needs, a backup can be served."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from hubtool.core.errors import ConflictError, IntegrityError, StorageError, UsageError
from hubtool.core.files import Disk
from hubtool.core.ids import CommitSha, Oid, RepoId, RepoPath, Revision
from hubtool.server.bodies import receive
from hubtool.server.commits import Delete, Draft, Operation, Put
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.gitprocess import run_git
from hubtool.server.incoming import CHUNK_SIZE_BYTES
from hubtool.server.objects import ObjectStore
from hubtool.server.pointers import Pointer
from hubtool.server.repos import Repo
from hubtool.server.store import Store
from hubtool.server.upkeep import backup, collect, fsck
from tests.server.clients import Http

LAB = RepoId("lab/net")


@pytest.fixture
def store(root: Path):  # type: ignore[no-untyped-def]
    opened = Store(root)
    yield opened
    opened.close()


def push(store: Store, repo: Repo, data: bytes, path: str = "w.bin") -> Oid:
    """Store bytes as a large file of the repository and commit its pointer."""
    oid = store_object(store, repo, data)
    write(repo, Put(RepoPath(path), Pointer(oid, len(data))))
    return oid


def store_object(store: Store, repo: Repo, data: bytes) -> Oid:
    incoming = store.objects.receive()
    incoming.write(data)
    oid = Oid(hashlib.sha256(data).hexdigest())
    store.objects.publish(incoming, oid, len(data), lambda: repo.link_object(oid))
    return oid


def write(repo: Repo, *operations: Operation, parent: CommitSha | None = None) -> CommitSha:
    return repo.commit(Draft(Revision("main"), operations, "a change", "ada", parent))


def age(store: Store, hours: float = 48) -> None:
    """Make everything in the store look old."""
    past = time.time() - hours * 3600
    for path in store.root.rglob("*"):
        if "repos" not in path.parts or "lfs" in path.parts:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (past, past))


def test_fsck_names_a_flipped_bit_wherever_it_is(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    oid = push(store, repo, os.urandom(2000))
    assert fsck(store).is_clean and fsck(store).num_objects == 1
    victims = [store.objects.path(oid), *sorted((repo.path / "objects").glob("??/*"))]
    assert len(victims) > 4
    for path in victims:
        good = path.read_bytes()
        path.chmod(0o644)
        for place in (-5, len(good) // 2, 3):
            damaged = bytearray(good)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            assert not fsck(store).is_clean, (path, place)
        path.write_bytes(good)
    assert fsck(store).is_clean


def test_fsck_follows_pointers_and_refs(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    oid = push(store, repo, b"weights" * 99)
    store.objects.path(oid).unlink()
    (finding,) = fsck(store).findings
    assert finding.kind == "pointer" and finding.where == "models/lab/net w.bin" and oid in finding.what
    head = run_git(repo.path, "rev-parse", "main").decode().strip()
    (repo.path / "objects" / head[:2] / head[2:]).unlink()
    assert any(f.kind == "git" for f in fsck(store).findings)


def test_gc_keeps_what_is_reachable_or_young(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    old_version = push(store, repo, b"one" * 100)
    push(store, repo, b"two" * 100)
    other = store.repos.create("models", RepoId("lab/other"), author="ada")
    shared = push(store, other, b"shared" * 100)
    store_object(store, repo, b"shared" * 100)
    never_committed = store_object(store, repo, b"left over" * 100)
    age(store)
    young = store_object(store, repo, b"young" * 100)
    (store.objects.incoming / "obj-dead").write_bytes(b"x")
    os.utime(store.objects.incoming / "obj-dead", (0, 0))
    report = collect(store)
    assert not store.objects.has(never_committed) and report.num_objects == 1
    assert all(store.objects.has(oid) for oid in (old_version, shared, young)), "history keeps its versions"
    assert not list(store.objects.incoming.iterdir()) and fsck(store).is_clean
    store.repos.remove(other)
    age(store)
    collect(store)
    assert not store.objects.has(shared), "the repository that held it is gone"
    assert repo.git.entry(repo.git.resolve("main"), "w.bin") is not None


def test_bytes_sent_again_during_a_collection_stay(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    data = b"again" * 100
    oid = store_object(store, repo, data)
    age(store)
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            store_object(store, repo, data)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        for _ in range(15):
            age(store)
            collect(store, grace_s=3600)
    finally:
        stop.set()
        thread.join()
    store_object(store, repo, data)
    write(repo, Put(RepoPath("w.bin"), Pointer(oid, len(data))))
    assert fsck(store).is_clean


def test_two_collections_at_once_are_refused(store: Store) -> None:
    from hubtool.core import locks

    with locks.hold(store.root / "gc.lock", "x"), pytest.raises(ConflictError, match="in use by pid"):
        collect(store)


def test_a_backup_is_whole_and_can_be_served(store: Store, tmp_path: Path) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    push(store, repo, os.urandom(5000))
    store.accounts.enter_repo("models", LAB, "public")
    store.accounts.add_user("ada")
    token = store.accounts.add_token("ada")[1]
    epoch = store.xorbs.epoch
    target = tmp_path / "copy"
    report = backup(store, target)
    assert (report.num_repos, report.num_objects) == (1, 1)
    with pytest.raises(UsageError):
        backup(store, target)
    copy = Store(target)
    assert fsck(copy).is_clean and copy.xorbs.epoch != epoch, "a client's memory of sent chunks ends with the copy"
    copy.close()
    with EmbeddedHub(target, is_open=False) as hub:
        assert Http(hub.url)("GET", "/lab/net/resolve/main/w.bin").status == 200
        assert Http(hub.url, token)("GET", "/api/whoami-v2").json["name"] == "ada"
    assert oct((target / "secret").stat().st_mode)[-3:] == oct((target / "hub.sqlite").stat().st_mode)[-3:] == "600"


# What the store itself promises


def test_a_commit_is_a_compare_and_swap(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    parent = repo.git.resolve("main")
    results: list[str] = []

    def race(i: int) -> None:
        pointer = Pointer(store_object(store, repo, b"%d" % i * 50), 50)
        try:
            results.append(write(repo, Put(RepoPath(f"f{i}"), pointer), parent=parent))
        except ConflictError as error:
            results.append(error.code)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results.count("E-HUB-STALE") == 7 and repo.git.count_commits(repo.git.resolve("main")) == 2


def test_commits_without_a_parent_follow_each_other(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    oid = store_object(store, repo, b"x" * 50)
    work = [threading.Thread(target=write, args=(repo, Put(RepoPath(f"f{i}"), Pointer(oid, 50)))) for i in range(6)]
    [t.start() for t in work]
    [t.join() for t in work]
    head = repo.git.resolve("main")
    assert repo.git.count_commits(head) == 7 and len(repo.git.list_tree(head)) == 7, "linear, and nothing was lost"
    write(repo, Delete(RepoPath("f0")))
    assert repo.git.entry(repo.git.resolve("main"), "f0") is None


class FailingDisk(Disk):
    """Fails the n-th call of one kind."""

    def __init__(self, verb: str, errno: int) -> None:
        self.verb, self.errno = verb, errno

    def __getattribute__(self, name: str) -> object:
        if name in ("write", "fsync", "rename", "fsync_dir", "create") and name == object.__getattribute__(
            self, "verb"
        ):

            def fail(*args: object) -> object:
                raise OSError(object.__getattribute__(self, "errno"), "injected")

            return fail
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("verb", ["create", "write", "fsync", "rename", "fsync_dir"])
def test_an_object_that_could_not_be_kept_is_not_there(store: Store, verb: str) -> None:
    objects = ObjectStore(store.root, store.xorbs, disk=FailingDisk(verb, errno.ENOSPC))
    linked: list[int] = []
    data = b"full" * 99
    oid = Oid(hashlib.sha256(data).hexdigest())
    with pytest.raises(StorageError) as caught:
        incoming = objects.receive()
        incoming.write(data)
        objects.publish(incoming, oid, len(data), lambda: linked.append(1))
    assert caught.value.code == "E-DISK-FULL" and not linked
    assert verb == "fsync_dir" or not objects.has(oid)
    if verb == "write":
        incoming.discard()
    assert not list(objects.incoming.iterdir())


def test_a_body_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    """Pieces are written while later ones come: the failure is told all the same, and no thread writes on."""
    num_bytes = 5 * CHUNK_SIZE_BYTES
    sent = iter([CHUNK_SIZE_BYTES] * 5)

    async def read() -> Message:
        left = next(sent)
        return {"type": "http.request", "body": bytes(left), "more_body": sent.__length_hint__() > 0}

    request = Request(
        {"type": "http", "method": "PUT", "headers": [(b"content-length", str(num_bytes).encode())]}, read
    )
    objects = ObjectStore(store.root, store.xorbs, disk=FailingDisk("write", errno.ENOSPC))
    with pytest.raises(StorageError) as caught:
        asyncio.run(receive(request, objects.receive(), num_bytes))
    assert caught.value.code == "E-DISK-FULL" and not list(objects.incoming.iterdir())
    assert sent.__length_hint__() > 0, "the rest of the body was not waited for"


def test_bytes_are_hashed_even_when_they_are_there(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    oid = store_object(store, repo, b"true bytes")
    incoming = store.objects.receive()
    incoming.write(b"othr bytes")
    with pytest.raises(IntegrityError):
        store.objects.publish(incoming, oid, 10, lambda: pytest.fail("linked"))
    assert b"".join(store.objects.read(oid)) == b"true bytes"


def test_what_cannot_be_read_is_an_error_and_not_absent(store: Store) -> None:
    """A client remembers for good that a file is not there; a failing disk must not tell it so."""
    repo = store.repos.create("models", LAB, author="ada")
    push(store, repo, b"weights" * 99)
    for path in (repo.path / "refs/heads/main", repo.path / "packed-refs"):
        aside = path.with_name("aside")
        if path.exists():
            path.rename(aside)
        path.symlink_to(path.name)  # ELOOP: an error that root gets too
        with pytest.raises(OSError, match="symbolic links"):
            repo.git.resolve("main" if path.name == "main" else "elsewhere")
        path.unlink()
        if aside.exists():
            aside.rename(path)
    assert repo.git.resolve("main")


def test_packed_and_loose_repositories_read_alike(store: Store) -> None:
    repo = store.repos.create("models", LAB, author="ada")
    push(store, repo, b"packed" * 99)
    before = repo.git.list_tree(repo.git.resolve("main")), repo.git.log(repo.git.resolve("main"), skip=0, count=9)
    run_git(repo.path, "gc", "--quiet")
    assert not list((repo.path / "objects").glob("??/*")) and (repo.path / "packed-refs").exists()
    after = repo.git.list_tree(repo.git.resolve("main")), repo.git.log(repo.git.resolve("main"), skip=0, count=9)
    assert before == after and repo.git.read_blob(after[0][0]) is not None
    write(repo, Delete(RepoPath("w.bin")))
    assert repo.git.entry(repo.git.resolve("main"), "w.bin") is None


def test_locks_of_the_dead_are_removed_and_those_of_the_living_stay(root: Path) -> None:
    first = Store(root)
    repo = first.repos.create("models", LAB, author="ada")
    locks_ = [repo.path / name for name in ("packed-refs.lock", "refs/heads/main.lock", "HEAD.lock")]
    for lock in locks_:
        lock.touch()
    second = Store(root)
    assert all(lock.exists() for lock in locks_), "somebody may be at work"
    second.close()
    first.close()
    third = Store(root)
    assert not any(lock.exists() for lock in locks_)
    oid = store_object(third, repo, b"x")
    write(repo, Put(RepoPath("w"), Pointer(oid, 1)))
    third.close()
