"""The head on its way into a package and out of it: folding, two rows for binary, a file of its own.

Shape legend: K outputs, D inputs, M outputs of the old classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hubtool.backbones import classifiers, modules, weights
from hubtool.backbones.head_layers import LAYERS, Appended, PerPixel
from hubtool.core.errors import IntegrityError
from hubtool.records.backbone import Library
from hubtool.records.resolve import ResolvedRecipe

HEAD_NAME = "head.safetensors"


class Composed(nn.Module):
    """A headless backbone and a head of ours: x_BCHW → logits_BK."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.body(x_BCHW)
        return cast("Tensor", self.head(getattr(out, "logits", out)))


def num_outputs(model: nn.Module, library: Library) -> int:
    layer = _layers(model, library)[0][1]
    shapes = [p.shape for name, p in layer.named_parameters() if name.endswith("weight") and p.ndim >= 2]
    return int(shapes[-1][0])


def split(model: nn.Module, resolved: ResolvedRecipe, library: Library) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The package's tensors: of model.safetensors, and of head.safetensors (empty for a head the library itself has)."""
    state = {name: tensor.detach().to("cpu") for name, tensor in model.state_dict().items()}
    is_binary = resolved.task == "binary"
    head_state: dict[str, Tensor] = {}
    for path, layer in _layers(model, library):
        own = {name: state.pop(f"{path}.{name}") for name in layer.state_dict()}
        if resolved.head.type != "linear":
            head_state |= {name: tensor.contiguous() for name, tensor in own.items()}
            continue
        weight_KD, bias_K = _linear(own)
        if path.endswith(".new"):
            path = path.removesuffix(".new")  # noqa: PLW2901
            weight_KD, bias_K = _fold(state, f"{path}.old", weight_KD, bias_K)
        if is_binary:
            weight_KD, bias_K = _two_rows(weight_KD), None if bias_K is None else _two_rows(bias_K)
        is_conv = isinstance(layer, PerPixel)
        state[f"{path}.weight"] = weight_KD[:, :, None, None].contiguous() if is_conv else weight_KD
        if bias_K is not None:
            state[f"{path}.bias"] = bias_K
    if resolved.head.mode == "append" and head_state:
        state = {name.replace(".old.", ".") if ".old." in name else name: tensor for name, tensor in state.items()}
    return state, head_state


def _layers(model: nn.Module, library: Library) -> list[tuple[str, nn.Module]]:
    return [(path, model.get_submodule(path)) for path in classifiers.head_modules(model, library)]


def _linear(own: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias under whatever prefix a wrapper gives them."""
    by_name = {name.rpartition(".")[2]: tensor for name, tensor in own.items()}
    return by_name["weight"].flatten(1), by_name.get("bias")


def _fold(state: dict[str, Tensor], old: str, weight_KM: Tensor, bias_K: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Two linear layers as one, multiplied in float64."""
    first_MD = state.pop(f"{old}.weight")
    bias_M = state.pop(f"{old}.bias", None)
    second = weight_KM.double()
    weight_KD = (second @ first_MD.flatten(1).double()).to(first_MD.dtype)
    if bias_M is None or bias_K is None:
        return weight_KD, None
    return weight_KD, (second @ bias_M.double() + bias_K.double()).to(first_MD.dtype)


def _two_rows(rows: Tensor) -> Tensor:
    """[0; w]: two logits whose softmax is the sigmoid of the one."""
    return torch.cat([torch.zeros_like(rows), rows])


def spec(model: nn.Module, resolved: ResolvedRecipe, library: Library) -> dict[str, Any]:
    """What a loader needs to build the head again."""
    layer = _layers(model, library)[0][1]
    inner = layer.layer if isinstance(layer, PerPixel) else layer
    shapes = [p.shape for p in inner.parameters() if p.ndim >= 2]
    return {
        "type": resolved.head.type,
        "num_features": int(shapes[0][1]),
        "num_outputs": int(shapes[-1][0]),
        "is_binary": resolved.task == "binary",
        "is_conv": isinstance(layer, PerPixel),
    }


def compose(body: nn.Module, head: dict[str, Any], directory: Path) -> nn.Module:
    """The packaged head behind its backbone, or at its ``place`` in it."""
    try:
        layer = LAYERS[head["type"]](int(head["num_features"]), int(head["num_outputs"]), 0.0)
        is_binary = bool(head.get("is_binary"))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("E-CONFIG", f"the head is described wrongly: {error}", where=directory.name) from error
    state = {name.removeprefix("layer."): tensor for name, tensor in weights.load(directory / HEAD_NAME).items()}
    weights.load_strict(layer, state, ())
    whole = _TwoLogits(layer) if is_binary else layer
    if "place" not in head:
        return Composed(body, whole)
    modules.put(body, str(head["place"]), PerPixel(whole) if head.get("is_conv") else whole)
    return body


class _TwoLogits(nn.Module):
    """[0, z] for the one logit z of a binary head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BD: Tensor) -> Tensor:
        z_B1 = self.layer(x_BD)
        return torch.cat([torch.zeros_like(z_B1), z_B1], dim=-1)


def is_folded(model: nn.Module) -> bool:
    """Whether packing multiplies an appended layer into the old classifier."""
    return any(isinstance(module, Appended) for module in model.modules())
