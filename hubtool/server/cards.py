"""What a repository says about itself: the head of its README, its config.json, its safetensors headers.

Everything here was written by whoever pushed: it is parsed under limits, and what cannot be parsed is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hubtool.core.errors import HubtoolError
from hubtool.records.yaml_loader import load_yaml

MAX_CARD_BYTES = 1 << 20
MAX_CONFIG_BYTES = 1 << 20
_MAX_HEADER_BYTES = 32 << 20
_MAX_TAGS = 200
_HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Card:
    """``data`` is the front matter, ``body`` the text below it, ``problem`` why the front matter could not be read."""

    data: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    problem: str = ""


def parse_card(text: str) -> Card:
    match = _HEAD.match(text)
    if match is None:
        return Card(body=text)
    body = text[match.end() :]
    if not match[1].strip():
        return Card(body=body)
    try:
        data = load_yaml(match[1].encode("utf-8", "replace"), "README.md").value
    except HubtoolError as error:
        return Card(body=body, problem=str(error))
    except RecursionError:
        return Card(body=body, problem="nested too deeply")
    if not isinstance(data, dict):
        return Card(body=body, problem="the front matter must be a mapping")
    return Card(data=_plain(data), body=body)


def _plain(value: Any) -> Any:
    """JSON has no NaN, and no number that a client could choke on."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def check_metadata(data: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(errors, warnings) in the front matter, as ``/api/validate-yaml`` tells them."""
    errors, warnings = [], []
    texts = ("license", "library_name", "pipeline_tag", "license_name", "license_link", "pretty_name", "thumbnail")
    for key in texts:
        if key in data and not isinstance(data[key], str | list if key == "license" else str):
            errors.append(f'"{key}" must be a string')
    for key in ("tags", "datasets", "metrics"):
        if data.get(key) is not None and not isinstance(data[key], str | list):
            errors.append(f'"{key}" must be an array')
    index = data.get("model-index")
    if index is not None and not (isinstance(index, list) and all(isinstance(item, dict) for item in index)):
        errors.append('"model-index" must be an array of objects')
    if not data:
        warnings.append("empty or missing yaml metadata in repo card")
    return errors, warnings


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def tags_of(data: dict[str, Any], library: str | None, pipeline: str | None) -> list[str]:
    """The tags a search finds the repository by."""
    tags = _words(data.get("tags"))
    tags += [word for word in (library, pipeline) if word]
    tags += [f"license:{word}" for word in _words(data.get("license"))]
    tags += [f"dataset:{word}" for word in _words(data.get("datasets"))]
    tags += [f"base_model:{word}" for word in _words(data.get("base_model"))]
    tags += _words(data.get("language"))
    return list(dict.fromkeys(tag[:200] for tag in tags))[:_MAX_TAGS]


def model_config(data: bytes | None) -> dict[str, Any]:
    """The few keys of config.json that the hub shows."""
    try:
        config = json.loads(data or b"{}", parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    names = ("architectures", "model_type", "architecture")
    return {key: config[key] for key in names if isinstance(config.get(key), str | list)}


def is_timm(config: bytes | None) -> bool:
    return b'"pretrained_cfg"' in (config or b"") or b'"num_features"' in (config or b"")


def safetensors_parameters(read: Callable[[int, int], bytes]) -> dict[str, int] | None:
    """Parameters per dtype from the header of a safetensors file; ``read(start, stop)`` gives its bytes."""
    try:
        size = int.from_bytes(read(0, 8), "little")
        if not 2 <= size <= _MAX_HEADER_BYTES:
            return None
        header = json.loads(read(8, 8 + size))
        counts: dict[str, int] = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[str(tensor["dtype"])] = counts.get(str(tensor["dtype"]), 0) + math.prod(tensor["shape"])
        return counts
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, HubtoolError):
        return None
