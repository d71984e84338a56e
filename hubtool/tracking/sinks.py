"""Sinks: where the journal's events are shown. One contract, a fan-out that never stops or slows training.

A sink is built afresh from the journal each time a run starts or resumes: building removes what an earlier session left,
the journal's events are written again, and so each step stands once, whatever was lost or doubled in a crash.

A package of its own adds a sink through the entry-point group ``hubtool.sinks``: name → a callable that takes a ``Place``
and returns a ``Sink``. It is open when its entry point is installed and the recipe's log asks for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hubtool.core.errors import UsageError
from hubtool.core.files import make_dirs, write_json
from hubtool.core.progress import SILENT, Reporter
from hubtool.records.log import Event
from hubtool.records.recipe import Log
from hubtool.records.resolve import ResolvedRecipe
from hubtool.tracking.journal import FILE_NAME, read_events
from hubtool.tracking.lane import Lane

ENTRY_POINTS = "hubtool.sinks"
IDS_NAME = "logs/sinks.json"
BUILT_IN = {
    "tensorboard": "hubtool.tracking.tensorboard:TensorBoardSink",
    "wandb": "hubtool.tracking.wandb:WandbSink",
    "csv": "hubtool.tracking.csv_file:CsvSink",
}


class Sink(Protocol):
    """Its methods are called from one thread of its own, in the journal's order; any of them may raise: it is dropped then.

    The constructor imports the library and starts empty. ``close`` ends it for good.
    """

    def write(self, event: Event) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a sink is built from. It writes only below ``directory`` (``RUN/logs/<its name>``), which is its own.

    ``id`` names the run towards a service and never changes; ``warn`` takes one line for the person.
    """

    run_dir: Path
    directory: Path
    id: str
    log: Log
    resolved: ResolvedRecipe
    warn: Callable[[str], None] = field(default=lambda _text: None)


class Fanout:
    """Every open sink on a thread of its own behind a bounded queue.

    ``write`` never raises and never waits. A sink that fails or hangs is dropped with one warning; one that only falls
    behind is built once more from the journal when the run ends. Not thread-safe; the caller closes it.
    """

    def __init__(self, lanes: Mapping[str, Lane], ids: Mapping[str, str], reporter: Reporter) -> None:
        self._lanes = dict(lanes)
        self._ids = dict(ids)
        self._reporter = reporter

    @property
    def ids(self) -> dict[str, str]:
        """The id of each open sink, as it stands in ``RUN/logs/sinks.json``."""
        return dict(self._ids)

    def write(self, event: Event) -> None:
        for lane in self._lanes.values():
            lane.put(event)
        self._report()

    def flush(self) -> None:
        """Ask every sink to show what it has; does not wait for it."""
        for lane in self._lanes.values():
            lane.flush()
        self._report()

    def close(self) -> None:
        """End every sink. Waits while they make progress, and a few seconds for one that does not."""
        for lane in self._lanes.values():
            lane.end()
        for lane in self._lanes.values():
            lane.join()
        self._report()
        self._lanes = {}

    def _report(self) -> None:
        """Warn from the caller's thread, so that a terminal's live line is not torn."""
        for name, lane in list(self._lanes.items()):
            for text in lane.take_warnings():
                self._reporter.warn(text)
            if lane.failure is not None:
                self._reporter.warn(f"{name} is dropped from this session ({lane.failure}); the log itself is complete")
                del self._lanes[name]


def open_sinks(
    run_dir: Path,
    *,
    log: Log,
    resolved: ResolvedRecipe,
    reporter: Reporter = SILENT,
    ids: Mapping[str, str] | None = None,
) -> Fanout:
    """Open the sinks that ``log`` asks for and feed each what the journal holds now (cut it back before).

    Their ids are kept in ``RUN/logs/sinks.json``, written before the first event; ``ids`` takes precedence over it.
    """
    names = tuple(name for name, is_on in _wanted(log).items() if is_on)
    return _open(run_dir, names, log, resolved, reporter, ids or {})


def rebuild(
    run_dir: Path,
    events: Iterable[Event] | None = None,
    *,
    names: tuple[str, ...],
    log: Log,
    resolved: ResolvedRecipe,
    reporter: Reporter = SILENT,
) -> None:
    """Write the named sinks anew from ``events`` (None: the journal's), in this thread. Their errors are raised."""
    if events is None:
        events = read_events(run_dir / FILE_NAME)
    events = list(events)
    known = _keep_ids(run_dir, names, {})
    for name in names:
        sink = _factory(name)(_place(run_dir, name, known[name], log, resolved, reporter.warn))
        for event in events:
            sink.write(event)
        sink.close()


def sink_names() -> tuple[str, ...]:
    """Every sink that can be opened here, built-in ones first."""
    return (*BUILT_IN, *sorted(set(_entry_points()) - set(BUILT_IN)))


def _wanted(log: Log) -> dict[str, bool]:
    wanted = {"tensorboard": log.tensorboard, "wandb": log.wandb.mode != "disabled"}
    return wanted | dict.fromkeys(log.sinks, True)


def _open(
    run_dir: Path,
    names: tuple[str, ...],
    log: Log,
    resolved: ResolvedRecipe,
    reporter: Reporter,
    given: Mapping[str, str],
) -> Fanout:
    journal = run_dir / FILE_NAME
    size_bytes = journal.stat().st_size if journal.exists() else 0
    ids = _keep_ids(run_dir, names, given)
    lanes = {}
    for name in names:
        warnings: list[str] = []
        place = _place(run_dir, name, ids[name], log, resolved, warnings.append)
        lanes[name] = Lane(
            name,
            build=lambda name=name, place=place: _factory(name)(place),  # type: ignore[misc]
            backlog=lambda: read_events(journal, size_bytes),
            replay=lambda: read_events(journal),
            warnings=warnings,
        )
    return Fanout(lanes, {name: ids[name] for name in names}, reporter)


def _place(
    run_dir: Path, name: str, sink_id: str, log: Log, resolved: ResolvedRecipe, warn: Callable[[str], None]
) -> Place:
    directory = run_dir / "logs" / name
    return Place(run_dir=run_dir, directory=directory, id=sink_id, log=log, resolved=resolved, warn=warn)


def _keep_ids(run_dir: Path, names: tuple[str, ...], given: Mapping[str, str]) -> dict[str, str]:
    """The ids of this run's sinks; new ones are drawn and written before anything uses them."""
    path = run_dir / IDS_NAME
    known: dict[str, str] = {}
    if path.exists():
        try:
            known = {str(k): str(v) for k, v in json.loads(path.read_bytes()).items()}
        except (ValueError, AttributeError):
            known = {}  # a service sees a new run then; the log itself is untouched
    ids = {**known, **given}
    ids |= {name: secrets.token_hex(4) for name in names if name not in ids}
    if ids != known:
        make_dirs(path.parent)
        write_json(path, ids)
    return ids


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def refuse_unknown(names: Sequence[str]) -> None:
    """Raises UsageError for the first name that no sink has."""
    for name in names:
        if name not in sink_names():
            raise UsageError(
                "E-SINK-404", f"no sink {name!a}", where="run.log.sinks", do=f"known: {', '.join(sink_names())}"
            )


def _factory(name: str) -> Callable[[Place], Sink]:
    """The constructor of a sink. Raises UsageError with the names there are."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory: Callable[[Place], Sink] = getattr(importlib.import_module(module), attribute)
        return factory
    points = _entry_points()
    if name not in points:
        raise UsageError("E-SINK-404", f"no sink {name!a}", do=f"known: {', '.join(sink_names())}")
    loaded: Callable[[Place], Sink] = points[name].load()
    return loaded
