"""The one table of tasks: what a target is, how many outputs the head has, which metrics are claimed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["classification", "binary", "multilabel", "regression"]
TargetKind = Literal["index", "vector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """``target_kind`` index: a class number per sample; vector: ``num_outputs`` numbers per sample.

    ``metrics`` are compiled from predictions in this order, the first is the headline; ``shares`` of them lie in [0, 1].
    """

    name: TaskName
    target_kind: TargetKind
    metrics: tuple[str, ...]
    pipeline_tag: str
    higher_is_better: bool
    outputs: tuple[str, str] = ("class", "classes")

    def counted(self, num_classes: int) -> str:
        """``3 classes``, ``1 label``: how many of what the model's outputs stand for."""
        return f"{num_classes:,} {self.outputs[num_classes != 1]}"

    def num_outputs(self, num_classes: int) -> int:
        return 1 if self.name == "binary" else num_classes


TASKS: dict[str, Task] = {
    "classification": Task(
        name="classification",
        target_kind="index",
        metrics=("top1", "top5", "balanced_accuracy", "macro_f1", "calibration_error", "loss"),
        pipeline_tag="image-classification",
        higher_is_better=True,
    ),
    "binary": Task(
        name="binary",
        target_kind="index",
        metrics=("top1", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "calibration_error", "loss"),
        pipeline_tag="image-classification",
        higher_is_better=True,
    ),
    "multilabel": Task(
        name="multilabel",
        target_kind="vector",
        metrics=("average_precision", "macro_f1", "auroc", "loss"),
        pipeline_tag="image-classification",
        higher_is_better=True,
        outputs=("label", "labels"),
    ),
    "regression": Task(
        name="regression",
        target_kind="vector",
        metrics=("mae", "rmse", "r2", "loss"),
        pipeline_tag="image-feature-extraction",
        higher_is_better=False,
        outputs=("output", "outputs"),
    ),
}
