"""What a long job tells while it works, and its silent twin.

A job takes a ``Reporter``; the command line hands in one for the terminal, a notebook one of its own, a test none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Note = str | Callable[[], str]


class Task(Protocol):
    """One bar: ``advance`` by a number of units, ``note`` replaces the text behind it, ``row`` leaves a line of a table above.

    A note that is a function is asked whenever the bar is drawn, perhaps by another thread: what changes with every unit
    costs nothing in between. ``cells`` are texts by their column, the same columns each time.
    """

    def advance(self, amount: float = 1) -> None: ...

    def note(self, text: Note) -> None: ...

    def row(self, cells: Mapping[str, str]) -> None: ...


class Reporter(Protocol):
    """Talk that is no result. ``say`` informs, ``warn`` asks for attention, ``task`` is a bar that ends with its block."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]: ...


class SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def note(self, text: Note) -> None:
        pass

    def row(self, cells: Mapping[str, str]) -> None:
        pass


class SilentReporter:
    """Says nothing; the default of every job called from Python."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield SilentTask()


SILENT = SilentReporter()
