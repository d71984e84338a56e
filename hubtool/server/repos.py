"""The repositories of a hub: real bare git directories under their own names.

    repos/models/OWNER/NAME.git      config, objects, refs: plain git
    repos/models/OWNER/NAME.git/lfs  one empty file per large object that was shown to this repository (its sha256)

Names are looked up without regard to case and shown as they were created.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubtool.core import locks
from hubtool.core.errors import ConflictError, NotFoundError, SecurityError, StorageError, from_os_error
from hubtool.core.files import DISK, TEMP_PREFIX, make_dirs, publish_dir
from hubtool.core.ids import CommitSha, Oid, RepoId, Revision
from hubtool.server.commits import Draft, identity, write_commit
from hubtool.server.gitdir import CONFIG, NO_SHA, GitDir
from hubtool.server.gitprocess import run_git
from hubtool.server.pointers import DEFAULT_GITATTRIBUTES

KINDS = ("models", "datasets")
KIND_OF_TYPE = {"model": "models", "dataset": "datasets", None: "models", "": "models"}  # as clients write it
MAIN = "main"


@dataclass(frozen=True, slots=True)
class Repo:
    """One repository; ``id`` in its true spelling."""

    kind: str
    id: RepoId
    path: Path

    @property
    def git(self) -> GitDir:
        return GitDir(self.path)

    @property
    def key(self) -> str:
        """Names it in signed links: kind and lower-case id."""
        return f"{self.kind}/{self.id.lower()}"

    # The objects it may use

    def _mark(self, oid: Oid) -> Path:
        return self.path / "lfs" / oid[:2] / oid[2:]

    def has_object(self, oid: Oid) -> bool:
        return self._mark(oid).exists()

    def link_object(self, oid: Oid) -> None:
        """Note, durably, that the bytes of ``oid`` were shown to this repository."""
        mark = self._mark(oid)
        if mark.exists():
            with contextlib.suppress(OSError):
                os.utime(mark)
            return
        try:
            for directory in (mark.parent.parent, mark.parent):
                if not directory.exists():
                    directory.mkdir(exist_ok=True)
                    DISK.fsync_dir(directory.parent)
            mark.touch()
            DISK.fsync_dir(mark.parent)
        except OSError as error:
            raise from_os_error(error, str(self.id)) from error

    def unlink_object(self, oid: Oid) -> None:
        self._mark(oid).unlink(missing_ok=True)

    def objects(self) -> Iterator[Oid]:
        for path in sorted((self.path / "lfs").glob("??/*")):
            with contextlib.suppress(SecurityError):
                yield Oid(path.parent.name + path.name)

    def object_age(self, oid: Oid) -> float | None:
        """When it was last shown, in seconds since 1970; None where it never was, or was taken out."""
        try:
            return self._mark(oid).stat().st_mtime
        except FileNotFoundError:
            return None

    # History

    def commit(self, draft: Draft) -> CommitSha:
        return write_commit(self.git, draft)

    def add_branch(self, name: Revision, start: str | None) -> None:
        """Raises ConflictError when it exists, NotFoundError when ``start`` does not."""
        git, ref = self.git, f"refs/heads/{name}"
        sha = git.resolve(start or MAIN)
        if git.ref(ref) is not None:
            raise ConflictError("E-HUB-EXISTS", f"Reference {ref} already exists")
        try:
            git.update_refs([(ref, sha, NO_SHA)])
        except (ConflictError, StorageError) as error:
            raise ConflictError("E-HUB-EXISTS", f"Reference {ref} cannot stand beside the others") from error

    def remove_branch(self, name: Revision) -> None:
        ref = f"refs/heads/{name}"
        sha = self.git.ref(ref)
        if name == MAIN:
            raise SecurityError("E-HUB-MAIN", f"Cannot delete {ref}")
        if sha is None:
            raise NotFoundError("E-HUB-REVISION", f"Reference {ref} does not exist")
        self.git.update_refs([(ref, NO_SHA, sha)])

    def add_tag(self, name: Revision, revision: str, message: str, author: str) -> None:
        git, ref = self.git, f"refs/tags/{name}"
        sha = git.resolve(revision)
        if git.ref(ref) is not None:
            raise ConflictError("E-HUB-EXISTS", f"Tag reference {ref} already exists")
        if message:
            text = f"object {sha}\ntype commit\ntag {name}\ntagger {_stamp(self.path, author)}\n\n{message}\n"
            sha = CommitSha(run_git(self.path, "mktag", stdin=text.encode("utf-8", "replace")).decode().strip())
        git.update_refs([(ref, sha, NO_SHA)])

    def remove_tag(self, name: Revision) -> None:
        ref = f"refs/tags/{name}"
        sha = self.git.ref(ref)
        if sha is None:
            raise NotFoundError("E-HUB-REVISION", f"Tag reference {ref} does not exist")
        self.git.update_refs([(ref, NO_SHA, sha)])


def _stamp(path: Path, author: str) -> str:
    return run_git(path, "var", "GIT_COMMITTER_IDENT", env=identity(author)).decode().strip()


class Repos:
    """Finds, makes, moves and removes them. Several processes may use one root."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "repos"
        self.trash = root / "trash"
        self._lock = root / "repos.lock"
        make_dirs(self.trash)
        for kind in KINDS:
            make_dirs(self.directory / kind)
        self._is_case_sensitive = not (self.directory / KINDS[0].upper()).exists()

    def find(self, kind: str, repo_id: RepoId) -> Repo:
        """Raises NotFoundError. The case of the letters does not matter."""
        exact = self._path(kind, repo_id)
        if self._is_case_sensitive and exact.is_dir():
            return Repo(kind, repo_id, exact)
        for owner in _same(self.directory / kind, repo_id.owner):
            for path in _same(owner, f"{repo_id.name}.git"):
                return Repo(kind, RepoId(f"{owner.name}/{path.name.removesuffix('.git')}"), path)
        raise NotFoundError("E-HUB-REPO", "Repository not found")

    def _path(self, kind: str, repo_id: RepoId) -> Path:
        return self.directory / kind / repo_id.owner / f"{repo_id.name}.git"

    def __iter__(self) -> Iterator[Repo]:
        for kind in KINDS:
            yield from self.of_kind(kind)

    def of_kind(self, kind: str) -> Iterator[Repo]:
        for owner in sorted(_entries(self.directory / kind), key=lambda entry: entry.name.lower()):
            for entry in sorted(_entries(Path(owner.path)), key=lambda entry: entry.name.lower()):
                if entry.name.startswith(TEMP_PREFIX) or not entry.name.endswith(".git"):
                    continue
                with contextlib.suppress(SecurityError):
                    repo_id = RepoId(f"{owner.name}/{entry.name.removesuffix('.git')}")
                    yield Repo(kind, repo_id, Path(entry.path))

    def create(self, kind: str, repo_id: RepoId, *, author: str) -> Repo:
        """A repository with one commit that holds its .gitattributes. Raises ConflictError when the name is taken."""
        with locks.hold(self._lock, "the list of repositories", wait_s=10):
            with contextlib.suppress(NotFoundError):
                taken = self.find(kind, repo_id)
                raise ConflictError("E-HUB-TAKEN", f"A {kind[:-1]} repository called {taken.id} already exists")
            owner = next(_same(self.directory / kind, repo_id.owner), self.directory / kind / repo_id.owner)
            target = owner / f"{repo_id.name}.git"
            with publish_dir(target) as temp:
                _init(temp, author)
            return Repo(kind, RepoId(f"{owner.name}/{repo_id.name}"), target)

    def move(self, repo: Repo, new_id: RepoId) -> Repo:
        with locks.hold(self._lock, "the list of repositories", wait_s=10):
            with contextlib.suppress(NotFoundError):
                taken = self.find(repo.kind, new_id)
                if taken.path != repo.path:
                    raise ConflictError(
                        "E-HUB-TAKEN", f"A {repo.kind[:-1]} repository called {taken.id} already exists"
                    )
            target = self._path(repo.kind, new_id)
            make_dirs(target.parent)
            try:
                DISK.rename(repo.path, target)
                DISK.fsync_dir(target.parent)
                DISK.fsync_dir(repo.path.parent)
            except OSError as error:
                raise from_os_error(error, str(new_id)) from error
            return Repo(repo.kind, new_id, target)

    def remove(self, repo: Repo) -> None:
        """It is gone at once; its large objects go with the next collection."""
        grave = self.trash / secrets.token_hex(8)
        with locks.hold(self._lock, "the list of repositories", wait_s=10):
            try:
                DISK.rename(repo.path, grave)
                DISK.fsync_dir(repo.path.parent)
            except FileNotFoundError as error:
                raise NotFoundError("E-HUB-REPO", "Repository not found") from error
        shutil.rmtree(grave, ignore_errors=True)


def _init(directory: Path, author: str) -> None:
    run_git(directory, "init", "--quiet", "--bare", "--initial-branch=main", "--template=", "--object-format=sha1")
    sections: dict[str, list[str]] = {}
    for name, value in CONFIG.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f"\t{key} = {value}\n")
    with (directory / "config").open("a", encoding="utf-8") as stream:
        for section, lines in sections.items():
            stream.write(f"[{section}]\n" + "".join(lines))
    data = DEFAULT_GITATTRIBUTES.encode()
    blob = run_git(directory, "hash-object", "-w", "--stdin", stdin=data).decode().strip()
    tree = run_git(directory, "mktree", stdin=f"100644 blob {blob}\t.gitattributes\n".encode()).decode().strip()
    commit = run_git(directory, "commit-tree", tree, stdin=b"initial commit", env=identity(author)).decode().strip()
    run_git(directory, "update-ref", f"refs/heads/{MAIN}", commit)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _same(directory: Path, name: str) -> Iterator[Path]:
    return (Path(entry.path) for entry in _entries(directory) if entry.name.lower() == name.lower())
