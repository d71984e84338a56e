"""runs list, show, compare, prune: what they say is what the run directories hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from tracking.written import finished_run

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.jobs import runs
from hubtool.records.evidence import Predictions
from hubtool.records.tasks import TaskName
from hubtool.tracking.flips import Judged, mcnemar, pair


@pytest.fixture
def root(tmp_path: Path, home: Path) -> Path:
    return tmp_path / "runs"


def test_the_list_shows_best_metric_difference_duration_and_disk(root: Path) -> None:
    finished_run(root / "a", lr=1e-3)
    finished_run(root / "b", lr=3e-3, is_finished=False)
    (root / "notes").mkdir()
    found = runs.runs(root, order="name")
    first, second = found.runs
    assert (first.name, first.status, second.status) == ("a", "finished", "stopped")
    assert first.differs == {"train.optimizer.lr": "0.001"}
    assert second.differs == {"train.optimizer.lr": "0.003"}
    assert first.value == second.value == pytest.approx(1 / 31)
    assert first.wall_s == 75.5
    assert first.num_epochs_done == 3
    assert first.size_bytes == sum(p.stat().st_size for p in (root / "a").rglob("*") if p.is_file())


def test_a_run_whose_lock_is_held_is_running(root: Path) -> None:
    place = finished_run(root / "a", is_finished=False)
    with place.held():
        assert runs.runs(root).runs[0].status == "running"
    assert runs.runs(root).runs[0].status == "stopped"


@pytest.mark.parametrize(("order", "names"), [("name", "abc"), ("metric", "bca"), ("began", "cba")])
def test_the_list_is_ordered_as_asked(root: Path, order: runs.Order, names: str) -> None:
    import os

    for number, (name, skill) in enumerate((("a", 0.0), ("b", 9.0), ("c", 1.5))):
        place = finished_run(root / name, skill=skill)
        os.utime(place.path / "resolved.json", (number, number))
    assert "".join(row.name for row in runs.runs(root, order=order).runs) == names


def test_a_damaged_run_is_named_and_the_others_are_shown(root: Path) -> None:
    finished_run(root / "a")
    (finished_run(root / "b").path / "result.json").write_text("{")
    (finished_run(root / "c").path / "resolved.json").write_text("[]")
    found = runs.runs(root)
    assert [row.name for row in found.runs] == ["a"]
    assert [text.partition(":")[0] for text in found.skipped] == ["b", "c"]


def test_a_run_is_shown_with_its_epochs_and_the_best_one(root: Path) -> None:
    finished_run(root / "a")
    detail = runs.show(root / "a")
    assert [(e.epoch, e.global_step, e.is_best) for e in detail.epochs] == [
        (1, 10, False),
        (2, 20, False),
        (3, 30, True),
    ]
    assert detail.epochs[2].values["top1/val"] == pytest.approx(1 - 1 / 30)
    assert detail.data == {"train": 3, "val": 60}
    assert len(detail.checkpoints) == 3


def test_a_misspelt_run_is_answered_with_its_neighbour(root: Path) -> None:
    finished_run(root / "linear-probe-x")
    with pytest.raises(NotFoundError) as caught:
        runs.show(root / "linear-prob-x")
    assert f"did you mean {root / 'linear-probe-x'}?" in caught.value.line()


def test_two_runs_are_compared_sample_by_sample(root: Path) -> None:
    first = finished_run(root / "a", seed=1, skill=3.0)
    second = finished_run(root / "b", seed=2, skill=0.7, lr=3e-3)
    compared = runs.compare([first.path, second.path])
    assert [(f.field, f.values) for f in compared.recipe] == [("train.optimizer.lr", ("0.001", "0.003"))]

    [pair] = compared.pairs
    ours, theirs = (Predictions.read(p.path / p.evidence("val")) for p in (first, second))
    right = [p.logits_NK.argmax(1) == p.targets for p in (ours, theirs)]
    assert pair.num_common == 60
    assert pair.num_only_first == int((right[0] & ~right[1]).sum())
    assert pair.num_only_second == int((~right[0] & right[1]).sum())
    assert pair.num_both_right + pair.num_only_first + pair.num_only_second + pair.num_both_wrong == 60
    assert {f.sha256 for f in pair.flips} == {ours.samples[i] for i in np.flatnonzero(right[0] != right[1])}
    assert pair.flips[0].path is not None
    assert pair.p_value is not None
    assert pair.p_value < 0.01

    by_name = {row.metric: row.values for row in compared.metrics}
    top1 = by_name["top1"][0]
    assert top1 is not None
    assert top1.value == right[0].mean()
    assert top1.low is not None
    assert top1.high is not None
    assert top1.low < top1.value < top1.high <= 1
    plot = Path(compared.plot or "")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.is_relative_to(root)


def test_samples_are_matched_by_content_not_by_place(root: Path) -> None:
    first, second = finished_run(root / "a", seed=1), finished_run(root / "b", seed=2)
    before = runs.compare([first.path, second.path]).pairs[0]
    path = second.path / second.evidence("val")
    given = Predictions.read(path)
    order = np.random.default_rng(5).permutation(len(given.samples))
    Predictions(
        split="val",
        samples=tuple(given.samples[i] for i in order),
        targets=given.targets[order],
        logits_NK=given.logits_NK[order],
    ).write(path)
    assert runs.compare([first.path, second.path]).pairs[0] == before


def test_what_cannot_be_paired_says_why(root: Path) -> None:
    first, second = finished_run(root / "a"), finished_run(root / "b", is_finished=False)
    pair = runs.compare([first.path, second.path]).pairs[0]
    assert pair.p_value is None
    assert pair.reason == "b is not finished: no evidence yet"


def test_a_run_whose_evidence_is_gone_does_not_keep_the_others_from_being_compared(root: Path) -> None:
    places = [finished_run(root / name, seed=seed) for seed, name in enumerate("abc", start=1)]
    (places[1].path / places[1].evidence("val")).unlink()
    compared = runs.compare([place.path for place in places])
    assert [pair.reason for pair in compared.pairs] == ["the evidence of b is gone", ""]
    assert all(row.values[0] and row.values[1] is None and row.values[2] for row in compared.metrics)


def judged(task: TaskName, outputs_NK: list[list[float]], *, order: Sequence[int] = (), classes: int = 1) -> Judged:
    """Three samples with the targets 0, 1 and 2, in any order."""
    rows = np.asarray(order or range(3))
    targets_NK = np.repeat(np.arange(3, dtype=np.float32)[:, None], classes, axis=1)
    predictions = Predictions(
        split="val",
        samples=tuple(f"{i:064x}" for i in rows),
        targets=targets_NK[rows],
        logits_NK=np.asarray(outputs_NK, dtype=np.float32)[rows],
    )
    names = tuple("abc"[:classes])
    return Judged(name=task, task=task, classes=names, predictions=predictions, threshold=None, paths={})


def test_two_regressions_are_compared_by_who_is_nearer() -> None:
    first = judged("regression", [[0.5], [1.0], [2.0]])
    second = judged("regression", [[0.1], [1.3], [2.0]], order=(2, 0, 1))
    found = pair(first, second)
    assert (found.num_common, found.num_nearer_first, found.num_nearer_second, found.p_value) == (3, 1, 1, 1.0)


def test_what_has_no_right_or_wrong_is_said_in_its_own_words() -> None:
    two, labels = judged("regression", [[0.0, 0.0]] * 3, classes=2), judged("multilabel", [[0.0]] * 3)
    assert pair(two, two).reason == "their outputs may have different units"
    assert pair(labels, labels).reason == "a picture with several labels is not simply right or wrong"
    assert pair(labels, two).reason == "one is multilabel, the other regression"
    assert pair(two, judged("regression", [[0.0]] * 3)).reason == "their outputs differ"


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (5, 5), (3, 12), (40, 9), (700, 612), (0, 2000)])
def test_mcnemar_is_the_exact_binomial_test(counts: tuple[int, int]) -> None:
    expected = binomtest(counts[0], sum(counts), 0.5).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("named", [["a"], ["a", "a"], ["a", "../runs/a"]])
def test_one_run_is_nothing_to_compare(root: Path, named: list[str]) -> None:
    finished_run(root / "a")
    with pytest.raises(UsageError):
        runs.compare([root / name for name in named])


def test_prune_shows_first_and_keeps_what_pack_needs(root: Path) -> None:
    place = finished_run(root / "a")
    going_on = finished_run(root / "b", is_finished=False)
    plan = runs.prune(root=root)
    assert not plan.is_done
    assert len(list(place.checkpoints.glob("e*"))) == 3
    assert {Path(freed.path).parent for freed in plan.freed} == {place.checkpoints}

    done = runs.prune(root=root, do_it=True)
    assert done.freed == plan.freed
    assert done.size_bytes == sum(freed.size_bytes for freed in plan.freed) > 0
    assert [p.name for p in place.checkpoints.glob("e*")] == [place.result().selected.checkpoint]
    assert len(list(going_on.checkpoints.glob("e*"))) == 3
    assert runs.prune(root=root).freed == ()


def test_prune_leaves_a_run_in_use_alone(root: Path) -> None:
    place = finished_run(root / "a")
    with place.held():
        report = runs.prune([place.path], whole=True, do_it=True)
    assert place.is_finished
    assert report.freed == ()
    assert "in use" in report.kept[0]


def test_whole_runs_go_only_by_name(root: Path) -> None:
    place, other = finished_run(root / "a"), finished_run(root / "b")
    with pytest.raises(UsageError):
        runs.prune(root=root, whole=True, do_it=True)
    runs.prune([place.path], whole=True, do_it=True)
    assert not place.path.exists()
    assert other.is_finished
