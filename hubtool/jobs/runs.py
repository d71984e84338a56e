"""hubtool runs: list, show, compare and prune the runs on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubtool.core import locks
from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import ConflictError, HubtoolError, NotFoundError, UsageError
from hubtool.records.log import Event
from hubtool.records.rundir import RunDir
from hubtool.records.runs import (
    Comparison,
    EpochRow,
    FieldValues,
    Freed,
    MetricValues,
    Pair,
    PruneReport,
    RunDetail,
    RunList,
    RunRow,
)
from hubtool.records.tasks import TASKS
from hubtool.tracking import history
from hubtool.tracking.journal import read_events

if TYPE_CHECKING:
    from hubtool.tracking.flips import Judged

Order = Literal["began", "name", "metric", "time", "size"]
DEFAULT_ROOT = Path("runs")


def runs(root: Path = DEFAULT_ROOT, *, order: Order = "began") -> RunList:
    """Every run below ``root``, the newest first, or by name, best metric, duration or disk; a damaged one is only named."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise NotFoundError("E-RUNS-404", "no runs here", where=str(root), do="`hubtool finetune` makes one")
    found, skipped, recipes = [], [], []
    for place in _places(root):
        try:
            recipes.append(_flat_recipe(place))
            found.append(_row(place))
        except HubtoolError as error:
            del recipes[len(found) :]
            skipped.append(f"{place.path.name}: {error.what}")
    differing = history.differing(recipes)
    rows = [
        row.model_copy(update={"differs": {key: recipe.get(key, "") for key in differing}})
        for row, recipe in zip(found, recipes, strict=True)
    ]
    return RunList(root=str(root), runs=tuple(_ordered(rows, order)), skipped=tuple(skipped))


def show(run: Path) -> RunDetail:
    """Everything about one run: recipe, data, epochs, claims, files."""
    place = open_run(run)
    resolved, data = place.resolved(), place.data()
    return RunDetail(
        row=_row(place),
        recipe=_flat_recipe(place),
        data={split: len(samples) for split, samples in data.splits.items()},
        data_digest=data.digest(),
        classes=data.classes,
        device=place.environment().numerics.device,
        epochs=history.epochs(_events(place), resolved.train.select),
        result=place.result() if place.is_finished else None,
        checkpoints=tuple(sorted(p.name for p in place.checkpoints.glob("e*") if p.is_dir())),
        plots=tuple(sorted(str(p) for p in place.plots.glob("*.png"))),
    )


def compare(runs: Sequence[Path], *, plot: Path | None = None) -> Comparison:
    """Recipe differences, metrics with intervals, curves over each other, and sample by sample each run against the first.

    ``plot`` is where the curves go (PNG, and SVG beside it); the default lies beside the first run. Raises UsageError for
    fewer than two runs, NotFoundError for one that is none.
    """
    from hubtool.tracking.flips import pair

    if len(runs) < 2:
        raise UsageError("E-RUNS-COMPARE", "there is nothing to compare", do="name two runs or more")
    places = [open_run(run) for run in runs]
    if len({place.path.resolve() for place in places}) < len(places):
        raise UsageError("E-RUNS-COMPARE", "the same run is named twice", do="name different runs")
    recipes = [_flat_recipe(place) for place in places]
    names = _names(places)
    judged = [_judged(place, name) for place, name in zip(places, names, strict=True)]
    pairs = []
    for place, name, other in zip(places[1:], names[1:], judged[1:], strict=True):
        if judged[0] is None or other is None:
            reason = _no_evidence(places[0] if judged[0] is None else place)
            pairs.append(Pair(first=names[0], second=name, split="", reason=reason))
        else:
            pairs.append(pair(judged[0], other))
    return Comparison(
        runs=tuple(str(place.path) for place in places),
        recipe=tuple(
            FieldValues(field=key, values=tuple(r.get(key, "") for r in recipes)) for key in history.differing(recipes)
        ),
        metrics=_metrics(judged),
        pairs=tuple(pairs),
        plot=str(_overlay(places, names, plot or _plot_path(places))),
    )


def prune(
    runs: Sequence[Path] = (), *, root: Path = DEFAULT_ROOT, whole: bool = False, do_it: bool = False
) -> PruneReport:
    """What can be freed, and with ``do_it`` freed: of finished runs (all below ``root``, or those named) every checkpoint but
    the selected one; with ``whole`` the named runs altogether. A run in use is left alone and named.
    """
    if whole and not runs:
        raise UsageError("E-RUNS-PRUNE", "whole runs are removed by name only", do="name the runs to remove")
    places = [open_run(run) for run in runs] if runs else _places(Path(root).expanduser())
    freed: list[Freed] = []
    kept: list[str] = []
    for place in places:
        try:
            if whole:
                freed += _remove_whole(place, do_it=do_it)
            elif place.is_finished:
                freed += _remove_checkpoints(place, do_it=do_it)
            elif runs:
                kept.append(f"{place.path}: not finished; its checkpoints are needed to go on")
        except ConflictError as error:
            kept.append(f"{place.path}: {error.what}")
        except HubtoolError as error:
            kept.append(f"{place.path}: {error}")
    return PruneReport(freed=tuple(freed), size_bytes=sum(f.size_bytes for f in freed), kept=tuple(kept), is_done=do_it)


def open_run(run: Path) -> RunDir:
    """The run in a directory. Raises NotFoundError when it is none, with the nearest names beside it."""
    import difflib

    path = Path(run).expanduser()
    place = RunDir(path)
    if not place.is_begun:
        beside = path.parent if path.parent.is_dir() else DEFAULT_ROOT
        names = [p.path.name for p in _places(beside)] if beside.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.4)
        do = f"did you mean {' or '.join(str(beside / name) for name in near)}?" if near else "`hubtool runs list`"
        raise NotFoundError("E-RUN-404", f"{str(run)!a} is no run", do=do)
    return place


def _places(root: Path) -> list[RunDir]:
    if RunDir(root).is_begun:
        return [RunDir(root)]
    return [place for path in sorted(root.iterdir()) if (place := RunDir(path)).is_begun]


def _row(place: RunDir) -> RunRow:
    resolved = place.resolved()
    select = resolved.train.select
    events = _events(place)
    epochs = history.epochs(events, select)
    best = next((epoch for epoch in epochs if epoch.is_best), None)
    result = place.result() if place.is_finished else None
    headline = TASKS[resolved.task].metrics[0]
    return RunRow(
        run=str(place.path),
        name=place.path.name,
        status="finished" if result else "running" if locks.is_held(place.path / ".lock") else "stopped",
        backbone=resolved.backbone.ref,
        num_epochs=resolved.train.epochs,
        num_epochs_done=len(epochs),
        metric=select.metric,
        value=result.selected.value if result else best.values.get(history.tag_of(select.metric)) if best else None,
        claims={c.name: c.value for c in result.claims} if result else _so_far(best, headline),
        wall_s=result.wall_s if result else history.duration_s(events),
        size_bytes=_size_bytes(place.path),
        began_at=(place.path / "resolved.json").stat().st_mtime,
    )


def _so_far(best: EpochRow | None, metric: str) -> dict[str, float]:
    value = best.values.get(f"{metric}/val") if best else None
    return {} if value is None else {f"val/{metric}": value}


def _events(place: RunDir) -> list[Event]:
    return list(read_events(place.journal))


def _flat_recipe(place: RunDir) -> dict[str, str]:
    return {key: f"{value}" for key, value in history.flat_recipe(place.resolved()).items()}


def _ordered(rows: list[RunRow], order: Order) -> list[RunRow]:
    if order == "name":
        return sorted(rows, key=lambda row: row.name)
    if order == "metric":
        return sorted(rows, key=_headline, reverse=True)
    keys = {"began": "began_at", "time": "wall_s", "size": "size_bytes"}
    return sorted(rows, key=lambda row: float(getattr(row, keys[order])), reverse=True)


def _headline(row: RunRow) -> float:
    """The first claim, so that runs selected by loss can be ordered too; errors count downwards."""
    name, value = next(iter(row.claims.items()), ("", float("-inf")))
    return -value if name.partition("/")[2] in ("loss", "mae", "rmse") else value


def _size_bytes(path: Path) -> int:
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir() or p.is_symlink())


def _names(places: Sequence[RunDir]) -> list[str]:
    """The directories' names; with their parents where two are equal."""
    names = [place.path.resolve().name for place in places]
    return names if len(set(names)) == len(names) else [str(place.path) for place in places]


def _no_evidence(place: RunDir) -> str:
    if place.is_finished:
        return f"the evidence of {place.path.name} is gone"
    return f"{place.path.name} is not finished: no evidence yet"


def _judged(place: RunDir, name: str) -> Judged | None:
    from hubtool.records.evidence import Predictions
    from hubtool.tracking.flips import Judged

    if not place.is_finished:
        return None
    result, data, resolved = place.result(), place.data(), place.resolved()
    split = result.claims[0].split
    if not (place.path / place.evidence(split)).is_file():
        return None
    return Judged(
        name=name,
        task=resolved.task,
        classes=data.classes,
        predictions=Predictions.read(place.path / place.evidence(split)),
        threshold=result.threshold,
        paths={s.sha256: s.path for s in data.splits.get(split, ()) if s.path is not None},
    )


def _metrics(judged: Sequence[Judged | None]) -> tuple[MetricValues, ...]:
    from hubtool.tracking.intervals import intervals

    columns = [{} if j is None else intervals(j.task, j.predictions, threshold=j.threshold) for j in judged]
    names = dict.fromkeys(name for column in columns for name in column)
    return tuple(MetricValues(metric=name, values=tuple(c.get(name) for c in columns)) for name in names)


def _overlay(places: Sequence[RunDir], names: Sequence[str], path: Path) -> Path:
    from hubtool.tracking.plots import overlaid

    metric = TASKS[places[0].resolved().task].metrics[0]
    events = {name: _events(place) for name, place in zip(names, places, strict=True)}
    return overlaid(events, path, metric=metric)[0]


def _plot_path(places: Sequence[RunDir]) -> Path:
    key = sha256_bytes("\n".join(str(p.path.resolve()) for p in places).encode())[:8]
    return places[0].path.parent / "comparisons" / f"{key}.png"


def _remove_checkpoints(place: RunDir, *, do_it: bool) -> list[Freed]:
    from hubtool.training.checkpoint import Checkpoints

    selected = place.result().selected.checkpoint
    with place.held():
        found = [
            Freed(run=str(place.path), what=f"checkpoint {p.name}", path=str(p), size_bytes=_size_bytes(p))
            for p in sorted(place.checkpoints.glob("e*"))
            if p.is_dir() and p.name != selected
        ]
        if do_it and found:
            Checkpoints(place.checkpoints).keep_only(selected)
    return found


def _remove_whole(place: RunDir, *, do_it: bool) -> list[Freed]:
    with place.held():
        freed = Freed(
            run=str(place.path), what="the whole run", path=str(place.path), size_bytes=_size_bytes(place.path)
        )
        if do_it:
            shutil.rmtree(place.path)
    return [freed]
