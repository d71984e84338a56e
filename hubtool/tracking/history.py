"""What a run's log and recipe say at a glance: its epochs, its recipe as flat keys, and where recipes differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hubtool.records.log import Event
from hubtool.records.recipe import Select
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.runs import EpochRow


def tag_of(metric: str) -> str:
    """``val/loss`` of a recipe → ``loss/val`` of the log."""
    split, _, name = metric.partition("/")
    return f"{name}/{split}"


def epochs(events: Iterable[Event], select: Select) -> tuple[EpochRow, ...]:
    """The evaluated epochs, one per step at which the selecting metric was logged; the first of equally good ones is the best."""
    by_step: dict[int, dict[str, float]] = {}
    for event in events:
        if event.kind == "scalar" and event.value is not None and (event.split != "train" or event.tag == "epoch_loss"):
            by_step.setdefault(event.global_step, {})[f"{event.tag}/{event.split}"] = event.value
    tag = tag_of(select.metric)
    evaluated = [(step, values) for step, values in sorted(by_step.items()) if tag in values]
    sign = 1 if select.mode == "max" else -1
    best_step = max(evaluated, key=lambda row: sign * row[1][tag])[0] if evaluated else -1
    return tuple(
        EpochRow(epoch=number, global_step=step, values=values, is_best=step == best_step)
        for number, (step, values) in enumerate(evaluated, 1)
    )


def duration_s(events: Iterable[Event]) -> float:
    """The time spent in finished epochs."""
    return sum(event.value or 0.0 for event in events if event.tag == "wall_epoch_s")


def flat_recipe(resolved: ResolvedRecipe) -> dict[str, str | float]:
    """``train.optimizer.lr`` → value; the backbone's files as the digest they make."""
    recipe = resolved.to_dict()
    recipe.pop("schema")
    recipe["backbone"]["files"] = resolved.backbone.digest()[:12]
    recipe["freeze"] = _words(recipe["freeze"])
    recipe["unfreeze"] = [_words(step) for step in recipe["unfreeze"]]
    return dict(sorted(_flat(recipe, "").items()))


def _words(value: Any) -> str:
    """``{through: stage3}`` → ``through stage3``: one value, comparable with ``all``."""
    return " ".join(f"{key} {child}" for key, child in value.items()) if isinstance(value, dict) else str(value)


def differing(recipes: Sequence[dict[str, str]]) -> list[str]:
    """The keys whose values are not the same in all."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1]


def _flat(value: Any, path: str) -> dict[str, str | float]:
    if isinstance(value, dict):
        flat: dict[str, str | float] = {}
        for key, child in value.items():
            flat |= _flat(child, f"{path}.{key}" if path else key)
        return flat
    if isinstance(value, list):
        return {path: ", ".join(str(v) for v in value) or "none"}
    if isinstance(value, bool) or value is None:
        return {path: "none" if value is None else str(value).lower()}
    return {path: value}
