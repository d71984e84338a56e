"""The only definition of each metric: from logits and targets to numbers, in float64 numpy.

Shapes: N samples, K outputs. Targets are class numbers (N,) or numbers (N, K); see ``tasks.TASKS``. What a split cannot
define (AUROC with one class only, R2 of a constant) is left out, never NaN. The definitions are scikit-learn's, where it
has one; calibration error is Guo et al., "On Calibration of Modern Neural Networks" (2017), 15 bins of equal width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubtool.core.errors import IntegrityError, NumericError
from hubtool.records.claims import Claim, tolerance_of
from hubtool.records.evidence import Predictions
from hubtool.records.tasks import TASKS, TaskName

Array = np.ndarray[Any, np.dtype[Any]]

THRESHOLD = 0.5
_NUM_BINS = 15


def compute(task: TaskName, logits_NK: Array, targets: Array, *, threshold: float | None = None) -> dict[str, float]:
    """The metrics of ``TASKS[task]`` that this split defines, in the table's order; ``top5`` only from six classes on.

    ``threshold`` (binary, multilabel) is on the probability, 0.5 unless given: at or above it is positive.
    Raises NumericError for a logit that is not finite, IntegrityError where the shapes do not fit.
    """
    logits_NK, targets = _checked(task, logits_NK, targets)
    limit = THRESHOLD if threshold is None else threshold
    if task == "regression":
        found = _regression(logits_NK, targets)
    elif task == "multilabel":
        found = _multilabel(logits_NK, targets, limit)
    else:
        found = _classes(task, logits_NK, targets, limit)
    return {name: found[name] for name in TASKS[task].metrics if name in found}


def probabilities(task: TaskName, logits_NK: Array) -> Array:
    """Softmax over classes; for binary (N, 2) with the second column the sigmoid; sigmoids for multilabel; outputs as they are for
    regression."""
    logits = np.asarray(logits_NK, dtype=np.float64)
    if task == "regression":
        return logits
    if task == "multilabel":
        return _sigmoid(logits)
    if task == "binary":
        positive = _sigmoid(_binary_logit(logits))
        return np.stack([1 - positive, positive], axis=1)
    return np.exp(_log_softmax(logits))


def predicted_classes(task: TaskName, logits_NK: Array, *, threshold: float | None = None) -> Array:
    """The class number of each sample (classification, binary)."""
    if task == "binary":
        limit = THRESHOLD if threshold is None else threshold
        return (probabilities(task, logits_NK)[:, 1] >= limit).astype(np.int64)
    result: Array = np.asarray(logits_NK).argmax(axis=1)
    return result


def confusion_matrix(targets: Array, predicted: Array, num_classes: int) -> Array:
    """int64 (num_classes, num_classes): rows are true classes, columns predicted ones."""
    flat = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def per_class(
    task: TaskName, logits_NK: Array, targets: Array, *, num_classes: int, threshold: float | None = None
) -> list[dict[str, float]]:
    """``precision``, ``recall``, ``f1`` and ``num_samples`` of each class or label; 0 where a ratio has no cases."""
    logits_NK, targets = _checked(task, logits_NK, targets)
    if task == "multilabel":
        limit = THRESHOLD if threshold is None else threshold
        counts = _label_counts(targets > 0.5, _sigmoid(logits_NK) >= limit)
    else:
        matrix = confusion_matrix(targets, predicted_classes(task, logits_NK, threshold=threshold), num_classes)
        counts = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    hits, called, real = counts
    precision, recall, f1 = _ratio(hits, called), _ratio(hits, real), _ratio(2 * hits, called + real)
    return [
        {"precision": float(p), "recall": float(r), "f1": float(f), "num_samples": float(n)}
        for p, r, f, n in zip(precision, recall, f1, real, strict=True)
    ]


def choose_threshold(logits_NK: Array, targets: Array) -> float:
    """The probability that separates two classes with the best balanced accuracy; of equal ones the nearest to 0.5.

    Candidates lie half way between neighbouring probabilities. 0.5 where only one class is present.
    """
    positive = probabilities("binary", logits_NK)[:, 1]
    targets = np.asarray(targets)
    num_positive, num_negative = int((targets == 1).sum()), int((targets == 0).sum())
    if not num_positive or not num_negative:
        return THRESHOLD
    order = np.argsort(positive, kind="stable")
    values, labels = positive[order], targets[order]
    below_positive = np.concatenate([[0], np.cumsum(labels == 1)])
    below_negative = np.concatenate([[0], np.cumsum(labels == 0)])
    candidates = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    is_real = np.concatenate([[True], values[1:] > values[:-1], [True]])
    balanced = (1 - below_positive / num_positive + below_negative / num_negative) / 2
    balanced = np.where(is_real, balanced, -1.0)
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.abs(best - THRESHOLD).argmin()])


def claims_of(
    task: TaskName, predictions: Predictions, *, evidence: str, evidence_sha256: str, threshold: float | None = None
) -> tuple[Claim, ...]:
    """A claim for each metric of the split, with its tolerance."""
    num_samples = len(predictions.samples)
    values = compute(task, predictions.logits_NK, predictions.targets, threshold=threshold)
    return tuple(
        Claim(
            metric=metric,
            split=predictions.split,
            value=value,
            tolerance=tolerance_of(metric, value, num_samples),
            num_samples=num_samples,
            evidence=evidence,
            evidence_sha256=evidence_sha256,
        )
        for metric, value in values.items()
    )


def _checked(task: TaskName, logits_NK: Array, targets: Array) -> tuple[Array, Array]:
    logits = np.asarray(logits_NK, dtype=np.float64)
    targets = np.asarray(targets)
    is_vector = TASKS[task].target_kind == "vector"
    fits = logits.ndim == 2 and len(logits) == len(targets) > 0
    fits = fits and (targets.shape == logits.shape if is_vector else targets.ndim == 1)
    if not fits:
        raise IntegrityError("E-METRIC-SHAPE", f"logits {logits.shape} and targets {targets.shape} do not fit {task}")
    if not np.isfinite(logits).all():
        row = int(np.argwhere(~np.isfinite(logits))[0][0])
        raise NumericError("E-NUMERIC-LOGITS", "a logit is not finite", where=f"sample {row}")
    if is_vector:
        return logits, targets.astype(np.float64)
    num_classes = 2 if task == "binary" else logits.shape[1]
    if targets.min() < 0 or targets.max() >= num_classes:
        raise IntegrityError("E-METRIC-TARGET", f"a target is not a class number below {num_classes}")
    return (_binary_logit(logits)[:, None] if task == "binary" else logits), targets.astype(np.int64)


def _binary_logit(logits_NK: Array) -> Array:
    """(N,) from one logit, or from the two rows [0; w] of a package."""
    return logits_NK[:, 0] if logits_NK.shape[1] == 1 else logits_NK[:, 1] - logits_NK[:, 0]


def _classes(task: TaskName, logits_NK: Array, targets: Array, threshold: float) -> dict[str, float]:
    shares_NK = probabilities(task, logits_NK)
    num_classes = shares_NK.shape[1]
    predicted = predicted_classes(task, logits_NK, threshold=threshold)
    confidence = shares_NK[np.arange(len(predicted)), predicted]
    is_right = predicted == targets
    matrix = confusion_matrix(targets, predicted, num_classes)
    hits, called, real = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    found = {
        "top1": float(is_right.mean()),
        "balanced_accuracy": float((hits[real > 0] / real[real > 0]).mean()),
        "macro_f1": float(_ratio(2 * hits, called + real)[(called + real) > 0].mean()),
        "calibration_error": _calibration_error(confidence, is_right),
    }
    if num_classes > 5:
        found["top5"] = _top5(logits_NK, targets)
    if task == "binary":
        found |= _ranking(logits_NK, targets[:, None].astype(np.float64))
        found["loss"] = float(_bce(logits_NK[:, 0], targets).mean())
    else:
        found["loss"] = float(-_log_softmax(logits_NK)[np.arange(len(targets)), targets].mean())
    return found


def _top5(logits_NK: Array, targets: Array) -> float:
    """Ties go to the lower class number, as argmax does."""
    own = logits_NK[np.arange(len(targets)), targets][:, None]
    is_lower = np.arange(logits_NK.shape[1])[None, :] < targets[:, None]
    rank = (logits_NK > own).sum(axis=1) + ((logits_NK == own) & is_lower).sum(axis=1)
    return float((rank < 5).mean())


def _calibration_error(confidence: Array, is_right: Array) -> float:
    bins = np.clip(np.ceil(confidence * _NUM_BINS).astype(np.int64) - 1, 0, _NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - is_right, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _multilabel(logits_NK: Array, targets_NK: Array, threshold: float) -> dict[str, float]:
    hits, called, real = _label_counts(targets_NK > 0.5, _sigmoid(logits_NK) >= threshold)
    found = _ranking(logits_NK, targets_NK)
    found["macro_f1"] = float(_ratio(2 * hits, called + real).mean())
    found["loss"] = float(_bce(logits_NK, targets_NK).mean())
    return found


def _label_counts(real_NK: Array, called_NK: Array) -> tuple[Array, Array, Array]:
    return (real_NK & called_NK).sum(axis=0), called_NK.sum(axis=0), real_NK.sum(axis=0)


def _ranking(logits_NK: Array, targets_NK: Array) -> dict[str, float]:
    """AUROC and average precision, the mean over the outputs that have both kinds of samples (precision: a positive)."""
    aurocs, precisions = [], []
    for logits, targets in zip(logits_NK.T, targets_NK.T, strict=True):
        is_positive = targets > 0.5
        if is_positive.any():
            precisions.append(_average_precision(logits, is_positive))
            if not is_positive.all():
                aurocs.append(_auroc(logits, is_positive))
    found = {}
    if precisions:
        found["average_precision"] = float(np.mean(precisions))
    if aurocs:
        found["auroc"] = float(np.mean(aurocs))
    return found


def _auroc(logits: Array, is_positive: Array) -> float:
    """The share of (positive, negative) pairs in right order, ties a half: Mann and Whitney's U."""
    _, inverse, counts = np.unique(logits, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    num_positive = int(is_positive.sum())
    num_negative = len(logits) - num_positive
    u = ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(u / (num_positive * num_negative))


def _average_precision(logits: Array, is_positive: Array) -> float:
    """The sum of precision times the step in recall, over the distinct scores from the highest down."""
    order = np.argsort(-logits, kind="stable")
    scores, hits = logits[order], np.cumsum(is_positive[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _regression(outputs_NK: Array, targets_NK: Array) -> dict[str, float]:
    errors = outputs_NK - targets_NK
    squares_K = (errors**2).mean(axis=0)
    spread_K = ((targets_NK - targets_NK.mean(axis=0)) ** 2).mean(axis=0)
    found = {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(squares_K).mean()),
        "loss": float(squares_K.mean()),
    }
    if (spread_K > 0).all():
        found["r2"] = float((1 - squares_K / spread_K).mean())
    return found


def _sigmoid(logits: Array) -> Array:
    tail = np.exp(-np.abs(logits))
    result: Array = np.where(logits >= 0, 1 / (1 + tail), tail / (1 + tail))
    return result


def _bce(logits: Array, targets: Array) -> Array:
    result: Array = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    return result


def _log_softmax(logits_NK: Array) -> Array:
    shifted = logits_NK - logits_NK.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _ratio(part: Array, whole: Array) -> Array:
    """0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole), np.float64), where=whole > 0)


def mean_intervals(task: TaskName, logits_NK: Array, targets: Array) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics that are means over the samples: mean ± 1.96·s/sqrt(N), never below 0.

    Those are the loss, and of a regression the MAE and, where it has one output, the RMSE (from that of its square). Empty
    below two samples.
    """
    logits_NK, targets = _checked(task, logits_NK, targets)
    num = len(logits_NK)
    if num < 2:
        return {}
    if task == "regression":
        errors_NK = np.abs(logits_NK - targets)
        means = {"mae": errors_NK.mean(axis=1), "loss": (errors_NK**2).mean(axis=1)}
    elif task == "multilabel":
        means = {"loss": _bce(logits_NK, targets).mean(axis=1)}
    elif task == "binary":
        means = {"loss": _bce(logits_NK[:, 0], targets)}
    else:
        means = {"loss": -_log_softmax(logits_NK)[np.arange(num), targets]}
    found = {}
    for metric, values_N in means.items():
        middle, half = float(values_N.mean()), float(_Z * values_N.std(ddof=1) / np.sqrt(num))
        found[metric] = (max(0.0, middle - half), middle + half)
    if task == "regression" and logits_NK.shape[1] == 1:
        low, high = found["loss"]
        found["rmse"] = (float(np.sqrt(low)), float(np.sqrt(high)))
    return found


# Shares of the samples themselves, each right or wrong: those that have Wilson's interval.
SAMPLE_SHARES = frozenset({"top1", "top5"})
_Z = 1.96


def wilson(share: Array | float, num: Array | float) -> tuple[Array, Array]:
    """The interval of a share of ``num`` samples (Wilson 1927): within [0, 1], and sound at 0, at 1 and for few samples."""
    share, num = np.asarray(share, dtype=np.float64), np.asarray(num, dtype=np.float64)
    middle, half = share + _Z**2 / (2 * num), _Z * np.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2))
    scale = 1 + _Z**2 / num
    return np.clip((middle - half) / scale, 0, 1), np.clip((middle + half) / scale, 0, 1)
