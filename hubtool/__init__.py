"""hubtool: from a pretrained backbone to a shared model that somebody else can reproduce, in three commands.

The verbs of the command line are functions here, with the same names and typed results::

    import hubtool

    hubtool.pull("bundled:test_resnet.fractal")
    report = hubtool.finetune("linear-probe", data="flowers")

Each is imported on first use, so that ``import hubtool`` costs nothing. They say nothing while they work, but in a notebook;
``reporter=hubtool.progress()`` shows it anywhere.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"

# verbs: hubtool.VERB is the function of that name in hubtool.jobs.VERB
_VERBS: tuple[str, ...] = (
    "card",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "finetune",
    "lint",
    "logs",
    "pack",
    "predict",
    "pull",
    "push",
    "reproduce",
    "runs",
    "search",
    "serve",
    "show",
    "verify",
)

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        verb = getattr(importlib.import_module(f"hubtool.jobs.{name}"), name)
        return _shown(verb) if _is_notebook() else verb
    if name == "progress":
        return importlib.import_module("hubtool.cli.notebook").progress
    raise AttributeError(f"module 'hubtool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_VERBS, "progress"])


def _is_notebook() -> bool:
    if "ipykernel" not in sys.modules:
        return False
    return bool(importlib.import_module("hubtool.cli.notebook").is_notebook())


def _shown(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with a reporter of its own where it takes one and none is named."""
    import functools
    import inspect

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        return verb(*args, **{"reporter": __getattr__("progress")(), **kwargs})

    return call if "reporter" in inspect.signature(verb).parameters else verb
