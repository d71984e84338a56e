"""A run's mirror in a repository: the newest checkpoint and what belongs to it, replaced by one commit on a checked parent."""

from __future__ import annotations

import shutil
from pathlib import Path

from hubtool.core.errors import ConflictError, IntegrityError, SecurityError, UsageError
from hubtool.core.files import make_dirs
from hubtool.core.ids import RepoId, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import fetch_files
from hubtool.hub.listing import differing, digest_files
from hubtool.hub.push import Head, commit_plan, is_same, read_head
from hubtool.records.reports import PushPlan
from hubtool.records.state import MIRROR, MirrorManifest

_BRANCH = Revision("main")
_DAMAGED = "remove it there, or name another --mirror"
_NOT_OURS_ALONE = {".gitattributes", "README.md"}


def newest(hub: Hub, repo: RepoId) -> MirrorManifest | None:
    """What the repository holds now; None where it is empty or, on loopback, not there.

    Raises ConflictError for one that is no mirror, UsageError for one that is not there on a hub that is not on loopback.
    """
    return _read(hub, repo)[1]


def send(hub: Hub, repo: RepoId, directory: Path, manifest: MirrorManifest) -> None:
    """Make the repository hold ``directory``; what is there already is not sent again. A new one is private.

    Raises ConflictError where it stands further or is of another run, or moves meanwhile; SecurityError where others could
    read it.
    """
    head, there = _read(hub, repo)
    if head is None:
        hub.call(repo, lambda api: api.create_repo(repo, private=True, exist_ok=True))
        head, there = _read(hub, repo)
    if there is not None:
        there.refuse_replacing(manifest, f"{repo} on {hub.name}")
    if head is None or not (head.is_private or hub.is_on_loopback):
        raise SecurityError("E-MIRROR-PUBLIC", "the repository is public", where=repo, do="make it private")
    files = digest_files(directory, [*(file.path for file in manifest.files), MIRROR])
    standing = head.snapshot.files if head.snapshot else {}
    same = tuple(f.path for f in files if f.path in standing and is_same(directory / f.path, standing[f.path]))
    parent = head.snapshot.commit if head.snapshot else None
    plan = PushPlan(
        endpoint=hub.endpoint,
        repo_id=repo,
        revision=_BRANCH,
        parent=parent,
        is_new_repo=False,
        is_private=head.is_private,
        adds=tuple(file for file in files if file.path not in same),
        unchanged=same,
        deletes=tuple(sorted(standing.keys() - {file.path for file in files} - _NOT_OURS_ALONE)),
        shares=(),
    )
    if plan.adds or plan.deletes:
        commit_plan(hub, plan, directory, parent, f"Checkpoint {manifest.checkpoint}")


def fetch(hub: Hub, repo: RepoId, directory: Path) -> MirrorManifest:
    """Bring it into an empty directory, each file compared with the hub's listing and with the manifest."""
    head, manifest = _read(hub, repo)
    if head is None or head.snapshot is None or manifest is None:
        raise IntegrityError(
            "E-MIRROR", "the mirror is empty now", where=f"{repo} on {hub.name}", do="start the command again"
        )
    snapshot = head.snapshot
    missing = [file.path for file in manifest.files if file.path not in snapshot.files]
    if missing:
        raise IntegrityError("E-MIRROR", f"{missing[0]} is missing", where=f"{repo} on {hub.name}", do=_DAMAGED)
    for name, path in fetch_files(hub, snapshot, [file.path for file in manifest.files]).items():
        make_dirs((directory / name).parent)
        shutil.copyfile(path, directory / name)
    problems = differing(directory, manifest.files)
    if problems:
        raise IntegrityError("E-INTEGRITY", problems[0], where=f"{repo} on {hub.name}", do=_DAMAGED)
    return manifest


def _read(hub: Hub, repo: RepoId) -> tuple[Head | None, MirrorManifest | None]:
    """What stands there and its manifest. A repository is made without being asked on loopback only."""
    head = read_head(hub, repo, _BRANCH)
    if head is None and not hub.is_on_loopback:
        raise UsageError(
            "E-MIRROR-404",
            f"there is no repository {repo}, or the token does not open it",
            where=hub.name,
            do=f"make it there first, private; or write ./{repo} for a directory",
        )
    if head is None or head.snapshot is None:
        return head, None
    snapshot = head.snapshot
    if MIRROR not in snapshot.files:
        strange = sorted(snapshot.files.keys() - _NOT_OURS_ALONE)
        if strange:
            raise ConflictError(
                "E-MIRROR-PLACE", f"no mirror, it holds {strange[0]!a}", where=repo, do="name a new repository"
            )
        return head, None
    return head, MirrorManifest.read(fetch_files(hub, snapshot, [MIRROR])[MIRROR])
