"""Each metric against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from hubtool.core.errors import IntegrityError, NumericError
from hubtool.records import metrics
from hubtool.records.evidence import Predictions

RNG = np.random.default_rng(7)


def _logits(num_samples: int, num_outputs: int) -> np.ndarray:
    return np.round(RNG.normal(0, 2, (num_samples, num_outputs)), 1).astype(np.float32)  # rounded: ties happen


@pytest.mark.parametrize("num_classes", [2, 5, 12])
def test_classification_is_scikit_learns(num_classes: int) -> None:
    logits = _logits(300, num_classes)
    targets = RNG.integers(0, num_classes, 300)
    found = metrics.compute("classification", logits, targets)
    predicted = logits.argmax(1)
    shares = metrics.probabilities("classification", logits)
    assert found["top1"] == sk.accuracy_score(targets, predicted)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert found["loss"] == pytest.approx(sk.log_loss(targets, shares, labels=range(num_classes)))
    assert shares.sum(1) == pytest.approx(np.ones(300))
    if num_classes > 5:
        unique = RNG.normal(0, 1, (300, num_classes))
        expected = sk.top_k_accuracy_score(targets, unique, k=5, labels=range(num_classes))
        assert metrics.compute("classification", unique, targets)["top5"] == pytest.approx(expected)
    else:
        assert "top5" not in found


def test_a_class_that_never_occurs_counts_nowhere() -> None:
    logits = np.eye(4)[[0, 1, 1, 0]]
    targets = np.array([0, 1, 0, 0])
    found = metrics.compute("classification", logits, targets)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, logits.argmax(1)))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, logits.argmax(1), average="macro"))


def test_binary_is_scikit_learns_with_one_logit_or_two() -> None:
    logits = _logits(200, 1)
    targets = (logits[:, 0] + RNG.normal(0, 2, 200) > 0).astype(np.int64)
    for threshold in (None, 0.3):
        found = metrics.compute("binary", logits, targets, threshold=threshold)
        share = metrics.probabilities("binary", logits)[:, 1]
        predicted = (share >= (threshold or 0.5)).astype(int)
        assert found["top1"] == sk.accuracy_score(targets, predicted)
        assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
        assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, share))
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(targets, share))
        assert found["loss"] == pytest.approx(sk.log_loss(targets, share))
        packed = np.concatenate([np.zeros_like(logits), logits], axis=1)
        assert metrics.compute("binary", packed, targets, threshold=threshold) == pytest.approx(found)


def test_multilabel_is_scikit_learns() -> None:
    logits = _logits(150, 6)
    targets = (RNG.random((150, 6)) < 0.3).astype(np.float32)
    targets[:, 4] = 0  # a label nobody has: no ranking for it, an F1 of 0
    found = metrics.compute("multilabel", logits, targets)
    has = [0, 1, 2, 3, 5]
    shares = metrics.probabilities("multilabel", logits)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets[:, has], logits[:, has], average="macro"))
    expected = sk.average_precision_score(targets[:, has], logits[:, has], average="macro")
    assert found["average_precision"] == pytest.approx(expected)
    expected = sk.f1_score(targets, shares >= 0.5, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)
    expected = np.mean([sk.log_loss(targets[:, k], shares[:, k], labels=[0, 1]) for k in range(6)])
    assert found["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_regression_is_scikit_learns(num_outputs: int) -> None:
    outputs, targets = _logits(80, num_outputs), _logits(80, num_outputs)
    found = metrics.compute("regression", outputs, targets)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(targets, outputs))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, outputs))
    assert found["r2"] == pytest.approx(sk.r2_score(targets, outputs))
    assert found["loss"] == pytest.approx(sk.mean_squared_error(targets, outputs))


def test_what_is_undefined_is_left_out() -> None:
    assert "r2" not in metrics.compute("regression", np.ones((3, 1)), np.ones((3, 1)))
    found = metrics.compute("binary", _logits(5, 1), np.zeros(5, np.int64))
    assert "auroc" not in found and "average_precision" not in found
    assert all(np.isfinite(value) for value in found.values())


def test_calibration_error_by_hand() -> None:
    # 10 of 10 with confidence 0.9 of which 7 are right: the gap is 0.2
    logits = np.tile([np.log(0.9), np.log(0.1)], (10, 1))
    targets = np.array([0] * 7 + [1] * 3)
    assert metrics.compute("classification", logits, targets)["calibration_error"] == pytest.approx(0.2)


def test_calibration_error_against_a_plain_loop() -> None:
    logits, targets = _logits(500, 4), RNG.integers(0, 4, 500)
    shares = metrics.probabilities("classification", logits)
    confidence, right = shares.max(1), shares.argmax(1) == targets
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = metrics.compute("classification", logits, targets)["calibration_error"]
    assert found == pytest.approx(expected)


def test_per_class_is_scikit_learns() -> None:
    logits, targets = _logits(120, 4), RNG.integers(0, 4, 120)
    rows = metrics.per_class("classification", logits, targets, num_classes=4)
    expected = sk.precision_recall_fscore_support(targets, logits.argmax(1), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "num_samples"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(list(values))
    matrix = metrics.confusion_matrix(targets, logits.argmax(1), 4)
    assert (matrix == sk.confusion_matrix(targets, logits.argmax(1))).all()


def test_per_class_of_labels_is_scikit_learns() -> None:
    logits, targets = _logits(60, 3), (RNG.random((60, 3)) < 0.4).astype(np.float32)
    rows = metrics.per_class("multilabel", logits, targets, num_classes=3)
    called = metrics.probabilities("multilabel", logits) >= 0.5
    expected = sk.precision_recall_fscore_support(targets, called, zero_division=0)
    assert [row["f1"] for row in rows] == pytest.approx(list(expected[2]))


def test_the_threshold_is_the_best_of_all() -> None:
    logits = _logits(90, 1) - 1.5
    targets = (logits[:, 0] + RNG.normal(0, 1, 90) > -2).astype(np.int64)
    chosen = metrics.choose_threshold(logits, targets)
    best = max(
        metrics.compute("binary", logits, targets, threshold=t)["balanced_accuracy"] for t in np.linspace(0, 1, 999)
    )
    assert metrics.compute("binary", logits, targets, threshold=chosen)["balanced_accuracy"] >= best - 1e-12
    assert metrics.choose_threshold(logits, np.ones(90, np.int64)) == 0.5


def test_logits_that_are_not_finite_stop_the_claim() -> None:
    logits = _logits(4, 3)
    logits[2, 1] = np.nan
    with pytest.raises(NumericError, match="sample 2"):
        metrics.compute("classification", logits, np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("task", "logits", "targets"),
    [
        ("classification", np.zeros((3, 2)), np.array([0, 1])),
        ("classification", np.zeros((2, 2)), np.array([0, 2])),
        ("classification", np.zeros((0, 2)), np.zeros(0, np.int64)),
        ("multilabel", np.zeros((2, 3)), np.zeros((2, 2))),
        ("binary", np.zeros((2, 1)), np.array([0, -1])),
    ],
)
def test_what_does_not_fit_is_an_integrity_error(task: str, logits: np.ndarray, targets: np.ndarray) -> None:
    with pytest.raises(IntegrityError):
        metrics.compute(task, logits, targets)  # type: ignore[arg-type]


def test_claims_carry_split_evidence_and_tolerance() -> None:
    predictions = Predictions(
        split="val", samples=("a" * 64,) * 50, targets=RNG.integers(0, 3, 50), logits_NK=_logits(50, 3)
    )
    claims = metrics.claims_of(
        "classification", predictions, evidence="evidence/val.safetensors", evidence_sha256="b" * 64
    )
    assert [c.metric for c in claims] == ["top1", "balanced_accuracy", "macro_f1", "calibration_error", "loss"]
    assert all(c.split == "val" and c.num_samples == 50 and c.tolerance > 0 for c in claims)
