"""From labels to targets: a class number (classification, binary), or one number for each output (multilabel, regression)."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from hubtool.core.errors import DataError
from hubtool.data.scan import Listing, Row
from hubtool.records.dataset import Sample, Target
from hubtool.records.tasks import TASKS, TaskName

if TYPE_CHECKING:
    import torch


def check_classes(listing: Listing, task: TaskName) -> None:
    """As many classes as the task needs, and train having all of them."""
    classes = listing.classes
    if task == "classification" and len(classes) < 2:
        raise DataError("E-DATA-CLASSES", f"one class only: {classes[0]}/", do="classification needs two or more")
    if task == "binary" and len(classes) != 2:
        raise DataError(
            "E-DATA-CLASSES",
            f"binary needs two classes, the data has {len(classes)}: {', '.join(classes[:5])}",
            do="use task: classification",
        )
    if task != "regression":
        known = {name for row in listing.rows if row.split in (None, "train") for name in names_of(row)}
        for row in listing.rows:
            for name in names_of(row):
                if name not in known:
                    raise unknown_label(name, tuple(sorted(known)), row)


def names_of(row: Row) -> tuple[str, ...]:
    """The class names of a picture: one, or any number of them (multilabel)."""
    return (row.label,) if isinstance(row.label, str) else tuple(str(name) for name in row.label)


def target_of(row: Row, classes: tuple[str, ...], task: TaskName) -> Target:
    """Raises DataError for a label that is not among ``classes``."""
    label = row.label
    if task == "regression":
        return tuple(float(value) for value in label)
    if task == "multilabel":
        for name in label:
            if name not in classes:
                raise unknown_label(str(name), classes, row)
        return tuple(1.0 if name in label else 0.0 for name in classes)
    if label not in classes:
        raise unknown_label(str(label), classes, row)
    return classes.index(str(label))


def unknown_label(label: str, classes: tuple[str, ...], row: Row) -> DataError:
    near = difflib.get_close_matches(label, classes, n=1)
    known = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    where = f"line {row.line}: {row.path}" if row.line else row.path
    return DataError(
        "E-DATA-LABEL",
        f"unknown label {label!r}",
        where=where,
        do=f"did you mean {near[0]!r}?" if near else f"known: {known}",
    )


def target_tensor(samples: tuple[Sample, ...], task: TaskName) -> torch.Tensor:
    """int64 (N,) of class numbers, or float32 (N, K)."""
    import torch

    kind = torch.int64 if TASKS[task].target_kind == "index" else torch.float32
    return torch.tensor([sample.target for sample in samples], dtype=kind)
