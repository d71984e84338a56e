"""What a prefix computes beside its weights: the same fingerprint and the same weights give the same features.

Names of nodes and paths of modules are not enough: another pooling, eps or activation function leaves them as they are. So
everything plain that stands in a module counts, and every argument of every call; what does not change a number may cost
a cache, never a wrong feature.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from hubtool.backbones.weights import state_digest
from hubtool.core.digests import sha256_json

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def of_graph(graph: fx.GraphModule, saved: Iterable[str]) -> str:
    """Of a traced prefix. ``saved`` are the tensors whose values the weights' digest has."""
    known, plain = {f"model.{name}" for name in saved}, _plainer()
    number: dict[fx.Node, int] = {}

    def argument(value: Any) -> Any:
        return {"node": number[value]} if isinstance(value, fx.Node) else value

    rows: list[Any] = []
    for node in graph.graph.nodes:
        args = fx.node.map_aggregate((node.args, dict(node.kwargs)), argument)
        row = [node.op, plain(node.target), plain(args)]
        if node.op == "call_module":
            row.append(_modules(graph.get_submodule(str(node.target)), plain))
        elif node.op == "get_attr" and node.target not in known:
            row.append(plain(functools.reduce(getattr, str(node.target).split("."), graph)))
        number[node] = len(rows)
        rows.append(row)
    return sha256_json(rows)


def of_modules(model: nn.Module, path: str, trainable: Iterable[str]) -> str:
    """Of a prefix that ends behind the module ``path``: every module but those that hold what is trained."""
    owners = {name.rpartition(".")[0] for name in trainable}
    plain = _plainer()
    rows = [[name, _one(module, plain)] for name, module in model.named_modules() if name not in owners]
    return sha256_json([path, rows])


def _modules(module: nn.Module, plain: Callable[[Any], Any]) -> list[Any]:
    return [[name, _one(inner, plain)] for name, inner in module.named_modules()]


def _one(module: nn.Module, plain: Callable[[Any], Any]) -> list[Any]:
    """A module without what is inside it: its class, what it shows of itself, its plain attributes, its unsaved buffers."""
    own = {name: plain(value) for name, value in vars(module).items() if name[0] != "_" and name != "training"}
    unsaved = {name: plain(getattr(module, name)) for name in sorted(module._non_persistent_buffers_set)}
    return [f"{type(module).__module__}.{type(module).__qualname__}", module.extra_repr(), own, unsaved]


def _plainer() -> Callable[[Any], Any]:
    """Values as JSON that says the same in every process. What it has shown once it remembers: a configuration is shared."""
    shown: dict[int, tuple[Any, str]] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return state_digest({"": value})
        if isinstance(value, nn.Module):
            return type(value).__qualname__
        if isinstance(value, dict):
            return [[str(key), plain(inner)] for key, inner in sorted(value.items(), key=lambda item: str(item[0]))]
        if isinstance(value, set | frozenset):
            return sorted(repr(plain(inner)) for inner in value)
        if isinstance(value, tuple | list):
            return [plain(inner) for inner in value]
        if isinstance(value, functools.partial):
            return ["partial", plain(value.func), plain(value.args), plain(value.keywords)]
        if isinstance(value, slice):
            return ["slice", plain(value.start), plain(value.stop), plain(value.step)]
        if id(value) not in shown:
            names = [getattr(value, name, "") for name in ("__module__", "__qualname__", "__name__")]
            shown[id(value)] = value, _ADDRESS.sub("", f"{type(value).__qualname__} {names} {value!r}")
        return shown[id(value)][1]

    return plain
