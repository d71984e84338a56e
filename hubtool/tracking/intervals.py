"""How far a measured number can be trusted: 95 % intervals. N samples, K outputs."""

from __future__ import annotations

import numpy as np

from hubtool.records import metrics
from hubtool.records.claims import SHARES, tolerance_of
from hubtool.records.evidence import Predictions
from hubtool.records.metrics import wilson
from hubtool.records.runs import Measured
from hubtool.records.tasks import TaskName

NUM_RESAMPLES = 200
MAX_RESAMPLED = 400_000  # samples times outputs; beyond it the resamples would take minutes


def intervals(task: TaskName, predictions: Predictions, *, threshold: float | None) -> dict[str, Measured]:
    """Every metric of the split. Top-k shares have Wilson's interval, means over the samples (loss, MAE) that of a mean, the
    others percentiles over 200 resamples of the samples, drawn with a fixed seed (bootstrap, Efron 1979); none where there
    are too few or too many samples for it."""
    logits_NK, targets = predictions.logits_NK, predictions.targets
    num = len(predictions.samples)
    values = metrics.compute(task, logits_NK, targets, threshold=threshold)
    found = {metric: Measured(value=value) for metric, value in values.items()}
    if num >= 2 and num * logits_NK.shape[1] <= MAX_RESAMPLED:
        generator = np.random.default_rng(0)
        draws: dict[str, list[float]] = {metric: [] for metric in values}
        for _ in range(NUM_RESAMPLES):
            rows = generator.integers(0, num, num)
            for metric, value in metrics.compute(task, logits_NK[rows], targets[rows], threshold=threshold).items():
                draws.setdefault(metric, []).append(value)
        for metric, value in values.items():
            low, high = (float(v) for v in np.percentile(draws[metric] or [value], (2.5, 97.5)))
            if high - low < 1e-9 and metric in SHARES:  # nothing to resample at 0 or 1: the share's own tolerance
                tolerance = tolerance_of(metric, value, num)
                low, high = max(0.0, value - tolerance), min(1.0, value + tolerance)
            found[metric] = Measured(value=value, low=low, high=high)
    for metric in metrics.SAMPLE_SHARES & values.keys():
        low, high = (float(v) for v in wilson(values[metric], num))
        found[metric] = Measured(value=values[metric], low=low, high=high)
    for metric, (low, high) in metrics.mean_intervals(task, logits_NK, targets).items():
        found[metric] = Measured(value=values[metric], low=low, high=high)
    return found
