"""What trains when: the grammar of ``freeze`` and ``unfreeze`` as phases, and putting one phase on a model."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hubtool.core.errors import UsageError
from hubtool.records.backbone import Part, Parts, Phase
from hubtool.records.recipe import Freeze, Unfreeze
from hubtool.records.resolve import ResolvedRecipe

if TYPE_CHECKING:
    from torch import nn


def schedule(resolved: ResolvedRecipe, parts: Parts, *, num_epochs: int) -> tuple[Phase, ...]:
    """The phases of a run over ``num_epochs`` epochs. Pure.

    A parameter's lr scale is the ``lr_scale`` of the step that thawed it times ``layer_decay`` to the power of its
    part's distance from the head. Raises UsageError for a name or pattern that names nothing (with the nearest ones), for
    a freeze that leaves nothing to train, and for a step that thaws nothing.
    """
    decay = _decays(parts, resolved.train.layer_decay)
    scales = dict.fromkeys(_trainable(resolved.freeze, parts), 1.0)
    if not scales:
        raise UsageError("E-FREEZE-ALL", "the freeze leaves nothing to train", do=f"freeze up to {_before_head(parts)}")
    starts = [(0, dict(scales))]
    for step in resolved.unfreeze:
        thawed = [name for name in _thawed(step, parts) if name not in scales]
        if not thawed:
            raise UsageError(
                "E-UNFREEZE-NOTHING",
                f"unfreeze at epoch {step.at_epoch} through {step.through} thaws nothing that is still frozen",
                do=f"parts: {', '.join(parts.names())}",
            )
        scales |= dict.fromkeys(thawed, step.lr_scale)
        starts.append((step.at_epoch, dict(scales)))
    starts = [start for start in starts if start[0] < num_epochs]
    ends = [first for first, _ in starts[1:]] + [num_epochs]
    order = [name for part in parts.parts for name in part.parameters]
    return tuple(
        Phase(
            first_epoch=first,
            num_epochs=end - first,
            trainable={name: trained[name] * decay[name] for name in order if name in trained},
            eval_modules=_eval_modules(parts, trained),
        )
        for (first, trained), end in zip(starts, ends, strict=True)
    )


def apply(model: nn.Module, phase: Phase) -> None:
    """Gradients for the phase's parameters only; the root in train mode, everything frozen in eval mode.

    Raises UsageError when the model has no parameter of a name.
    """
    known = dict(model.named_parameters())
    absent = [name for name in phase.trainable if name not in known]
    if absent:
        raise UsageError("E-FREEZE-NOMATCH", f"the model has no parameter {absent[0]!r}{_nearest(absent[0], known)}")
    for name, parameter in known.items():
        parameter.requires_grad_(name in phase.trainable)
    set_modes(model, phase)


def set_modes(model: nn.Module, phase: Phase) -> None:
    """Only the train and eval modes of ``apply``."""
    model.train()
    frozen = set(phase.eval_modules)
    for name, module in model.named_modules():
        if name in frozen:
            module.training = False


def _trainable(freeze: Freeze, parts: Parts) -> list[str]:
    """The parameters that a freeze leaves trainable."""
    match freeze.kind:
        case "none":
            frozen: set[str] = set()
        case "all":
            frozen = _names(parts.parts[:-1])
        case "through":
            frozen = _names(_through(freeze.part, parts))
        case "blocks":
            frozen = _names(_blocks(freeze.blocks, parts))
        case "fraction":
            frozen = _names(_fraction(freeze.fraction, parts))
        case "match":
            frozen = _matched(freeze.patterns, parts)
    return [name for part in parts.parts for name in part.parameters if name not in frozen]


def _thawed(step: Unfreeze, parts: Parts) -> list[str]:
    frozen = set() if step.through == "none" else _names(_through(step.through, parts))
    return [name for part in parts.parts for name in part.parameters if name not in frozen]


def _names(found: Iterable[Part]) -> set[str]:
    return {name for part in found for name in part.parameters}


def _through(name: str, parts: Parts) -> tuple[Part, ...]:
    names = parts.names()
    if name not in names:
        raise UsageError(
            "E-FREEZE-NOMATCH",
            f"no part {name!r}{_nearest(name, names)}",
            where="freeze",
            do=_part_of_module(name, parts),
        )
    return parts.parts[: names.index(name) + 1]


def _part_of_module(name: str, parts: Parts) -> str:
    """Somebody wrote the name of a module: say which part it is in."""
    owners = [p.name for p in parts.parts if any(n == name or n.startswith(f"{name}.") for n in p.parameters)]
    if owners:
        return f"{name} is in {' and '.join(owners)}; write through: {owners[-1]}"
    return f"parts: {', '.join(parts.names())}"


def _units(parts: Parts) -> list[int]:
    return [i for i, part in enumerate(parts.parts) if part.name not in ("stem", "neck", "head")]


def _blocks(count: int, parts: Parts) -> tuple[Part, ...]:
    units = _units(parts)
    if count > len(units):
        raise UsageError(
            "E-FREEZE-NOMATCH", f"blocks: {count}, but the backbone has {len(units)}", where="freeze",
            do=f"parts: {', '.join(parts.names())}",
        )  # fmt: skip
    return parts.parts[: units[count - 1] + 1]


def _fraction(fraction: float, parts: Parts) -> tuple[Part, ...]:
    """The first round(f·n) of n units and all before them; n units are the stages or blocks."""
    units = _units(parts)
    count = round(fraction * len(units))
    if count == 0:
        return tuple(part for part in parts.parts if part.name == "stem")
    return _blocks(count, parts)


def _matched(patterns: tuple[str, ...], parts: Parts) -> set[str]:
    known = [name for part in parts.parts for name in part.parameters]
    frozen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(known, pattern)
        if not found:
            stem = pattern.rstrip("*.")
            raise UsageError(
                "E-FREEZE-NOMATCH",
                f"{pattern!r} matches no parameter{_nearest(stem, _prefixes(known))}",
                where="freeze",
            )
        frozen.update(found)
    return frozen


def _prefixes(names: Iterable[str]) -> list[str]:
    """Module paths down to two levels: what people write patterns of."""
    found: dict[str, None] = {}
    for name in names:
        steps = name.split(".")[:-1]
        for depth in (1, 2):
            found.setdefault(".".join(steps[:depth]))
    return [prefix for prefix in found if prefix]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    shown = near or (names if len(names) <= 16 else [*names[:8], "…"])
    return f"; nearest: {', '.join(sorted(near))}" if near else f"; there are: {', '.join(shown)}"


def _before_head(parts: Parts) -> str:
    names = parts.names()
    return names[-2] if len(names) > 1 else "nothing"


def _decays(parts: Parts, layer_decay: float) -> dict[str, float]:
    last = len(parts.parts) - 1
    return {name: layer_decay ** (last - i) for i, part in enumerate(parts.parts) for name in part.parameters}


def _eval_modules(parts: Parts, trainable: Mapping[str, float]) -> tuple[str, ...]:
    """Modules of frozen parts; in a part of which some is trained, the modules that are frozen as a whole."""
    found: list[str] = []
    for part in parts.parts:
        trained = [name for name in part.parameters if name in trainable]
        if not trained and part.parameters:
            found += part.modules
        elif len(trained) < len(part.parameters):
            found += _frozen_within(part, trainable)
    return tuple(found)


def _frozen_within(part: Part, trainable: Mapping[str, float]) -> list[str]:
    """Modules all of whose parameters are frozen; parameter-free ones follow the module they stand in."""
    frozen: list[str] = []
    known = set(part.modules)
    for path in part.modules:
        own = [name for name in part.parameters if name.startswith(f"{path}.")]
        parent = path.rpartition(".")[0]
        is_frozen = not any(name in trainable for name in own) if own else parent in known and parent in frozen
        if is_frozen:
            frozen.append(path)
    return frozen
