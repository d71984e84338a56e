"""What a follower does in a test: it holds a lock and waits for ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hubtool.core.locks import hold


def linger(*, place: str, **_: Any) -> None:
    with hold(Path(place) / "lock", "the follower"):
        time.sleep(120)
