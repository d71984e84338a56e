"""The layers a head can be.

Shape legend: B batch, D features, K outputs, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Linear):
    """Dropout, then a linear layer: x_BD → logits_BK. Works on any leading dimensions."""

    def __init__(self, num_features: int, num_outputs: int, drop_rate: float, bias: bool = True) -> None:
        super().__init__(num_features, num_outputs, bias=bias)
        self.drop_rate = drop_rate

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.dropout(input, self.drop_rate, self.training))


class NormLinearHead(nn.Sequential):
    """LayerNorm, dropout, linear."""

    def __init__(self, num_features: int, num_outputs: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_features)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(num_features, num_outputs)


class MlpHead(nn.Sequential):
    """Linear to as many hidden units as there are features, GELU, dropout, linear."""

    def __init__(self, num_features: int, num_outputs: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_features, num_features)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(num_features, num_outputs)


class CosineHead(nn.Module):
    """Cosine similarity to one direction per output, times a learned scale (Gidaris and Komodakis, 2018)."""

    def __init__(self, num_features: int, num_outputs: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)
        self.weight = nn.Parameter(torch.empty(num_outputs, num_features))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.scale * functional.linear(
            functional.normalize(self.drop(x_BD), dim=-1), functional.normalize(self.weight, dim=-1)
        )


class PerPixel(nn.Module):
    """A head where the library has a 1x1 convolution: x_BDHW → logits_BKHW."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BDHW: Tensor) -> Tensor:
        return cast("Tensor", self.layer(x_BDHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Appended(nn.Module):
    """The old classifier, then the new layer on its outputs."""

    def __init__(self, old: nn.Module, new: nn.Module) -> None:
        super().__init__()
        self.old = old
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.new(self.old(x)))


LAYERS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "linear": LinearHead,
    "norm_linear": NormLinearHead,
    "mlp": MlpHead,
    "cosine": CosineHead,
}


def is_ours(module: nn.Module) -> bool:
    """Whether a module is a head of this file."""
    return isinstance(module, (PerPixel, Appended, *(cast("type[nn.Module]", layer) for layer in LAYERS.values())))
