"""A run directory as finetune would leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtool.records.resolve import ResolvedRecipe
from tracking.written import RECIPE, resolved_recipe


@pytest.fixture
def resolved() -> ResolvedRecipe:
    return resolved_recipe()


@pytest.fixture
def run_dir(tmp_path: Path, home: Path) -> Path:
    directory = tmp_path / "runs" / "linear-probe-test_resnet-0123abcd"
    directory.mkdir(parents=True)
    (directory / "recipe.yaml").write_text(RECIPE)
    return directory
