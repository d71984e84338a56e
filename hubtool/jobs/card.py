"""hubtool card: the model card of a run, a package or a repository."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import parse_repo_ref

FILE_NAME = "README.md"


def card(target: str | Path, *, hub: str | None = None, reporter: Reporter = SILENT) -> str:
    """The text of the card: as it stands in a package or repository; of a run as it would be packed.

    Raises UsageError for a backbone, NotFoundError where there is no card.
    """
    from hubtool.hub.fetch import fetch_repo
    from hubtool.jobs import endpoint
    from hubtool.jobs.pack import pack
    from hubtool.jobs.target import find_target

    found = find_target(str(target))
    if found.kind == "backbone":
        raise UsageError("E-TARGET", f"{found.name!a} is a backbone", do=f"hubtool show {found.name}")
    if found.path is not None and found.kind == "package":
        return _read(found.path)
    if found.path is not None:
        with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
            return _read(Path(pack(found.path, out=Path(folder) / "package", reporter=reporter).package))
    ref = parse_repo_ref(found.name)
    with endpoint.reading(hub, repo=ref.repo_id, reporter=reporter) as opened:
        _, directory, _ = fetch_repo(opened, ref.repo_id, ref.revision, wanted=(FILE_NAME,))
    return _read(directory)


def _read(directory: Path) -> str:
    path = directory / FILE_NAME
    if not path.is_file():
        raise NotFoundError("E-CARD-404", "there is no card", where=str(directory))
    return path.read_text(encoding="utf-8")
