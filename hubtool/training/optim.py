"""Optimizers by name, learning rates as pure functions of the step, and their state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hubtool.core.errors import UsageError
from hubtool.records.backbone import Phase
from hubtool.records.recipe import Train

Scalars = dict[str, float | int | bool | str | None]
AVERAGE = "ema"  # the key of a parameter's average, which lies beside its state in a checkpoint


def lr_at(train: Train, global_step: int, steps_per_epoch: int) -> float:
    """The base learning rate of a step (from 0). Warm-up rises linearly to ``lr``, then the schedule goes to ``min_lr``."""
    schedule, peak = train.schedule, train.optimizer.lr
    total = train.epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total)
    if global_step < warmup:
        return peak * (global_step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return peak
    done = (global_step - warmup) / max(1, total - warmup)
    if schedule.name == "step":
        return max(schedule.min_lr, peak * 0.1 ** min(2, int(3 * global_step / total)))
    share = (1 + math.cos(math.pi * done)) / 2 if schedule.name == "cosine" else 1 - done
    return schedule.min_lr + (peak - schedule.min_lr) * share


def check_name(train: Train) -> None:
    """Raises UsageError for an optimizer that timm.optim does not know, with the nearest."""
    from timm.optim import list_optimizers

    name, known = train.optimizer.name, list_optimizers()
    if name not in known:
        raise UsageError(
            "E-OPTIMIZER", f"unknown optimizer {name!r}", where="train.optimizer.name", do=_nearest(name, known)
        )


def make_optimizer(train: Train, parameters: Mapping[str, Tensor], phase: Phase) -> Any:
    """The optimizer over the phase's trainable parameters.

    One group for each (lr scale, decayed or not), in sorted order; ``lr_scale`` stands in the group. As in timm, biases and
    other one-dimensional parameters are not decayed. Raises UsageError for a name that timm.optim does not know.
    """
    from timm.optim import create_optimizer_v2

    check_name(train)
    name = train.optimizer.name
    groups: dict[tuple[float, bool], list[str]] = {}
    for parameter in sorted(phase.trainable):
        is_decayed = parameters[parameter].ndim > 1
        groups.setdefault((phase.trainable[parameter], is_decayed), []).append(parameter)
    param_groups = [
        {
            "params": [parameters[n] for n in names],
            "names": tuple(names),
            "lr_scale": scale,
            "weight_decay": train.optimizer.weight_decay if is_decayed else 0.0,
        }
        for (scale, is_decayed), names in sorted(groups.items())
    ]
    return create_optimizer_v2(
        param_groups,
        opt=name,
        lr=train.optimizer.lr,
        weight_decay=train.optimizer.weight_decay,
        **_momentum(name, train.optimizer.momentum),
        **_fused(train, parameters),
    )


def _momentum(name: str, momentum: float) -> dict[str, Any]:
    """``momentum`` as the optimizer spells it: SGD's own, or the first beta where there are betas."""
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(name)
    if info.has_momentum:
        return {"momentum": momentum}
    return {"betas": (momentum, 0.999)} if info.has_betas and info.num_betas == 2 else {}


def _fused(train: Train, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """On a CPU torch's one kernel for the whole update, instead of a dozen passes over memory: a rule, for it rounds otherwise.

    On a GPU torch updates all tensors together anyway; with fp16 the gradient scaler keeps its plain way. SGD's kernel takes
    no group of which some have a momentum yet and some, just unfrozen, have none.
    """
    from timm.optim import get_optimizer_info

    has_kernel = get_optimizer_info(train.optimizer.name).opt_class in (torch.optim.Adam, torch.optim.AdamW)
    is_on_cpu = all(parameter.device.type == "cpu" for parameter in parameters.values())
    return {"fused": True} if has_kernel and is_on_cpu and train.precision != "fp16" else {}


def lay_beside(parameters: Iterable[Tensor]) -> None:
    """Lay each gradient in memory as its parameter lies: torch's fused kernels of the CPU (2.11 to 2.15) walk both from their
    first byte to the last, and take the wrong numbers where one is channels_last and the other is not."""
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None and grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter, dtype=grad.dtype, requires_grad=False).copy_(grad)


def set_lr(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_state(optimizer: Any) -> tuple[dict[str, Tensor], Scalars]:
    """Its state as tensors ``PARAMETER/KEY`` and scalars (a group's own as ``#GROUP/KEY``); references, not copies."""
    tensors: dict[str, Tensor] = {}
    scalars: Scalars = {}
    for number, group in enumerate(optimizer.param_groups):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{key}"] = value
                else:
                    scalars[f"{name}/{key}"] = value
        for key in sorted(group.keys() - optimizer.defaults.keys() - {"params", "names", "lr_scale"}):
            if isinstance(group[key], torch.Tensor):
                tensors[f"#{number}/{key}"] = group[key]
            else:
                scalars[f"#{number}/{key}"] = group[key]
    return tensors, scalars


def restore_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], scalars: Scalars) -> None:
    """The inverse for every parameter both know; one that has just begun to train starts without state.

    Copies, for who handed ``tensors`` in may still write them to a checkpoint. They may hold averages (``PARAMETER/ema``),
    which are not the optimizer's.
    """
    for number, group in enumerate(optimizer.param_groups):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"{name}/"
            kept: dict[str, Any] = {
                key: _placed(key, value, parameter)
                for key, value in ((k.removeprefix(prefix), v) for k, v in tensors.items() if k.startswith(prefix))
                if "/" not in key and key != AVERAGE
            }
            kept |= {key.removeprefix(prefix): value for key, value in scalars.items() if key.startswith(prefix)}
            if kept:
                optimizer.state[parameter] = kept
        for key, kept_value in {**scalars, **tensors}.items():
            if key.startswith(f"#{number}/"):
                is_tensor = isinstance(kept_value, torch.Tensor)
                group[key.partition("/")[2]] = kept_value.clone() if is_tensor else kept_value


def _placed(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    """Moments lie beside their parameter and as it does; the step counter stays on the CPU, where torch keeps it."""
    if key == "step":
        return value.clone()
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device, copy=True)


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known[:12])}, …"
