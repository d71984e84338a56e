"""One small file more in somebody's repository: a reproduction's record, as one commit on a checked parent, read back.

Nothing that stands there is changed or deleted; two people who attach at once both get in, one after the other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hubtool.core.digests import git_blob_sha1, sha256_file
from hubtool.core.errors import ConflictError, IntegrityError, NotFoundError
from hubtool.core.ids import CommitSha, RepoId, RepoPath, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import list_files
from hubtool.hub.push import read_head

_MAX_TRIES = 5


def attach(hub: Hub, repo_id: str, path: str, data: bytes, *, title: str, revision: str = "main") -> CommitSha:
    """Add the file ``path`` and return the commit; where it stands already with these bytes, the present head.

    Raises ConflictError (7) where another file has that name, or the branch keeps moving; NotFoundError (4) for a
    repository that is not there or may not be written.
    """
    repo, place = RepoId(repo_id), RepoPath(path)
    with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(data)
        for _ in range(_MAX_TRIES):
            head = read_head(hub, repo, Revision(revision))
            if head is None or head.snapshot is None:
                raise NotFoundError("E-HUB-404", f"there is no {repo}", where=hub.name)
            listed = head.snapshot.files.get(place)
            if listed is not None:
                if listed.oid != _oid(file, listed.oid):
                    raise ConflictError("E-HUB-TAKEN", f"{place} stands there with other bytes", where=repo)
                return head.snapshot.commit
            try:
                commit = _commit(hub, repo, place, file, title, revision, head.snapshot.commit)
            except ConflictError:
                continue
            listed = list_files(hub, repo, commit).files.get(place)
            if listed is None or listed.oid != _oid(file, listed.oid):
                raise IntegrityError(
                    "E-INTEGRITY", f"read back, {place} is not what was sent", where=f"{repo}@{commit[:8]}"
                )
            return commit
    raise ConflictError("E-HUB-MOVED", f"{revision} moved {_MAX_TRIES} times in a row", where=repo, do="run it again")


def _oid(file: Path, like: str) -> str:
    return sha256_file(file) if len(like) == 64 else git_blob_sha1(file)


def _commit(hub: Hub, repo: RepoId, place: RepoPath, file: Path, title: str, revision: str, parent: str) -> CommitSha:
    from huggingface_hub import CommitOperationAdd

    def send(api: Any) -> str:
        operation = CommitOperationAdd(path_in_repo=place, path_or_fileobj=str(file))
        info = api.create_commit(repo, [operation], commit_message=title, revision=revision, parent_commit=parent)
        return str(info.oid)

    return CommitSha(hub.call(repo, send))
