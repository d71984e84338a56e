"""Curves over every threshold of a score: ROC and precision against recall. Points, not areas: those are records/metrics'.

N samples; ``is_positive`` (N,) booleans, ``scores`` (N,) probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
PR_ROWS = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")
NUM_THRESHOLDS = 127  # what TensorBoard's PR curve can hold


def roc_points(is_positive: Array, scores: Array) -> tuple[Array, Array]:
    """(false positive rate, true positive rate), from (0, 0) to (1, 1); equal scores make one point."""
    true_positives, false_positives = _cumulated(is_positive, scores)
    return false_positives / max(1, false_positives[-1]), true_positives / max(1, true_positives[-1])


def pr_points(is_positive: Array, scores: Array) -> tuple[Array, Array]:
    """(recall, precision) at every threshold that a score gives, the strictest first."""
    true_positives, false_positives = (counts[1:] for counts in _cumulated(is_positive, scores))
    precision = true_positives / np.maximum(1, true_positives + false_positives)
    return true_positives / max(1, true_positives[-1] if len(true_positives) else 1), precision


def pr_table(is_positive: Array, scores: Array) -> dict[str, Array]:
    """The counts at ``NUM_THRESHOLDS`` equal steps from 0 to 1, as TensorBoard shows them."""
    is_positive = np.asarray(is_positive, dtype=bool)
    thresholds = np.linspace(0, 1, NUM_THRESHOLDS)
    positives, negatives = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    tp = len(positives) - np.searchsorted(positives, thresholds, side="left")
    fp = len(negatives) - np.searchsorted(negatives, thresholds, side="left")
    precision = tp / np.maximum(1, tp + fp)
    recall = tp / max(1, len(positives))
    rows = (tp, fp, len(negatives) - fp, len(positives) - tp, precision, recall)
    return {name: np.asarray(row, dtype=np.float64) for name, row in zip(PR_ROWS, rows, strict=True)}


def _cumulated(is_positive: Array, scores: Array) -> tuple[Array, Array]:
    """True and false positives among the samples at or above each distinct score, after a leading 0."""
    order = np.argsort(-scores, kind="stable")
    hits = np.asarray(is_positive, dtype=np.int64)[order]
    is_last = np.append(np.diff(scores[order]) != 0, True) if len(scores) else np.zeros(0, dtype=bool)
    true_positives = np.cumsum(hits)[is_last]
    false_positives = (np.arange(1, len(hits) + 1) - np.cumsum(hits))[is_last]
    return np.concatenate([[0], true_positives]), np.concatenate([[0], false_positives])
