"""What is shown once training is over: plots of the predictions, as files in ``RUN/plots`` and as events for the log.

N samples, K outputs. Every function returns events; the caller writes them to the journal and the sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hubtool.records import metrics
from hubtool.records.evidence import Predictions
from hubtool.records.log import Event
from hubtool.records.tasks import TaskName
from hubtool.tracking import media, plots, plots_pictures, plots_scores
from hubtool.tracking.media import Moment
from hubtool.tracking.ranking import pr_table

Array = np.ndarray[Any, np.dtype[Any]]
Picture = Callable[[int], Image.Image]
NUM_SHOWN = 24
MAX_PR_CURVES = 100


def after_training(
    moment: Moment,
    *,
    task: TaskName,
    classes: Sequence[str],
    predictions: Predictions,
    threshold: float | None = None,
    picture: Picture | None = None,
) -> tuple[Event, ...]:
    """Every plot of a finished run's predictions, about two seconds; with ``picture`` (a sample's number → its image) also
    those that show the data. The events are for the journal, then the sinks."""
    events = number_plots(moment, task=task, classes=classes, predictions=predictions, threshold=threshold)
    if picture is None:
        return events
    return events + picture_plots(
        moment, task=task, classes=classes, predictions=predictions, picture=picture, threshold=threshold
    )


def weights(moment: Moment, arrays: Mapping[str, Array], *, kind: str = "weights") -> tuple[Event, ...]:
    """Histograms of the trainable tensors by name, or of their gradients (``kind`` gradients)."""
    return media.write_histograms(moment, {f"{kind}/{name}": array for name, array in arrays.items()})


def number_plots(
    moment: Moment, *, task: TaskName, classes: Sequence[str], predictions: Predictions, threshold: float | None = None
) -> tuple[Event, ...]:
    """``number_figures`` in the run's plots, and a precision-recall curve for each class."""
    made = number_figures(
        moment.run_dir / "plots", task=task, classes=classes, predictions=predictions, threshold=threshold
    )
    events = [media.point_to(moment, "figure", png.stem, png) for png in made]
    if task != "regression":
        positives_NK, scores_NK, names = _ranked(task, classes, predictions)
        for k, name in list(enumerate(names))[:MAX_PR_CURVES]:
            table = pr_table(positives_NK[:, k], scores_NK[:, k])
            events.append(media.write_arrays(moment, "pr_curve", f"pr_curve/{name}", table))
    return tuple(events)


def number_figures(
    directory: Path, *, task: TaskName, classes: Sequence[str], predictions: Predictions, threshold: float | None = None
) -> tuple[Path, ...]:
    """Confusion matrix, reliability, per-class bars, ROC, precision and recall; for a regression predicted against true.
    They hold no picture and no file name. Returns the PNGs; an SVG stands beside each."""
    targets, logits_NK = predictions.targets, predictions.logits_NK
    if task == "regression":
        return (plots_scores.regression(targets, logits_NK, classes, directory / "calibration.png")[0],)
    made = []
    if task != "multilabel":
        made += _class_plots(directory, task, classes, predictions, threshold)
    else:
        rows = metrics.per_class(task, logits_NK, targets, num_classes=len(classes), threshold=threshold)
        num_K = np.asarray([row["num_samples"] for row in rows])
        right_K = np.asarray([row["recall"] for row in rows]) * num_K
        made.append(plots_scores.per_class(right_K, num_K, classes, directory / "per_class.png")[0])
    ranked = _ranked(task, classes, predictions)
    made.append(plots_scores.roc(*ranked, directory / "roc.png")[0])
    made.append(plots_scores.precision_recall(*ranked, directory / "precision_recall.png")[0])
    return tuple(made)


def _ranked(task: TaskName, classes: Sequence[str], predictions: Predictions) -> tuple[Array, Array, list[str]]:
    """What is positive, the scores, and the classes that are ranked: of a binary task the positive one."""
    targets = predictions.targets
    scores_NK = metrics.probabilities(task, predictions.logits_NK)
    positives_NK = targets > 0.5 if task == "multilabel" else np.eye(len(classes), dtype=bool)[targets]
    shown = [1] if task == "binary" else list(range(len(classes)))
    return positives_NK[:, shown], scores_NK[:, shown], [classes[k] for k in shown]


def _class_plots(
    directory: Path, task: TaskName, classes: Sequence[str], predictions: Predictions, threshold: float | None
) -> list[Path]:
    targets = predictions.targets
    called = metrics.predicted_classes(task, predictions.logits_NK, threshold=threshold)
    confidence = metrics.probabilities(task, predictions.logits_NK)[np.arange(len(called)), called]
    matrix_KK = metrics.confusion_matrix(targets, called, len(classes))
    error = metrics.compute(task, predictions.logits_NK, targets, threshold=threshold)["calibration_error"]
    return [
        plots.confusion_matrix(matrix_KK, classes, directory / "confusion_matrix.png")[0],
        plots_scores.reliability(confidence, called == targets, directory / "reliability.png", calibration_error=error)[
            0
        ],
        plots_scores.per_class(np.diag(matrix_KK), matrix_KK.sum(axis=1), classes, directory / "per_class.png")[0],
    ]


def picture_plots(
    moment: Moment,
    *,
    task: TaskName,
    classes: Sequence[str],
    predictions: Predictions,
    picture: Picture,
    threshold: float | None = None,
) -> tuple[Event, ...]:
    """``picture_figures`` in the run's plots."""
    made = picture_figures(
        moment.run_dir / "plots",
        task=task,
        classes=classes,
        predictions=predictions,
        picture=picture,
        threshold=threshold,
    )
    return tuple(media.point_to(moment, "figure", png.stem, png) for png in made)


def picture_figures(
    directory: Path,
    *,
    task: TaskName,
    classes: Sequence[str],
    predictions: Predictions,
    picture: Picture,
    threshold: float | None = None,
) -> tuple[Path, ...]:
    """Pictures with what they were called: the first ones (in order of content, so a fair draw) and those of the highest loss.
    ``picture`` reads a sample by its number. Nothing for tasks without one class a sample."""
    if task not in ("classification", "binary"):
        return ()
    targets = predictions.targets
    scores_NK = metrics.probabilities(task, predictions.logits_NK)
    called = metrics.predicted_classes(task, predictions.logits_NK, threshold=threshold)
    loss = -np.log(np.maximum(scores_NK[np.arange(len(targets)), targets], 1e-12))

    def shown(sample: int, note: str = "") -> plots_pictures.Shown:
        return plots_pictures.Shown(
            image=picture(sample),
            truth=classes[targets[sample]],
            predicted=classes[called[sample]],
            confidence=float(scores_NK[sample, called[sample]]),
            is_right=bool(called[sample] == targets[sample]),
            note=note,
        )

    first = [shown(sample) for sample in range(min(NUM_SHOWN, len(targets)))]
    worst = [shown(int(sample), f"loss {loss[sample]:.2f}") for sample in np.argsort(-loss, kind="stable")[:NUM_SHOWN]]
    return (
        plots_pictures.predictions(first, directory / "predictions.png", title=f"predictions on {predictions.split}"),
        plots_pictures.predictions(worst, directory / "top_losses.png", title=f"highest losses on {predictions.split}"),
    )


def embedding(
    moment: Moment, *, features_ND: Array, labels: Sequence[str], picture: Picture | None = None
) -> tuple[Event, ...]:
    """The features of a split with labels and thumbnails, for TensorBoard's projector; 2000 points at most."""
    num = min(len(labels), plots_pictures.MAX_THUMBNAILS)
    images = [picture(sample) for sample in range(num)] if picture is not None else []
    arrays = plots_pictures.embedding_arrays(features_ND[:num], labels[:num], images)
    return (media.write_arrays(moment, "embedding", "features", arrays),)


def first_batch(moment: Moment, x_BCHW: Array, *, mean: Sequence[float], std: Sequence[float]) -> tuple[Event, ...]:
    """The pictures of a batch as the model sees them, augmentation and all."""
    pictures = plots_pictures.unnormalized(x_BCHW, mean, std)
    return (media.write_png(moment, "first_batch", plots_pictures.grid_png(pictures)),)
