"""A run's mirror in a repository: the newest checkpoint and what belongs to it, replaced by one commit on a checked parent."""

from __future__ import annotations

import shutil
from pathlib import Path

from hubtool.core.errors import ConflictError, IntegrityError, SecurityError
from hubtool.core.files import make_dirs
from hubtool.core.ids import RepoId, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import Snapshot, fetch_files
from hubtool.hub.listing import differing, digest_files
from hubtool.hub.push import commit_plan, is_same, prepare, read_head
from hubtool.records.reports import PushPlan
from hubtool.records.state import MIRROR, MirrorManifest

_BRANCH = Revision("main")
_NOT_OURS_ALONE = {".gitattributes", "README.md"}


def newest(hub: Hub, repo: RepoId) -> MirrorManifest | None:
    """What the repository holds now; None where it is empty or not there. Raises ConflictError for one that is no mirror."""
    return _read(hub, repo)[1]


def send(hub: Hub, repo: RepoId, directory: Path, manifest: MirrorManifest) -> None:
    """Make the repository hold ``directory``; what is there already is not sent again. A new one is private.

    Raises SecurityError where others could read it.
    """
    snapshot, _, is_private = _read(hub, repo)
    if not is_private and not hub.is_on_loopback:
        raise SecurityError("E-MIRROR-PUBLIC", "the repository is public", where=repo, do="make it private")
    files = digest_files(directory, [*(file.path for file in manifest.files), MIRROR])
    there = snapshot.files if snapshot else {}
    same = tuple(f.path for f in files if f.path in there and is_same(directory / f.path, there[f.path]))
    plan = PushPlan(
        endpoint=hub.endpoint,
        repo_id=repo,
        revision=_BRANCH,
        parent=snapshot.commit if snapshot else None,
        is_new_repo=snapshot is None,
        is_private=is_private,
        adds=tuple(file for file in files if file.path not in same),
        unchanged=same,
        deletes=tuple(sorted(there.keys() - {file.path for file in files} - _NOT_OURS_ALONE)),
        shares=(),
    )
    commit_plan(hub, plan, directory, prepare(hub, plan), f"Checkpoint {manifest.checkpoint}")


def fetch(hub: Hub, repo: RepoId, directory: Path) -> MirrorManifest:
    """Bring it into an empty directory, each file compared with the hub's listing and with the manifest."""
    snapshot, manifest, _ = _read(hub, repo)
    if snapshot is None or manifest is None:
        raise IntegrityError("E-MIRROR", "the mirror is empty now", where=repo)
    missing = [file.path for file in manifest.files if file.path not in snapshot.files]
    if missing:
        raise IntegrityError("E-MIRROR", f"{missing[0]} is missing", where=f"{repo} on {hub.name}")
    for name, path in fetch_files(hub, snapshot, [file.path for file in manifest.files]).items():
        make_dirs((directory / name).parent)
        shutil.copyfile(path, directory / name)
    problems = differing(directory, manifest.files)
    if problems:
        raise IntegrityError("E-INTEGRITY", problems[0], where=f"{repo} on {hub.name}")
    return manifest


def _read(hub: Hub, repo: RepoId) -> tuple[Snapshot | None, MirrorManifest | None, bool]:
    """What stands there, its manifest, and whether it is private (as one that is not there would be made)."""
    head = read_head(hub, repo, _BRANCH)
    if head is None or head.snapshot is None:
        return None, None, head.is_private if head else True
    snapshot = head.snapshot
    if MIRROR not in snapshot.files:
        strange = sorted(snapshot.files.keys() - _NOT_OURS_ALONE)
        if strange:
            raise ConflictError(
                "E-MIRROR-PLACE", f"no mirror, it holds {strange[0]!a}", where=repo, do="name a new repository"
            )
        return snapshot, None, head.is_private
    path = fetch_files(hub, snapshot, [MIRROR])[MIRROR]
    return snapshot, MirrorManifest.read(path), head.is_private
