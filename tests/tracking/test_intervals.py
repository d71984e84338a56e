"""Intervals and ranking curves, against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, sem, t
from sklearn.metrics import precision_recall_curve, roc_curve

from hubtool.records.evidence import Predictions
from hubtool.records.metrics import compute, mean_intervals, wilson
from hubtool.records.tasks import TaskName
from hubtool.tracking.intervals import intervals
from hubtool.tracking.ranking import pr_points, roc_points


@pytest.mark.parametrize(("num_right", "num"), [(0, 5), (5, 5), (7, 12), (350, 360), (1, 10_000)])
def test_wilson_is_scipys(num_right: int, num: int) -> None:
    expected = binomtest(num_right, num).proportion_ci(0.95, method="wilson")
    assert [float(v) for v in wilson(num_right / num, num)] == pytest.approx([expected.low, expected.high], abs=1e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_curves_are_scikit_learns(ties: bool) -> None:
    generator = np.random.default_rng(1)
    is_positive = generator.random(200) > 0.7
    scores = np.clip(generator.normal(size=200) * 0.2 + 0.4 + 0.2 * is_positive, 0, 1)
    scores = np.round(scores, 1) if ties else scores
    expected = roc_curve(is_positive, scores, drop_intermediate=False)
    assert np.allclose(roc_points(is_positive, scores), expected[:2])
    precision, recall, _ = precision_recall_curve(is_positive, scores)
    ours = pr_points(is_positive, scores)
    assert np.allclose(ours[0], recall[-2::-1])
    assert np.allclose(ours[1], precision[-2::-1])


def test_intervals_hold_the_value_and_shrink_with_samples() -> None:
    widths = []
    for num in (50, 800):
        generator = np.random.default_rng(0)
        targets = generator.integers(0, 3, num)
        logits_NK = generator.normal(size=(num, 3)) + np.eye(3)[targets]
        found = intervals(
            "classification",
            Predictions(split="val", samples=("0" * 64,) * num, targets=targets, logits_NK=logits_NK),
            threshold=None,
        )
        for metric in ("top1", "macro_f1", "loss"):
            measured = found[metric]
            assert measured.low is not None
            assert measured.high is not None
            assert measured.low < measured.value < measured.high
        widths.append(float(found["macro_f1"].high or 0) - float(found["macro_f1"].low or 0))
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("task", ["classification", "binary", "multilabel", "regression"])
def test_a_mean_has_its_interval_and_the_mean_is_the_metric(task: TaskName) -> None:
    num = 500
    generator = np.random.default_rng(4)
    logits_NK = generator.normal(size=(num, 1 if task == "binary" else 3)) * 2
    vectors = {
        "multilabel": generator.integers(0, 2, (num, 3)).astype(float),
        "regression": generator.normal(size=(num, 3)),
    }
    targets = vectors.get(task, generator.integers(0, 2, num))
    for metric, (low, high) in mean_intervals(task, logits_NK, targets).items():
        values_N = [compute(task, logits_NK[[i]], targets[[i]])[metric] for i in range(num)]
        assert (
            (low + high) / 2
            == pytest.approx(compute(task, logits_NK, targets)[metric])
            == pytest.approx(np.mean(values_N))
        )
        assert (low, high) == pytest.approx(t.interval(0.95, num - 1, np.mean(values_N), sem(values_N)), rel=1e-2)


def test_the_rmse_of_one_output_has_the_interval_of_its_square() -> None:
    targets_N1 = np.random.default_rng(0).normal(size=(400, 1))
    found = mean_intervals("regression", np.zeros((400, 1)), targets_N1)
    low, high = found["rmse"]
    assert (low**2, high**2) == pytest.approx(found["loss"])
    assert "rmse" not in mean_intervals("regression", np.zeros((400, 2)), np.ones((400, 2)))
    assert mean_intervals("regression", np.zeros((1, 1)), np.ones((1, 1))) == {}


def test_one_sample_has_no_bootstrap() -> None:
    one = Predictions(split="val", samples=("0" * 64,), targets=np.asarray([1]), logits_NK=np.asarray([[0.0, 1.0]]))
    found = intervals("classification", one, threshold=None)
    assert found["loss"].low is None
    assert found["top1"].value == 1.0
    assert found["top1"].low == pytest.approx(0.2065, abs=1e-3)


def test_a_perfect_ranking_is_not_certain() -> None:
    """Sums of shares come out as 0.9999999999999999 in some resamples: they are 1 all the same."""
    targets = np.arange(54) % 2
    perfect = Predictions(split="val", samples=("0" * 64,) * 54, targets=targets, logits_NK=4.0 * targets[:, None] - 2)
    for metric in ("auroc", "average_precision"):
        assert 0.9 < float(intervals("binary", perfect, threshold=0.5)[metric].low or 0) < 0.99, metric


def test_a_perfect_share_is_not_certain() -> None:
    targets = np.arange(60) % 3
    perfect = Predictions(split="val", samples=("0" * 64,) * 60, targets=targets, logits_NK=9 * np.eye(3)[targets])
    found = intervals("classification", perfect, threshold=None)
    for metric in ("top1", "balanced_accuracy", "macro_f1"):
        assert found[metric].high == pytest.approx(1.0)
        assert 0.9 < float(found[metric].low or 0) < 0.99
