"""Plots without ink. Laying out and drawing them is two thirds of a small run, and tests/tracking looks at what they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from unittest import mock


@contextmanager
def plots() -> Iterator[None]:
    """Inside the block a plot's files are written where they belong and hold nothing."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with (
        mock.patch.object(Figure, "savefig", _write_blank),
        mock.patch.object(ConstrainedLayoutEngine, "execute", _leave),
    ):
        yield


def _write_blank(figure: Any, stream: IO[bytes], **options: Any) -> None:
    stream.write(b"blank")


def _leave(engine: Any, figure: Any) -> None:
    pass
