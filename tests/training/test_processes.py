from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hubtool.core.locks import is_held
from hubtool.training.processes import joined

_FIRST = """
import sys, time
from hubtool.training.processes import followers
with followers(2, "training.lingering:linger", {"place": sys.argv[1]}):
    time.sleep(120)
"""


def test_a_parameter_without_a_gradient_anywhere_has_none_after_the_sum(tmp_path: Path) -> None:
    """A gradient of zeros would let weight decay move what nothing uses."""
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    (used * 2).sum().backward()
    with joined("cpu", rank=0, num_processes=1, meeting=tmp_path / "meeting") as group:
        assert group.sum_up([used, unused], [1.5, 2]) == [1.5, 2.0]
    assert unused.grad is None
    assert used.grad is not None and used.grad.tolist() == [2.0, 2.0]


def test_a_follower_ends_when_the_first_process_is_killed(tmp_path: Path) -> None:
    """Before they have met: nothing else would tell it for hours."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([sys.executable, "-c", _FIRST, str(tmp_path)], env=environ)
    try:
        assert _within(30, lambda: is_held(tmp_path / "lock"))
    finally:
        first.kill()
        first.wait()
    assert _within(5, lambda: not is_held(tmp_path / "lock"))


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()
