"""Pushing a package: a plan that says what would change, one commit on a checked parent, and the result read back.

``HfApi.create_commit(parent_commit=…)`` is the one call of the client library that is atomic (``upload_folder`` makes
several commits). A repository becomes the package: files the former package had and this one has not are deleted in the
same commit; files that no package listed are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hubtool.core.digests import git_blob_sha1, sha256_file
from hubtool.core.errors import (
    ConflictError,
    HubtoolError,
    IntegrityError,
    NotFoundError,
    SecurityError,
    UnavailableError,
)
from hubtool.core.files import safe_walk
from hubtool.core.ids import CommitSha, RepoId, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import Snapshot, check_manifest, fetch_files, list_files
from hubtool.hub.listing import Listed, differing
from hubtool.hub.translate import offline, words
from hubtool.records import reproductions
from hubtool.records.backbone import FileDigest
from hubtool.records.package import MANIFEST_NAME, PackageManifest
from hubtool.records.reports import PushPlan
from hubtool.records.run import Result

# What a hub, a client or a reproduction leaves in a package's directory: not part of it.


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a branch of a repository holds now; ``snapshot`` is None for a repository without a commit."""

    is_private: bool
    is_branch: bool
    snapshot: Snapshot | None


def plan(
    hub: Hub,
    package: Path,
    repo_id: str,
    *,
    revision: str = "main",
    is_public: bool = False,
    shares: Sequence[str] = (),
) -> PushPlan:
    """Compare the package with what the branch holds; sends nothing but questions.

    ``shares`` says in words what of the user's data goes out. Raises IntegrityError (5) when the package is not what its
    manifest says, SecurityError (6) for names and links, NotFoundError (4) without a right to look.
    """
    repo, branch = RepoId(repo_id), Revision(revision)
    files = package_files(package)
    head = read_head(hub, repo, branch)
    snapshot = head.snapshot if head else None
    remote = snapshot.files if snapshot else {}
    unchanged = [file.path for file in files if file.path in remote and is_same(package / file.path, remote[file.path])]
    return PushPlan(
        endpoint=hub.endpoint,
        repo_id=repo,
        revision=branch,
        parent=snapshot.commit if snapshot else None,
        is_new_repo=head is None,
        is_private=head.is_private if head else not is_public,
        adds=tuple(file for file in files if file.path not in unchanged),
        unchanged=tuple(unchanged),
        deletes=tuple(sorted(_former_names(hub, snapshot) - {file.path for file in files})) if snapshot else (),
        shares=tuple(shares),
    )


def push(hub: Hub, plan: PushPlan, package: Path, *, message: str | None = None) -> CommitSha:
    """Send the plan as one commit and read it back; returns the commit. What is there already is not sent again.

    Raises ConflictError (7) when the branch moved since the plan, telling who moved it; nothing was then changed.
    """
    files = package_files(package)
    parent = prepare(hub, plan)
    if not plan.adds and not plan.deletes and parent is not None:
        return CommitSha(parent)
    title = message or f"Push {plan.repo_id} with hubtool"
    try:
        commit = commit_plan(hub, plan, package, parent, title)
    except (UnavailableError, IntegrityError, ConflictError) as error:
        commit_after = _landed(hub, plan, package, files, parent)
        if commit_after is None:
            raise _told(hub, plan, parent, error) from error
        hub.reporter.say("the hub's reply was lost, the commit is there")
        commit = commit_after
    _read_back(hub, plan, package, files, commit)
    return commit


def package_files(package: Path) -> tuple[FileDigest, ...]:
    """Every file of a package, hubtool.json too, checked against its manifest; then the reproductions beside it that count.

    Raises NotFoundError where there is none, IntegrityError naming what differs, SecurityError for links and devices.
    """
    path = package / MANIFEST_NAME
    if not path.is_file():
        raise NotFoundError(
            "E-PACKAGE", f"no {MANIFEST_NAME} in it", where=str(package), do="`hubtool pack RUN` makes one"
        )
    manifest = PackageManifest.read(path)
    listed = check_manifest(manifest, str(package))
    for name, _ in safe_walk(package):
        if (package / name).is_symlink():
            raise SecurityError("E-PATH-LINK", "a link in the package", where=name, do="put the file itself there")
        if name not in listed and name != MANIFEST_NAME and not reproductions.BESIDE.fullmatch(name):
            raise IntegrityError(
                "E-PACKAGE-UNLISTED", f"{name} is not on the manifest", where=str(package), do="pack again"
            )
    problems = differing(package, manifest.files)
    if problems:
        raise IntegrityError("E-INTEGRITY", "; ".join(problems[:10]), where=str(package), do="pack again")
    beside = [MANIFEST_NAME]
    if reproductions.found(package):
        counted = reproductions.counted(package, Result.read(package / "result.json"))
        beside += map(reproductions.path_of, counted)
    return (*manifest.files, *(_digest(package, name) for name in beside))


def _digest(package: Path, name: str) -> FileDigest:
    path = package / name
    return FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))


def read_head(hub: Hub, repo: RepoId, branch: Revision) -> Head | None:
    """The branch as it is now, or the main branch where a push would begin it; None for a repository that is not there."""
    if hub.is_offline:
        raise offline(hub, repo)
    try:
        info = hub.call(repo, lambda api: api.model_info(repo))
    except NotFoundError as error:
        if error.code == "E-HUB-404" or (error.code == "E-HUB-401" and hub.token):
            return None
        raise
    is_branch, sha = True, info.sha
    if branch != "main":
        try:
            sha = hub.call(f"{repo}@{branch}", lambda api: api.model_info(repo, revision=branch)).sha
        except NotFoundError as error:
            if error.code not in ("E-HUB-REVISION", "E-HUB-404"):
                raise
            is_branch = False
    snapshot = list_files(hub, repo, CommitSha(str(sha))) if sha else None
    return Head(is_private=bool(info.private), is_branch=is_branch, snapshot=snapshot)


def standing(hub: Hub, repo_id: str, revision: str = "main") -> tuple[str | None, dict[str, bytes]]:
    """What others wrote in the repository: the text of its card, None where there is none; its records of reproductions."""
    head = read_head(hub, RepoId(repo_id), Revision(revision))
    if head is None or head.snapshot is None:
        return None, {}
    return read_standing(hub, head.snapshot)


def read_standing(hub: Hub, snapshot: Snapshot) -> tuple[str | None, dict[str, bytes]]:
    """The same of a commit; records are path → bytes, not yet read as records."""
    wanted = sorted(
        name
        for name, file in snapshot.files.items()
        if name == "README.md" or (reproductions.NAME.fullmatch(name) and file.size_bytes <= reproductions.MAX_BYTES)
    )
    data = {name: path.read_bytes() for name, path in fetch_files(hub, snapshot, wanted).items()}
    card = data.pop("README.md", None)
    return (None if card is None else card.decode("utf-8", errors="replace")), data


def is_same(path: Path, remote: Listed) -> bool:
    if path.stat().st_size != remote.size_bytes:
        return False
    return remote.oid == (sha256_file(path) if len(remote.oid) == 64 else git_blob_sha1(path))


def _former_names(hub: Hub, snapshot: Snapshot) -> set[str]:
    """The files of the package that stands there now; empty where what stands there is none of ours."""
    if MANIFEST_NAME not in snapshot.files:
        return set()
    try:
        manifest = PackageManifest.read(fetch_files(hub, snapshot, [MANIFEST_NAME])[MANIFEST_NAME])
        return check_manifest(manifest, snapshot.repo_id) & snapshot.files.keys()
    except (IntegrityError, SecurityError):
        return set()


def prepare(hub: Hub, plan: PushPlan) -> str | None:
    """The repository and the branch are there; returns the commit to build on."""
    repo, branch = RepoId(plan.repo_id), Revision(plan.revision)
    if plan.is_new_repo:
        private = plan.is_private
        hub.call(repo, lambda api: api.create_repo(repo, private=private, exist_ok=True))
        head = read_head(hub, repo, branch)
        if head is not None and head.is_private != private:
            word = "private" if head.is_private else "public"
            raise ConflictError(
                "E-HUB-MOVED", f"{repo} was made meanwhile, and is {word}", do="look at it, then push again"
            )
        parent = head.snapshot.commit if head and head.snapshot else None
    else:
        parent = CommitSha(plan.parent) if plan.parent else None
    if branch != "main":
        start: str | None = parent
        hub.call(repo, lambda api: api.create_branch(repo, branch=branch, revision=start, exist_ok=True))
    return parent


def commit_plan(hub: Hub, plan: PushPlan, package: Path, parent: str | None, title: str) -> CommitSha:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    def send(api: Any) -> str:
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=str(package / file.path)) for file in plan.adds
        ]
        operations += [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in plan.deletes]
        with disable_progress_bars():
            info = api.create_commit(
                plan.repo_id, operations, commit_message=title, revision=plan.revision, parent_commit=parent
            )
        return str(info.oid)

    # Sent again only on a checked parent: without one, a lost reply would make a second commit.
    return CommitSha(hub.call(plan.repo_id, send, again=parent is not None))


def _landed(
    hub: Hub, plan: PushPlan, package: Path, files: tuple[FileDigest, ...], parent: str | None
) -> CommitSha | None:
    """The head, if it holds exactly what was sent although the reply says otherwise or never came."""
    try:
        head = read_head(hub, RepoId(plan.repo_id), Revision(plan.revision))
    except HubtoolError:
        return None
    if head is None or head.snapshot is None or not head.is_branch or head.snapshot.commit == parent:
        return None
    return head.snapshot.commit if not _differences(head.snapshot, package, files, plan) else None


def _differences(snapshot: Snapshot, package: Path, files: tuple[FileDigest, ...], plan: PushPlan) -> list[str]:
    wrong = [f.path for f in files if f.path not in snapshot.files]
    wrong += [
        f.path for f in files if f.path in snapshot.files and not is_same(package / f.path, snapshot.files[f.path])
    ]
    return wrong + [f"{name} (not deleted)" for name in plan.deletes if name in snapshot.files]


def _read_back(hub: Hub, plan: PushPlan, package: Path, files: tuple[FileDigest, ...], commit: CommitSha) -> None:
    """The listing of the new commit, and the bytes of its manifest, are what was sent."""
    snapshot = list_files(hub, RepoId(plan.repo_id), commit)
    wrong = _differences(snapshot, package, files, plan)
    if not wrong:
        path = fetch_files(hub, snapshot, [MANIFEST_NAME])[MANIFEST_NAME]
        wrong = [] if path.read_bytes() == (package / MANIFEST_NAME).read_bytes() else [MANIFEST_NAME]
    if wrong:
        raise IntegrityError(
            "E-INTEGRITY",
            f"read back, the hub holds other bytes: {', '.join(wrong[:10])}",
            where=f"{plan.repo_id}@{commit[:8]} on {hub.name}",
            do="do not announce this commit; push again",
        )


def _told(hub: Hub, plan: PushPlan, parent: str | None, error: HubtoolError) -> HubtoolError:
    """A conflict with who moved the branch, and when; any other error as it is."""
    if not isinstance(error, ConflictError):
        return error
    try:
        commits = hub.call(
            plan.repo_id, lambda api: api.list_repo_commits(plan.repo_id, revision=plan.revision), again=False
        )
    except HubtoolError:
        return error
    if not commits or commits[0].commit_id == parent:
        return error
    last = commits[0]
    author = words(hub, ", ".join(map(str, last.authors))) or "somebody"
    return ConflictError(
        "E-HUB-MOVED",
        f"{plan.revision} is now {last.commit_id[:8]} (by {author}, {_ago(last.created_at)})",
        where=f"{plan.repo_id} on {hub.name}",
        do="run it again to push on top",
    )


def _ago(when: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - when).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
