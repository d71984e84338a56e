"""runs (list, show, compare, prune) · logs."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubtool.cli.options import AliasGroup, common
from hubtool.cli.output import Output, size, table
from hubtool.cli.text import short
from hubtool.records.tasks import TASKS

if TYPE_CHECKING:
    from hubtool.jobs.runs import Order
    from hubtool.jobs.shown import Extra
    from hubtool.records.runs import Comparison, LogsReport, Measured, Pair, PruneReport, RunDetail, RunList, RunRow

_PATH = click.Path(path_type=Path)
_ROOT = click.option(
    "--root", type=_PATH, default=Path("runs"), show_default=True, metavar="DIR", help="Where the runs lie."
)
_ORDERS = click.Choice(["began", "name", "metric", "time", "size"])
# Follow from the backbone's name.
_IMPLIED = {"backbone.digest", "backbone.files", "backbone.architecture", "backbone.repo_id", "backbone.url"}
_IMPLIED |= {"backbone.revision", "backbone.library"}


@click.group(cls=AliasGroup)
def runs() -> None:
    """The runs on this machine: list, show, compare, prune."""


@runs.command("list")
@_ROOT
@click.option("--sort", "order", type=_ORDERS, default="began", show_default=True, help="Best, newest, longest first.")
@common
def runs_list(out: Output, root: Path, order: Order) -> None:
    """One line per run: its best metric, what its recipe has that others have not, duration and disk."""
    from hubtool.jobs.runs import runs as job

    found = job(root, order=order)
    for text in found.skipped:
        out.reporter.warn(f"cannot be read: {text}")
    out.result(found, ids=[row.run for row in found.runs], human=lambda: list_text(found))


@runs.command("show")
@click.argument("run", type=_PATH)
@common
def runs_show(out: Output, run: Path) -> None:
    """One run: recipe, data, every epoch, claims and files."""
    from hubtool.jobs.runs import show as job

    detail = job(run)
    out.result(detail, ids=[detail.row.run], human=lambda: show_text(detail))
    out.hint(f"hubtool logs {detail.row.run} --open")


@runs.command("compare")
@click.argument("run", type=_PATH, nargs=-1, required=True, metavar="A B...")
@click.option("--plot", type=_PATH, metavar="FILE", help="Where the curves go (PNG, and SVG beside it).")
@click.option(
    "--flips", type=int, default=10, show_default=True, metavar="N", help="So many flipped samples are shown."
)
@common
def runs_compare(out: Output, run: tuple[Path, ...], plot: Path | None, flips: int) -> None:
    """What differs between runs: recipe, metrics with 95 % intervals, samples, and whether it can be chance.

    \b
    Example:
      hubtool runs compare runs/linear-probe-… runs/last-stage-…
    """
    from hubtool.jobs.runs import compare as job

    compared = job(run, plot=plot)
    ids = [flip.sha256 for pair in compared.pairs for flip in pair.flips]
    out.result(compared, ids=ids, human=lambda: compare_text(compared, flips))


@runs.command("prune")
@click.argument("run", type=_PATH, nargs=-1, metavar="[RUN]...")
@_ROOT
@click.option("--whole", is_flag=True, help="Remove the named runs altogether.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def runs_prune(out: Output, run: tuple[Path, ...], root: Path, whole: bool, yes: bool) -> None:
    """Free disk: of finished runs, every checkpoint but the selected one. Shows first what goes.

    \b
    Examples:
      hubtool runs prune                       all finished runs below runs/
      hubtool runs prune runs/bad-… --whole    that run altogether
    """
    from hubtool.jobs.runs import prune as job

    plan = job(run, root=root, whole=whole)
    if out.mode == "human":
        click.echo(prune_text(plan), err=True)
    if plan.freed and out.confirm(f"free {size(plan.size_bytes)}?", yes=yes):
        plan = job(run, root=root, whole=whole, do_it=True)
    out.result(plan, ids=[freed.path for freed in plan.freed] if plan.is_done else [], human=lambda: _outcome(plan))


@click.command()
@click.argument("run", type=_PATH)
@click.option("--open", "is_open", is_flag=True, help="Start TensorBoard on this machine and stay until Ctrl-C.")
@click.option("--port", type=int, default=0, metavar="P", help="TensorBoard's port; default: any free one.")
@click.option(
    "--export", metavar="SINK", help="Write tensorboard, wandb, csv or an installed sink anew from the journal."
)
@click.option(
    "--add",
    type=click.Choice(["graph", "embedding"]),
    multiple=True,
    help="Log the model's graph, or val's features with thumbnails, for TensorBoard.",
)
@common
def logs(out: Output, run: Path, is_open: bool, port: int, export: str | None, add: tuple[Extra, ...]) -> None:
    """Where a run's logs lie. In a notebook: %tensorboard --logdir with the path that this prints.

    \b
    Examples:
      hubtool logs runs/linear-probe-… --open
      hubtool logs runs/linear-probe-… --export csv
      hubtool logs runs/linear-probe-… --add graph --add embedding
    """
    from hubtool.jobs.logs import logs as job

    report = job(run, export=export, start_board=is_open, port=port, add=add, reporter=out.reporter)
    out.result(report, ids=[report.exported or report.directory], human=lambda: logs_text(report))
    if report.url:
        _stay(report.url)


def _stay(url: str) -> None:
    import threading
    import webbrowser

    from hubtool.cli.output import is_human

    if is_human():
        webbrowser.open(url)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("TensorBoard stopped", err=True)


def list_text(found: RunList) -> str:
    """A line per run, and under it what its recipe has that not all have."""
    if not found.runs:
        return f"no runs in {found.root}"
    rows = [_list_row(row) for row in found.runs]
    header, *lines = table(rows, ("run", "state", "best", "time", "disk"), right=(2, 3, 4)).splitlines()
    text = [header]
    for line, row in zip(lines, found.runs, strict=True):
        text.append(line)
        differs = " · ".join(f"{_last(key)}={short(v, 24)}" for key, v in row.differs.items() if key not in _IMPLIED)
        if differs:
            text += textwrap.wrap(differs, 78, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(text)


def _last(key: str) -> str:
    """``train.optimizer.lr`` → ``optimizer.lr``."""
    return ".".join(key.split(".")[-2:])


def _list_row(row: RunRow) -> tuple[str, str, str, str, str]:
    status = row.status if row.status == "finished" else f"{row.status} {row.num_epochs_done}/{row.num_epochs}"
    name, value = next(iter(row.claims.items()), (row.metric, row.value))
    best = "" if value is None else f"{name} {value:.4f}"
    return short(row.name, 31), status, best, _duration(row.wall_s), size(row.size_bytes)


def show_text(detail: RunDetail) -> str:
    row = detail.row
    counts = ", ".join(f"{num} {split}" for split, num in detail.data.items())
    lines = [
        f"{row.run}: {row.status}, {row.num_epochs_done} of {row.num_epochs} epochs in {_duration(row.wall_s)}, "
        f"{size(row.size_bytes)}",
        f"backbone {row.backbone} on {detail.device}",
        f"data {counts}: {_names(detail)}, digest {detail.data_digest[:12]}",
        "",
        _epochs_text(detail),
    ]
    if detail.result is not None:
        claims = [(c.name, f"{c.value:.4f}", f"± {c.tolerance:.4f}", c.num_samples) for c in detail.result.claims]
        lines += ["", table(claims, ("claim", "value", "tolerance", "samples"), right=(1, 2, 3))]
    lines += ["", f"checkpoints: {', '.join(detail.checkpoints) or 'none'}"]
    lines += [f"plot: {path}" for path in detail.plots]
    return "\n".join(lines)


def _names(detail: RunDetail) -> str:
    """How many classes, labels or outputs; the few by name."""
    counted = TASKS[detail.recipe["task"]].counted(len(detail.classes))
    named = f"{counted} ({', '.join(detail.classes)})"
    return named if len(named) <= 40 else counted


def _epochs_text(detail: RunDetail) -> str:
    """The first, the best and the last epochs; so many columns as fit, the loss and the selecting metric first."""
    epochs = detail.epochs
    if not epochs:
        return "no epoch is finished yet"
    split, _, name = detail.row.metric.partition("/")
    wanted = ["epoch_loss/train", f"{name}/{split}", *(t for t in epochs[-1].values if t.endswith("/val"))]
    tags, width = [], 18
    for tag in dict.fromkeys(t for t in wanted if t in epochs[-1].values):
        width += 2 + max(6, len(_column(tag)))
        if width <= 80:
            tags.append(tag)
    is_shown = {e.epoch for e in epochs if e.is_best} | {e.epoch for e in [*epochs[:4], *epochs[-8:]]}
    rows: list[tuple[object, ...]] = []
    for e in epochs:
        values = (f"{e.values[t]:.4f}" if t in e.values else "" for t in tags)
        if e.epoch in is_shown:
            rows.append((e.epoch, e.global_step, *values, "best" if e.is_best else ""))
        elif rows[-1][0] != "…":
            rows.append(("…", "", *("" for _ in tags), ""))
    return table(rows, ("epoch", "step", *map(_column, tags), ""), right=range(len(tags) + 2))


def _column(tag: str) -> str:
    return "train loss" if tag == "epoch_loss/train" else tag.removesuffix("/val")


def compare_text(compared: Comparison, num_flips: int) -> str:
    letters = [chr(ord("A") + i) for i in range(len(compared.runs))]
    lines = [f"{letter}  {run}" for letter, run in zip(letters, compared.runs, strict=True)]
    width = max(10, (76 - 28) // len(letters))
    fields = [f for f in compared.recipe if f.field not in _IMPLIED]
    if fields:
        rows = [(short(f.field, 27), *(short(v, width) for v in f.values)) for f in fields]
        lines += ["", table(rows, ("recipe", *letters))]
    else:
        lines += ["", "the recipes are equal"]
    if compared.metrics:
        rows = [(m.metric, *(_measured(v) for v in m.values)) for m in compared.metrics]
        lines += ["", table(rows, ("metric, 95 % interval", *letters))]
    for letter, pair in zip(letters[1:], compared.pairs, strict=True):
        lines += ["", *_pair_lines(pair, letters[0], letter, num_flips)]
    if compared.plot:
        lines += ["", f"curves: {compared.plot}"]
    return "\n".join(lines)


def _measured(value: Measured | None) -> str:
    if value is None:
        return "–"
    return f"{value.value:.4f}" + ("" if value.low is None else f"  {value.low:.4f} to {value.high:.4f}")


def _pair_lines(pair: Pair, first: str, second: str, num_flips: int) -> list[str]:
    if pair.p_value is None:
        return textwrap.wrap(f"{first} and {second} cannot be compared by sample: {pair.reason}", 80)
    verdict = "can well be chance" if pair.p_value > 0.05 else "is hardly chance"
    counts = (
        f"both right {pair.num_both_right}, only {first} {pair.num_only_first}, only {second} {pair.num_only_second}, "
        f"both wrong {pair.num_both_wrong}"
    )
    test = "McNemar's exact test"
    if pair.num_nearer_first is not None:
        counts = f"{first} is nearer on {pair.num_nearer_first}, {second} on {pair.num_nearer_second}"
        test = "sign test"
    lines = textwrap.wrap(f"{first} against {second} on {pair.num_common} samples of {pair.split}: {counts}", 80)
    lines.append(f"{test}: p = {pair.p_value:.3g}; the difference {verdict}")
    shown = pair.flips[:num_flips]
    if shown:
        rows = [
            (
                short(f.path or f.sha256[:12], 26),
                short(f.truth, 12),
                f"{short(f.first, 12)} {f.first_confidence:.0%}{' ✓' if f.is_first_right else ''}",
                f"{short(f.second, 12)} {f.second_confidence:.0%}{'' if f.is_first_right else ' ✓'}",
            )
            for f in shown
        ]
        lines += ["", table(rows, ("flipped sample", "true", first, second))]
        hidden = pair.num_only_first + pair.num_only_second - len(shown)
        if hidden > 0:
            lines.append(f"and {hidden} more (--flips N, or --json)")
    return lines


def prune_text(plan: PruneReport) -> str:
    lines = [f"kept {text}" for text in plan.kept]
    rows = [(f.run, f.what, size(f.size_bytes)) for f in plan.freed]
    return "\n".join([*lines, table(rows, ("run", "what goes", "disk"), right=(2,)) if rows else "nothing to free"])


def _outcome(plan: PruneReport) -> str:
    if plan.is_done:
        return f"freed {size(plan.size_bytes)}"
    return (
        f"{size(plan.size_bytes)} could be freed; nothing was removed (--yes)" if plan.freed else "nothing was removed"
    )


def logs_text(report: LogsReport) -> str:
    if report.url:
        return f"TensorBoard: {report.url} (Ctrl-C ends it)"
    if report.exported:
        return f"{report.num_events} events written to {report.exported}"
    lines = [report.directory, f"journal: {report.journal} ({report.num_events} events)"]
    return "\n".join(lines + [f"{name}: id {sink_id}" for name, sink_id in sorted(report.sinks.items())])


def _duration(wall_s: float) -> str:
    minutes, seconds = divmod(round(wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{wall_s:.1f} s"
