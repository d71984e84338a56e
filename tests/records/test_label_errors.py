"""Confident learning: planted label errors are found, by the definition of the paper."""

from __future__ import annotations

import numpy as np

from hubtool.records.label_errors import suspects


def logits_of(shares: list[list[float]]) -> np.ndarray:
    return np.log(np.asarray(shares)).astype(np.float32)


def test_by_hand() -> None:
    """The mean self-confidences are 0.63 of class 0 (0.9, 0.8, 0.2) and 0.75 of class 1 (0.9, 0.6)."""
    shares = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6]]
    [found] = suspects("classification", logits_of(shares), np.array([0, 0, 0, 1, 1]))
    assert (found.sample, found.given, found.suggested, found.output) == (2, 0, 1, None)
    assert abs(found.margin + 0.6) < 1e-6 and abs(found.confidence - 0.8) < 1e-6


def test_planted_errors_come_first_in_any_task() -> None:
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 400)
    logits = generator.normal(size=(400, 4)).astype(np.float32)
    logits[np.arange(400), true] += 8
    given = true.copy()
    planted = generator.choice(400, 20, replace=False)
    given[planted] = (given[planted] + 1) % 4
    found = suspects("classification", logits, given)
    assert {s.sample for s in found[:20]} == set(planted)
    assert [s.margin for s in found] == sorted(s.margin for s in found)
    labels = np.eye(4, dtype=np.float32)[true]
    labels[planted[0], true[planted[0]]] = 0
    first = suspects("multilabel", logits * 2 - 8, labels)[0]
    assert (first.sample, first.output, first.given, first.suggested) == (planted[0], true[planted[0]], 0, 1)
    binary = suspects("binary", (logits[:, 1] * 2 - 8)[:, None], (given == 1).astype(np.int64))
    assert {s.sample for s in binary[:4]} <= set(planted)


def test_where_nothing_can_be_said() -> None:
    logits = logits_of([[0.5, 0.3, 0.2]] * 4)
    assert suspects("classification", logits, np.zeros(4, np.int64)) == ()
    assert suspects("classification", logits, np.ones(4, np.int64)) == (), (
        "no sample is labelled 0: it suggests nothing"
    )
    assert suspects("regression", logits, logits) == ()
    assert suspects("classification", logits[:0], np.zeros(0, np.int64)) == ()
