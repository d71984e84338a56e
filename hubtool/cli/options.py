"""Options that many commands share, and the decorator that gives a command its output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from hubtool.cli.output import Mode, Output
from hubtool.core.errors import HubtoolError

P = ParamSpec("P")
R = TypeVar("R")


class AliasGroup(click.Group):
    """A group of commands in which ``ls`` means ``list``."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "list" if cmd_name == "ls" else cmd_name)


def common(function: Callable[Concatenate[Output, P], R]) -> Callable[P, R]:
    """Add ``--json`` and ``-q/--quiet`` and hand the command its ``Output`` as the first argument."""

    @click.option("--json", "is_json", is_flag=True, help="One compact JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Only ids on stdout, one a line; no progress.")
    @functools.wraps(function)
    def command(*args: Any, is_json: bool, quiet: bool, **kwargs: Any) -> R:
        mode: Mode = "json" if is_json else "ids" if quiet else "human"
        out = Output(mode)
        try:
            return function(out, *args, **kwargs)
        except HubtoolError as error:
            error.is_told = out.has_result
            raise

    return command  # type: ignore[return-value]


def directory(help_text: str, *, name: str = "--data", required: bool = True) -> Callable[[Any], Any]:
    """An option that takes a directory; whether it is there is the job's to say, with the right exit code."""
    # `out` is taken by the command's Output
    names = (name, "out_dir") if name == "--out" else (name,)
    return click.option(
        *names, required=required, type=click.Path(path_type=Path), metavar="DIR", help=help_text, default=None
    )


def hub_option(help_text: str) -> Callable[[Any], Any]:
    return click.option("--hub", metavar="URL|local", default=None, help=help_text)
