"""Runs killed at random moments, over every way to train: nothing saved is lost, and each ends as the one that was not killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.records.rundir import RunDir
from jobs.killing import WAYS, Command, Forked, Way, killed_often, unbroken, write_scene
from jobs.nursery import Nursery

_FORKED, _COMMANDS = 63, 7  # for each of the 32 ways: 2,016 and 224
_wholes: dict[tuple[str, ...], tuple[RunDir, float]] = {}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    yield opened
    opened.close()


def whole_of(way: Way, scene: Path, starter: Any, kind: str) -> tuple[RunDir, float]:
    """One for all ways that change no number: cached and live, with workers and without, must end alike."""
    key = (kind, *way.overrides)
    if key not in _wholes:
        _wholes[key] = unbroken(starter, scene / f"{kind}-{len(_wholes)}")
    return _wholes[key]


def kill(starter: Any, way: Way, scene: Path, tmp_path: Path, kind: str, num_kills: int) -> str:
    """Returns what happened, counted, in words."""
    whole, wall_s = whole_of(way, scene, starter, kind)
    happened = killed_often(starter, whole, tmp_path, num_kills=num_kills, wall_s=wall_s, seed=WAYS.index(way))
    assert happened["kills"] == num_kills
    return f"{kind} {way}: " + ", ".join(f"{name} {number}" for name, number in sorted(happened.items()))


@pytest.mark.parametrize("way", [WAYS[0], WAYS[-1]], ids=str)
def test_a_run_killed_at_random_moments_ends_as_the_one_that_was_not(
    way: Way, scene: Path, nursery: Nursery, tmp_path: Path
) -> None:
    kill(Forked(nursery, scene, way), way, scene, tmp_path, "forked", 6)


@pytest.mark.prove
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_run_that_is_killed_over_and_over(
    way: Way, scene: Path, nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = kill(Forked(nursery, scene, way), way, scene, tmp_path, "forked", _FORKED)
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")


@pytest.mark.prove
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_whole_command_killed_over_and_over(
    way: Way, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = kill(Command(scene, way), way, scene, tmp_path, "command", _COMMANDS)
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")
