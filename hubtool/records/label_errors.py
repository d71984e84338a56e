"""Which labels are likely wrong, by the predictions of a model that did not see them: confident learning (Northcutt, Jiang and
Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021).

N samples, K outputs. A sample counts as of class k when its probability of k is at least the mean probability of k over the
samples labelled k; one that so counts as of another class than its label, and is predicted otherwise, is suspected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.records.metrics import probabilities
from hubtool.records.tasks import TaskName

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """``sample`` by its number. Class numbers; of a multilabel ``output`` is the label and ``given``, ``suggested`` are 0 or 1.

    ``margin`` is the probability of what was given less that of what is suggested: the lower, the likelier the error.
    """

    sample: int
    output: int | None
    given: int
    suggested: int
    confidence: float
    margin: float


def suspects(task: TaskName, logits_NK: Array, targets: Array) -> tuple[Suspect, ...]:
    """The likeliest errors first; none for a regression. In-sample predictions hide errors that the model has learnt."""
    if task == "regression" or not len(targets):
        return ()
    shares_NK = probabilities(task, logits_NK)
    if task == "multilabel":
        found = [
            suspect
            for output, share_N in enumerate(shares_NK.T)
            for suspect in _among(np.stack([1 - share_N, share_N], axis=1), targets[:, output] > 0.5, output)
        ]
    else:
        found = _among(shares_NK, targets, None)
    return tuple(sorted(found, key=lambda suspect: (suspect.margin, suspect.sample)))


def _among(shares_NK: Array, given_N: Array, output: int | None) -> list[Suspect]:
    given_N = np.asarray(given_N, dtype=np.int64)
    rows = np.arange(len(given_N))
    is_given_NK = given_N[:, None] == np.arange(shares_NK.shape[1])
    num_K = is_given_NK.sum(axis=0)
    mean_K = (shares_NK * is_given_NK).sum(axis=0) / np.maximum(num_K, 1)
    limit_K = np.where(num_K > 0, mean_K, np.inf)  # a class without a sample suggests nothing
    confident_NK = np.where(shares_NK >= limit_K - 1e-12, shares_NK, -1.0)
    counted_N = confident_NK.argmax(axis=1)
    is_counted_N = confident_NK[rows, counted_N] >= 0
    is_suspect_N = is_counted_N & (counted_N != given_N) & (shares_NK.argmax(axis=1) != given_N)
    return [
        Suspect(
            sample=int(n),
            output=output,
            given=int(given_N[n]),
            suggested=int(counted_N[n]),
            confidence=float(shares_NK[n, counted_N[n]]),
            margin=float(shares_NK[n, given_N[n]] - shares_NK[n, counted_N[n]]),
        )
        for n in np.flatnonzero(is_suspect_N)
    ]
