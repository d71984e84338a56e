"""config.json of a model directory, whichever library wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hubtool.core.errors import IntegrityError, NotFoundError

CONFIG_NAME = "config.json"
_MAX_BYTES = 64 << 20


def read_config(directory: Path) -> dict[str, Any]:
    """The object in config.json. Raises NotFoundError, IntegrityError."""
    path = directory / CONFIG_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise IntegrityError("E-CONFIG", "config.json is too large", where=directory.name)
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("E-CONFIG-404", "config.json is missing", where=directory.name) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError("E-CONFIG", "config.json is no JSON", where=directory.name) from error
    if not isinstance(value, dict):
        raise IntegrityError("E-CONFIG", "config.json holds no object", where=directory.name)
    return value


def head_place(directory: Path) -> str | None:
    """Where in the model a head of ours stood, which travels beside its weights; None where there is none."""
    if not (directory / CONFIG_NAME).is_file():
        return None
    own = read_config(directory).get("hubtool")
    head = own.get("head") if isinstance(own, dict) else None
    place = head.get("place") if isinstance(head, dict) else None
    return None if place is None else str(place)
