"""``finetune --mirror``: which place is meant, and a run taken up from there. No verb: finetune calls it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hubtool.core.errors import ConflictError, NotFoundError, UnavailableError, UsageError
from hubtool.core.files import TEMP_PREFIX
from hubtool.core.ids import RepoId
from hubtool.core.progress import Reporter
from hubtool.hub import mirror as repositories
from hubtool.jobs import endpoint
from hubtool.jobs.run import Inputs
from hubtool.records.rundir import RunDir
from hubtool.records.state import MirrorManifest
from hubtool.training.mirror import DirectoryPlace, Place, is_ahead
from hubtool.training.mirror import restore as put_back


@dataclass(frozen=True, kw_only=True)
class RepositoryPlace:
    """A private repository; the hub is opened for each copy, so that one that was away is found again."""

    repo: RepoId
    hub: str | None

    @property
    def name(self) -> str:
        return f"{self.repo} on {endpoint.writing_hub(self.hub)}"

    def newest(self) -> MirrorManifest | None:
        with endpoint.writing(self.hub) as opened:
            return repositories.newest(opened, self.repo)

    def send(self, directory: Path, manifest: MirrorManifest) -> None:
        with endpoint.writing(self.hub) as opened:
            repositories.send(opened, self.repo, directory, manifest)

    def fetch(self, directory: Path) -> MirrorManifest:
        with endpoint.writing(self.hub) as opened:
            return repositories.fetch(opened, self.repo, directory)


def place_of(text: str, *, hub: str | None) -> Place:
    """A directory that exists or is written as one (``./a/b``, ``/a``, ``a``), else ``OWNER/NAME`` on a hub."""
    path = Path(text).expanduser()
    if path.is_dir() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        return DirectoryPlace(path.absolute())
    return RepositoryPlace(repo=RepoId(text), hub=hub)


def take_up(run: RunDir, inputs: Inputs, *, is_new: bool, reporter: Reporter) -> None:
    """Bring the run here to where its mirror stands, if that is further.

    A mirror that cannot be reached now is said; the run then goes on without it. Raises ConflictError for a mirror of another
    run, UsageError where a twin is asked for, or for a repository that nobody made on a hub that is not on loopback.
    """
    place = inputs.mirror
    assert place is not None
    reporter.say(f"mirror: {place.name}")
    try:
        found = place.newest()
    except (UnavailableError, NotFoundError) as error:
        reporter.warn(f"the mirror {place.name} cannot be read now, so nothing is taken up from it: {error}")
        return
    if found is None:
        return
    if is_new:
        raise UsageError(
            "E-MIRROR-NEW", "a twin cannot share the mirror of its run", where=place.name, do="name another --mirror"
        )
    if not _is_wanted(found, run, inputs, place.name):
        return
    with run.held():
        fetched = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}fetched-", dir=run.path))
        try:
            manifest = place.fetch(fetched)
            if not _is_wanted(manifest, run, inputs, place.name):  # it may have changed, as may the run
                return
            put_back(fetched, manifest, run)
        except FileNotFoundError as error:
            raise ConflictError(
                "E-MIRROR",
                "the mirror changed while it was read",
                where=place.name,
                do="stop the other run that copies there, then start the command again",
            ) from error
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
        inputs.options.write(run.path / "options.json")
    reporter.say(f"taken up from the mirror: {manifest.checkpoint}")


def _is_wanted(found: MirrorManifest, run: RunDir, inputs: Inputs, where: str) -> bool:
    """Whether the run goes on from there. Another run's mirror is taken up with drift only, and only by a run that has not
    begun: raises ConflictError without."""
    try:
        found.refuse_other(
            inputs.resolved.digest(),
            inputs.data.digest(),
            where,
            do="name another --mirror, or go on from it in a new run directory with --allow-drift",
        )
    except ConflictError:
        if not inputs.options.allow_drift:
            raise
        if run.is_begun:
            return False  # the first checkpoint that is not copied says why
    return is_ahead(found, run)
