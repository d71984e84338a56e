"""Taps that meet no pixel have no gradient; in half precision on a CPU torch leaves unset memory there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hubtool.core.errors import UsageError
from hubtool.training import taps


class StdConv2d(nn.Conv2d):
    """As timm's: the weight is computed from the parameter."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x_BCHW, weight, None, self.stride, self.padding)


def gradient(conv: nn.Conv2d, x_BCHW: Tensor, *, is_half: bool) -> Tensor:
    conv.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        y_BCHW = conv(x_BCHW)
    y_BCHW.float().square().sum().backward()
    assert conv.weight.grad is not None
    return conv.weight.grad


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_bf16_gradient_is_the_one_of_fp32_and_zero_where_no_pixel_is_met(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    conv = nn.Conv2d(64, 96, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    x_BCHW = torch.randn(12, 64, size, size)
    exact = gradient(conv, x_BCHW, is_half=False).clone()
    masked = taps.mask_unmet(nn.Sequential(conv), {"0.weight"}, (64, size, size))
    unmet = (exact == 0).flatten(0, 1).all(dim=0)
    assert bool(masked) == bool(unmet.any())
    for _ in range(3):
        half = gradient(conv, x_BCHW, is_half=True)
        assert not half[:, :, unmet].any(), "no gradient at all, not merely a small one"
        assert (half - exact).norm() < 0.02 * exact.norm()


def test_a_mask_outlives_freezing_and_leaves_the_modes_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    model[1].training = False
    taps.mask_unmet(model, {"0.weight"}, (8, 1, 1))
    assert [module.training for module in model] == [True, False]
    model.requires_grad_(False)
    model.requires_grad_(True)
    weight = model[0].weight
    (weight * torch.full_like(weight, torch.nan)).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad.isnan().sum(dim=(0, 1)), torch.tensor([[0, 0, 0], [0, 64, 0], [0, 0, 0]]))


def test_what_is_frozen_or_meets_pixels_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert taps.mask_unmet(model, {"1.weight"}, (4, 2, 2)) == ()
    assert taps.mask_unmet(model[:1], set(), (4, 1, 1)) == ()


def test_a_weight_that_is_computed_cannot_be_masked() -> None:
    model = nn.Sequential(StdConv2d(4, 4, 3, padding=1))
    with pytest.raises(UsageError, match=r"0\.weight") as caught:
        taps.mask_unmet(model, {"0.weight"}, (4, 1, 1))
    assert caught.value.code == "E-NUMERIC-TAPS"
    assert taps.mask_unmet(model, {"0.weight"}, (4, 2, 2)) == ()
