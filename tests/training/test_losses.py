from __future__ import annotations

from typing import Any

import pytest
import torch

from hubtool.records.recipe import Train
from hubtool.training.losses import make_loss
from hubtool.training.mix import Mixer
from hubtool.training.order import MicroBatch

TARGETS = torch.tensor([0, 0, 0, 1])


def loss_of(task: Any, targets: torch.Tensor, num_outputs: int, **changes: Any) -> Any:
    return make_loss(Train.model_validate(changes), task, targets, num_outputs)


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.1}, {"class_weights": "balanced"}])
@pytest.mark.parametrize("task", ["classification", "binary", "multilabel", "regression"])
def test_losses_add_up_over_the_parts_of_a_batch(task: Any, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    num_outputs = 1 if task == "binary" else 2
    stored = TARGETS if task in ("classification", "binary") else torch.rand(4, 2).round()
    loss = loss_of(task, stored, num_outputs, **changes)
    logits, targets = torch.randn(4, num_outputs), loss.targets_of(stored)
    whole = loss(logits, targets)
    assert torch.allclose(whole, loss(logits[:1], targets[:1]) + loss(logits[1:], targets[1:]))
    hard = loss(logits, loss.soft(targets))
    assert torch.allclose(whole, hard)


def test_balanced_weights_make_each_class_count_the_same() -> None:
    loss = loss_of("classification", TARGETS, 2, class_weights="balanced")
    assert loss.class_weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert loss_of("binary", TARGETS, 1, pos_weight="balanced").pos_weight.tolist() == [3.0]
    assert loss_of("binary", TARGETS, 1, pos_weight=2.5).pos_weight.tolist() == [2.5]
    assert loss_of("classification", TARGETS, 2).class_weights is None


def test_binary_class_weights_weigh_the_samples_of_each_class() -> None:
    logits, targets = torch.zeros(4, 1), TARGETS.float().unsqueeze(1)
    plain = loss_of("binary", TARGETS, 1)(logits, targets)
    balanced = loss_of("binary", TARGETS, 1, class_weights="balanced")(logits, targets)
    assert torch.allclose(plain, balanced)  # the weights of all samples sum to their number


def make_batch(step: int) -> MicroBatch:
    return MicroBatch(epoch=0, global_step=step, index=0, samples=(0, 1, 2, 3))


@pytest.mark.parametrize("mixer", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_pictures_and_targets_are_mixed_in_the_same_shares(mixer: dict[str, float]) -> None:
    """Each picture is the constant of its class, so that its mean shows the share."""
    draw = Mixer(**mixer, seed=1, img_size=(8, 8))
    x_BCHW = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
    soft_BK = torch.eye(4)
    shares = set()
    for step in range(6):
        mixed, targets = draw.pictures(x_BCHW, make_batch(step)), draw.targets(soft_BK, make_batch(step))
        assert torch.allclose(mixed.mean((1, 2, 3)), targets @ torch.arange(4.0), atol=1e-5)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        shares.add(float(targets[0, 0]))
    assert len(shares) > 3
    assert torch.equal(draw.pictures(x_BCHW, make_batch(2)), draw.pictures(x_BCHW, make_batch(2)))
