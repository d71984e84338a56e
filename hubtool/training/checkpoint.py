"""Checkpoints: written, found, chosen and removed here and nowhere else.

A checkpoint is a delta to the backbone: trainable.safetensors (every parameter that has been trained and every buffer that
training moves), optimizer.safetensors (its state as ``PARAMETER/KEY``, averaged weights as ``PARAMETER/ema``), state.json
and, last, MANIFEST.json with the digest of each. It becomes visible in one rename; its name is for people, state.json is
the truth. The format holds no pickle.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import safetensors
import safetensors.torch
from torch import Tensor

from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import HubtoolError, IntegrityError, from_os_error
from hubtool.core.files import DISK, Disk, make_dirs, publish_dir, remove_dir, remove_leftovers, write_chunks_inside
from hubtool.records.backbone import FileDigest
from hubtool.records.evidence import Array
from hubtool.records.state import SCHEMA, CheckpointManifest, Position
from hubtool.training.staging import Pace, Staging, encoded

TRAINABLE, OPTIMIZER, STATE, MANIFEST = "trainable.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"
_UNKNOWN = (1 << 62, 0)
_INCOMPLETE = "never completed, it has no"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything a run needs to go on: its position, the trained tensors by name, the optimizer's and the averages.

    ``best_logits_NK``, which no checkpoint holds, are those of the best epoch on val, where this process computed them.
    """

    position: Position
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best_logits_NK: Array | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is claimed and packed where this state is selected: the averaged weights where there are averages."""
        averages = {name.removesuffix("/ema"): value for name, value in self.optimizer.items() if name.endswith("/ema")}
        return {**self.tensors, **averages}

    def with_sinks(self, ids: Mapping[str, str]) -> TrainState:
        """The same, knowing under which ids services know the run."""
        return replace(self, position=self.position.model_copy(update={"sink_ids": dict(ids)}))


class _Digest(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


class Mirror(Protocol):
    """A second place; it is told of each checkpoint that is durable, and neither waits nor fails."""

    def offer(self, position: Position) -> None: ...


class Checkpoints:
    """The checkpoints of one run. One writer (the run's lock is held); ``close`` waits for what is being written.

    Where several processes train, the others read only: ``is_writer`` False makes writing and removing do nothing.

    ``publish`` returns when the checkpoint is durable; ``publish_soon`` copies, and writes the copy beside the training: a
    failure of that is raised by the next call. Older ones are removed only after the new one is durable.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        mode: Literal["min", "max"] = "min",
        is_writer: bool = True,
        mirror: Mirror | None = None,
        disk: Disk = DISK,
    ) -> None:
        make_dirs(directory)
        if is_writer:
            remove_leftovers(directory)
        self._is_writer = is_writer
        self.directory = directory
        self.skipped: list[str] = []
        self._keep = max(keep, 1)
        self._sign = 1 if mode == "min" else -1
        self._mirror = mirror
        self._disk = disk
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._staged = Staging(), Staging()
        self._pace = Pace()
        self._pending: Future[None] | None = None

    def publish(self, state: TrainState) -> Path:
        self.wait()
        return self._publish(state)

    def publish_soon(self, state: TrainState, *, first: Callable[[], object] = lambda: None) -> TrainState:
        """Returns the copy of ``state`` that is written once ``first`` has been called, beside the training; it is good until
        the next one is asked for."""
        self.wait()
        began_at = time.monotonic()
        tensors, optimizer = self._staged
        copy = replace(state, tensors=tensors.copies(state.tensors), optimizer=optimizer.copies(state.optimizer))
        copied_s = time.monotonic() - began_at

        def write() -> None:
            try:
                self._pace.rest(copied_s)  # the step that has waited for the copy need not bear the beginning too
                first()
                self._publish(copy)
            finally:
                self._pace.end()

        if self._is_writer:
            self._pace.begin()
            if any(value.device.type != "cpu" for value in state.tensors.values()):
                self.hurry()  # the processors are not what trains
            self._pending = self._writer.submit(write)
        return copy

    def hurry(self) -> None:
        """Nothing that wants the processors runs beside what is being written any more."""
        self._pace.hurry()

    def wait(self) -> None:
        """Until the last one is durable; raises what kept it from being so."""
        self.hurry()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the writer; raises what kept the last checkpoint from being durable."""
        self.hurry()
        self._writer.shutdown(wait=True)
        self.wait()

    def newest_valid(self) -> tuple[Path, Position] | None:
        """The newest checkpoint whose every digest holds, and whose best one does; ``skipped`` says what was passed over.

        None where there is none at all. Raises IntegrityError when there are some and all are damaged.
        """
        self.skipped = []
        damaged: list[str] = []
        for path, position, own_problem in self._all():
            problem = own_problem or self._best_problem(position)
            if position is not None and not problem:
                return path, position
            self.skipped.append(f"{path.name}: {problem}")
            if not problem.startswith(_INCOMPLETE):
                damaged.append(self.skipped[-1])
        if damaged:
            raise IntegrityError(
                "E-CKPT-NONE",
                f"no checkpoint is intact ({'; '.join(damaged)})",
                where=str(self.directory),
                do="start again with --new",
            )
        return None

    def remove_after(self, position: Position | None) -> None:
        """Remove what lies after the place a run goes on from: damaged, half, or of another future."""
        for path, other, problem in self._all() if self._is_writer else ():
            is_later = other is None or position is None or other.order > position.order
            if problem or is_later:
                remove_dir(path)

    def keep_only(self, name: str) -> None:
        """Remove every checkpoint but ``name``: the run is finished and only its selected weights are needed."""
        for path, _, _ in self._all(is_deep=False):
            if path.name != name:
                remove_dir(path)

    def _best_problem(self, position: Position | None) -> str:
        if position is None or position.best is None:
            return ""
        problem = _problem(self.directory / position.best.checkpoint)
        return f"its best checkpoint {position.best.checkpoint} is damaged: {problem}" if problem else ""

    def _publish(self, state: TrainState) -> Path:
        target = self.directory / state.position.checkpoint_name
        if target.exists() and not _problem(target):
            self.offer(state.position)
            return target
        remove_dir(target)
        files: list[FileDigest] = []
        with publish_dir(target, disk=self._disk) as directory:

            def put(name: str, chunks: Iterable[bytes | memoryview]) -> None:
                digest = hashlib.sha256()
                size_bytes = write_chunks_inside(
                    directory / name, _told(digest, self._pace.pieces(chunks)), disk=self._disk
                )
                files.append(FileDigest(path=name, size_bytes=size_bytes, sha256=digest.hexdigest()))

            put(TRAINABLE, encoded(state.tensors))
            put(OPTIMIZER, encoded(state.optimizer))
            put(STATE, [state.position.to_json() + b"\n"])
            put(MANIFEST, [CheckpointManifest(files=tuple(files)).to_json() + b"\n"])
        self.offer(state.position)
        self._prune(state.position)
        return target

    def offer(self, position: Position) -> None:
        """Tell the mirror, if there is one, of a checkpoint that stands here."""
        if self._mirror is not None and self._is_writer:
            self._mirror.offer(position)

    def _prune(self, newest: Position) -> None:
        """Keep the newest, the best, and up to ``keep`` those with the next best metric, before those that have none."""
        kept = {newest.checkpoint_name} | ({newest.best.checkpoint} if newest.best else set())
        found = [(p, path) for path, p, _ in self._all(is_deep=False) if p is not None and path.name not in kept]
        found.sort(
            key=lambda pair: (pair[0].value is None, self._sign * (pair[0].value or 0.0))
        )  # stable: newest first
        others = [path for _, path in found]
        for path in others[max(0, self._keep - len(kept)) :]:
            remove_dir(path)

    def _all(self, *, is_deep: bool = True) -> list[tuple[Path, Position | None, str]]:
        """Every checkpoint with what is wrong with it ('' for nothing): those of which nothing is known, then the newest first."""
        found: list[tuple[Path, Position | None, str]] = []
        try:
            paths = list(self.directory.iterdir())
        except OSError as error:
            raise from_os_error(error, str(self.directory)) from error
        for path in paths:
            if not path.is_dir() or path.name.startswith("."):
                continue
            problem = _problem(path) if is_deep or not (path / MANIFEST).exists() else ""
            try:
                found.append((path, Position.read(path / STATE), problem))
            except (HubtoolError, OSError) as error:
                found.append((path, None, problem or str(error)))
        return sorted(found, key=lambda row: row[1].order if row[1] else _UNKNOWN, reverse=True)


def read_state(path: Path) -> TrainState:
    """Read one checkpoint, its digests checked. Raises IntegrityError."""
    if problem := _problem(path):
        raise IntegrityError("E-CKPT-DAMAGED", f"the checkpoint is damaged: {problem}", where=str(path))
    return TrainState(
        position=Position.read(path / STATE),
        tensors=safetensors.torch.load((path / TRAINABLE).read_bytes()),
        optimizer=safetensors.torch.load((path / OPTIMIZER).read_bytes()),
    )


def selected_tensors(path: Path) -> dict[str, Tensor]:
    """The weights that are claimed and packed, of the checkpoint that was selected."""
    return read_state(path).weights


def _told(digest: _Digest, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same chunks, each of them told to ``digest`` before it is handed on."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _problem(path: Path) -> str:
    """What is wrong with a checkpoint, '' for nothing."""
    try:
        manifest = CheckpointManifest.from_json((path / MANIFEST).read_bytes(), MANIFEST)
    except FileNotFoundError:
        return f"{_INCOMPLETE} {MANIFEST}"
    except (OSError, HubtoolError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if {file.path for file in manifest.files} != {TRAINABLE, OPTIMIZER, STATE}:
        return f"{MANIFEST} lists other files"
    for file in manifest.files:
        try:
            data = (path / file.path).read_bytes()
        except OSError as error:
            return f"{file.path} cannot be read ({error.strerror})"
        if len(data) != file.size_bytes or sha256_bytes(data) != file.sha256:
            return f"{file.path} has not the digest in {MANIFEST}"
    return _schema_problem(path)


def _schema_problem(path: Path) -> str:
    schema = json.loads((path / STATE).read_bytes()).get("schema")
    return "" if schema == SCHEMA else f"it needs another version of hubtool ({schema})"
