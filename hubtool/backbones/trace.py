"""The traced forward pass, and cutting it in two.

Shape legend: B batch. A graph is traced through a wrapper so that a model's optional arguments keep their defaults.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from hubtool.backbones import from_timm
from hubtool.backbones.weights import state_digest

_RANDOM_METHODS = {"bernoulli_", "uniform_", "normal_", "bernoulli", "random_", "exponential_"}
_RANDOM_FUNCTIONS = {
    torch.rand,
    torch.randn,
    torch.rand_like,
    torch.randn_like,
    torch.randperm,
    torch.bernoulli,
    torch.randint,
}


class CannotCut(Exception):
    """This way of cutting does not work for the model; the text says why."""


class _Root(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.model(x))


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph and the module its names are looked up in (``model`` and the constants that tracing found)."""

    graph: fx.Graph
    root: nn.Module


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        modules, functions = from_timm.untraced()
        super().__init__(autowrap_modules=(math,), autowrap_functions=functions)
        self._leaves = modules

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (_NormBase, *self._leaves)):
            return True
        return bool(super().is_leaf_module(m, module_qualified_name))


def trace(model: nn.Module) -> Traced:
    """The graph of ``model(x)`` in its present modes. Raises CannotCut; the model's buffers are left as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            root = _Root(model)
            graph = _Tracer().trace(root)
    except Exception as error:
        raise CannotCut(f"torch.fx cannot trace it ({type(error).__name__})") from error
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])
                raise CannotCut(f"its forward pass changes the buffer {name}")
    return Traced(graph=graph, root=root)


def hot_nodes(traced: Traced, model: nn.Module, trainable: set[str]) -> set[fx.Node]:
    """Nodes that depend on a trainable parameter or are random in the traced modes, and all that depend on them."""
    hot: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if (
            any(n in hot for n in node.all_input_nodes)
            or _is_trained(node, model, trainable)
            or _is_random(node, model)
        ):
            hot.add(node)
    return hot


def _path(node: fx.Node) -> str:
    return str(node.target).removeprefix("model").lstrip(".")


def _is_trained(node: fx.Node, model: nn.Module, trainable: set[str]) -> bool:
    if node.op == "get_attr":
        return _path(node) in trainable
    if node.op == "call_module":
        path = _path(node)
        return any(f"{path}.{name}" in trainable for name, _ in model.get_submodule(path).named_parameters())
    return False


def _is_random(node: fx.Node, model: nn.Module) -> bool:
    """Whether another call would give other values, or change a statistic, in the modes of the trace."""
    if node.op == "call_module":
        return any(_is_live(module) for module in model.get_submodule(_path(node)).modules())
    if node.op == "call_method":
        return node.target in _RANDOM_METHODS
    if node.op == "call_function":
        return node.target in _RANDOM_FUNCTIONS or _is_training_call(node)
    return False


def _is_live(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return bool(module.p > 0)
    if isinstance(module, _NormBase):
        return True
    rates = [getattr(module, name, 0.0) for name in ("dropout", "drop_prob", "drop_rate", "p")]
    if type(module).__module__.startswith("torch.nn."):
        return isinstance(module, nn.RReLU) or any(isinstance(rate, float) and rate > 0 for rate in rates)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a functional call by name, as far as its signature is known."""
    given = dict(node.kwargs)
    try:
        names = list(inspect.signature(cast("Callable[..., Any]", node.target)).parameters)
        given |= dict(zip(names, node.args, strict=False))
    except (TypeError, ValueError):
        pass
    return given


def _is_no_dropout(node: fx.Node) -> bool:
    """A functional dropout that does nothing, in train mode by its rate, in eval mode by its flag."""
    if node.op != "call_function" or "dropout" not in getattr(node.target, "__name__", ""):
        return False
    given = _arguments(node)
    return (
        "training" in given and (given["training"] is False or given.get("p") == 0) and len(node.all_input_nodes) == 1
    )


def _is_training_call(node: fx.Node) -> bool:
    """A functional call with ``training=True`` and a rate above zero, or with a dropout probability."""
    given = _arguments(node)
    if isinstance(given.get("dropout_p"), float) and cast("float", given["dropout_p"]) > 0:
        return True
    if given.get("training") is not True:
        return False
    rate = given.get("p", given.get("drop_prob", 1.0))
    return not (isinstance(rate, int | float) and rate == 0)


def identities(traced: Traced) -> dict[fx.Node, int]:
    """A number per node that is equal for nodes computing the same thing, in this graph or another of the model."""
    found: dict[fx.Node, int] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ("node", found[value])
        if isinstance(value, tuple | list):
            return tuple(plain(v) for v in value)
        if isinstance(value, dict):
            return tuple(sorted((k, plain(v)) for k, v in value.items()))
        if isinstance(value, slice):
            return ("slice", plain(value.start), plain(value.stop), plain(value.step))
        return repr(value)

    for node in traced.graph.nodes:
        if _is_no_dropout(node):
            found[node] = found[node.all_input_nodes[0]]
            continue
        target = node.target if isinstance(node.target, str) else f"{node.target!r}"
        if node.op == "get_attr" and target.startswith("_tensor_constant"):
            constant = getattr(traced.root, target)
            target = state_digest({"": constant}) if isinstance(constant, Tensor) else repr(constant)
        found[node] = hash((node.op, target, plain(node.args), plain(node.kwargs)))
    return found


def border_of(traced: Traced, hot: set[fx.Node]) -> list[fx.Node]:
    """The cold nodes that hot ones read and that depend on the input, in order of the graph."""
    graph = traced.graph
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in fed for n in node.all_input_nodes):
            fed.add(node)
    output = next(node for node in graph.nodes if node.op == "output")
    readers = hot | {output}
    border = [n for n in graph.nodes if n in fed and n not in hot and any(user in readers for user in n.users)]
    if any(node.op == "placeholder" for node in border):
        raise CannotCut("what trains reads the picture itself")
    for node in reversed(border):
        others = [other for other in border if other is not node]
        if others and _is_cheap(node, set(others), traced.root):
            border = others
    return border


def _is_cheap(node: fx.Node, given: set[fx.Node], root: nn.Module) -> bool:
    """Whether it follows from ``given`` by steps without weights (a pooling, a shape): then the suffix repeats them."""
    stack, seen = [node], set(given)
    while stack:
        step = stack.pop()
        if step in seen:
            continue
        seen.add(step)
        weighs = step.op in ("get_attr", "placeholder") or (
            step.op == "call_module" and any(True for _ in root.get_submodule(str(step.target)).parameters())
        )
        if weighs or not step.all_input_nodes:
            return False
        stack += step.all_input_nodes
    return True


def match(nodes: Iterable[fx.Node], graph: Traced, other: Traced) -> list[fx.Node]:
    """The nodes of ``other`` that compute what ``nodes`` compute in ``graph``."""
    names = identities(graph)
    twins = {number: node for node, number in reversed(list(identities(other).items()))}
    try:
        return [twins[names[node]] for node in nodes]
    except KeyError:
        raise CannotCut("its frozen part runs differently in train mode") from None


def extract(traced: Traced, inputs: list[fx.Node], outputs: list[fx.Node]) -> fx.GraphModule:
    """A module from ``inputs`` to ``outputs`` (a tuple) that calls the model's own modules and tensors."""
    needed: set[fx.Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        if node not in inputs:
            stack += node.all_input_nodes
    part = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for position, node in enumerate(inputs):  # two may be one: what train mode computes twice, eval mode may do once
        value = part.placeholder(f"border_{position}")
        twins.setdefault(node, value)
    for node in traced.graph.nodes:
        if node in needed and node not in twins:
            if node.op == "placeholder":
                raise CannotCut("its frozen part hands over values that cannot be kept")
            twins[node] = part.node_copy(node, lambda n: twins[n])
    part.output(tuple(twins[node] for node in outputs))
    return fx.GraphModule(traced.root, part)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One value at the border. ``tensor``: first dimension ``factor``·B; ``scaled``: the number factor·B; else ``value``."""

    kind: str
    factor: int = 1
    value: Any = None
    items: tuple[Spec, ...] = ()


def specify(two: Any, three: Any) -> Spec:
    """How a value depends on the batch, seen at B = 2 and B = 3."""
    if isinstance(two, Tensor):
        factor, rest = divmod(two.shape[0] if two.ndim else 0, 2)
        if rest == 0 and factor and three.shape == (factor * 3, *two.shape[1:]):
            return Spec(kind="tensor", factor=factor)
        raise CannotCut("its frozen part hands over tensors that are not per picture")
    if isinstance(two, bool) or not isinstance(two, int | tuple | list):
        if type(two) is type(three) and two == three:
            return Spec(kind="value", value=two)
        raise CannotCut("its frozen part hands over values that depend on the batch")
    if isinstance(two, int):
        if two == three:
            return Spec(kind="value", value=two)
        if two % 2 == 0 and three == two // 2 * 3:
            return Spec(kind="scaled", factor=two // 2)
        raise CannotCut("its frozen part hands over numbers that depend on the batch")
    if len(two) != len(three):
        raise CannotCut("its frozen part hands over values that depend on the batch")
    return Spec(kind="items", items=tuple(specify(a, b) for a, b in zip(two, three, strict=True)))


def take(spec: Spec, value: Any, batch: int) -> list[Tensor]:
    """The tensors of a border value, B first."""
    if spec.kind == "tensor":
        return [value if spec.factor == 1 else value.reshape(batch, spec.factor, *value.shape[1:])]
    if spec.kind == "items":
        return [tensor for s, v in zip(spec.items, value, strict=True) for tensor in take(s, v, batch)]
    return []


def give(spec: Spec, tensors: list[Tensor], batch: int) -> Any:
    """The border value again; takes its tensors off the front of the list."""
    if spec.kind == "tensor":
        tensor = tensors.pop(0)
        return tensor if spec.factor == 1 else tensor.reshape(batch * spec.factor, *tensor.shape[2:])
    if spec.kind == "scaled":
        return spec.factor * batch
    if spec.kind == "items":
        return tuple(give(s, tensors, batch) for s in spec.items)
    return spec.value


class Halves:
    """A graph cut at a border: both halves as callables."""

    def __init__(self, train: Traced, plain: Traced, hot: set[fx.Node], probe: Tensor) -> None:
        border = border_of(train, hot)
        if not border:
            raise CannotCut("nothing frozen reaches what trains")
        x = next(node for node in train.graph.nodes if node.op == "placeholder")
        head = extract(train, [x], border)
        with torch.no_grad():
            two, three = head(probe[:2]), head(probe[:3])
        self._specs = [specify(a, b) for a, b in zip(two, three, strict=True)]
        self.head = head
        self._tails = {True: self._tail(train, border), False: self._tail(plain, match(border, train, plain))}
        self.first_hot = self._describe(train.graph, hot)
        if not any(take(spec, value, 2) for spec, value in zip(self._specs, two, strict=True)):
            raise CannotCut("its frozen part hands over no tensor")

    @staticmethod
    def _tail(traced: Traced, border: list[fx.Node]) -> fx.GraphModule:
        output = next(node for node in traced.graph.nodes if node.op == "output")
        if len(output.all_input_nodes) != 1 or not isinstance(output.args[0], fx.Node):
            raise CannotCut("it returns more than one tensor")
        return extract(traced, border, output.all_input_nodes)

    @staticmethod
    def _describe(graph: fx.Graph, hot: set[fx.Node]) -> str:
        for node in graph.nodes:
            if node in hot and node.op in ("call_module", "get_attr"):
                return _path(node)
        return "the output"

    def prefix(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        batch = x_BCHW.shape[0]
        values = self.head(x_BCHW)
        return tuple(t for spec, value in zip(self._specs, values, strict=True) for t in take(spec, value, batch))

    def suffix(self, feats: tuple[Tensor, ...], *, training: bool) -> Tensor:
        rest, batch = list(feats), feats[0].shape[0]
        values = [give(spec, rest, batch) for spec in self._specs]
        return cast("Tensor", self._tails[training](*values)[0])
