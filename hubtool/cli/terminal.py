"""Progress and talk on stderr: one live line for a person, plain lines for a log, warnings alone when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import click

from hubtool.cli.text import Rows, amount
from hubtool.core.progress import Note, Task
from hubtool.core.settings import read_settings

if TYPE_CHECKING:
    from hubtool.cli.live import LiveLine

ROW_EVERY_S = 5.0  # where a table is not what was asked for


def is_human() -> bool:
    """Whether a person sits at the terminal and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class TerminalReporter:
    """``has_tables`` False: a row of a table is said now and then only, for whoever reads a machine's result."""

    def __init__(self, *, is_quiet: bool, has_tables: bool = True) -> None:
        self._is_quiet = is_quiet
        self._has_tables = has_tables
        self._is_live = sys.stderr.isatty() and not is_quiet
        self._live: LiveLine | None = None
        self._rows = Rows()
        self._row_at = 0.0

    def say(self, text: str) -> None:
        if not self._is_quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}", style="yellow")

    def row(self, cells: Mapping[str, str]) -> None:
        """Where rows are not asked for they are a sentence, at most one every five seconds."""
        if self._is_quiet:
            return
        if self._has_tables:
            self._print("\n".join(self._rows.lines(cells)), is_soon=True)
        elif time.monotonic() - self._row_at >= ROW_EVERY_S:
            self._row_at = time.monotonic()
            self._print(" · ".join(f"{name} {text}".strip() for name, text in cells.items() if text), is_soon=True)

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        if self._is_live:
            return self._bar(label, total, unit)
        return self._lines(label, unit)

    def _print(self, text: str, style: str = "", *, is_soon: bool = False) -> None:
        """``is_soon``: a line that may wait for the next time the live line is drawn."""
        if self._live is not None:
            self._live.print(text, style, is_soon=is_soon)
        else:
            is_plain = read_settings().is_plain
            click.secho(text, err=True, fg=(style or None) if self._is_live and not is_plain else None)

    @contextmanager
    def _bar(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        """A task inside a task takes the line over until it ends."""
        from hubtool.cli.live import LiveLine

        is_first = self._live is None
        live = self._live = self._live or LiveLine(self.row)
        try:
            with live.task(label, total, unit) as task:
                yield task
        finally:
            if is_first:
                self._live = None

    @contextmanager
    def _lines(self, label: str, unit: str) -> Iterator[Task]:
        task = _LineTask(self, label)
        started = time.monotonic()
        yield task
        wall_s = time.monotonic() - started
        if wall_s >= 0.5 and not self._is_quiet:
            done = f" {amount(task.done, None, unit)}" if task.done else ""
            self._print(f"{label}:{done} in {wall_s:.1f} s")


class _LineTask:
    """In a log a note is a line, at most one every five seconds; what only a drawn bar would ask for is not said."""

    def __init__(self, reporter: TerminalReporter, label: str) -> None:
        self._reporter = reporter
        self._label = label
        self._last = 0.0
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def note(self, text: Note) -> None:
        now = time.monotonic()
        if isinstance(text, str) and now - self._last >= ROW_EVERY_S:
            self._last = now
            self._reporter.say(f"{self._label}: {text}")

    def row(self, cells: Mapping[str, str]) -> None:
        self._reporter.row(cells)
