from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError, UsageError
from hubtool.jobs.finetune import finetune
from hubtool.jobs.target import build_selected, find_target, load
from hubtool.records.rundir import RunDir
from jobs.test_finetune import RECIPE, draw_pictures

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    root = tmp_path_factory.mktemp("target")
    (root / "mine.yaml").write_text(RECIPE)
    options: dict[str, Any] = {"run": root / "run", "device": "cpu", "num_workers": 0}
    report = finetune(
        root / "mine.yaml",
        data=draw_pictures(root / "pictures"),
        overrides=["train.epochs=1", "train.ema=0.5"],
        **options,
    )
    return RunDir(Path(report.run))


def test_a_run_gives_the_selected_weights_and_what_they_mean(run: RunDir) -> None:
    found = load(str(run.path))
    assert (found.target.kind, found.classes, found.task) == ("run", ("class0", "class1", "class2"), "classification")
    assert (found.micro_size, found.preprocess.img_size) == (4, (32, 32))
    assert found.model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert not found.model.training


def test_weights_that_are_not_the_results_are_refused(run: RunDir) -> None:
    path = run.path / "result.json"
    text = path.read_text()
    digest = run.result().weights_digest
    try:
        path.write_text(text.replace(digest, "0" * 64))
        with pytest.raises(IntegrityError) as caught:
            build_selected(run)
    finally:
        path.write_text(text)
    assert caught.value.code == "E-RUN-WEIGHTS"


def test_a_backbone_has_its_original_head() -> None:
    found = load("bundled:test_resnet.fractal")
    assert found.target.kind == "backbone"
    assert found.model(torch.zeros(1, 3, *found.preprocess.img_size)).shape[1] == len(found.classes) > 0


def test_what_a_text_names(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "hubtool.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert find_target("package").kind == "package"
    assert find_target(str(run.path)).kind == "run"
    assert find_target("timm:resnet18").kind == "backbone"
    assert find_target("demo/digits@main").kind == "repository"
    refusals: dict[str, type[HubtoolError]] = {
        "empty": NotFoundError,
        "./nothing": NotFoundError,
        "nothing": NotFoundError,
        "a/b/c": NotFoundError,
    }
    for text, kind in refusals.items():
        with pytest.raises(kind) as caught:
            find_target(text)
        assert caught.value.code == "E-TARGET-404"


def test_a_directory_named_like_a_backbone_is_refused_with_both_spellings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm:resnet18").mkdir()
    with pytest.raises(UsageError) as caught:
        find_target("timm:resnet18")
    assert "./timm:resnet18" in caught.value.do


def test_an_unfinished_run_says_so(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "resolved.json").write_bytes((run.path / "resolved.json").read_bytes())
    with pytest.raises(NotFoundError, match="not finished"):
        load(str(tmp_path))
