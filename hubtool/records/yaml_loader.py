"""YAML as its version 1.2 reads it: ``1e-3`` is a number, ``no`` a string; nothing is duplicated, aliased or executed.

PyYAML speaks 1.1, where ``1e-3`` is a string, ``no`` is False and ``12:30`` is 750; so the scalars are resolved here
by the JSON-like core schema (https://yaml.org/spec/1.2.2/#103-core-schema) on PyYAML's node tree, which also gives the lines.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from hubtool.core.errors import HubtoolError, SecurityError, UsageError

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = {".nan", ".NaN", ".NAN"}
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: ``value`` of plain dicts, lists and scalars, and the line (from 1) of each key path."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int | None:
        """The line of ``path``, or of its nearest parent that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def load_yaml(data: bytes, where: str) -> Document:
    """Parse one document. Raises UsageError (SecurityError for a tag that would build objects) with line and column."""
    if len(data) > _MAX_BYTES:
        raise UsageError("E-RECIPE-SIZE", f"larger than {_MAX_BYTES} bytes", where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            "E-RECIPE-UTF8", f"not UTF-8 at byte {error.start}", where=where, do="save it as UTF-8"
        ) from error
    lines: dict[Path, int] = {}
    try:
        _refuse_aliases(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, where) from error
    except yaml.YAMLError as error:
        raise UsageError("E-RECIPE-SYNTAX", " ".join(str(error).split()), where=where) from error
    if node is None:
        raise UsageError("E-RECIPE-EMPTY", "the file is empty", where=where, do="see `hubtool recipe list`")
    return Document(_build(node, (), lines, where), lines)


def parse_scalar(text: str) -> Any:
    """One value as the core schema reads it; used for ``KEY=VALUE`` on the command line too (flow lists and maps included)."""
    if text[:1] in ("[", "{", '"', "'"):
        return load_yaml(text.encode(), f"{text!r}").value
    return _resolve(text)


def _refuse_aliases(text: str, where: str) -> None:
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            raise UsageError(
                "E-RECIPE-ALIAS",
                "aliases and anchors are not allowed",
                where=f"{where} line {token.start_mark.line + 1}",
                do="write the value out",
            )


def _syntax_error(error: yaml.MarkedYAMLError, text: str, where: str) -> HubtoolError:
    mark = error.problem_mark
    if mark is None:
        return UsageError("E-RECIPE-SYNTAX", str(error.problem), where=where)
    source = text.splitlines()
    line = source[mark.line].strip() if mark.line < len(source) else ""
    return UsageError(
        "E-RECIPE-SYNTAX",
        f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}",
        where=where,
        hint=f"the line reads: {line[:80]}" if line else "",
    )


def _build(node: yaml.Node, path: Path, lines: dict[Path, int], where: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _MAX_DEPTH:
        raise UsageError("E-RECIPE-DEPTH", f"nested deeper than {_MAX_DEPTH}", where=where)
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        raise SecurityError(
            "E-SEC-YAMLTAG", f"the tag {node.tag!r} is refused", where=f"{where} line {node.start_mark.line + 1}"
        )
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, lines, where)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), lines, where) for i, child in enumerate(node.value)]
    return _resolve(node.value) if getattr(node, "style", None) is None else node.value


def _build_mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int], where: str) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UsageError("E-RECIPE-KEY", "a key must be a word", where=f"{where} line {line}")
        key = key_node.value
        if key in mapping:
            raise UsageError(
                "E-RECIPE-DUP", f"{key!r} stands on lines {lines[(*path, key)]} and {line}", where=where, do="keep one"
            )
        lines[(*path, key)] = line
        mapping[key] = _build(value_node, (*path, key), lines, where)
    return mapping


def _resolve(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INF.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if text in _NAN else text
