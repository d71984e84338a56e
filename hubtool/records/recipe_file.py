"""From the text of a recipe to the recipe; from what is wrong in it back to the line, in words."""

from __future__ import annotations

import difflib
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hubtool.core.errors import HubtoolError, SecurityError, UsageError
from hubtool.core.settings import BUNDLED
from hubtool.records.recipe import SCHEMA, HubtoolErrorInField, Recipe, did_you_mean
from hubtool.records.secret_shapes import scan_bytes
from hubtool.records.yaml_loader import Document, load_yaml, parse_scalar

# What other trainers call it → where it stands here.
_FOREIGN = {
    "learning_rate": "train.optimizer.lr",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "dropout": "head.drop_rate",
    "model": "backbone",
    "arch": "backbone",
    "sched": "train.schedule.name",
    "scheduler": "train.schedule.name",
    "opt": "train.optimizer.name",
    "loss": "task",
    "input_size": "data.img_size",
    "image_size": "data.img_size",
    "warmup": "train.schedule.warmup_epochs",
    "gradient_accumulation_steps": "train.grad_accum_steps",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "monitor": "train.select.metric",
    "report_to": "run.log",
}


def shipped_recipes() -> dict[str, Path]:
    """The recipes that travel with hubtool, by name."""
    return {path.stem: path for path in sorted((BUNDLED / "recipes").glob("*.yaml"))}


def find_recipe(text: str) -> Path:
    """A file, or a shipped recipe's name; a file of that name in the working directory comes first.

    Raises UsageError naming the nearest shipped recipe.
    """
    path = Path(text).expanduser()
    shipped = shipped_recipes()
    if path.is_file():
        return path
    if text in shipped:
        return shipped[text]
    near = difflib.get_close_matches(text, shipped, n=1)
    raise UsageError(
        "E-RECIPE-404",
        f"recipe {str(path)!r} not found",
        do=f"did you mean {near[0]}?" if near else "write a file, or one of: " + ", ".join(shipped),
    )


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read and check a recipe file. Raises UsageError (SecurityError for tags and secrets) with the line."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(
            "E-RECIPE-404", f"recipe {str(path)!r} not found", do="`hubtool recipe list` shows the shipped ones"
        ) from error
    except OSError as error:
        raise UsageError("E-RECIPE-READ", f"recipe {str(path)!r} cannot be read: {error.strerror}") from error
    return parse_recipe(data, str(path), overrides)


def parse_recipe(data: bytes, where: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The same from bytes; ``where`` names them in errors. ``overrides`` are ``PATH.TO.KEY=VALUE``, the last one wins."""
    document = load_yaml(data, where)
    _refuse_secrets(data, where)
    if not isinstance(document.value, dict):
        raise UsageError("E-RECIPE-SHAPE", "a recipe is a mapping of keys", where=where)
    schema = document.value.get("schema", SCHEMA)
    if schema != SCHEMA:
        is_ours = re.fullmatch(r"hubtool/recipe/v\d+", str(schema))
        do = "this recipe needs a newer hubtool" if is_ours else f"write schema: {SCHEMA}"
        raise UsageError("E-RECIPE-SCHEMA", f"unknown recipe schema {schema!r}", where=where, do=do)
    for override in overrides:
        _refuse_secrets(override.encode(), "on the command line,")
        _apply_override(document.value, override)
    try:
        return Recipe.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        raise _recipe_error(error.errors(), document, where, overrides) from error


_OVERRIDE = b"# on the command line: "
_EARLIER = b"# on an earlier command line: "


def with_overrides(data: bytes, overrides: tuple[str, ...]) -> bytes:
    """The text of a recipe as a run keeps it: verbatim, and at its end a comment for each override.

    A recipe that was taken from another run ends with that run's comments: they are marked as such, so that every override
    that stands at the end was applied.
    """
    lines = data.splitlines(keepends=True)
    if overrides and lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    for number in range(len(lines) - len(overrides_of(data)), len(lines)):
        lines[number] = _EARLIER + lines[number].removeprefix(_OVERRIDE)
    return b"".join([*lines, *(_OVERRIDE + override.encode() + b"\n" for override in overrides)])


def without_directory(text: str, ref: str) -> str:
    """The text of a recipe as others may see it: verbatim, but the directory of a ``local:`` backbone is replaced by the name
    that resolved.json has for it (``ref``)."""
    if not ref.startswith("local:"):
        return text
    name = re.escape(ref.removeprefix("local:"))
    return re.sub(rf"""local:[^\n]*?(?<![^/:]){name}(?:/\.?)*(?=["'\s,}}\]]|$)""", lambda _: ref, text)


def overrides_of(data: bytes) -> tuple[str, ...]:
    """The overrides in the comments at the end of a run's recipe."""
    ended = takewhile(lambda line: line.startswith(_OVERRIDE), reversed(data.splitlines()))
    return tuple(line.removeprefix(_OVERRIDE).decode(errors="replace") for line in ended)[::-1]


def _refuse_secrets(data: bytes, where: str) -> None:
    for found in scan_bytes(data, where):
        raise SecurityError(
            "E-SEC-SECRET",
            f"a secret stands in the recipe ({found.start}…)",
            where=f"{where} line {found.line}",
            do="take it out; tokens come from `hubtool login` or the environment",
        )


def _apply_override(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key or not override.isprintable():  # it is one line of the run's recipe.yaml
        raise UsageError(
            "E-OVERRIDE", f"{override!r} is no override", do="write PATH.TO.KEY=VALUE, as in train.epochs=3"
        )
    *parents, last = key.split(".")
    node: dict[str, Any] = value
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            # `backbone: REF` is short for `backbone: {ref: REF}`
            child = {"ref": child} if parent == "backbone" and isinstance(child, str) else {}
            node[parent] = child
        node = child
    if parents == ["freeze"]:  # one of its keys stands alone
        node.clear()
    node[last] = parse_scalar(text)


def _recipe_error(
    problems: list[ErrorDetails], document: Document, where: str, overrides: tuple[str, ...]
) -> HubtoolError:
    problem = problems[0]
    loc = _written(problem["loc"], document)
    carried = problem.get("ctx", {}).get("error")
    # What is said of the whole recipe begins with the key it is about.
    named = str(carried).partition(":")[0] if carried is not None and not loc else ""
    place = _place((named,) if named in document.value else loc, document, where, overrides)
    if isinstance(carried, HubtoolErrorInField):
        found = carried.error
        return type(found)(found.code, found.what, where=place, do=found.do)
    path = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        return UsageError("E-RECIPE-KEY", f"unknown key {path!r}{_meant(str(loc[-1]), loc[:-1])}", where=place)
    if problem["type"] == "missing":
        return UsageError("E-RECIPE-MISSING", f"{path!r} is missing", where=place)
    # A value that may be of several kinds gives one problem for each kind, all at one place.
    wanted = list(dict.fromkeys(_wanted(p) for p in problems if _written(p["loc"], document) == loc))
    got = problem["input"]
    shown = "" if isinstance(got, dict) or carried is not None else f", got {got!r}"
    text = " or ".join([wanted[0], *(w.removeprefix("expected ") for w in wanted[1:])])
    return UsageError("E-RECIPE-VALUE", f"{path}: {text}{shown}" if path else text, where=place)


def _place(loc: tuple[int | str, ...], document: Document, where: str, overrides: tuple[str, ...]) -> str:
    """The override that set the value, else its line in the file."""
    path = ".".join(str(part) for part in loc)
    for override in reversed(overrides):
        key = override.partition("=")[0]
        if path == key or path.startswith(f"{key}.") or key.startswith(f"{path}."):
            return f"{override} on the command line"
    line = document.line_of(tuple("schema" if part == "schema_" else part for part in loc))
    return f"{where} line {line}" if line else where


def _written(loc: tuple[int | str, ...], document: Document) -> tuple[int | str, ...]:
    """The part of pydantic's location that stands in the file: it names the branches of a union as well."""
    node, kept = document.value, []
    for part in loc:
        is_branch = isinstance(part, str) and (any(c in part for c in "[]-(") or not isinstance(node, dict))
        if is_branch and not (isinstance(node, dict) and part in node):
            continue
        kept.append(part)
        if isinstance(node, dict):
            node = node.get(str(part))
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
    return tuple(kept)


_WORDS = {
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "model_type": "expected a mapping of keys",
    "finite_number": "expected a finite number",
}


def _wanted(problem: ErrorDetails) -> str:
    """``expected an integer``, ``expected ≥ 1``, ``expected one of …``."""
    if problem["type"] in _WORDS:
        return _WORDS[problem["type"]]
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    for long, short in (
        ("greater than or equal to", "≥"),
        ("less than or equal to", "≤"),
        ("greater than", ">"),
        ("less than", "<"),
    ):
        text = text.replace(long, short)
    return text


def _meant(word: str, loc: tuple[int | str, ...]) -> str:
    """The nearest key at this place, else the nearest anywhere, else all the keys of this place."""
    here = _keys_at(loc)
    if difflib.get_close_matches(word, here, n=1, cutoff=0.7):
        return did_you_mean(word, here)
    paths = _all_paths(Recipe, "")
    by_name = {path.rpartition(".")[2]: path for path in paths} | _FOREIGN
    near = difflib.get_close_matches(word, by_name, n=1, cutoff=0.75)
    if near:
        path = by_name[near[0]]
        name = path.rpartition(".")[2]
        return f"; did you mean {name!r}" + (f" ({path})?" if path != name else "?")
    return did_you_mean(word, here)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *get_args(annotation)]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _all_paths(model: type[BaseModel], prefix: str) -> list[str]:
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(prefix + (field.alias or name))
        inner = _model_of(field.annotation)
        if inner is not None and inner.__name__ != "Freeze":
            paths += _all_paths(inner, f"{paths[-1]}.")
    return paths


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys the schema knows at a path."""
    model: type[BaseModel] = Recipe
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        inner = _model_of(field.annotation)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]
