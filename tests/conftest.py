"""Tests run offline, without a token, and never touch the user's own directories."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="hubtool-tests-"))
_VARIABLES = {
    "HUBTOOL_HOME": _HOME / "home",
    "HF_HOME": _HOME / "hf",
    "TORCH_HOME": _HOME / "torch",
    "XDG_CACHE_HOME": _HOME / "cache",
    "MPLCONFIGDIR": _HOME / "matplotlib",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "0",
    "WANDB_MODE": "offline",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
# Set before any library is imported: several read these once, at import.
os.environ.update({name: str(value) for name, value in _VARIABLES.items()})
for name in ("HF_ENDPOINT", "HF_TOKEN", "WANDB_API_KEY", "HF_HUB_CACHE", "HUBTOOL_DEBUG", "NO_COLOR"):
    os.environ.pop(name, None)
# A shell starts what it puts into the background with SIGINT ignored, and so would everything be that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HUBTOOL_HOME of the test's own."""
    directory = tmp_path / "home"
    monkeypatch.setenv("HUBTOOL_HOME", str(directory))
    return directory


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """A run that is taken up sets the number of threads it began with, and another number gives other bits."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    yield
    if torch is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)
