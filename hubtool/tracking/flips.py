"""Two models on the same samples: which went from right to wrong, and whether the difference can be chance.

N samples, K outputs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.records import metrics
from hubtool.records.evidence import Predictions
from hubtool.records.runs import Flip, Pair
from hubtool.records.tasks import TASKS, TaskName

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The predictions of one run and what is needed to read them. ``paths`` gives a sample's file by its sha256."""

    name: str
    task: TaskName
    classes: tuple[str, ...]
    predictions: Predictions
    threshold: float | None
    paths: dict[str, str]


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """The two-sided exact p-value (McNemar 1947): how probable so uneven a split of the flipped samples is by chance."""
    num = num_only_first + num_only_second
    if num == 0:
        return 1.0
    smaller = min(num_only_first, num_only_second)
    log_terms = [math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(smaller + 1)]
    highest = max(log_terms)
    log_tail = highest + math.log(sum(math.exp(term - highest) for term in log_terms)) - num * math.log(2)
    return min(1.0, 2 * math.exp(log_tail))


def pair(first: Judged, second: Judged, *, max_flips: int = 200) -> Pair:
    """Compare them sample by sample; identical files are matched in order of appearance."""
    split = first.predictions.split
    blank = Pair(first=first.name, second=second.name, split=split)
    if reason := _reason(first, second):
        return blank.model_copy(update={"reason": reason})
    rows = _matched(first.predictions.samples, second.predictions.samples)
    if not rows:
        return blank.model_copy(update={"reason": "they share no sample"})
    ours, theirs = (np.asarray(column) for column in zip(*rows, strict=True))
    targets = first.predictions.targets[ours]
    if not np.array_equal(targets, second.predictions.targets[theirs]):
        return blank.model_copy(update={"reason": "the labels of some samples differ"})
    if first.task == "regression":
        return blank.model_copy(update=_nearer(first, second, ours, theirs))
    (all_first, sure_first), (all_second, sure_second) = _called(first), _called(second)
    called_first, called_second = all_first[ours], all_second[theirs]
    is_first, is_second = called_first == targets, called_second == targets
    only_first, only_second = int((is_first & ~is_second).sum()), int((~is_first & is_second).sum())
    flipped = np.flatnonzero(is_first != is_second)
    return blank.model_copy(
        update={
            "num_common": len(rows),
            "num_both_right": int((is_first & is_second).sum()),
            "num_only_first": only_first,
            "num_only_second": only_second,
            "num_both_wrong": int((~is_first & ~is_second).sum()),
            "p_value": mcnemar(only_first, only_second),
            "flips": tuple(
                Flip(
                    sha256=(sample := first.predictions.samples[ours[i]]),
                    path=first.paths.get(sample) or second.paths.get(sample),
                    truth=first.classes[targets[i]],
                    first=first.classes[called_first[i]],
                    second=first.classes[called_second[i]],
                    first_confidence=float(sure_first[ours[i]]),
                    second_confidence=float(sure_second[theirs[i]]),
                    is_first_right=bool(is_first[i]),
                )
                for i in flipped[:max_flips]
            ),
        }
    )


def _nearer(first: Judged, second: Judged, ours: Array, theirs: Array) -> dict[str, Any]:
    """Which run's one output is nearer to the target, sample by sample; equal distances count for neither (the sign test)."""
    targets_N1 = first.predictions.targets[ours].astype(np.float64)
    error_first = np.abs(first.predictions.logits_NK[ours] - targets_N1)
    error_second = np.abs(second.predictions.logits_NK[theirs] - targets_N1)
    num_first, num_second = int((error_first < error_second).sum()), int((error_second < error_first).sum())
    return {
        "num_common": len(ours),
        "num_nearer_first": num_first,
        "num_nearer_second": num_second,
        "p_value": mcnemar(num_first, num_second),  # both are the exact binomial test of an even split
    }


def _reason(first: Judged, second: Judged) -> str:
    if first.task != second.task:
        return f"one is {first.task}, the other {second.task}"
    if first.task == "multilabel":
        return "a picture with several labels is not simply right or wrong"
    if first.classes != second.classes:
        return f"their {TASKS[first.task].outputs[1]} differ"
    if first.task == "regression" and len(first.classes) > 1:
        return "their outputs may have different units"
    if first.predictions.split != second.predictions.split:
        return f"one was evaluated on {first.predictions.split}, the other on {second.predictions.split}"
    return ""


def _matched(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for number, sample in enumerate(second):
        places[sample].append(number)
    rows = []
    for number, sample in enumerate(first):
        if places.get(sample):
            rows.append((number, places[sample].pop(0)))
    return rows


def _called(judged: Judged) -> tuple[Array, Array]:
    """The class each sample is called and the probability of that."""
    logits_NK = judged.predictions.logits_NK
    called = metrics.predicted_classes(judged.task, logits_NK, threshold=judged.threshold)
    return called, metrics.probabilities(judged.task, logits_NK)[np.arange(len(called)), called]
