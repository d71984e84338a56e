"""Labels from a table in the data directory: CSV or JSONL, as datasets' imagefolder with metadata has it.

Columns: ``file_name`` (relative to the table), one of the following, and if wanted ``split`` (train, val, test)::

    classification, binary   label     cat
    multilabel               labels    cat|dog (CSV), ["cat", "dog"] (JSONL); none at all is allowed
    regression               target    3.5; or several columns target_NAME, one for each output
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hubtool.core.errors import DataError, SecurityError
from hubtool.core.progress import Reporter
from hubtool.data.scan import SPLIT_NAMES, Label, Listing, Row, check_root, pictures_below
from hubtool.records.tasks import TaskName

_MAX_BYTES = 1 << 30
_MAX_FLOAT32 = 3.4e38  # targets are trained on in that
_COLUMN = {"classification": "label", "binary": "label", "multilabel": "labels", "regression": "target"}


def read_table(root: Path, name: str, task: TaskName, reporter: Reporter) -> Listing:
    """Rows of the table ``name`` (relative to ``root``). Raises DataError naming the line."""
    check_root(root)
    records = list(_read_records(root, name))
    if not records:
        raise DataError("E-DATA-TABLE", "the table has no rows", where=name)
    pictures = set(pictures_below(root, reporter, besides=[name]))
    columns = list(dict.fromkeys(key for _, record in records for key in record))
    outputs = _outputs(columns, task, name)
    parent = PurePosixPath(name).parent
    rows: list[Row] = []
    line_of: dict[str, int] = {}
    for line, record in records:
        where = f"{name} line {line}"
        path = _path(record.get("file_name"), parent, where)
        if path in line_of:
            raise DataError(
                "E-DATA-TABLE", f"{path} stands on lines {line_of[path]} and {line}", where=name, do="keep one"
            )
        if path not in pictures:
            raise DataError("E-DATA-TABLE", f"{path} is not there, or no picture by its name", where=where)
        line_of[path] = line
        rows.append(Row(path, _split(record, columns, where), _label(record, outputs, task, where), line))
    if len(rows) < len(pictures):
        reporter.warn(f"{len(pictures) - len(rows)} pictures are not in {name} and are left out")
    if task == "regression":
        return Listing(tuple(rows), tuple(name.removeprefix("target_") for name in outputs))
    names = {n for row in rows for n in ((row.label,) if isinstance(row.label, str) else row.label)}
    return Listing(tuple(rows), tuple(sorted(str(n) for n in names)))


def _read_records(root: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, columns) of each row; lines count from 1, with the header."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise SecurityError("E-PATH-LINK", "the table lies outside of the data directory", where=name)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError("E-DATA-TABLE", "the table is larger than 1 GiB", where=name)
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError("E-DATA-TABLE", "the table does not exist", where=name, do="check data.labels") from error
    except UnicodeDecodeError as error:
        raise DataError(
            "E-DATA-TABLE", f"not UTF-8 at byte {error.start}", where=name, do="save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError("E-DATA-UNREADABLE", f"cannot be read: {error.strerror}", where=name) from error
    yield from _read_jsonl(text, name) if name.endswith(".jsonl") else _read_csv(text, name)


def _read_csv(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for fields in reader:
            if not fields:
                continue
            if not header:
                header = [field.strip() for field in fields]
                if len(set(header)) < len(header):
                    raise DataError("E-DATA-TABLE", "a column stands twice in the header", where=name)
                continue
            if len(fields) != len(header):
                raise DataError(
                    "E-DATA-TABLE",
                    f"{len(fields)} fields, the header has {len(header)}",
                    where=f"{name} line {reader.line_num}",
                )
            yield reader.line_num, dict(zip(header, (field.strip() for field in fields), strict=True))
    except csv.Error as error:
        raise DataError("E-DATA-TABLE", f"no valid CSV: {error}", where=f"{name} line {reader.line_num}") from error


def _read_jsonl(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise DataError("E-DATA-TABLE", f"no valid JSON: {error}", where=f"{name} line {line}") from error
        if not isinstance(record, dict):
            raise DataError("E-DATA-TABLE", "expected an object", where=f"{name} line {line}")
        yield line, record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a key that stands twice: which one was meant?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _outputs(columns: list[str], task: TaskName, name: str) -> list[str]:
    """The columns that hold the targets."""
    wanted = _COLUMN[task]
    found = [column for column in columns if column == wanted]
    if task == "regression" and not found:
        found = [column for column in columns if column.startswith("target_")]
    if "file_name" not in columns or not found:
        missing = "file_name" if "file_name" not in columns else wanted
        raise DataError(
            "E-DATA-TABLE",
            f"the column {missing!r} is missing",
            where=name,
            do="the columns are: " + ", ".join(columns[:10]),
        )
    return found


def _path(value: object, parent: PurePosixPath, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError("E-DATA-TABLE", "file_name is empty", where=where)
    path = PurePosixPath(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in value:
        raise SecurityError("E-PATH-INVALID", f"{value!a} leaves the data directory", where=where)
    return str(parent / path)


def _split(record: dict[str, Any], columns: list[str], where: str) -> str | None:
    if "split" not in columns:
        return None
    value = record.get("split")
    if not isinstance(value, str) or value not in SPLIT_NAMES:
        raise DataError("E-DATA-TABLE", f"unknown split {value!r}", where=where, do="write train, val or test")
    return SPLIT_NAMES[value]


def _label(record: dict[str, Any], outputs: list[str], task: TaskName, where: str) -> Label:
    if task == "regression":
        return tuple(_number(record.get(column), column, where) for column in outputs)
    value = record.get(outputs[0])
    if task == "multilabel":
        names = value.split("|") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError("E-DATA-TABLE", f"labels: expected names, got {value!r}", where=where)
        return tuple(sorted({name.strip() for name in names if name.strip()}))
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise DataError("E-DATA-TABLE", f"label: expected a name, got {value!r}", where=where)
    return value


def _number(value: object, column: str, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= _MAX_FLOAT32:
        shown = repr(value) if len(repr(value)) < 40 else f"{repr(value)[:36]}…"
        raise DataError("E-DATA-TABLE", f"{column}: expected a finite number, got {shown}", where=where)
    return number
