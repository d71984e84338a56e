"""hubtool recipe list | cp | check | show | schema: recipes one can list, copy, check and see in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hubtool.core.errors import ConflictError
from hubtool.core.files import make_dirs, write_bytes
from hubtool.core.progress import SILENT, Reporter
from hubtool.records.recipe import Recipe
from hubtool.records.recipe_file import find_recipe, load_recipe, shipped_recipes
from hubtool.records.resolve import ResolvedRecipe, resolve


def list_recipes() -> dict[str, str]:
    """The shipped recipes: name → the first comment line of the file."""
    return {name: _summary(path) for name, path in shipped_recipes().items()}


def _summary(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def copy_recipe(name: str, target: Path | None = None, *, force: bool = False) -> Path:
    """Copy a shipped recipe (or a file) to ``target``, to edit it; an existing file stays unless ``force``."""
    source = find_recipe(name)
    target = target or Path(f"{source.stem}.yaml")
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise ConflictError("E-RECIPE-EXISTS", "the file is there already", where=str(target), do="choose another name")
    make_dirs(target.parent)
    write_bytes(target, source.read_bytes())
    return target


def check_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Grammar only: no backbone is looked at. Raises UsageError with the line."""
    return load_recipe(find_recipe(str(recipe)), tuple(overrides))


def show_recipe(recipe: str | Path, overrides: Sequence[str] = (), *, reporter: Reporter = SILENT) -> ResolvedRecipe:
    """The resolved recipe: every default filled in, the backbone pinned. Offline for bundled and pulled backbones."""
    from hubtool.jobs.pull import backbone_of

    checked = check_recipe(recipe, overrides)
    named = checked.backbone
    return resolve(checked, backbone_of(named.ref, pretrained=named.pretrained, reporter=reporter).entry)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors that complete YAML."""
    return Recipe.model_json_schema(by_alias=True)
