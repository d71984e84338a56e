"""What is minimised. B pictures, K outputs; every loss is summed over the samples, so that micro-batches and processes add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hubtool.records.recipe import Train
from hubtool.records.tasks import TaskName


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy (classification), binary cross-entropy (binary, multilabel: mean over outputs), squared error (regression).

    ``class_weights`` (K,) weigh the samples of a class, ``pos_weight`` the positives of a binary output.
    """

    task: TaskName
    num_outputs: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    pos_weight: Tensor | None = None

    def __call__(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """The sum over the batch, in float32. ``targets`` are as ``targets_of`` gives them, mixed or not."""
        logits_BK = logits_BK.float()
        if self.task == "classification":
            return functional.cross_entropy(
                logits_BK, targets, self.class_weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
        if self.task == "regression":
            return functional.mse_loss(logits_BK, targets, reduction="none").mean(1).sum()
        smoothed = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses_BK = functional.binary_cross_entropy_with_logits(
            logits_BK, smoothed, pos_weight=self.pos_weight, reduction="none"
        )
        if self.task == "binary" and self.class_weights is not None:
            losses_BK = losses_BK * torch.lerp(self.class_weights[0], self.class_weights[1], targets)
        return losses_BK.mean(1).sum()

    def to(self, device: torch.device) -> Loss:
        def moved(weights: Tensor | None) -> Tensor | None:
            return None if weights is None else weights.to(device)

        return Loss(
            task=self.task,
            num_outputs=self.num_outputs,
            label_smoothing=self.label_smoothing,
            class_weights=moved(self.class_weights),
            pos_weight=moved(self.pos_weight),
        )

    def targets_of(self, targets: Tensor) -> Tensor:
        """int64 (N,) or float32 (N, K) as stored → what the loss takes: class numbers, or float32 (N, K)."""
        return targets.float().unsqueeze(1) if self.task == "binary" else targets

    def soft(self, targets: Tensor) -> Tensor:
        """The same as float32 (B, K), so that they can be mixed."""
        return functional.one_hot(targets, self.num_outputs).float() if self.task == "classification" else targets


def make_loss(train: Train, task: TaskName, targets: Tensor, num_outputs: int) -> Loss:
    """``balanced`` weights are taken from the training targets: N / (K·n_k) for a class, negatives over positives for an output."""
    return Loss(
        task=task,
        num_outputs=num_outputs,
        label_smoothing=train.label_smoothing,
        class_weights=_class_weights(train, task, targets, num_outputs),
        pos_weight=_pos_weight(train, task, targets),
    )


def _class_weights(train: Train, task: TaskName, targets: Tensor, num_outputs: int) -> Tensor | None:
    if train.class_weights == "none" or task not in ("classification", "binary"):
        return None
    num_classes = 2 if task == "binary" else num_outputs
    counts_K = torch.bincount(targets, minlength=num_classes).clamp(min=1)
    return (len(targets) / (num_classes * counts_K)).float()


def _pos_weight(train: Train, task: TaskName, targets: Tensor) -> Tensor | None:
    if train.pos_weight == "none" or task not in ("binary", "multilabel"):
        return None
    if train.pos_weight != "balanced":
        return torch.tensor([float(train.pos_weight)])
    positives = targets.float().reshape(len(targets), -1).sum(0)
    return (len(targets) - positives) / positives.clamp(min=1)
