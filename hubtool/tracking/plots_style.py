"""One calm style for every plot: readable in black and white, without a window system, the same bytes from the same input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubtool.core.files import make_dirs, write_bytes
from hubtool.core.settings import place_caches, read_settings

INK = "#222222"
GREY = "#8a8a8a"
PALE = "#d9d9d9"
BLUE = "#1f5a92"
# Told apart by lightness and by dash, not by hue alone.
LINES: tuple[tuple[str, Any], ...] = (
    ("#1f5a92", "solid"),
    ("#d1702a", "dashed"),
    ("#3a8f5c", "dashdot"),
    ("#7d4f9e", "dotted"),
    ("#444444", (0, (5, 1, 1, 1, 1, 1))),
    ("#b08a00", (0, (8, 3))),
)
RIGHT, WRONG = "#2b7a3d", "#b3261e"
DPI = 150
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # names of classes and runs are no formulas
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ebebeb",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": True,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "hubtool",
    "savefig.dpi": DPI,
}
# Level 1 of zlib: a fifth larger than level 6, and a third of its time.
_WRITTEN_AS: dict[str, Any] = {
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 1}},
    ".svg": {"metadata": {"Date": None, "Creator": None}},
}


@contextmanager
def figure(
    width: float, height: float, path: Path, *, is_laid_out: bool = False, suffixes: Sequence[str] = (".png", ".svg")
) -> Iterator[Any]:
    """A figure of ``width`` by ``height`` inches; at the end of the block it is written as ``path`` in PNG and in SVG.

    It is laid out once, for both: matplotlib would lay it out four times, half of the whole cost. ``is_laid_out``: the
    block itself says where everything stands. ``suffixes``: photographs gain nothing as SVG, and cost four times the PNG.
    """
    place_caches(read_settings())
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), matplotlib.rc_context(_RC):
        # Names in a script that the font lacks are boxes; a warning for each letter would help nobody.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        fig: Any = Figure(figsize=(width, height), dpi=DPI, layout=None if is_laid_out else "constrained")
        FigureCanvasAgg(fig)
        yield fig
        if not is_laid_out:
            fig.get_layout_engine().execute(fig)
            fig.set_layout_engine(None)
        make_dirs(path.parent)
        for suffix in suffixes:
            stream = io.BytesIO()
            fig.savefig(stream, format=suffix[1:], **_WRITTEN_AS[suffix])
            write_bytes(path.with_suffix(suffix), stream.getvalue())


def plain_ticks(axis: Any) -> None:
    """A logarithmic y axis with 0.01 and 1000 at its ticks: matplotlib's own are formulas, which ``_RC`` shows as their source."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def written(path: Path) -> tuple[Path, Path]:
    """The two files of a plot, PNG first."""
    return path.with_suffix(".png"), path.with_suffix(".svg")


def shorten(text: str, num_chars: int) -> str:
    """A name as matplotlib shows it: cut in the middle, as the ends of class names tell them apart. A control character is a
    space, and ``_`` at the start hides nothing from a legend."""
    text = "".join(char if char.isprintable() else " " for char in text)
    if len(text) > num_chars:
        head = (num_chars - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (num_chars - 1 - head) :]}"
    return f" {text}" if text.startswith("_") else text
