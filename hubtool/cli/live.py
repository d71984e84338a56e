"""One live line at the foot of a terminal, drawn by rich; imported only where there is such a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID
from rich.progress import Task as RichTask
from rich.text import Text

from hubtool.cli.text import amount, clock
from hubtool.core.progress import Note, Task

_EVERY_S = 0.1
_WIDE = 110


class LiveLine:
    """The innermost task stands in the line. ``row`` is told of every row of a table.

    rich is asked at most ten times a second: units and rows of that time are put together.
    """

    def __init__(self, row: Callable[[Mapping[str, str]], None]) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(_Line(self._console), console=self._console, transient=True, refresh_per_second=8)
        self._row = row
        self._tasks: list[TaskID] = []
        self._waiting: list[str] = []
        self._printed_at = 0.0

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        if not self._tasks:
            self._progress.start()
        else:
            self._progress.update(self._tasks[-1], visible=False)
        task_id = self._progress.add_task(label, total=total, note="", unit=unit)
        self._tasks.append(task_id)
        try:
            yield _LiveTask(self, task_id, self._row)
        finally:
            self._tasks.pop()
            self._progress.remove_task(task_id)
            self._print_waiting()
            if self._tasks:
                self._progress.update(self._tasks[-1], visible=True)
            else:
                self._progress.stop()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """And print what has waited for it."""
        self._progress.update(task_id, **changes)
        self._print_waiting()

    def print(self, text: str, style: str = "", *, is_soon: bool = False) -> None:
        """Above the line; with ``is_soon`` at the next update where something was printed a moment ago."""
        if not is_soon:
            self._print_waiting()
            self._put(text, style)
            return
        self._waiting.append(text)
        if time.monotonic() - self._printed_at >= _EVERY_S:
            self._print_waiting()

    def _print_waiting(self) -> None:
        if self._waiting:
            self._put("\n".join(self._waiting), "")
            self._waiting.clear()
            self._printed_at = time.monotonic()

    def _put(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _LiveTask:
    def __init__(self, live: LiveLine, task_id: TaskID, row: Callable[[Mapping[str, str]], None]) -> None:
        self._live = live
        self._task_id = task_id
        self._row = row
        self._pending = 0.0
        self._shown_at = 0.0

    def advance(self, amount: float = 1) -> None:
        self._pending += amount
        self._show()

    def note(self, text: Note) -> None:
        self._live.update(self._task_id, note=text)

    def row(self, cells: Mapping[str, str]) -> None:
        self._row(cells)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _EVERY_S:
            self._live.update(self._task_id, advance=self._pending)
            self._pending, self._shown_at = 0.0, now


class _Line(ProgressColumn):
    """Label, bar, units, time left, note; on a narrow terminal a note drives label and bar away, and is cut at the edge."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._marks = "━─" if self._console.encoding.startswith("utf") else "=-"

    def render(self, task: RichTask) -> Text:
        width, note = self._console.width, _text(task.fields["note"])
        is_short = bool(note) and width < _WIDE
        parts = Text()
        if not is_short:
            parts.append(task.description + "  ")
            if task.total:
                self._append_bar(parts, min(1.0, task.completed / task.total), 24 if width >= _WIDE else 16)
        parts.append(amount(task.completed, task.total, "" if is_short else task.fields["unit"]), style="cyan")
        left_s = task.time_remaining
        if left_s is not None and task.total:
            parts.append(f"  {clock(left_s)}" + ("" if is_short else " left"))
        elif task.elapsed is not None and not is_short:
            parts.append(f"  {clock(task.elapsed)}")
        if note:
            parts.append(f"  {note}")
        parts.truncate(max(1, width - 1), overflow="ellipsis")
        return parts

    def _append_bar(self, parts: Text, share: float, width: int) -> None:
        done = round(share * width)
        parts.append(self._marks[0] * done, style="green")
        parts.append(self._marks[1] * (width - done) + "  ", style="dim")


def _text(note: Any) -> str:
    return str(note() if callable(note) else note)
