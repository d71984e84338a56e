"""Python's cyclic collector, out of the way while large libraries are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection within the block, or the function it decorates.

    timm and torch are half a million objects that stay: looking through them again and again while they are made takes a
    fifth of the time of their import, and finds nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
