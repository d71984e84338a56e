"""Looking after a store: every byte checked, what nobody needs removed, everything copied. Each is safe while it serves."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from hubtool.core import locks
from hubtool.core.errors import HubtoolError, NotFoundError, UsageError
from hubtool.core.files import TEMP_PREFIX, publish_dir
from hubtool.core.ids import Oid
from hubtool.core.progress import SILENT, Reporter
from hubtool.records.hub import BackupReport, FsckReport, GcReport, HubFinding
from hubtool.server.gitdir import HIDDEN_REFS, NO_SHA, GitDir
from hubtool.server.gitprocess import git_environment, git_program, run_git
from hubtool.server.history import pointers
from hubtool.server.repos import Repo
from hubtool.server.store import Store

GRACE_S = 24 * 3600.0
_MAX_GIT_LINES = 20


# fsck


def fsck(store: Store, *, reporter: Reporter = SILENT) -> FsckReport:
    """Re-hash every object, check every repository with git, follow every pointer. Changes nothing."""
    findings: list[HubFinding] = []
    num_objects, size_bytes, repos = 0, 0, list(store.repos)
    damaged: set[Oid] = set()
    store.objects.forget()
    with reporter.task("objects") as task:
        for oid in store.objects:
            num_objects += 1
            with contextlib.suppress(NotFoundError):  # collected meanwhile
                size_bytes += store.objects.size_bytes(oid)
                problem = store.objects.problem(oid)
                if problem and store.objects.has(oid):
                    damaged.add(oid)
                    findings.append(HubFinding(kind="object", where=oid, what=problem))
            task.advance(1)
    with reporter.task("repositories", len(repos)) as task:
        for repo in repos:
            findings += _check_repo(store, repo, damaged)
            task.advance(1)
    verdict = store.accounts.check()
    if verdict != "ok":
        findings.append(HubFinding(kind="accounts", where="hub.sqlite", what=verdict))
    return FsckReport(num_repos=len(repos), num_objects=num_objects, size_bytes=size_bytes, findings=tuple(findings))


def _check_repo(store: Store, repo: Repo, damaged: set[Oid]) -> list[HubFinding]:
    name = f"{repo.kind}/{repo.id}"
    findings = [HubFinding(kind="git", where=name, what=line) for line in _git_fsck(repo.path)]
    try:
        for pointer, path in pointers(repo.path).items():
            where = f"{name} {path}"
            if not repo.has_object(pointer.oid) or not store.objects.has(pointer.oid):
                what = f"its bytes ({pointer.oid}) are not here"
            elif pointer.oid in damaged:
                what = f"its bytes ({pointer.oid}) are damaged"
            elif store.objects.size_bytes(pointer.oid) != pointer.size_bytes:
                what = f"its bytes ({pointer.oid}) have another size than {pointer.size_bytes}"
            else:
                continue
            findings.append(HubFinding(kind="pointer", where=where, what=what))
    except (HubtoolError, ValueError) as error:
        findings.append(HubFinding(kind="git", where=name, what=f"the history cannot be read: {error}"))
    return findings


def _git_fsck(directory: Path) -> list[str]:
    done = subprocess.run(
        [git_program(), f"--git-dir={directory}", "fsck", "--full", "--strict", "--no-dangling", "--no-progress"],
        capture_output=True,
        env=git_environment(),
        cwd="/",
        check=False,
    )
    if done.returncode == 0:
        return []
    text = (done.stdout + done.stderr).decode("utf-8", "replace").replace(str(directory), directory.name)
    return [line[:300] for line in text.splitlines() if line.strip()][:_MAX_GIT_LINES] or ["git fsck failed"]


# gc


def collect(store: Store, *, grace_s: float = GRACE_S, reporter: Reporter = SILENT) -> GcReport:
    """Remove what no repository refers to and nobody sent within ``grace_s`` seconds. One at a time per root."""
    with locks.hold(store.root / "gc.lock", "the collection of this hub", wait_s=0.2):
        before = time.time() - grace_s
        for repo in store.repos:
            with contextlib.suppress(HubtoolError):  # damaged: fsck names it, and nothing of it is removed
                _collect_repo(store, repo, before)
        kept = {oid for repo in store.repos for oid in repo.objects()}
        num, freed = 0, 0
        with reporter.task("objects") as task:
            for oid in store.objects:
                if oid not in kept:
                    size = _collect_object(store, oid, before)
                    num, freed = num + (size is not None), freed + (size or 0)
                task.advance(1)
        freed += _collect_xorbs(store, before)
        freed += _collect_leftovers(store, before)
    return GcReport(num_objects=num, freed_bytes=freed, num_kept=len(kept))


def _collect_repo(store: Store, repo: Repo, before: float) -> None:
    git = repo.git
    _drop_hidden_refs(git)
    for report in repo.path.glob("fast_import_crash_*"):
        report.unlink(missing_ok=True)
    run_git(repo.path, "gc", "--quiet", "--prune=2.weeks.ago")
    refs = git.refs()
    wanted = {pointer.oid for pointer in pointers(repo.path)}
    with store.objects.collecting():
        if git.refs() != refs:
            return  # somebody pushed meanwhile: next time
        for oid in list(repo.objects()):
            age = repo.object_age(oid)
            if oid not in wanted and age is not None and age < before:
                repo.unlink_object(oid)


def _drop_hidden_refs(git: GitDir) -> None:
    """References of commits that a kill left half-way, an hour old."""
    lines = run_git(git.path, "for-each-ref", "--format=%(refname) %(objectname) %(committerdate:unix)", HIDDEN_REFS)
    for line in lines.decode().splitlines():
        name, sha, when = line.split()
        if float(when) < time.time() - 3600:
            git.update_refs([(name, NO_SHA, sha)])


def _collect_object(store: Store, oid: Oid, before: float) -> int | None:
    """The bytes freed, or None when the object stays: it is young, or came back while we looked."""
    objects = store.objects
    with objects.collecting(), contextlib.suppress(NotFoundError):
        if objects.modified(oid) < before and not any(repo.has_object(oid) for repo in store.repos):
            return objects.remove(oid)
    return None


def _collect_xorbs(store: Store, before: float) -> int:
    """Remove old xorbs that no file is made of. A client may believe them here, so another epoch begins first."""
    needed = {term.xorb for oid in store.objects for term in store.objects.parts(oid) or ()}
    freed, xorbs = 0, store.xorbs
    for name in [name for name in xorbs if name not in needed]:
        path = xorbs.path(name)
        with store.objects.collecting(), contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime < before:
                if not freed:
                    xorbs.new_epoch()
                path.unlink()
                freed += stat.st_size
    return freed


def _collect_leftovers(store: Store, before: float) -> int:
    freed = 0
    places = [store.objects.incoming, store.repos.trash]
    places += [Path(owner) for kind in ("models", "datasets") for owner in (store.repos.directory / kind).iterdir()]
    for place in places:
        for path in list(place.iterdir()):
            is_ours = place in places[:2] or path.name.startswith(TEMP_PREFIX)
            with contextlib.suppress(OSError):
                if is_ours and path.lstat().st_mtime < before:
                    freed += path.lstat().st_size
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed


# backup


def backup(store: Store, target: Path, *, reporter: Reporter = SILENT) -> BackupReport:
    """A copy that can be served as it is. What was acknowledged before the call is in it, whole.

    Names are copied before what they name (refs, then git objects, then large objects), and each only ever refers to
    what was durable before it. The copy begins an epoch of its own: clients may not know what it lacks.
    """
    if target.exists():
        raise UsageError("E-HUB-BACKUP", "the directory is there already", where=str(target), do="name a new one")
    if target.absolute().is_relative_to(store.root):
        raise UsageError("E-HUB-BACKUP", "a backup inside the hub itself is none", where=str(target))
    with locks.hold(store.root / "gc.lock", "the collection of this hub", wait_s=60), publish_dir(target) as temp:
        store.flush()
        store.accounts.backup(temp / "hub.sqlite")
        for name in ("hub.json", "secret"):
            shutil.copy2(store.root / name, temp / name)
        repos = list(store.repos)
        with reporter.task("repositories", len(repos)) as task:
            for repo in repos:
                _copy_repo(repo.path, temp / repo.path.relative_to(store.root))
                task.advance(1)
        num, size = 0, 0
        with reporter.task("objects") as task:
            for oid in list(store.objects):
                num, size = num + 1, size + store.objects.size_bytes(oid)
            for name in ("objects", "xorbs"):  # files before the chunks they are made of
                for source in sorted((store.root / name).glob("*/*")):
                    copy = temp / source.relative_to(store.root)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, copy)
                    task.advance(1)
        return BackupReport(directory=str(target), num_repos=len(repos), num_objects=num, size_bytes=size)


def _copy_repo(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("HEAD", "config", "refs", "packed-refs", "lfs", "objects"):
        path = source / name
        if path.is_dir():
            _copy_tree(path, target / name)
        elif path.exists():
            shutil.copy2(path, target / name)


def _copy_tree(source: Path, target: Path) -> None:
    """Files that vanish while we copy are temporary ones."""
    for directory, path in _walk(source):
        copy = target / directory.relative_to(source)
        copy.mkdir(parents=True, exist_ok=True)
        if path is not None and not path.name.endswith(".lock") and not path.name.startswith("tmp_"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(path, copy / path.name)


def _walk(source: Path) -> Iterator[tuple[Path, Path | None]]:
    for directory, names, files in os.walk(source):
        names[:] = [name for name in names if not name.startswith(("incoming-", "tmp_objdir"))]
        yield Path(directory), None
        for name in files:
            yield Path(directory), Path(directory, name)
