"""One line of logs/metrics.jsonl."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import Sha256
from hubtool.records.strict import Record


class Event(Record):
    """A number, or a pointer to a file of the run by its sha256. Unique by (kind, split, global_step, tag).

    ``tag`` is the metric's name (``loss``, ``top1``, ``lr``); sinks show it as ``tag/split``. Wall times have tags ``wall_*``:
    they are the only values that two equal runs may differ in. A number is finite: what is undefined is not logged.
    """

    global_step: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0)]
    kind: Literal[
        "scalar", "image", "figure", "histogram", "text", "mesh", "table", "pr_curve", "embedding", "graph"
    ] = "scalar"
    split: str = "train"
    tag: str
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    path: str | None = None
    sha256: Sha256 | None = None
