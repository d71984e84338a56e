"""One small file more in somebody's repository: a reproduction's record, as one commit on a checked parent, read back.

Nothing that stands there is deleted, and nothing changed but what the caller makes anew from it. Two people who attach at
once both get in, one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hubtool.core.digests import git_blob_sha1, sha256_file
from hubtool.core.errors import ConflictError, IntegrityError, NotFoundError
from hubtool.core.ids import CommitSha, RepoId, RepoPath, Revision
from hubtool.hub.client import Hub
from hubtool.hub.fetch import Snapshot, list_files
from hubtool.hub.push import read_head

_MAX_TRIES = 5


def attach(
    hub: Hub,
    repo_id: str,
    path: str,
    data: bytes,
    *,
    title: str,
    revision: str = "main",
    along: Callable[[Snapshot], Mapping[str, bytes]] = lambda _: {},
) -> CommitSha:
    """Add the file ``path`` and return the commit; where it stands already with these bytes, the present head.

    ``along`` gives the files that go in the same commit, for the head that it is made on: the card that counts the record.

    Raises ConflictError (7) where another file has that name, or the branch keeps moving; NotFoundError (4) for a
    repository that is not there or may not be written.
    """
    repo, place = RepoId(repo_id), RepoPath(path)
    for _ in range(_MAX_TRIES):
        head = read_head(hub, repo, Revision(revision))
        if head is None or head.snapshot is None:
            raise NotFoundError("E-HUB-404", f"there is no {repo}", where=hub.name)
        with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
            files = _write(Path(folder), {place: data, **along(head.snapshot)})
            missing = _missing(files, head.snapshot)
            if place in missing and place in head.snapshot.files:
                raise ConflictError("E-HUB-TAKEN", f"{place} stands there with other bytes", where=repo)
            if not missing:
                return head.snapshot.commit
            try:
                commit = _commit(hub, repo, missing, title, revision, head.snapshot.commit)
            except ConflictError:
                continue
            wrong = _missing(files, list_files(hub, repo, commit))
        if wrong:
            raise IntegrityError(
                "E-INTEGRITY", f"read back, {', '.join(wrong)} is not what was sent", where=f"{repo}@{commit[:8]}"
            )
        return commit
    raise ConflictError("E-HUB-MOVED", f"{revision} moved {_MAX_TRIES} times in a row", where=repo, do="run it again")


def _write(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    files = {}
    for number, (name, data) in enumerate(contents.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(data)
    return files


def _missing(files: Mapping[str, Path], snapshot: Snapshot) -> dict[str, Path]:
    """Those of ``files`` that do not stand there with these bytes."""
    listed = {name: snapshot.files.get(name) for name in files}
    return {
        name: path
        for name, path in files.items()
        if (there := listed[name]) is None or there.oid != _oid(path, there.oid)
    }


def _oid(file: Path, like: str) -> str:
    return sha256_file(file) if len(like) == 64 else git_blob_sha1(file)


def _commit(hub: Hub, repo: RepoId, files: Mapping[str, Path], title: str, revision: str, parent: str) -> CommitSha:
    from huggingface_hub import CommitOperationAdd

    def send(api: Any) -> str:
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
        info = api.create_commit(repo, operations, commit_message=title, revision=revision, parent_commit=parent)
        return str(info.oid)

    return CommitSha(hub.call(repo, send))
