"""One run and one package for the whole room; a test that changes files takes a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from package import made


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="session")
def clean(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("clean") / "package"
    made.make_package(run, target)
    return target


@pytest.fixture
def package(clean: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(clean, tmp_path / "package"))
