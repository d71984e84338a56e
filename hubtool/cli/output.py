"""What a person, a script or a pipe sees: results on stdout, talk on stderr.

``human`` prints a short text, ``json`` one compact document, ``ids`` one id a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import click

from hubtool.cli.terminal import TerminalReporter, is_human
from hubtool.cli.text import size, table
from hubtool.core.progress import Reporter

__all__ = ["Jsonable", "Mode", "Output", "TerminalReporter", "is_human", "size", "table"]

Mode = Literal["human", "json", "ids"]


class Jsonable(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Output:
    """Where a command prints. ``reporter`` is what it hands to its job, ``has_result`` whether its result was printed."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.has_result = False
        self.reporter: Reporter = TerminalReporter(is_quiet=mode == "ids", has_tables=mode == "human")

    def result(
        self, value: Jsonable | dict[str, Any] | list[Any], *, ids: Sequence[str] = (), human: Callable[[], str | None]
    ) -> None:
        """Print the one result in the mode asked for; ``human`` may print by itself and return None."""
        self.has_result = True
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
