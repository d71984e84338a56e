"""recipe.yaml against resolved.json: the text that a reader starts from gives the training that the numbers come from."""

from __future__ import annotations

from collections.abc import Iterator

from hubtool.core.refs import has_source, parse_backbone_ref
from hubtool.package.facts import Facts
from hubtool.records.environment import Difference, differences
from hubtool.records.recipe import Recipe
from hubtool.records.recipe_file import overrides_of, parse_recipe
from hubtool.records.reports import CheckFinding
from hubtool.records.resolve import resolve

NAME = "recipe.yaml"


def recipe(facts: Facts) -> Iterator[CheckFinding]:
    """The recipe with every line of the command line at its end, resolved with the backbone of the package, is resolved.json."""
    data = (facts.directory / NAME).read_bytes()
    for difference in _differences(facts, parse_recipe(data, NAME, overrides_of(data))):
        detail = f"{difference.field} gives {difference.now}, resolved.json says {difference.was}"
        yield CheckFinding(name=NAME, is_ok=False, detail=detail)


def _differences(facts: Facts, written: Recipe) -> tuple[Difference, ...]:
    found = differences(facts.resolved, resolve(written, facts.backbone))
    named, used = _name(written.backbone.ref), _name(facts.resolved.backbone.ref)
    if named is not None and named != used:
        found += (Difference(field="backbone", was=str(used), now=str(named)),)
    return found


def _name(ref: str) -> tuple[str, str] | None:
    """Source and name without revision, of a directory its last part; None for the name of somebody's registry."""
    if not has_source(ref):
        return None
    parsed = parse_backbone_ref(ref)
    name = parsed.name.rstrip("/").rpartition("/")[2] if parsed.source == "local" else parsed.name
    return parsed.source, name
