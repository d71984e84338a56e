"""hubtool logs: where a run's logs lie; open them in TensorBoard, or write them anew for any sink."""

from __future__ import annotations

import json
from pathlib import Path

from hubtool.core.progress import SILENT, Reporter
from hubtool.jobs.runs import open_run
from hubtool.records.recipe import Log
from hubtool.records.rundir import RunDir
from hubtool.records.runs import LogsReport
from hubtool.tracking import sinks
from hubtool.tracking.journal import FILE_NAME, read_events


def logs(
    run: Path,
    *,
    export: str | None = None,
    start_board: bool = False,
    port: int = 0,
    reporter: Reporter = SILENT,
) -> LogsReport:
    """Where the logs are. ``export`` names a sink (tensorboard, wandb, csv, or an installed one) that is written anew from
    the journal; ``start_board`` starts TensorBoard on loopback, which lives as long as this process.

    Raises NotFoundError for what is no run, UsageError for an unknown sink, ConflictError while the run is in training.
    """
    place = open_run(run)
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
