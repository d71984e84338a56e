from __future__ import annotations

from pathlib import Path

import pytest

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.jobs.show import show
from tests.backbones.made import test_resnet_directory


def test_a_backbone_is_shown_without_weights_or_network(home: Path) -> None:
    table = show("timm:efficientnet_b0", recipe="linear-probe")
    assert not home.exists()
    assert table.num_params == 5_288_548
    assert table.num_trainable == 1_281_000
    assert [row.part for row in table.rows][-1] == "head"
    assert [row.is_before_frontier for row in table.rows] == [True] * (len(table.rows) - 1) + [False]
    assert {row.norm_mode for row in table.rows[:-1]} == {"eval"}
    assert table.rows[0].output_shape == (32, 112, 112)
    # 0.39 G multiply-adds is the published figure; torch counts 2 FLOPs for each.
    assert 0.7e9 < sum(row.flops or 0 for row in table.rows) < 0.8e9
    assert "stem to stage7" in table.frontier


def test_without_a_recipe_nothing_is_frozen(home: Path) -> None:
    table = show("torchvision:resnet18")
    assert table.num_trainable == table.num_params == 11_689_512
    assert {row.norm_mode for row in table.rows[:-1]} == {"train"}


def test_a_directory_is_shown(home: Path, tmp_path: Path) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    table = show(f"local:{directory}", recipe="last-stage")
    assert table.rows[-2].is_trainable
    assert not table.rows[0].is_trainable


def test_an_unknown_target(home: Path) -> None:
    with pytest.raises(NotFoundError, match="resnet5O"):
        show("timm:resnet5O")
    with pytest.raises(UsageError):
        show("nosource:resnet50")
