"""hubtool push: a run or a package becomes a repository on a hub, in one commit that is read back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError, UsageError
from hubtool.core.ids import RepoId
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.hub import push as sending
from hubtool.hub.client import Hub
from hubtool.jobs import endpoint
from hubtool.package import build, card, check, secrets
from hubtool.records.package import MANIFEST_NAME, PackageManifest
from hubtool.records.registry import FILE_NAME, Published, add_published, read_registry
from hubtool.records.reports import PushPlan, PushReport


def push(  # noqa: PLR0913  one keyword for each option of the command
    target: str | Path,
    repo: str,
    *,
    hub: str | None = None,
    dry_run: bool = False,
    public: bool = False,
    revision: str = "main",
    commit_message: str | None = None,
    with_images: bool = False,
    with_names: bool = False,
    yes: bool = False,
    confirm: Callable[[PushPlan], bool] | None = None,
    reporter: Reporter = SILENT,
) -> PushReport:
    """Push the run or package directory ``target`` to ``repo`` (OWNER/NAME); a run is packed first.

    The plan is told to ``reporter`` before anything is sent; ``dry_run`` ends there. A first push to a hub that is not on
    loopback needs ``yes``, or a person behind ``confirm``. Raises UsageError (2), NotFoundError (4), IntegrityError (5),
    SecurityError (6), ConflictError (7), StorageError (8), UnavailableError (75).
    """
    repo_id = RepoId(repo)
    package = _packed(Path(target).expanduser(), with_images, with_names, reporter)
    _refuse_wrong(package)
    with endpoint.writing(hub, reporter=reporter) as opened, _place(package, dry_run) as place:
        manifest = _addressed(opened, place, repo_id, revision)
        plan = sending.plan(opened, place, repo_id, revision=revision, is_public=public, shares=build.shares(manifest))
        tell(plan, opened, reporter)
        if dry_run:
            return _report(opened, plan, None, False)
        _agree(opened, plan, yes, confirm)
        before = plan.parent
        commit = sending.push(opened, plan, place, message=commit_message)
        is_new = commit != before
        published = Published(repo_id=repo_id, hub=opened.name, commit=commit, license=manifest.license)
        add_published(read_settings().home / FILE_NAME, published)
        return _report(opened, plan, commit, is_new)


def tell(plan: PushPlan, hub: Hub, reporter: Reporter) -> None:
    """The plan in words, the destination first."""
    kind = "private" if plan.is_private else "public"
    where = f"{hub.name} ({plan.endpoint})" if hub.name != plan.endpoint else plan.endpoint
    reporter.say(f"destination: {plan.repo_id} ({kind}{', new' if plan.is_new_repo else ''}) on {where}")
    size_bytes = sum(file.size_bytes for file in plan.adds)
    counts = f"{len(plan.adds)} files to send ({size_bytes:,} bytes), {len(plan.unchanged)} unchanged"
    reporter.say(f"branch {plan.revision} on {plan.parent[:8] if plan.parent else 'nothing'}: {counts}")
    if plan.deletes:
        reporter.say(f"deletes: {', '.join(plan.deletes)}")
    for share in plan.shares:
        reporter.say(f"of your data: {share}")


def _packed(target: Path, with_images: bool, with_names: bool, reporter: Reporter) -> Path:
    """The package directory; of a run, the one packed from it now."""
    if not target.is_dir():
        raise NotFoundError("E-TARGET-404", "no such run or package directory", where=str(target))
    if not (target / MANIFEST_NAME).is_file():
        from hubtool.jobs.pack import pack

        return Path(pack(target, with_images=with_images, with_names=with_names, reporter=reporter).package)
    manifest = build.read_manifest(target)
    if (with_images and not manifest.has_images) or (with_names and not manifest.has_names):
        raise UsageError(
            "E-PUSH-PACKED",
            "this package was made without them",
            where=str(target),
            do="push the run itself, or pack again",
        )
    return target


@contextmanager
def _place(package: Path, dry_run: bool) -> Iterator[Path]:
    """The package itself; for a dry run a copy of links, whose card and manifest can be written without touching it."""
    if not dry_run:
        yield package
        return
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=package.parent) as folder:
        copy = Path(folder) / "package"
        try:
            shutil.copytree(package, copy, copy_function=os.link, symlinks=True)
        except OSError:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(package, copy, symlinks=True)
        yield copy


def _refuse_wrong(package: Path) -> None:
    """Before anything is written or asked: the package holds no secret, and what it says is so. A card that was removed is
    made again."""
    secrets.refuse(secrets.scan(package))
    has_card = (package / card.FILE_NAME).is_file()
    findings = [finding for finding in check.verify(package) if not finding.is_ok]
    wrong = [finding for finding in findings if has_card or finding.name != card.FILE_NAME]
    wrong.sort(key=lambda finding: finding.name == card.FILE_NAME)  # the line that was edited says more than the digest
    if wrong:
        is_card = wrong[0].name.startswith(card.FILE_NAME)
        raise IntegrityError(
            "E-CARD-MISMATCH" if is_card else "E-PACKAGE",
            f"{wrong[0].name}: {wrong[0].detail}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""),
            where=str(package),
            do="`hubtool verify` lists everything; pack again",
        )


def _addressed(hub: Hub, package: Path, repo: RepoId, revision: str) -> PackageManifest:
    """The card names this repository, keeps what people wrote in it and counts the reproductions that stand there."""
    text, records = sending.standing(hub, repo, revision)
    person = card.person_text(text) if text else {}
    for finding in check.active_text(person):
        raise SecurityError("E-CARD-ACTIVE", finding.detail, where=f"{finding.name} on {hub.name}", do="mend it there")
    build.keep_beside(package, records)
    return build.address(package, repo, person=person)


def _agree(hub: Hub, plan: PushPlan, yes: bool, confirm: Callable[[PushPlan], bool] | None) -> None:
    """A first push to a hub that is not on loopback needs a yes."""
    if yes or hub.is_on_loopback:
        return
    registry = read_registry(read_settings().home / FILE_NAME)
    before = registry.published.get(plan.repo_id) if registry else None
    if before is not None and before.hub == hub.name and not plan.is_new_repo:
        return
    if confirm is None or not confirm(plan):
        raise UsageError(
            "E-PUSH-YES",
            f"the first push of {plan.repo_id} to {hub.name} needs a yes",
            do="look at the plan, add --yes",
        )


def _report(hub: Hub, plan: PushPlan, commit: str | None, is_new: bool) -> PushReport:
    return PushReport(plan=plan, commit=commit, url=f"{hub.endpoint}/{plan.repo_id}", is_new_commit=is_new)
