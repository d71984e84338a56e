"""hubtool: from a pretrained backbone to a shared model that somebody else can reproduce, in three commands.

The verbs of the command line are functions here, with the same names and typed results::

    import hubtool

    hubtool.pull("bundled:test_resnet.fractal")
    report = hubtool.finetune("linear-probe", data="flowers")

Each is imported on first use, so that ``import hubtool`` costs nothing.
"""

from __future__ import annotations

import importlib
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
        return getattr(importlib.import_module(f"hubtool.jobs.{name}"), name)
    raise AttributeError(f"module 'hubtool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_VERBS])
