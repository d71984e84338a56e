"""Cutting a model at a module boundary, where its forward pass cannot be traced.

The frozen modules that run before anything trainable are run once and their last output kept. The suffix is the model's
own forward in which each of them returns at once: the last one what was kept, the others a stand-in of the right shape.
Whether the stand-ins matter is tried with NaN in them, never assumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from hubtool.backbones.trace import CannotCut, Spec, _is_live, give, specify, take
from hubtool.records.backbone import Phase


@dataclass(frozen=True, kw_only=True)
class _Call:
    path: str
    output: Any


class Boundary:
    """Both halves of a model cut behind the module ``path``."""

    def __init__(
        self, model: nn.Module, paths: list[str], specs: dict[str, tuple[list[Spec], Any]], input_shape: tuple[int, ...]
    ) -> None:
        self.path = paths[-1]
        self._model = model
        self._paths = paths
        self._specs = specs
        self._input_shape = input_shape

    def prefix(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        kept: list[Any] = []
        last = self._model.get_submodule(self.path)

        class Enough(Exception):
            pass

        def stop(_module: nn.Module, _args: Any, output: Any) -> None:
            kept.append(output)
            raise Enough

        hook = last.register_forward_hook(stop)
        try:
            with contextlib.suppress(Enough):
                self._model(x_BCHW)
        finally:
            hook.remove()
        leaves, _ = tree_flatten(kept[0])
        batch = x_BCHW.shape[0]
        return tuple(t for s, v in zip(self._specs[self.path][0], leaves, strict=True) for t in take(s, v, batch))

    def suffix(self, feats: tuple[Tensor, ...], *, training: bool) -> Tensor:
        batch, like = feats[0].shape[0], feats[0]
        outputs: dict[str, Any] = {}
        for path in self._paths:
            specs, tree = self._specs[path]
            if path == self.path:
                rest = list(feats)
                leaves = [give(spec, rest, batch) for spec in specs]
            else:
                leaves = [_stand_in(spec, batch, like) for spec in specs]
            outputs[path] = tree_unflatten(leaves, tree)
        x_BCHW = torch.zeros((), dtype=like.dtype, device=like.device).expand(batch, *self._input_shape)
        with _returning(self._model, outputs):
            result = self._model(x_BCHW)
        return cast("Tensor", getattr(result, "logits", result))


def _stand_in(spec: Spec, batch: int, like: Tensor) -> Any:
    if spec.kind != "tensor":
        return give(spec, [], batch)
    shape, dtype = spec.value
    fill = float("nan") if dtype.is_floating_point else 0
    return torch.full((), fill, dtype=dtype, device=like.device).expand(batch * spec.factor, *shape)


@contextlib.contextmanager
def _returning(model: nn.Module, outputs: dict[str, Any]) -> Iterator[None]:
    """While it holds, the named modules return these values at once."""

    def returns(value: Any) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: value

    modules = {path: model.get_submodule(path) for path in outputs}
    try:
        for path, module in modules.items():
            module.__dict__["forward"] = returns(outputs[path])
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


def find_boundary(model: nn.Module, phase: Phase, probe_BCHW: Tensor) -> Boundary:
    """The latest boundary that works. Raises CannotCut."""
    frozen = _frozen_modules(model, phase)
    two, three = _calls(model, frozen, phase, probe_BCHW[:2]), _calls(model, frozen, phase, probe_BCHW[:3])
    if not two or [c.path for c in two] != [c.path for c in three]:
        raise CannotCut("no frozen module runs before what trains")
    specs: dict[str, tuple[list[Spec], Any]] = {}
    for a, b in zip(two, three, strict=True):
        (leaves_a, tree), (leaves_b, _) = tree_flatten(a.output), tree_flatten(b.output)
        specs[a.path] = ([_with_shape(x, y) for x, y in zip(leaves_a, leaves_b, strict=True)], tree)
    paths = [call.path for call in two]
    model.eval()
    with torch.no_grad():
        whole = model(probe_BCHW)
    whole = getattr(whole, "logits", whole)
    for end in range(len(paths), 0, -1):
        boundary = Boundary(model, paths[:end], specs, tuple(probe_BCHW.shape[1:]))
        if _works(boundary, probe_BCHW, whole):
            return boundary
    raise CannotCut("what trains reads more than the last frozen module's output")


def _works(boundary: Boundary, probe_BCHW: Tensor, whole: Tensor) -> bool:
    with torch.no_grad():
        try:
            return bool(torch.equal(boundary.suffix(boundary.prefix(probe_BCHW), training=False), whole))
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            return False


def _with_shape(two: Any, three: Any) -> Spec:
    if isinstance(two, Tensor) and two.shape == three.shape and torch.equal(two, three):
        return Spec(kind="value", value=two)
    spec = specify(two, three)
    return (
        Spec(kind="tensor", factor=spec.factor, value=(tuple(two.shape[1:]), two.dtype))
        if spec.kind == "tensor"
        else spec
    )


def _frozen_modules(model: nn.Module, phase: Phase) -> set[str]:
    """Modules with nothing trainable and nothing random inside, as the phase sets them."""
    found = set()
    silent = set(phase.eval_modules)
    for path, module in model.named_modules():
        names = [f"{path}.{name}" for name, _ in module.named_parameters()]
        inner = [f"{path}.{name}" if name else path for name, _ in module.named_modules()]
        live = any(i not in silent and _is_live_in_train(model.get_submodule(i)) for i in inner) if path else True
        if path and not live and not any(name in phase.trainable for name in names):
            found.add(path)
    return found


def _is_live_in_train(module: nn.Module) -> bool:
    was, module.training = module.training, True
    try:
        return _is_live(module)
    finally:
        module.training = was


def _calls(model: nn.Module, frozen: set[str], phase: Phase, x_BCHW: Tensor) -> list[_Call]:
    """Outermost frozen modules in the order they end, up to the first module with something trainable of its own."""
    calls: list[_Call] = []
    state = {"depth": 0, "is_open": True}
    hooks = []

    def enter(_module: nn.Module, _args: Any) -> None:
        state["depth"] += 1

    def leave(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            state["depth"] -= 1
            if state["depth"] == 0 and state["is_open"]:
                calls.append(_Call(path=path, output=output))

        return hook

    def close(_module: nn.Module, _args: Any) -> None:
        state["is_open"] = False

    for path, module in model.named_modules():
        if path in frozen:
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(path))]
        elif any(f"{path}.{n}" in phase.trainable for n, _ in module.named_parameters(recurse=False)):
            hooks.append(module.register_forward_pre_hook(close))
    try:
        model.eval()
        with torch.no_grad():
            model(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    if len({call.path for call in calls}) != len(calls):
        raise CannotCut("a frozen module runs more than once")
    return calls
