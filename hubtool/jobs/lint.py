"""hubtool lint: what any model repository lacks for somebody else to use and reproduce it, each with its mend."""

from __future__ import annotations

from pathlib import Path

from hubtool.core.errors import NotFoundError
from hubtool.core.files import safe_walk
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import parse_repo_ref
from hubtool.package.lint import is_small
from hubtool.package.lint import lint as judge
from hubtool.records.reports import LintReport


def lint(target: str | Path, *, hub: str | None = None, reporter: Reporter = SILENT) -> LintReport:
    """Look at a repository OWNER/NAME[@REV] on a hub, or at a directory of this machine; weights are not fetched.

    Raises NotFoundError for what is neither, SecurityError for a listing that leaves the repository.
    """
    directory = Path(target).expanduser()
    if directory.is_dir():
        paths = dict(safe_walk(directory))
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        texts = {name: path.read_bytes() for name, path in paths.items() if is_small(name, sizes[name])}
    else:
        if str(target).count("/") != 1:
            raise NotFoundError(
                "E-TARGET-404", f"nothing is named {str(target)!a}", do="name a directory or OWNER/NAME"
            )
        sizes, texts = _from_hub(str(target), hub, reporter)
    findings, score = judge(sizes, texts)
    return LintReport(target=str(target), score=score, findings=findings)


def _from_hub(text: str, hub: str | None, reporter: Reporter) -> tuple[dict[str, int], dict[str, bytes]]:
    from hubtool.hub.fetch import fetch_files, resolve
    from hubtool.jobs import endpoint

    ref = parse_repo_ref(text)
    with endpoint.reading(hub, repo=ref.repo_id, reporter=reporter) as opened:
        snapshot = resolve(opened, ref.repo_id, ref.revision)
        sizes = {name: file.size_bytes for name, file in snapshot.files.items()}
        wanted = [name for name in sorted(sizes) if is_small(name, sizes[name])][:_MAX_FILES]
        paths = fetch_files(opened, snapshot, wanted)
        return sizes, {name: path.read_bytes() for name, path in paths.items()}


_MAX_FILES = 200
