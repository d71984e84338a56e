"""Plots say what the numbers say, from nothing to a hundred classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubtool.core.errors import StorageError
from hubtool.records.log import Event
from hubtool.tracking import plots, plots_pictures, plots_scores
from hubtool.tracking.plots_style import shorten
from tracking.written import scalar


def events() -> list[Event]:
    rows = [scalar(step) for step in range(1, 201)]
    rows += [scalar(step, split="val", value=abs(step - 120) / 100 + 0.25) for step in range(40, 201, 40)]
    rows += [scalar(step, "top1", "val", 1 - abs(step - 160) / 400) for step in range(40, 201, 40)]
    return rows + [scalar(step, "lr", value=1e-3) for step in range(1, 201)]


def test_curves_mark_the_best_of_each_panel(tmp_path: Path) -> None:
    png, svg = plots.curves(events(), tmp_path / "plots/curves.png")
    text = svg.read_text()
    for word in ("best 0.25", "best 1", "optimizer step", "loss/train", "loss/val", "top1/val", "learning rate"):
        assert f"<!-- {word} -->" in text, word
    with Image.open(png) as picture:
        assert picture.size == (1980, 510)


def test_a_regression_shows_its_errors_and_a_steep_fall_on_a_readable_scale(tmp_path: Path) -> None:
    rows = [scalar(step, value=400 * 0.8**step + 0.05) for step in range(1, 61)]
    rows += [
        scalar(step, tag, "val", 20 * 0.8**step + 0.1) for step in range(5, 61, 5) for tag in ("mae", "rmse", "r2")
    ]
    _, svg = plots.curves(rows, tmp_path / "curves.png")
    text = svg.read_text()
    for word in (
        "mae/val",
        "rmse/val",
        "error in the unit of the targets, logarithmic",
        "mean loss per sample, logarithmic",
        "0.1",
        "100",
    ):
        assert f"<!-- {word} -->" in text, word
    assert "mathdefault" not in text


def test_the_counts_of_a_reliability_plot_are_numbers(tmp_path: Path) -> None:
    _, svg = plots_scores.reliability(np.linspace(0.5, 1, 300), np.ones(300, bool), tmp_path / "reliability.png")
    text = svg.read_text()
    assert "mathdefault" not in text
    assert "<!-- 100 -->" in text


def test_a_run_that_has_logged_nothing_has_an_empty_plot(tmp_path: Path) -> None:
    png, svg = plots.curves([], tmp_path / "curves.png")
    assert png.exists()
    assert svg.exists()


def test_runs_over_each_other_are_told_by_name(tmp_path: Path) -> None:
    names = [f"run-{i}" for i in range(7)]
    _, svg = plots.overlaid({name: events() for name in names}, tmp_path / "all.png", metric="top1")
    text = svg.read_text()
    assert all(f"<!-- {name} -->" in text for name in names)
    assert "<!-- validation top1 -->" in text


def test_a_small_confusion_matrix_has_its_counts(tmp_path: Path) -> None:
    _, svg = plots.confusion_matrix(np.asarray([[17, 3], [0, 25]]), ["cat", "dog"], tmp_path / "m.png")
    text = svg.read_text()
    for word in ("17", "3", "25", "cat", "dog", "confusion matrix", "42 of 45 right"):
        assert f"<!-- {word} -->" in text, word
    assert "<!-- 0 -->" not in text


def test_a_large_one_names_the_pairs_that_are_confused(tmp_path: Path) -> None:
    matrix_KK = np.diag(np.full(100, 30))
    matrix_KK[41, 57] = 12
    png, svg = plots.confusion_matrix(matrix_KK, [f"class{i}" for i in range(100)], tmp_path / "m.png")
    text = svg.read_text()
    assert "<!-- 12  class41 → class57 -->" in text
    assert "<!-- class98 -->" in text
    with Image.open(png) as picture:
        assert max(picture.size) < 2400


def test_a_class_without_samples_is_no_division_by_zero(tmp_path: Path) -> None:
    plots.confusion_matrix(np.asarray([[5, 0, 0], [0, 0, 0], [1, 0, 4]]), ["a", "b", "c"], tmp_path / "m.png")


def test_where_nothing_can_be_written_the_error_is_ours(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("in the way")
    with pytest.raises(StorageError):
        plots.curves(events()[:3], tmp_path / "plots/curves.png")


def test_a_batch_is_shown_as_it_entered_the_model() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x_BCHW = np.moveaxis((pictures / 255 - mean) / std, 3, 1)
    assert np.array_equal(plots_pictures.unnormalized(x_BCHW, mean, std), pictures)
    grey = plots_pictures.unnormalized(np.zeros((2, 1, 5, 6)), (0.5,), (1.0,))
    assert grey.shape == (2, 5, 6, 3)
    assert set(grey.ravel()) == {128}


@pytest.mark.parametrize(("text", "short"), [("short", "short"), ("a_long_class_name", "a_lon…_name")])
def test_long_names_keep_both_ends(text: str, short: str) -> None:
    assert shorten(text, 11).startswith(short[:5])
    assert len(shorten(text, 11)) <= 11


@pytest.mark.parametrize("name", [r"$\frac{$ and $x$", "a\tb\nc", "_hidden", "猫", "<b>&amp;", "x" * 300])
def test_any_name_of_a_class_can_be_drawn(name: str, tmp_path: Path) -> None:
    """A warning would fail it: they are errors here."""
    positives, scores = np.eye(2, dtype=bool)[[0, 1, 0, 1]], np.random.default_rng(0).random((4, 2))
    classes = (name, "other")
    made = [
        *plots_scores.roc(positives, scores, classes, tmp_path / "roc.png"),
        *plots_scores.precision_recall(positives[:, :1], scores[:, :1], [name], tmp_path / "pr.png"),
        *plots_scores.per_class(np.array([1, 0]), np.array([2, 2]), classes, tmp_path / "bars.png"),
        *plots.confusion_matrix(np.eye(2, dtype=int), classes, tmp_path / "matrix.png"),
    ]
    assert all(path.stat().st_size > 1000 for path in made)


def test_pictures_of_one_class_alone_have_curves_without_a_legend(tmp_path: Path) -> None:
    positives = np.eye(2, dtype=bool)[[0, 0, 0]]
    scores = np.random.default_rng(0).random((3, 2))
    for draw in (plots_scores.roc, plots_scores.precision_recall):
        assert all(path.is_file() for path in draw(positives, scores, ("a", "b"), tmp_path / "x.png"))


def test_runs_of_any_name_are_laid_over_each_other(tmp_path: Path) -> None:
    assert plots.overlaid({r"$\frac{$": events(), "_b": events()}, tmp_path / "over.png", metric="top1")[0].is_file()


FORMULA = r"$\foo$"


POSITIVES, SCORES = np.asarray([[1, 0], [0, 1], [1, 0]]), np.asarray([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
NAMED: dict[str, Callable[[Path, str], tuple[Path, Path]]] = {
    "curves": lambda path, name: plots.curves(events(), path, title=name),
    "overlaid": lambda path, name: plots.overlaid({name: events(), "b": events()}, path, metric="top1"),
    "confusion": lambda path, name: plots.confusion_matrix(np.asarray([[5, 1], [2, 4]]), [name, "b"], path, title=name),
    "large confusion": lambda path, name: plots.confusion_matrix(np.full((30, 30), 2), [name] * 30, path),
    "per class": lambda path, name: plots_scores.per_class(np.asarray([1, 2]), np.asarray([3, 3]), [name, "b"], path),
    "ROC": lambda path, name: plots_scores.roc(POSITIVES, SCORES, [name, "b"], path),
    "ROC of one": lambda path, name: plots_scores.roc(POSITIVES[:, :1], SCORES[:, :1], [name], path),
    "precision": lambda path, name: plots_scores.precision_recall(POSITIVES, SCORES, [name, "b"], path),
    "precision of one": lambda path, name: plots_scores.precision_recall(POSITIVES[:, :1], SCORES[:, :1], [name], path),
    "regression": lambda path, name: plots_scores.regression(SCORES, SCORES[::-1], [name, "b"], path),
}


@pytest.mark.parametrize("plot", NAMED)
def test_a_name_with_dollars_is_no_formula(tmp_path: Path, plot: str) -> None:
    _, svg = NAMED[plot](tmp_path / "plot.png", FORMULA)
    assert FORMULA in svg.read_text(), "it stands there as it is"


def test_a_name_with_dollars_below_a_picture_is_no_formula(tmp_path: Path) -> None:
    def drawn(name: str) -> bytes:
        image = Image.new("RGB", (8, 8))
        shown = plots_pictures.Shown(image=image, truth=name, predicted=name, confidence=0.5, is_right=False, note=name)
        return plots_pictures.predictions([shown], tmp_path / "plot.png", title=name).read_bytes()

    assert drawn(FORMULA) != drawn(FORMULA.replace("$", ""))
