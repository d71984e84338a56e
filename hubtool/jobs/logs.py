"""hubtool logs: where a run's logs lie; open them in TensorBoard, or write them anew for any sink."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hubtool.core.errors import UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.jobs.runs import open_run
from hubtool.jobs.shown import Extra, extra
from hubtool.records.log import Event
from hubtool.records.recipe import Log
from hubtool.records.rundir import RunDir
from hubtool.records.runs import LogsReport
from hubtool.tracking import sinks
from hubtool.tracking.journal import FILE_NAME, Journal, read_events
from hubtool.tracking.media import Moment


def logs(
    run: Path,
    *,
    export: str | None = None,
    start_board: bool = False,
    port: int = 0,
    add: Sequence[Extra] = (),
    reporter: Reporter = SILENT,
) -> LogsReport:
    """Where the logs are. ``add`` logs what costs seconds, for TensorBoard: the model's ``graph``, the ``embedding`` of val's
    features with thumbnails. ``export`` names a sink (tensorboard, wandb, csv, or an installed one) that is written anew from
    the journal; ``start_board`` starts TensorBoard on loopback, which lives as long as this process.

    Raises NotFoundError for what is no run, UsageError for an unknown sink, ConflictError while the run is in training.
    """
    place = open_run(run)
    if add:
        _add(place, add, reporter)
    exported = _export(place, export, reporter) if export else None
    directory = place.path / "logs" / "tensorboard"
    url = None
    if start_board:
        from hubtool.tracking.board import start

        if not any(directory.glob("events.out.tfevents.*")):
            _export(place, "tensorboard", reporter)
        url = start(directory.absolute(), port=port)
    return LogsReport(
        run=str(place.path),
        directory=str(directory.absolute()),
        journal=str((place.path / FILE_NAME).absolute()),
        num_events=sum(1 for _ in read_events(place.journal)),
        sinks=_sinks(place),
        exported=exported,
        url=url,
    )


class RunLog:
    """A finished or stopped run's log, open for more. ``moment`` is where a thing is logged; ``write`` takes the events that
    ``hubtool.tracking.media`` makes, or numbers of one's own."""

    def __init__(self, place: RunDir, journal: Journal) -> None:
        self._place = place
        self._journal = journal
        events = list(journal.replay())
        self._known = {_key(event) for event in events}
        self._last = max(events, key=lambda event: event.global_step, default=None)

    def moment(self, *, split: str = "val", global_step: int | None = None) -> Moment:
        """At the last logged step, unless another is named."""
        last = self._last
        step = global_step if global_step is not None else last.global_step if last else 0
        return Moment(run_dir=self._place.path, global_step=step, epoch=last.epoch if last else 0, split=split)

    def write(self, *events: Event) -> None:
        """Raises UsageError for what is logged already at that step."""
        for event in events:
            if _key(event) in self._known:
                raise UsageError(
                    "E-LOG-TWICE",
                    f"{event.tag}/{event.split} is logged already at step {event.global_step}",
                    do="use another tag or step",
                )
            self._known.add(_key(event))
            self._journal.append(event)


@contextmanager
def open_log(run: Path, *, reporter: Reporter = SILENT) -> Iterator[RunLog]:
    """Log more to a run from Python, such as meshes or pictures of one's own; its sinks are written anew at the end::

        from hubtool.jobs.logs import open_log
        from hubtool.tracking import media

        with open_log(Path("runs/probe")) as log:
            log.write(media.write_mesh(log.moment(), "scan", vertices_BNC=points))

    Raises ConflictError while the run is in training.
    """
    place = open_run(run)
    with place.held():
        journal = Journal(place.journal)
        try:
            yield RunLog(place, journal)
            journal.commit()
        finally:
            journal.close()
    for name in _sinks(place):
        _export(place, name, reporter)


def _add(place: RunDir, names: Sequence[Extra], reporter: Reporter) -> None:
    """What is there already is left as it is."""
    place.result()  # a run that is not finished has no weights to show
    there = {event.kind for event in read_events(place.journal)}
    with open_log(place.path, reporter=reporter) as log:
        for name in dict.fromkeys(names):
            if name in there:
                reporter.say(f"{name} is logged already")
            else:
                log.write(*extra(name, place, log.moment(), reporter=reporter))
    if "tensorboard" not in _sinks(place):
        _export(place, "tensorboard", reporter)


def _key(event: Event) -> tuple[str, str, int, str]:
    return event.kind, event.split, event.global_step, event.tag


def _export(place: RunDir, name: str, reporter: Reporter) -> str:
    """Write one sink from the journal. W&B is written offline: `wandb sync` sends the directory."""
    chosen = place.options().run.log
    log = Log(tensorboard=True, wandb=chosen.wandb.model_copy(update={"mode": "offline"}), sinks=chosen.sinks)
    with place.held():
        sinks.rebuild(place.path, names=(name,), log=log, resolved=place.resolved(), reporter=reporter)
    return str((place.path / "logs" / name).absolute())


def _sinks(place: RunDir) -> dict[str, str]:
    """Sinks that have been written, with their ids."""
    path = place.path / sinks.IDS_NAME
    ids = json.loads(path.read_bytes()) if path.exists() else {}
    return {name: str(sink_id) for name, sink_id in ids.items() if (place.path / "logs" / name).exists()}
