"""Small steps on modules that several files of this room take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}


def put(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Set the module at a path, on the device and in the dtype of what stands around it."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    like = next(owner.parameters(), None)
    if like is not None:
        layer.to(device=like.device, dtype=like.dtype)
    owner.register_module(name, layer)


def has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def is_under(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS:
            return args[0].zero_()  # not left as it is: trunc_normal_ draws again until every value is inside
        return func(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """While it holds, the draws of random initial weights are left out: seconds for a large model."""
    with _Unfilled():
        yield
