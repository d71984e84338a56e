"""Progress in a notebook: one cell output that is written again in place. IPython is asked only where it runs already."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

from hubtool.cli.terminal import TerminalReporter
from hubtool.cli.text import Rows, amount, clock
from hubtool.core.progress import Note, Reporter, Task

_EVERY_S = 0.25


def progress() -> Reporter:
    """A reporter for the Python API, ``hubtool.finetune(..., reporter=hubtool.progress())``: in a notebook a bar and the table
    of epochs in the cell's output, elsewhere what the command shows on stderr. In a notebook every verb takes it by itself."""
    return NotebookReporter() if is_notebook() else TerminalReporter(is_quiet=False)


def is_notebook() -> bool:
    """Whether this process is a kernel whose front end shows outputs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookReporter:
    """A task shows itself at most four times a second; one inside another stands below it while it lasts."""

    def __init__(self) -> None:
        self._tasks: list[_NotebookTask] = []
        self._lines: list[str] = []
        self._rows = Rows()
        self._handle: Any = None
        self._shown_at = 0.0

    def say(self, text: str) -> None:
        click.echo(text)

    def warn(self, text: str) -> None:
        click.echo(f"warning: {text}", err=True)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        if not self._tasks:
            self._handle, self._lines, self._rows = None, [], Rows()
        task = _NotebookTask(self, label, total, unit)
        self._tasks.append(task)
        self.show()
        try:
            yield task
        finally:
            self._tasks.pop()
            if not self._tasks:
                self._lines.append(task.line(is_over=True))
            self.show(is_now=True)

    def row(self, cells: Mapping[str, str]) -> None:
        self._lines += self._rows.lines(cells)
        self.show()

    def show(self, *, is_now: bool = False) -> None:
        now = time.monotonic()
        if not is_now and now - self._shown_at < _EVERY_S and self._handle is not None:
            return
        self._shown_at = now
        bundle = {
            "text/plain": "\n".join([*self._lines, *(task.line() for task in self._tasks)]),
            "text/html": _pre("\n".join(self._lines)) + "".join(task.bar() for task in self._tasks),
        }
        if self._handle is None:
            display: Any = importlib.import_module("IPython.display")
            self._handle = display.display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


@dataclass
class _NotebookTask:
    reporter: NotebookReporter
    label: str
    total: float | None
    unit: str
    done: float = 0.0
    text: Note = ""
    began: float = field(default_factory=time.monotonic)

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        self.reporter.show()

    def note(self, text: Note) -> None:
        self.text = text
        self.reporter.show()

    def row(self, cells: Mapping[str, str]) -> None:
        self.reporter.row(cells)

    def line(self, *, is_over: bool = False) -> str:
        """``training: 12/40 steps, 0:03 left · note``."""
        elapsed_s = time.monotonic() - self.began
        if is_over:
            return f"{self.label}: {amount(self.done, None, self.unit)} in {elapsed_s:.1f} s"
        share = self.done / self.total if self.total else 0.0
        left = f", {clock(elapsed_s * (1 / share - 1))} left" if 0 < share <= 1 else ""
        note = self.text() if callable(self.text) else self.text
        return f"{self.label}: {amount(self.done, self.total, self.unit)}{left}" + (f" · {note}" if note else "")

    def bar(self) -> str:
        value = f' value="{self.done / self.total:.4f}"' if self.total else ""
        return f"<div><progress{value}></progress> {html.escape(self.line())}</div>"


def _pre(text: str) -> str:
    return f'<pre style="margin:0">{html.escape(text)}</pre>' if text else ""
