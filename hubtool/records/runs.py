"""What `hubtool runs` and `hubtool logs` tell about runs on this machine. Paths are of this machine; nothing of it is published."""

from __future__ import annotations

from typing import Literal

from hubtool.records.backbone import Sha256
from hubtool.records.run import Result
from hubtool.records.strict import Record

RunStatus = Literal["finished", "running", "stopped"]


class RunRow(Record):
    """One run in the list. ``metric`` is the selecting one and ``value`` its best; ``differs`` are the keys of the recipe
    that are not the same in every run of the list."""

    run: str
    name: str
    status: RunStatus
    backbone: str
    num_epochs: int
    num_epochs_done: int
    metric: str
    value: float | None
    claims: dict[str, float]
    wall_s: float
    size_bytes: int
    began_at: float
    differs: dict[str, str] = {}


class RunList(Record):
    """``skipped`` are directories that look like runs and cannot be read, with the reason."""

    root: str
    runs: tuple[RunRow, ...]
    skipped: tuple[str, ...] = ()


class EpochRow(Record):
    """One evaluated epoch: ``values`` by ``tag/split``; ``is_best`` by the selecting metric."""

    epoch: int
    global_step: int
    values: dict[str, float]
    is_best: bool


class RunDetail(Record):
    """Everything about one run; ``recipe`` is the resolved one, flat. ``result`` is None until it is finished."""

    row: RunRow
    recipe: dict[str, str]
    data: dict[str, int]
    data_digest: Sha256
    classes: tuple[str, ...]
    device: str
    epochs: tuple[EpochRow, ...]
    result: Result | None
    checkpoints: tuple[str, ...]
    plots: tuple[str, ...]


class FieldValues(Record):
    """A key of the recipe and its value in each run, in the order of the runs."""

    field: str
    values: tuple[str, ...]


class Measured(Record):
    """A metric and its 95 % interval; the interval is None where none is known."""

    value: float
    low: float | None = None
    high: float | None = None


class MetricValues(Record):
    """A claim's metric in each run; None where a run does not claim it."""

    metric: str
    values: tuple[Measured | None, ...]


class Flip(Record):
    """A sample that one run gets right and the other wrong. ``path`` is its file where the run knows it."""

    sha256: Sha256
    path: str | None
    truth: str
    first: str
    second: str
    first_confidence: float
    second_confidence: float
    is_first_right: bool


class Pair(Record):
    """Two runs on the samples both predicted: ``p_value`` is McNemar's exact one, two-sided; None where nothing can be paired,
    and ``reason`` says why. A regression has no right and wrong: ``num_nearer_first`` and ``num_nearer_second`` count which
    of the two is nearer to the target, and ``p_value`` is the sign test's."""

    first: str
    second: str
    split: str
    num_common: int = 0
    num_both_right: int = 0
    num_only_first: int = 0
    num_only_second: int = 0
    num_both_wrong: int = 0
    num_nearer_first: int | None = None
    num_nearer_second: int | None = None
    p_value: float | None = None
    flips: tuple[Flip, ...] = ()
    reason: str = ""


class Comparison(Record):
    """``pairs`` compare each later run with the first; ``plot`` is the PNG of the curves over each other."""

    runs: tuple[str, ...]
    recipe: tuple[FieldValues, ...]
    metrics: tuple[MetricValues, ...]
    pairs: tuple[Pair, ...]
    plot: str | None


class Freed(Record):
    """One thing that prune removes."""

    run: str
    what: str
    path: str
    size_bytes: int


class PruneReport(Record):
    """``is_done`` False: only shown. ``kept`` are runs that were left alone, with the reason."""

    freed: tuple[Freed, ...]
    size_bytes: int
    kept: tuple[str, ...]
    is_done: bool


class LogsReport(Record):
    """Where the logs of a run lie. ``directory`` is what ``tensorboard --logdir`` takes; ``url`` the TensorBoard that was
    started; ``exported`` what was written anew from the journal."""

    run: str
    directory: str
    journal: str
    num_events: int
    sinks: dict[str, str]
    exported: str | None = None
    url: str | None = None
