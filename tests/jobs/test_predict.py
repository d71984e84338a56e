"""predict and evaluate on real runs of each task: what comes out is what the run's own evidence says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hubtool.cli.main import run as commands
from hubtool.core.errors import DataError, NotFoundError, UsageError
from hubtool.core.progress import SILENT
from hubtool.jobs.evaluate import evaluate
from hubtool.jobs.finetune import finetune
from hubtool.jobs.predict import predict
from hubtool.jobs.push import push
from hubtool.records import metrics
from hubtool.records.evidence import Predictions
from hubtool.records.reports import Evaluation, FinetuneReport
from hubtool.records.rundir import RunDir
from jobs import blank, finished

RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
task: {task}
data: {{img_size: 32, val_fraction: 0.25, labels: {labels}}}
train: {{epochs: 6, batch_size: 12, optimizer: {{name: adamw, lr: 1e-2}}}}
run: {{log: {{tensorboard: false}}}}
"""


def draw(root: Path, num: int, num_classes: int) -> list[int]:
    """Noise with a bar whose place tells the class; class by class in folders, and one table of each kind."""
    source = np.random.default_rng(0)
    labels = [number % num_classes for number in range(num)]
    for number, label in enumerate(labels):
        pixels = source.integers(0, 120, (24, 24, 3), dtype=np.uint8)
        pixels[4 + 6 * label : 8 + 6 * label] += 100
        path = root / f"class{label}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    rows = [f"class{label}/{number:03d}.png" for number, label in enumerate(labels)]
    names = ["low", "mid|even", "high|even"]
    (root / "many.csv").write_text(
        "file_name,labels\n" + "\n".join(f"{r},{names[k]}" for r, k in zip(rows, labels, strict=True))
    )
    (root / "place.csv").write_text(
        "file_name,target\n" + "\n".join(f"{r},{k}" for r, k in zip(rows, labels, strict=True))
    )
    return labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, FinetuneReport]]:
    place = tmp_path_factory.mktemp("predict")
    done: dict[str, tuple[Path, FinetuneReport]] = {}
    for task, labels, num_classes in (
        ("classification", "folders", 3),
        ("binary", "folders", 2),
        ("multilabel", "many.csv", 3),
        ("regression", "place.csv", 3),
    ):
        data = place / task
        draw(data, 36, num_classes)
        recipe = place / f"{task}.yaml"
        recipe.write_text(RECIPE.format(task=task, labels=labels))
        with blank.plots():
            report = finetune(recipe, data=data, run=place / f"run-{task}", device="cpu", num_workers=0)
        done[task] = (data, report)
    return done


def compute(predicted: Predictions, task: Any, threshold: float | None) -> dict[str, float]:
    return metrics.compute(task, predicted.logits_NK, predicted.targets, threshold=threshold)


PLOTS = {
    "classification": ("plots/confusion_matrix.png", "plots/reliability.svg", "plots/top_losses.png"),
    "binary": ("plots/roc.png", "plots/predictions.png"),
    "multilabel": ("plots/per_class.png", "plots/precision_recall.png"),
    "regression": ("plots/calibration.png",),
}


@pytest.mark.parametrize("task", ["classification", "binary", "multilabel", "regression"])
def test_evaluating_a_run_again_on_its_own_validation_gives_its_claims(
    task: str, trained: dict[str, tuple[Path, FinetuneReport]], tmp_path: Path
) -> None:
    data, report = trained[task]
    val = RunDir(Path(report.run)).data().splits["val"]
    for sample in val:
        (tmp_path / str(sample.path)).parent.mkdir(exist_ok=True)
        (tmp_path / str(sample.path)).write_bytes((data / str(sample.path)).read_bytes())
    for table in data.glob("*.csv"):
        head, *rows = table.read_text().split("\n")
        kept = [row for row in rows if (tmp_path / row.split(",")[0]).exists()]
        (tmp_path / table.name).write_text("\n".join([head, *kept]))
    out = tmp_path.with_name(f"evidence-{task}")
    found = evaluate(report.run, data=tmp_path, out=out, device="cpu", num_workers=0)
    assert (found.split, found.num_samples) == ("data", len(val))
    assert found.metrics == {claim.metric: claim.value for claim in report.result.claims}
    evaluation = Evaluation.read(out / "evaluation.json")
    assert evaluation == found.evaluation
    assert {name: measured.value for name, measured in evaluation.metrics.items()} == found.metrics
    predicted = Predictions.read(out / "predictions.safetensors")
    assert compute(predicted, task, report.result.threshold) == found.metrics
    assert all(twin.splits == ("val",) for twin in evaluation.twins) and len(evaluation.twins) == len(val)
    assert {file.path for file in evaluation.files} >= {"predictions.safetensors", *PLOTS[task]}


def test_predict_names_the_classes_best_first(trained: dict[str, tuple[Path, FinetuneReport]]) -> None:
    data, report = trained["classification"]
    (one,) = predict(report.run, [data / "class1" / "001.png"], device="cpu", top=2)
    assert one.path == str(data / "class1" / "001.png")
    assert len(one.scores) == 2 and one.scores[0][1] >= one.scores[1][1] > 0
    found = predict(report.run, [data], device="cpu", num_workers=0)
    assert len(found) == 36 and all(len(p.scores) == 3 for p in found)
    assert all(sum(score for _, score in p.scores) == pytest.approx(1) for p in found)
    right = sum(p.scores[0][0] == Path(p.path).parent.name for p in found)
    assert right >= 24, "a third would be chance"


def test_predict_for_the_other_tasks(trained: dict[str, tuple[Path, FinetuneReport]]) -> None:
    data, report = trained["binary"]
    found = predict(report.run, [data / "class0", data / "class1"], device="cpu", num_workers=0)
    threshold = report.result.threshold
    assert threshold is not None
    for p in found:
        shares = dict(p.scores)
        assert p.scores[0][0] == ("class1" if shares["class1"] >= threshold else "class0")
    data, report = trained["multilabel"]
    (one,) = predict(report.run, [data / "class1" / "001.png"], device="cpu")
    assert {name for name, _ in one.scores} == {"low", "mid", "high", "even"}
    assert set(one.called) == {name for name, share in one.scores if share >= 0.5}
    data, report = trained["regression"]
    (one,) = predict(report.run, [data / "class1" / "001.png"], device="cpu")
    assert [name for name, _ in one.scores] == ["target"]
    assert one.called == ()


def test_predict_prints_numbers_as_numbers_and_several_labels(
    trained: dict[str, tuple[Path, FinetuneReport]], capsys: pytest.CaptureFixture[str]
) -> None:
    def told(task: str, *options: str) -> list[str]:
        data, report = trained[task]
        picture = str(data / "class1" / "001.png")
        assert commands(["predict", report.run, picture, "--device", "cpu", *options]) == 0
        return capsys.readouterr().out.replace(picture, "PICTURE").splitlines()

    value = told("regression", "-q")[0]
    assert told("regression") == [f"PICTURE: target {float(value):.6g}"]
    assert told("regression", "--csv")[0] == "path,output,value"
    labels = told("multilabel", "-q")[0].split("|")
    assert told("multilabel")[0].startswith(f"PICTURE: {' + '.join(labels)} (")
    assert told("classification", "-q")[0] == told("classification")[0].split()[1]
    assert told("classification", "--csv")[0] == "path,class,score"


def test_a_backbone_predicts_but_cannot_be_evaluated(trained: dict[str, tuple[Path, FinetuneReport]]) -> None:
    data, _ = trained["classification"]
    (one,) = predict("bundled:test_resnet.fractal", [data / "class1" / "001.png"], device="cpu", top=3)
    assert len(one.scores) == 3
    with pytest.raises(UsageError, match="knows no classes of yours"):
        evaluate("bundled:test_resnet.fractal", data=data)


def test_bad_input(trained: dict[str, tuple[Path, FinetuneReport]], tmp_path: Path) -> None:
    data, report = trained["classification"]
    with pytest.raises(DataError, match="not found") as caught:
        predict(report.run, [tmp_path / "none.png"])
    assert caught.value.where == str(tmp_path / "none.png")
    (tmp_path / "short.png").write_bytes((data / "class1" / "001.png").read_bytes()[:-9])
    for num_workers in (0, 1):
        with pytest.raises(DataError, match="truncated, 9 bytes short") as caught:
            predict(report.run, [tmp_path / "short.png"], device="cpu", num_workers=num_workers)
        assert caught.value.where == str(tmp_path / "short.png")
    with pytest.raises(UsageError):
        predict(report.run, [data], top=0)
    with pytest.raises(DataError):
        predict(report.run, [tmp_path / "none"])
    with pytest.raises(NotFoundError):
        predict(str(tmp_path / "no-run"), [data / "class1" / "001.png"])
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate(report.run, data=data, split="test")


def test_a_class_the_model_does_not_know(trained: dict[str, tuple[Path, FinetuneReport]], tmp_path: Path) -> None:
    _, report = trained["classification"]
    draw(tmp_path, 3, 3)
    (tmp_path / "class2").rename(tmp_path / "klass2")
    with pytest.raises(DataError, match="unknown label 'klass2'") as caught:
        evaluate(report.run, data=tmp_path)
    assert caught.value.do == "did you mean 'class2'?"


def test_a_package_and_a_repository_give_what_the_run_gives(home: Path) -> None:
    run, package = finished.run(), finished.package()
    repo = push(package, "me/bars", hub="local", reporter=SILENT).plan.repo_id
    pictures = sorted(finished.data().rglob("*.png"))[:5]
    of_run = predict(str(run), pictures, device="cpu")
    for target, hub in ((str(package), None), (repo, "local"), (repo, None)):  # None: the registry knows the hub
        found = predict(target, pictures, device="cpu", hub=hub)
        for one, other in zip(of_run, found, strict=True):
            assert one.path == other.path
            assert [name for name, _ in one.scores] == [name for name, _ in other.scores]
            assert [s for _, s in one.scores] == pytest.approx([s for _, s in other.scores], rel=1e-4)
    report = evaluate(repo, data=finished.data(), device="cpu", hub="local", num_workers=0)
    assert report.num_samples == 48 and 0 <= report.metrics["top1"] <= 1
    assert not list((home / "scratch").iterdir()), "what was fetched is gone"
