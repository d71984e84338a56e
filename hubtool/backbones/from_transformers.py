"""transformers: image classifiers in its own layout. The library is an extra; each function that needs it says so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn


def plain(directory: Path) -> nn.Module:
    """What anybody's AutoModelForImageClassification makes of a directory, in eval mode. For comparing logits."""
    from transformers import AutoModelForImageClassification

    with _quiet():
        model: Any = AutoModelForImageClassification.from_pretrained(directory, local_files_only=True)
    for parameter in model.parameters():  # out of the mapped file: alignment changes the last bit of some kernels
        parameter.data = parameter.data.clone()
    return model.eval()  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on stderr; what matters is compared or raised."""
    from transformers.utils import logging

    was_level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(was_level)
        if had_bar:
            logging.enable_progress_bar()
