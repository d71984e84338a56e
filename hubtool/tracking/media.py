"""What is logged and is no number: a file below ``RUN/logs/media``, and the event that points to it by sha256.

Pictures are PNG, texts UTF-8, histograms canonical JSON, everything else arrays in a ``.npz`` without pickles.
Each ``write_*`` returns events for the journal; the sinks read the files back.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hubtool.core.digests import canonical_json, sha256_bytes
from hubtool.core.errors import IntegrityError, UsageError
from hubtool.core.files import make_dirs
from hubtool.core.files import write_bytes as write_file
from hubtool.records.log import Event

DIRECTORY = "logs/media"
NUM_BINS = 64
Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["image", "figure", "histogram", "text", "mesh", "table", "pr_curve", "embedding", "graph"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where in a run something is logged."""

    run_dir: Path
    global_step: int
    epoch: int
    split: str = "train"

    def event(self, kind: Kind, tag: str, path: str, data: bytes) -> Event:
        return Event(
            global_step=self.global_step, epoch=self.epoch, split=self.split,
            kind=kind, tag=tag, path=path, sha256=sha256_bytes(data),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """``counts[i]`` values lie in (``limits[i-1]``, ``limits[i]``]; the bins are equal in width."""

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    limits: tuple[float, ...]
    counts: tuple[int, ...]


def write_png(moment: Moment, tag: str, png: bytes, *, kind: Literal["image", "figure"] = "image") -> Event:
    """A picture; ``kind`` figure for a plot. Raises UsageError for what is no PNG."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UsageError("E-LOG-PNG", "a logged picture is a PNG", where=tag)
    return _write(moment, kind, tag, png, "png")


def write_text(moment: Moment, tag: str, text: str) -> Event:
    """Markdown."""
    return _write(moment, "text", tag, text.encode(), "md")


def write_mesh(
    moment: Moment, tag: str, *, vertices_BNC: Array, colors_BNC: Array | None = None, faces_BMC: Array | None = None
) -> Event:
    """Meshes or point clouds: B of them, N points with 3 coordinates, colours 0 to 255, M triangles of point numbers."""
    arrays = {"vertices": vertices_BNC, "colors": colors_BNC, "faces": faces_BMC}
    kept = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    if any(array.ndim != 3 or array.shape[2] != 3 for array in kept.values()):
        raise UsageError("E-LOG-MESH", "vertices, colors and faces have the shape (B, N, 3)", where=tag)
    return write_arrays(moment, "mesh", tag, kept)


def write_arrays(moment: Moment, kind: Kind, tag: str, arrays: Mapping[str, Array]) -> Event:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **dict(sorted(arrays.items())))
    return _write(moment, kind, tag, stream.getvalue(), "npz")


def write_data(moment: Moment, kind: Kind, tag: str, data: bytes, suffix: str) -> Event:
    """Bytes as they are."""
    return _write(moment, kind, tag, data, suffix)


def point_to(moment: Moment, kind: Kind, tag: str, file: Path) -> Event:
    """An event for a file that stands in the run already, such as a plot."""
    path = file.relative_to(moment.run_dir).as_posix()
    return moment.event(kind, tag, path, file.read_bytes())


def write_histograms(moment: Moment, values: Mapping[str, Array]) -> tuple[Event, ...]:
    """One histogram per tag, all in one file. Values that are not finite are left out; an empty one is not logged."""
    histograms = {tag: h for tag, array in sorted(values.items()) if (h := _histogram(np.asarray(array))) is not None}
    if not histograms:
        return ()
    data = canonical_json({tag: vars(h) for tag, h in histograms.items()})
    tags = sha256_bytes("\n".join(histograms).encode())[:8]  # weights and gradients of one moment are two files
    path = _path(moment, f"histograms-{tags}", "json")
    _put(moment.run_dir, path, data)
    return tuple(moment.event("histogram", tag, path, data) for tag in histograms)


def read_bytes(run_dir: Path, event: Event) -> bytes:
    """The file an event points to. Raises IntegrityError when it is missing, changed or outside the run."""
    path = (run_dir / (event.path or "")).resolve()
    if event.path is None or not path.is_relative_to(run_dir.resolve()):
        raise IntegrityError("E-LOG-PATH", "the event points to no file of the run", where=event.tag)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError("E-LOG-FILE", "the event's file is missing", where=event.path) from error
    if sha256_bytes(data) != event.sha256:
        raise IntegrityError("E-LOG-FILE", "the event's file was changed", where=event.path)
    return data


def read_histogram(run_dir: Path, event: Event) -> Histogram:
    value = _histograms_in(read_bytes(run_dir, event))[event.tag]
    return Histogram(**{**value, "limits": tuple(value["limits"]), "counts": tuple(value["counts"])})


@lru_cache(maxsize=4)  # weights and gradients, of two sinks that are not equally far
def _histograms_in(data: bytes) -> dict[str, Any]:
    """A file's, which every one of its events asks for: parsed once, not as often as there are tensors."""
    found: dict[str, Any] = json.loads(data)
    return found


def read_arrays(run_dir: Path, event: Event) -> dict[str, Array]:
    with np.load(io.BytesIO(read_bytes(run_dir, event)), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _histogram(values: Array) -> Histogram | None:
    values = values.astype(np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    counts, edges = np.histogram(values, bins=NUM_BINS)
    return Histogram(
        min=float(values.min()), max=float(values.max()), num=int(values.size), sum=float(values.sum()),
        sum_squares=float(np.square(values).sum()),  # a product of BLAS depends on its number of threads
        limits=tuple(float(v) for v in edges[1:]), counts=tuple(int(v) for v in counts),
    )  # fmt: skip


def _write(moment: Moment, kind: Kind, tag: str, data: bytes, suffix: str) -> Event:
    path = _path(moment, f"{kind}-{tag}", suffix)
    _put(moment.run_dir, path, data)
    return moment.event(kind, tag, path, data)


def _path(moment: Moment, name: str, suffix: str) -> str:
    """Readable and unique: what the cleaned name loses, its digest keeps."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:80]
    if clean != name:
        clean += "-" + sha256_bytes(name.encode())[:8]
    return f"{DIRECTORY}/s{moment.global_step:06d}-{moment.split}-{clean}.{suffix}"


def _put(run_dir: Path, path: str, data: bytes) -> None:
    make_dirs(run_dir / DIRECTORY)
    write_file(run_dir / path, data)
