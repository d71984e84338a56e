"""The layers of a model under a recipe, part by part: shapes, parameters, FLOPs, what trains.

Shape legend: B batch (1 here), C channels, H, W pixels. Works on the meta device: nothing is computed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from hubtool.backbones import freeze
from hubtool.records.backbone import LayerRow, LayerTable, Part, Parts, Phase


def table(
    model: nn.Module, parts: Parts, phase: Phase, *, input_shape: tuple[int, int, int], frontier: str
) -> LayerTable:
    """One row per part. ``input_shape`` is (C, H, W); ``frontier`` says where the frozen prefix ends.

    FLOPs are torch's own count, one multiply-add being 2. A part whose modules the forward pass does not call shows none.
    """
    freeze.apply(model, phase)
    shapes, flops = _measure(model, parts, input_shape)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows = []
    is_before = True
    for part in parts.parts:
        is_trainable = any(name in phase.trainable for name in part.parameters)
        is_before = is_before and not is_trainable and part.name != "head"
        rows.append(
            LayerRow(
                part=part.name,
                output_shape=shapes.get(part.name),
                num_params=sum(sizes[name] for name in part.parameters),
                flops=flops.get(part.name),
                is_trainable=is_trainable,
                norm_mode=_norm_mode(model, part),
                is_before_frontier=is_before,
            )
        )
    return LayerTable(
        rows=tuple(rows),
        num_params=sum(sizes.values()),
        num_trainable=sum(sizes[name] for name in phase.trainable),
        frontier=frontier,
    )


def frozen_through(parts: Parts, phase: Phase) -> str:
    """Where the frozen prefix ends, in words, from the parts alone."""
    frozen = []
    for part in parts.parts:
        if any(name in phase.trainable for name in part.parameters):
            break
        frozen.append(part.name)
    if not frozen:
        return "nothing is computed once: the first part trains"
    return f"{frozen[0]} to {frozen[-1]} are computed once" if len(frozen) > 1 else f"{frozen[0]} is computed once"


def _norm_mode(model: nn.Module, part: Part) -> Literal["train", "eval", "none"]:
    """Of the layers that keep running statistics; ``none`` where there are none."""
    norms = [m for m in map(model.get_submodule, part.modules) if isinstance(m, _NormBase) and m.track_running_stats]
    if not norms:
        return "none"
    return "train" if any(norm.training for norm in norms) else "eval"


def _measure(
    model: nn.Module, parts: Parts, input_shape: tuple[int, int, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Output shape (without B) and FLOPs of each part, by running it once in eval mode on one picture."""
    shapes: dict[str, tuple[int, ...]] = {}
    flops: dict[str, int] = {}
    open_parts: list[str] = []
    hooks = []
    counter = FlopCounterMode(display=False)

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            if not open_parts:
                flops[name] = flops.get(name, 0) - counter.get_total_flops()
            open_parts.append(name)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            open_parts.pop()
            if not open_parts:
                flops[name] += counter.get_total_flops()
                first = _first_tensor(output)
                if first is not None:
                    shapes[name] = tuple(first.shape[1:])

        return hook

    modes = {path: module.training for path, module in model.named_modules()}
    for part in parts.parts:
        for path in part.modules:
            module = model.get_submodule(path)
            hooks += [
                module.register_forward_pre_hook(enter(part.name)),
                module.register_forward_hook(leave(part.name)),
            ]
    like = next(model.parameters())
    x_BCHW = torch.zeros((1, *input_shape), device=like.device, dtype=like.dtype)
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
        for path, module in model.named_modules():
            module.training = modes[path]
    return shapes, flops


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    values = output if isinstance(output, tuple | list) else getattr(output, "values", tuple)()
    return next((value for value in values if isinstance(value, Tensor)), None)
