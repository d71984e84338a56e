"""How numbers and tables are written for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence


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


def amount(done: float, total: float | None, unit: str) -> str:
    """``120/500 steps``, ``1.5 MB/3.0 MB``, ``7``."""
    if unit == "B":
        return size(done) + (f"/{size(total)}" if total else "")
    many = unit if unit.endswith("s") or not unit or (done == 1 and not total) else f"{unit}s"
    return (f"{done:.0f}" + (f"/{total:.0f}" if total else "") + f" {many}").rstrip()


def clock(wall_s: float) -> str:
    """``0:07``, ``1:02:03``."""
    minutes, seconds = divmod(round(wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Rows:
    """A table that grows while a job works: columns as wide as their first row asks for, the header where they change."""

    def __init__(self) -> None:
        self._columns: tuple[str, ...] = ()
        self._widths: list[int] = []

    def lines(self, cells: Mapping[str, str]) -> list[str]:
        lines = []
        if tuple(cells) != self._columns:
            self._columns = tuple(cells)
            self._widths = [max(len(name), len(text), 4) for name, text in cells.items()]
            lines.append(self._line(self._columns))
        return [*lines, self._line(tuple(cells.values()))]

    def _line(self, texts: tuple[str, ...]) -> str:
        return "  ".join(text.rjust(width) for text, width in zip(texts, self._widths, strict=True)).rstrip()


def wrapped(text: str, *, first: str = "", later: str = "", num_chars: int = 80) -> list[str]:
    """Lines of at most ``num_chars``, broken between words; ``first`` and ``later`` stand before them."""
    return textwrap.wrap(
        text, num_chars, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def short(text: str, num_chars: int) -> str:
    """The middle left out where it is longer."""
    if len(text) <= num_chars:
        return text
    head = (num_chars - 1) // 2
    return f"{text[:head]}…{text[len(text) - (num_chars - 1 - head) :]}"
