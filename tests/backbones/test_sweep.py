"""The core of the sweep in every test run, the whole of it under ``prove``."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sweep


@pytest.mark.parametrize("reference", sweep.CORE)
def test_a_family_passes_fully(reference: str) -> None:
    row = sweep.try_one(reference, reference)
    assert row.is_full, (row.problem, row.cuts)


def test_transformers_families_pass_fully(tmp_path: Path) -> None:
    made = sweep.transformers_families(tmp_path)
    rows = [sweep.try_one(f"local:{made[name]}", name, made[name]) for name in ("vit", "swin", "dinov2")]
    assert [(row.name, row.problem, row.layout) for row in rows] == [
        (name, "", "transformers") for name in ("vit", "swin", "dinov2")
    ]


@pytest.mark.prove
@pytest.mark.parametrize(("library", "least"), [("timm", 95), ("torchvision", 78), ("transformers", 8)])
def test_the_sweep(library: str, least: int) -> None:
    rows = sweep.rows_of(library, set())  # type: ignore[arg-type]
    assert sum(row.is_full for row in rows) >= least, [row for row in rows if not row.is_full]
    assert all(row.problem or row.cuts for row in rows if not row.is_full)
