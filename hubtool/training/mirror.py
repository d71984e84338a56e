"""A second place for a run's checkpoints, for machines that die with their disk.

What a fresh machine needs to go on is a mirror's content: the newest checkpoint, the best one, the log up to the newest,
and what the run began with. It is put together beside the training and replaces what was there before in one step.
File names of the user's pictures are not in it, nor are paths of this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from hubtool.core.digests import sha256_file
from hubtool.core.errors import ConflictError, HubtoolError, IntegrityError, StorageError, from_os_error
from hubtool.core.files import (
    TEMP_PREFIX,
    make_dirs,
    publish_dir,
    remove_dir,
    remove_leftovers,
    write_chunks,
    write_inside,
)
from hubtool.core.locks import hold
from hubtool.core.progress import Reporter
from hubtool.records import rundir
from hubtool.records.backbone import FileDigest
from hubtool.records.recipe_file import without_directory
from hubtool.records.rundir import RunDir
from hubtool.records.state import MIRROR, MirrorManifest, Position
from hubtool.training.checkpoint import Checkpoints

_PATIENCE_S = 60.0
_PATIENCE_STOPPED_S = 5.0
_LINKED = ("environment.json", rundir.RESOLVED)
_CHECKPOINT = re.compile(r"e\d{3,}-s\d{6,}(-.+)?")
_PARTS = {"recipe.yaml", "data.json", "checkpoints", "logs", *_LINKED}


class Place(Protocol):
    """Where a mirror lies. Every method raises a HubtoolError where the place cannot be reached or holds something else."""

    @property
    def name(self) -> str: ...

    def newest(self) -> MirrorManifest | None:
        """What it holds now; None where it is empty."""
        ...

    def send(self, directory: Path, manifest: MirrorManifest) -> None:
        """Replace what it holds, in one step. Raises ConflictError where that stands further or is of another run."""
        ...

    def fetch(self, directory: Path) -> MirrorManifest:
        """Bring what it holds into an empty directory, every digest checked."""
        ...


class Mirror:
    """Copies out on a thread of its own; training neither waits for it nor fails with it.

    ``offer`` takes hard links, so that a checkpoint may be removed meanwhile. Where copying is slower than training, the
    newest offer wins. A place that fails is said once for each reason and tried again at the next checkpoint.
    ``is_stopping`` tells whether the run was asked to end now: ``close`` then waits a few seconds only.
    """

    def __init__(self, place: Place, run: RunDir, *, is_stopping: Callable[[], bool], reporter: Reporter) -> None:
        self._place, self._run, self._reporter = place, run, reporter
        self._is_stopping = is_stopping
        self._warned: set[str] = set()
        self._wanted: tuple[Path, Position] | None = None
        self._is_ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def offer(self, position: Position) -> None:
        """The checkpoint of ``position`` is durable."""
        if not self._thread.is_alive():
            return
        try:
            staged = self._stage(position)
        except OSError as error:
            self._warn(from_os_error(error, str(self._run.path)))
            return
        with self._changed:
            left_out, self._wanted = self._wanted, (staged, position)
            self._changed.notify()
        if left_out:
            shutil.rmtree(left_out[0], ignore_errors=True)

    def close(self) -> None:
        """Wait for the last copy, but not for ever."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        began = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - began < (
            _PATIENCE_STOPPED_S if self._is_stopping() else _PATIENCE_S
        ):
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._reporter.warn(f"the mirror {self._place.name} lacks the last checkpoint: it took too long")

    def _work(self) -> None:
        try:
            self._copy_all()
        except Exception as error:
            self._reporter.warn(
                f"the mirror {self._place.name} has ended, nothing more is copied: {type(error).__name__}: {error}"
            )
            raise

    def _copy_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._is_ending)
                wanted, self._wanted = self._wanted, None
            if wanted is None:
                return
            staged, position = wanted
            try:
                self._place.send(staged, self._complete(staged, position))
            except HubtoolError as error:
                self._warn(error)
            except OSError as error:
                self._warn(from_os_error(error, self._place.name))
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def _stage(self, position: Position) -> Path:
        """Links to the checkpoints and to what the run began with, none of which is ever written in place."""
        staged = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}mirror-", dir=self._run.path))
        try:
            names = {position.checkpoint_name} | ({position.best.checkpoint} if position.best else set())
            for name in sorted(names):
                (staged / "checkpoints" / name).mkdir(parents=True)
                for file in (self._run.checkpoints / name).iterdir():
                    _link(file, staged / "checkpoints" / name / file.name)
            for name in _LINKED:
                _link(self._run.path / name, staged / name)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged

    def _complete(self, staged: Path, position: Position) -> MirrorManifest:
        """The log up to the checkpoint, recipe and data as others may see them, and the manifest of it all."""
        (staged / "logs").mkdir()
        _copy_head(self._run.journal, staged / "logs" / self._run.journal.name, position.journal_size_bytes)
        recipe = (self._run.path / "recipe.yaml").read_text(encoding="utf-8")
        ref = self._run.resolved().backbone.ref
        (staged / "recipe.yaml").write_text(without_directory(recipe, ref), encoding="utf-8")
        (staged / "data.json").write_bytes(self._run.data().without_names().to_json() + b"\n")
        files = tuple(
            FileDigest(
                path=path.relative_to(staged).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_file(path)
            )
            for path in sorted(staged.rglob("*"))
            if path.is_file()
        )
        manifest = MirrorManifest(
            checkpoint=position.checkpoint_name,
            epoch=position.epoch,
            global_step=position.global_step,
            recipe_digest=position.recipe_digest,
            data_digest=position.data_digest,
            files=files,
        )
        (staged / MIRROR).write_bytes(manifest.to_json() + b"\n")
        return manifest

    def _warn(self, error: HubtoolError) -> None:
        if error.code not in self._warned:
            self._warned.add(error.code)
            self._reporter.warn(
                f"nothing is copied to the mirror {self._place.name} now, each checkpoint tries again: {error}"
            )


class DirectoryPlace:
    """A directory, on another disk or a mounted one. One subdirectory that appears whole, then the former one is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    def newest(self) -> MirrorManifest | None:
        found = self._intact()
        return found[-1][1] if found else None

    def send(self, directory: Path, manifest: MirrorManifest) -> None:
        self._snapshots()  # before anything is written or removed there
        make_dirs(self._path)
        with hold(self._path / ".lock", f"the mirror {self.name}"):
            remove_leftovers(self._path)
            older = []
            for path in self._snapshots():
                with contextlib.suppress(IntegrityError):  # of what cannot be read nobody knows that it is older
                    MirrorManifest.read(path / MIRROR).refuse_replacing(manifest, self.name)
                    older.append(path)
            target = self._path / manifest.checkpoint
            if not _is_whole(target, manifest):
                remove_dir(target)
                with publish_dir(target) as temp:
                    for file in manifest.files:
                        (temp / file.path).parent.mkdir(parents=True, exist_ok=True)
                        _copy(directory / file.path, temp / file.path, file.size_bytes)
                    write_inside(temp / MIRROR, manifest.to_json() + b"\n")
            for path in {*older, *self._leftovers()} - {target}:
                remove_dir(path)

    def fetch(self, directory: Path) -> MirrorManifest:
        found = self._intact()
        if not found:
            raise IntegrityError("E-MIRROR", "the mirror is empty now", where=self.name, do="start the command again")
        path, manifest = found[-1]
        for file in manifest.files:
            make_dirs((directory / file.path).parent)
            shutil.copyfile(path / file.path, directory / file.path)
        refuse_damaged(directory, manifest, self.name)
        return manifest

    def _snapshots(self) -> list[Path]:
        """Raises ConflictError for a directory that holds something else."""
        paths = self._visible()
        strange = [path.name for path in paths if not (path / MIRROR).is_file() and not _is_leftover(path)]
        if strange:
            raise ConflictError(
                "E-MIRROR-PLACE", f"no mirror, it holds {strange[0]!a}", where=self.name, do="name an empty directory"
            )
        return [path for path in paths if (path / MIRROR).is_file()]

    def _leftovers(self) -> list[Path]:
        return [path for path in self._visible() if _is_leftover(path)]

    def _visible(self) -> list[Path]:
        if not self._path.exists():
            return []
        try:
            return [path for path in sorted(self._path.iterdir()) if not path.name.startswith(".")]
        except OSError as error:
            raise from_os_error(error, self.name) from error

    def _intact(self) -> list[tuple[Path, MirrorManifest]]:
        """Those that are whole, the newest last. Raises IntegrityError where there are some and none is."""
        found, problems = [], []
        for path in self._snapshots():
            try:
                manifest = MirrorManifest.read(path / MIRROR)
                refuse_damaged(path, manifest, str(path))
                found.append((path, manifest))
            except (HubtoolError, OSError) as error:
                problems.append(str(error))
        if problems and not found:
            raise IntegrityError("E-MIRROR", problems[0], where=self.name, do="remove it, or name another --mirror")
        return sorted(found, key=lambda pair: pair[1].order)


def refuse_damaged(directory: Path, manifest: MirrorManifest, where: str) -> None:
    """Raises IntegrityError naming the first file that is not what the manifest says."""
    for file in manifest.files:
        path = directory / file.path
        if not path.is_file() or path.stat().st_size != file.size_bytes or sha256_file(path) != file.sha256:
            raise IntegrityError("E-INTEGRITY", f"{file.path} has not the digest in {MIRROR}", where=where)


def restore(fetched: Path, manifest: MirrorManifest, run: RunDir) -> None:
    """Put what was fetched (a directory inside the run) in its place; the run's lock is held.

    The newest checkpoint comes after what it needs, and of a new run ``resolved.json`` after all: one that is killed before
    is done again.
    """
    try:
        make_dirs(run.journal.parent)
        make_dirs(run.checkpoints)
        for file in manifest.files:
            if not file.path.startswith("checkpoints/") and file.path != rundir.RESOLVED:
                write_chunks(run.path / file.path, _chunks(fetched / file.path))
        for path in sorted((fetched / "checkpoints").iterdir(), key=lambda path: path.name == manifest.checkpoint):
            remove_dir(run.checkpoints / path.name)
            with publish_dir(run.checkpoints / path.name) as temp:
                for part in path.iterdir():
                    part.rename(temp / part.name)
        write_chunks(run.path / rundir.RESOLVED, _chunks(fetched / rundir.RESOLVED))
    except OSError as error:
        raise from_os_error(error, str(run.path)) from error


def is_ahead(manifest: MirrorManifest, run: RunDir) -> bool:
    """Whether the mirror stands further than the run here does; further than a run that has not begun it always does."""
    if not run.is_begun or not run.checkpoints.is_dir():
        return True
    with contextlib.suppress(IntegrityError):
        found = Checkpoints(run.checkpoints, is_writer=False).newest_valid()
        return found is None or manifest.order > found[1].order
    return True


def _is_whole(path: Path, manifest: MirrorManifest) -> bool:
    """Whether exactly that stands there already."""
    try:
        if MirrorManifest.read(path / MIRROR) != manifest:
            return False
        refuse_damaged(path, manifest, str(path))
    except (HubtoolError, OSError):
        return False
    return True


def _is_leftover(path: Path) -> bool:
    """What a removal that was killed may leave of a snapshot: under a checkpoint's name, parts of one and nothing else."""
    if not _CHECKPOINT.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        return {part.name for part in path.iterdir()} <= _PARTS
    except OSError:
        return False


def _copy(source: Path, target: Path, size_bytes: int) -> None:
    shutil.copyfile(source, target)
    if target.stat().st_size != size_bytes:
        raise StorageError("E-DISK-SHORT", "the file is shorter than what was written", where=str(target))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            yield data


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _copy_head(source: Path, target: Path, size_bytes: int) -> None:
    with source.open("rb") as stream, target.open("wb") as out:
        left = size_bytes
        while left and (data := stream.read(min(left, 1 << 20))):
            out.write(data)
            left -= len(data)
    if left:
        raise StorageError("E-DISK-SHORT", "the log is shorter than the checkpoint says", where=str(source))
