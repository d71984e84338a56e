"""One grammar of parts for every architecture: stem, stage1…n (or block1…n), neck, head.

The head is the classifier that training replaces; in ``append`` mode only the new layer, the old classifier then being
neck. Between stem and neck: timm's own coarse groups where a model has a ``group_matcher``; else the children of the
model's spine, its outermost list of blocks. A unit with at most one weight matrix (a convolution with its norm, a
patch merging) is too small to stand alone: before the first larger one it is stem, between two it goes with the next,
after the last it is neck.

Parameter-free modules (dropout, drop-path, pooling) belong to the part they stand in; after the last weight of the
backbone they are the head's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from hubtool.backbones import classifiers, from_timm
from hubtool.backbones.modules import is_under
from hubtool.core.errors import UsageError
from hubtool.records.backbone import Library, Part, Parts

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_parts(model: nn.Module, library: Library) -> Parts:
    """The parts of a model, head last; every parameter and buffer in exactly one.

    Called before and after a head is attached. A part without tensors is left out, except the head.
    """
    heads = classifiers.head_modules(model, library)
    labels = _labels(model, library, heads)
    order = _order(labels)
    members = _Members(model, labels, heads)
    parts = [
        Part(
            name=name, parameters=members.parameters[name], buffers=members.buffers[name], modules=members.modules[name]
        )
        for name in order
    ]
    return Parts(parts=tuple(p for p in parts if p.parameters or p.buffers or p.name == "head"))


def _labels(model: nn.Module, library: Library, heads: tuple[str, ...]) -> dict[str, str]:
    """Part name of every parameter."""
    names = [name for name, _ in model.named_parameters()]
    trunk = [name for name in names if not is_under(name, heads)]
    labels = dict.fromkeys(names, "head")
    grouped = _from_groups(model, trunk) if library == "timm" else None
    labels |= grouped if grouped is not None else _from_spine(model, library, trunk, heads)
    return labels


def _from_groups(model: nn.Module, trunk: list[str]) -> dict[str, str] | None:
    """timm's coarse groups: group 0 is the stem, what no rule claims the neck. None where timm gives no such groups."""
    found = from_timm.coarse_groups(model, trunk)
    if found is None:
        return None
    (stem, *units), rest = found
    kind = _kind(model, "timm", [_common_module(group) for group in units])
    labels = dict.fromkeys(stem, "stem")
    for number, group in enumerate(units, start=1):
        labels |= dict.fromkeys(group, f"{kind}{number}")
    return labels | dict.fromkeys(rest, "neck")


def _common_module(names: Iterable[str]) -> str:
    """The longest dotted prefix that all names share."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for level in zip(*split, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _kind(model: nn.Module, library: Library, paths: list[str]) -> str:
    """``stage`` for units that hold blocks or where the resolution changes, ``block`` for units that are one."""
    units = [model.get_submodule(path) for path in paths if path]
    if library == "timm":
        changes = from_timm.is_resolution_changing(model)
        if changes is not None:
            return "stage" if changes and any(map(_is_large, units)) else "block"
    return "stage" if not units or any(_holds_blocks(unit) for unit in units) else "block"


def _holds_blocks(unit: nn.Module) -> bool:
    if type(unit) in _CONTAINERS or type(unit).__name__.endswith(("Stage", "AnyStage", "_DenseBlock", "BasicLayer")):
        return True
    return any(
        isinstance(child, nn.Sequential | nn.ModuleList)
        and name in ("blocks", "layers", "layer", "stages")
        and _is_large(child)
        for name, child in unit.named_children()
    )


def _from_spine(model: nn.Module, library: Library, trunk: list[str], heads: tuple[str, ...]) -> dict[str, str]:
    """The children of the spine in order, for models without groups of their own."""
    before, body, after = _spine(model, heads)
    large = [path for path in body if _is_large(model.get_submodule(path))]
    if not large:
        return _from_pools(model, trunk, body)
    kind = _kind(model, library, large)
    owner = dict.fromkeys(before, "stem") | dict.fromkeys(after, "neck")
    number, last = 1, body.index(large[-1])
    for position, path in enumerate(body):
        if position > last:
            owner[path] = "neck"
        elif path in large:
            owner[path] = f"{kind}{number}"
            number += 1
        else:
            owner[path] = "stem" if position < body.index(large[0]) else f"{kind}{number}"
    return _place(trunk, owner)


def _leads_to(path: str, heads: tuple[str, ...]) -> bool:
    return any(head.startswith(f"{path}.") for head in heads)


def _place(trunk: list[str], owner: Mapping[str, str]) -> dict[str, str]:
    """Parameters outside every unit: before the first unit they are stem, after it neck; a model's own are stem."""
    labels: dict[str, str] = {}
    seen = False
    for name in trunk:
        unit = next((path for path in owner if is_under(name, (path,))), None)
        seen = seen or unit is not None
        is_own = "." not in name or name.rpartition(".")[2] in (
            "pos_embedding",
            "pos_embed",
            "cls_token",
            "class_token",
        )
        labels[name] = owner[unit] if unit is not None else ("stem" if is_own or not seen else "neck")
    return labels


def _spine(model: nn.Module, heads: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """The units of the backbone as module paths in order of registration: what comes before its body, the body, after.

    The body is the outermost list of large units; from level to level the one child that holds it is entered.
    """
    before: list[str] = []
    after: list[str] = []
    prefix, node = "", model
    blocks = _block_list(model)
    while True:
        units = {
            f"{prefix}{name}": child
            for name, child in node.named_children()
            if any(True for _ in child.parameters()) and f"{prefix}{name}" not in heads
        }
        own = {path: child for path, child in units.items() if not _leads_to(path, heads)} or units
        large = {path: child for path, child in own.items() if _is_large(child)}
        on_the_way = {path: child for path, child in large.items() if is_under(blocks, (path,))} if blocks else {}
        inner = on_the_way or ({} if blocks else large)
        if len(inner) != 1 or prefix == f"{blocks}." or not _has_units(next(iter(inner.values()))):
            paths = list(units)
            end = max((i + 1 for i, path in enumerate(paths) if path in own), default=len(paths))
            return before, paths[:end], [*paths[end:], *after]
        path, node = next(iter(inner.items()))
        paths = list(units)
        before += paths[: paths.index(path)]
        after = [*paths[paths.index(path) + 1 :], *after]
        prefix = f"{path}."


def _is_large(module: nn.Module) -> bool:
    """More than one weight matrix."""
    return sum(int(parameter.ndim >= 2) for parameter in module.parameters()) > 1


def _block_list(model: nn.Module) -> str:
    """The outermost ModuleList of at least two large modules that holds most of the model; "" where there is none."""
    total = sum(parameter.numel() for parameter in model.parameters())
    found = [
        path
        for path, module in model.named_modules()
        if type(module) is nn.ModuleList
        and sum(_is_large(child) for child in module.children()) > 1
        and 2 * sum(parameter.numel() for parameter in module.parameters()) > total
    ]
    return min(found, key=lambda path: path.count("."), default="")


def _has_units(module: nn.Module) -> bool:
    """More than one child with weights, at some level."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    return len(children) > 1 or (len(children) == 1 and _has_units(children[0]))


def _from_pools(model: nn.Module, trunk: list[str], units: list[str]) -> dict[str, str]:
    """A flat chain of layers (VGG, AlexNet): a pooling layer ends a stage; what comes after the chain is neck."""
    chain = _common_module(f"{path}.x" for path in units if path.startswith("features.")) or ""
    owner: dict[str, str] = {}
    number, used = 1, False
    for name, child in model.get_submodule(chain).named_children():
        path = f"{chain}.{name}" if chain else name
        if "Pool" in type(child).__name__ and used:
            number, used = number + 1, False
        elif path in units:
            owner[path], used = f"stage{number}", True
    if not owner:
        raise UsageError(
            "E-PARTS", f"{type(model).__name__} shows no order of parts", do="freeze it by name: {match: …}"
        )
    labels = _place(trunk, owner)
    return {name: "neck" if labels[name] == "stem" else labels[name] for name in labels}


def _order(labels: Mapping[str, str]) -> list[str]:
    """stem, then units by number, neck, head."""
    names = set(labels.values()) | {"head"}
    middle = sorted(names - {"stem", "neck", "head"}, key=lambda name: int("".join(c for c in name if c.isdigit())))
    return [n for n in ("stem", *middle, "neck", "head") if n in names]


class _Members:
    """Puts every module and buffer into its part, walking the model in order of registration."""

    def __init__(self, model: nn.Module, labels: Mapping[str, str], heads: tuple[str, ...]) -> None:
        names = _order(labels)
        self._labels = labels
        self._heads = heads
        trunk = [name for name, label in labels.items() if label != "head"]
        self._last_of_trunk = trunk[-1] if trunk else ""
        self._is_past_trunk = not trunk
        self._current = names[0]
        parameters: dict[str, list[str]] = {name: [] for name in names}
        for name, label in labels.items():
            parameters[label].append(name)
        self._buffers: dict[str, list[str]] = {name: [] for name in names}
        self._modules: dict[str, list[str]] = {name: [] for name in names}
        self._walk(model, "", None)
        self.parameters = {name: tuple(found) for name, found in parameters.items()}
        self.buffers = {name: tuple(found) for name, found in self._buffers.items()}
        self.modules = {name: tuple(found) for name, found in self._modules.items()}

    def _walk(self, module: nn.Module, path: str, part: str | None) -> None:
        if part is None:
            part = self._part_of(module, path)
        if part is not None and path:
            self._modules[part].append(path)
        prefix = f"{path}." if path else ""
        for name, _ in module.named_parameters(recurse=False):
            self._pass(f"{prefix}{name}")
        for name, _ in module.named_buffers(recurse=False):
            self._buffers[part or self._current].append(f"{prefix}{name}")
        for name, child in module.named_children():
            self._walk(child, f"{prefix}{name}", part)

    def _part_of(self, module: nn.Module, path: str) -> str | None:
        """The one part of all its parameters; None when it spans several; without parameters that of its place."""
        if path and is_under(path, self._heads):
            return "head"
        prefix = f"{path}." if path else ""
        found = {
            self._labels[f"{prefix}{name}"]
            for name, _ in module.named_parameters()
            if f"{prefix}{name}" in self._labels
        }
        if len(found) == 1:
            return found.pop() if path else None
        if found or not path:
            return None
        return "head" if self._is_past_trunk else self._current

    def _pass(self, name: str) -> None:
        label = self._labels.get(name)
        if label is None:
            return
        if label != "head":
            self._current = label
        self._is_past_trunk = self._is_past_trunk or name == self._last_of_trunk
