"""show: a backbone, a run, a package and a repository, in words and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubtool.cli.main import run as command
from hubtool.core.errors import NotFoundError, UsageError
from hubtool.jobs.card import card
from hubtool.jobs.push import push
from hubtool.jobs.show import show
from hubtool.records.backbone import LayerTable
from hubtool.server.embedded import EmbeddedHub
from jobs import finished
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


def test_a_run_a_package_and_a_repository_are_one_model(home: Path, tmp_path: Path) -> None:
    of_run = show(str(finished.run()))
    assert [row.part for row in of_run.rows] == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert [row.is_trainable for row in of_run.rows] == [False] * 4 + [True] * 2
    assert of_run.rows[-1].output_shape == (3,)
    assert of_run.frontier == "stem to stage3 are computed once"
    assert show(str(finished.package())) == of_run
    with EmbeddedHub(tmp_path / "root") as hub:
        push(finished.package(), "me/bars", hub=hub.url, yes=True)
        assert show("me/bars", hub=hub.url) == of_run
        fetched = {path.name for path in home.rglob("*") if path.is_file()}
        assert "layers.json" in fetched
        assert "model.safetensors" not in fetched, "the table alone is fetched"


def test_the_card_has_the_table() -> None:
    table = show(str(finished.package()))
    text = card(finished.package())
    assert f"Layers: {table.num_params:,} parameters, {table.num_trainable:,} trained" in text
    for row in table.rows:
        assert f"| {row.part} | {' × '.join(map(str, row.output_shape or ()))} | {row.num_params:,} |" in text


@pytest.mark.parametrize("kind", ["backbone", "run", "package", "repository"])
def test_in_three_modes(kind: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedHub(tmp_path / "root") as hub:
        push(finished.package(), "me/bars", hub=hub.url, yes=True)
        target = {
            "backbone": ["bundled:test_resnet.fractal", "--recipe", "linear-probe"],
            "run": [str(finished.run())],
            "package": [str(finished.package())],
            "repository": ["me/bars", "--hub", hub.url],
        }[kind]
        assert command(["show", *target]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["part", "output", "params", "FLOPs", "state", "norm", "computed"]
        assert max(map(len, lines)) <= 80
        assert "trained" in lines[-2] and "computed once" in lines[-1]
        assert command(["show", *target, "--json"]) == 0
        table = LayerTable.model_validate_json(capsys.readouterr().out)
        assert len(table.rows) == len(lines) - 3
        assert command(["show", *target, "-q"]) == 0
        assert capsys.readouterr().out.split() == [row.part for row in table.rows]


def test_what_has_its_own_recipe_takes_no_other(home: Path) -> None:
    with pytest.raises(UsageError, match="has its own recipe"):
        show(str(finished.run()), recipe="linear-probe")


def test_a_repository_that_is_no_package(home: Path, tmp_path: Path) -> None:
    with EmbeddedHub(tmp_path / "root") as hub:
        api = HfApi(endpoint=hub.url, token=False)
        api.create_repo("me/plain")
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/plain")
        with pytest.raises(NotFoundError) as caught:
            show("me/plain", hub=hub.url)
    assert "hf:me/plain" in caught.value.do


def test_a_package_whose_backbone_is_not_here(home: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(finished.package(), tmp_path / "package"))
    resolved = json.loads((package / "resolved.json").read_text())
    resolved["backbone"]["ref"] = "local:somewhere"
    (package / "resolved.json").write_text(json.dumps(resolved))
    assert show(str(package)) == show(str(finished.package()))
