from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs import blank


@pytest.fixture(scope="module")
def blank_plots() -> Iterator[None]:
    """For a file that trains a lot and is not about plots. Not where ``finished.run`` is made first."""
    with blank.plots():
        yield
