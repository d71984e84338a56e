"""What a person, a script or a pipe sees: results on stdout, talk on stderr.

``human`` prints a short text, ``json`` one compact document, ``ids`` one id a line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import click

from hubtool.core.progress import Reporter, SilentTask, Task
from hubtool.core.settings import read_settings

Mode = Literal["human", "json", "ids"]


class Jsonable(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Output:
    """Where a command prints. ``reporter`` is what it hands to its job."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.reporter: Reporter = TerminalReporter(is_quiet=mode == "ids")

    def result(
        self, value: Jsonable | dict[str, Any] | list[Any], *, ids: Sequence[str] = (), human: Callable[[], str | None]
    ) -> None:
        """Print the one result in the mode asked for; ``human`` may print by itself and return None."""
        if self.mode == "json":
            document = value if isinstance(value, dict | list) else value.to_dict()
            click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        elif self.mode == "ids":
            for name in ids:
                click.echo(name)
        else:
            text = human()
            if text is not None:
                click.echo(text)

    def hint(self, text: str) -> None:
        """What to type next; for people only."""
        if self.mode == "human":
            click.echo(f"next: {text}", err=True)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask a person at the terminal; without one the answer is ``yes``."""
        if yes or not is_human():
            return yes
        return click.confirm(question, default=False, err=True)


def is_human() -> bool:
    """Whether a person sits at the terminal and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def table(rows: Sequence[Sequence[object]], header: Sequence[str], *, right: Sequence[int] = ()) -> str:
    """Columns aligned by spaces; the columns in ``right`` flush right. Reads well on 80 columns and in a pipe."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def size(size_bytes: float) -> str:
    """``1.5 MB``: decimal units, as disks and hubs count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _plural(unit: str) -> str:
    return f"{unit}s" if unit and not unit.endswith(("s", "B")) else unit


class TerminalReporter:
    """Progress and talk on stderr: a live bar for a person, plain lines for a log, warnings alone when quiet."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._is_live = sys.stderr.isatty() and not is_quiet
        self._console: Any = None

    def say(self, text: str) -> None:
        if not self._is_quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}", style="yellow")

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        if self._is_live:
            return self._bar(label, total, unit)
        return self._lines(label, unit)

    def _print(self, text: str, style: str = "") -> None:
        if self._console is not None:
            self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        else:
            is_plain = read_settings().is_plain
            click.secho(text, err=True, fg=(style or None) if self._is_live and not is_plain else None)

    @contextmanager
    def _bar(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        if self._console is not None:  # a task inside a task: its own bar would fight for the line
            yield SilentTask()
            return
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}" + ("/{task.total:.0f}" if total else "") + f" {_plural(unit)}".rstrip()),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        try:
            with Progress(*columns, console=self._console, transient=True, refresh_per_second=8) as progress:
                task_id = progress.add_task(label, total=total, note="")
                yield _BarTask(progress, task_id)
        finally:
            self._console = None

    @contextmanager
    def _lines(self, label: str, unit: str) -> Iterator[Task]:
        task = _LineTask(self, label)
        started = time.monotonic()
        yield task
        wall_s = time.monotonic() - started
        if wall_s >= 0.5 and not self._is_quiet:
            amount = f" {task.done:.0f} {unit if task.done == 1 else _plural(unit)}".rstrip() if task.done else ""
            self._print(f"{label}:{amount} in {wall_s:.1f} s")


class _BarTask:
    def __init__(self, progress: Any, task_id: Any) -> None:
        self._progress = progress
        self._task_id = task_id

    def advance(self, amount: float = 1) -> None:
        self._progress.update(self._task_id, advance=amount)

    def note(self, text: str) -> None:
        self._progress.update(self._task_id, note=text)


class _LineTask:
    """In a log a note is a line, at most one every five seconds."""

    def __init__(self, reporter: TerminalReporter, label: str) -> None:
        self._reporter = reporter
        self._label = label
        self._last = 0.0
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def note(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= 5:
            self._last = now
            self._reporter.say(f"{self._label}: {text}")
