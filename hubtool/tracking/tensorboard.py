"""The TensorBoard sink: one event file in ``RUN/logs/tensorboard``, no sub-runs, no TensorFlow.

The file is written here record by record, for torch's SummaryWriter puts the host name into the file's name and opens
sub-runs for hparams; torch's summary functions make the records that are more than a number.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

from hubtool.records.log import Event
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.tasks import TASKS
from hubtool.tracking import media
from hubtool.tracking.history import flat_recipe
from hubtool.tracking.projector import Projector
from hubtool.tracking.ranking import PR_ROWS
from hubtool.tracking.sinks import Place


class TensorBoardSink:
    """Tags are ``tag/split`` (``loss/train``). Starts with the hparams, the layout of the custom scalars and the recipe."""

    def __init__(self, place: Place) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from torch.utils.tensorboard import summary

        self._event_pb2: Any = event_pb2
        self._summary_pb2: Any = summary_pb2
        self._summary: Any = summary
        self._run_dir = place.run_dir
        place.directory.mkdir(parents=True, exist_ok=True)
        earlier = sorted(place.directory.glob("events.out.tfevents.*"))
        self._projector = Projector(place.directory)
        self.path = _free_name(place.directory)
        self._records = self.path.open("wb")
        try:
            self._put(event_pb2.Event(file_version="brain.Event:2"))
            self._begin(place)
            self._records.flush()
        except BaseException:
            self._records.close()
            raise
        for path in earlier:
            path.unlink()

    def write(self, event: Event) -> None:
        tag = f"{event.tag}/{event.split}"
        if event.kind == "scalar":
            if event.value is not None:
                value = self._summary_pb2.Summary.Value(tag=tag, simple_value=event.value)
                self._add(self._summary_pb2.Summary(value=[value]), event.global_step)
            return
        for summary in self._pictured(tag, event):
            self._add(summary, event.global_step)

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        _, _, end = self._summary.hparams({}, {})
        self._add(end, 0)
        self._records.close()

    def _pictured(self, tag: str, event: Event) -> list[Any]:
        """What is no number, read from the file that the event points to."""
        data = media.read_bytes(self._run_dir, event)
        if event.kind in ("image", "figure"):
            return [self._image(tag, data)]
        if event.kind == "text":
            return [self._summary.text(tag, data.decode())]
        if event.kind == "histogram":
            h = media.read_histogram(self._run_dir, event)
            raw = (h.min, h.max, h.num, h.sum, h.sum_squares, h.limits, h.counts)
            return [self._summary.histogram_raw(tag, *raw)]
        if event.kind == "graph":
            self._put(self._event_pb2.Event(graph_def=data))
            return []
        if event.kind == "table":
            return []
        arrays = media.read_arrays(self._run_dir, event)
        if event.kind == "mesh":
            return [self._mesh(tag, arrays)]
        if event.kind == "pr_curve":
            rows = (arrays[row] for row in PR_ROWS)
            return [self._summary.pr_curve_raw(tag, *rows, num_thresholds=len(arrays["recall"]))]
        self._projector.add(tag, event.global_step, arrays)
        return []

    def _image(self, tag: str, png: bytes) -> Any:
        width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        image = self._summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        return self._summary_pb2.Summary(value=[self._summary_pb2.Summary.Value(tag=tag, image=image)])

    def _mesh(self, tag: str, arrays: dict[str, Any]) -> Any:
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return self._summary.mesh(tag, tensors["vertices"], tensors.get("colors"), tensors.get("faces"), None)

    def _begin(self, place: Place) -> None:
        # Without an experiment of one run TensorBoard makes its own of all it sees, what differs between them first.
        _, start, _ = self._summary.hparams(flat_recipe(place.resolved), {})
        for summary in (start, self._summary.custom_scalars(layout(place.resolved))):
            self._add(summary, 0)
        for tag, name in (("recipe", "recipe.yaml"), ("environment", "environment.json")):
            path = place.run_dir / name
            if path.exists():
                self._add(self._summary.text(tag, f"```\n{_readable(path)}\n```"), 0)

    def _add(self, summary: Any, global_step: int) -> None:
        self._put(self._event_pb2.Event(summary=summary, step=global_step))

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = len(data).to_bytes(8, "little")
        self._records.write(b"".join((length, _checksum(length), data, _checksum(data))))


def _checksum(data: bytes) -> bytes:
    """The CRC-32C of a record's part, masked as its format asks. TensorBoard's own writer computes it byte by byte in Python:
    a second of the interpreter for the plots of one run."""
    import google_crc32c

    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def model_graph(model: Any, x_BCHW: Any) -> bytes:
    """The model's graph for an event of kind ``graph``; traces the model, which costs seconds."""
    import torch
    from torch.utils.tensorboard._pytorch_graph import graph

    with torch.no_grad(), warnings.catch_warnings():
        # torch's own writer still uses torch.jit.trace, which is deprecated
        warnings.filterwarnings("ignore", message=".*torch.jit.trace")
        traced, _ = graph(model, x_BCHW, verbose=False, use_strict_trace=False)
    data: bytes = traced.SerializeToString()
    return data


def _free_name(directory: Path) -> Path:
    """TensorBoard reads the files of a directory in the order of their names."""
    number = time.time_ns()
    while (path := directory / f"events.out.tfevents.{number}.hubtool").exists():
        number += 1
    return path


def _readable(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return json.dumps(json.loads(text), indent=2) if path.suffix == ".json" else text


def layout(resolved: ResolvedRecipe) -> dict[str, dict[str, list[Any]]]:
    """The custom scalars: what one looks at first, in one place."""
    headline = TASKS[resolved.task].metrics[0]
    return {
        "overview": {
            "loss": ["Multiline", ["^loss/train$", "^loss/val$"]],
            headline: ["Multiline", [f"^{headline}/"]],
            "learning rate": ["Multiline", ["^lr"]],
            "seconds per epoch": ["Multiline", ["^wall_epoch_s/"]],
            "images per second": ["Multiline", ["^wall_images_per_second/"]],
        }
    }
