"""Every task from a table or folders to its claims: trained, stopped and gone on, loaded again."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hubtool.cli.main import run as commands
from hubtool.core.digests import sha256_file
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack
from hubtool.jobs.target import load
from hubtool.package import check
from hubtool.package.facts import read_facts
from hubtool.records.evidence import Predictions
from hubtool.records.metrics import claims_of
from hubtool.records.tasks import TASKS

RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
task: TASK
freeze: all
data: {img_size: 32, val_fraction: 0.25, labels: table.jsonl}
train: {epochs: 3, batch_size: 8, optimizer: {name: adamw, lr: 2e-2}, EXTRA}
run: {log: {tensorboard: false}}
"""
LABELS: dict[str, Any] = {
    "binary": lambda bright: {"label": "bright" if bright > 110 else "dark"},
    "multilabel": lambda bright: {
        "labels": [n for n, limit in (("low", 60), ("mid", 110), ("high", 150)) if bright > limit]
    },
    "regression": lambda bright: {"target_bright": bright / 100, "target_dark": 2 - bright / 100},
}
EXTRA = {
    "binary": "pos_weight: balanced, label_smoothing: 0.1, select: {metric: val/auroc, mode: max}",
    "multilabel": "pos_weight: balanced, mixup: 0.2, select: {metric: val/average_precision, mode: max}",
    "regression": "cutmix: 0.5, select: {metric: val/mae, mode: min}",
}


def draw(root: Path, task: str, num: int = 40) -> Path:
    """Pictures of one brightness each; their labels tell it."""
    source = np.random.default_rng(0)
    (root / "pictures").mkdir(parents=True)
    lines = []
    for number in range(num):
        bright = int(source.integers(20, 200))
        pixels = np.clip(source.normal(bright, 12, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{number:02d}.png")
        lines.append(json.dumps({"file_name": f"pictures/{number:02d}.png", **LABELS[task](bright)}))
    (root / "table.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_a_task_is_learned_from_a_table_and_claimed(task: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("TASK", task).replace("EXTRA", EXTRA[task]))
    data = draw(tmp_path / "data", task)
    report = finetune(tmp_path / "mine.yaml", data=data, run=tmp_path / "run", device="cpu", num_workers=0)
    claims = {claim.metric: claim.value for claim in report.result.claims}
    assert set(claims) <= set(TASKS[task].metrics)
    assert claims[TASKS[task].metrics[0]] is not None
    found = Predictions.read(tmp_path / "run" / report.result.claims[0].evidence)
    loaded = load(str(tmp_path / "run"))
    assert found.logits_NK.shape[1] == TASKS[task].num_outputs(len(loaded.classes))
    assert (report.result.threshold is not None) == (task == "binary")
    assert report.result.is_frozen_equal
    package = Path(pack(tmp_path / "run").package)
    assert [f for f in check.verify(package) if not f.is_ok] == []
    read_card(task, package, found, report.result.threshold)
    if task == "binary":
        result = report.result.model_copy(update={"threshold": (report.result.threshold or 0) * 0.9})
        path = report.result.claims[0].evidence
        forged = claims_of(
            "binary", found, evidence=path, evidence_sha256=sha256_file(package / path), threshold=result.threshold
        )
        result.model_copy(update={"claims": forged}).write(package / "result.json")
        details = [f.detail for f in check.verify(package) if f.name == "result.json"]
        assert any("the threshold is" in detail for detail in details), details


FIGURES = {"binary": "confusion_matrix", "multilabel": "per_class", "regression": "calibration"}


def read_card(task: str, package: Path, found: Predictions, threshold: float | None) -> None:
    """In the words of the task, with its numbers, its plot and a program whose answer they are."""
    text = (package / "README.md").read_text()
    facts = read_facts(package, "timm")
    printed = next(s.output for s in facts.snippets if s.library == "timm")
    assert re.findall(r"!\[[^]]+\]\(plots/(\w+)\.png\)", text) == [FIGURES[task], "curves"]
    assert all((package / "plots" / f"{name}.png").is_file() for name in (FIGURES[task], "curves"))
    names = ModelCard.load(package / "README.md").data.to_dict()["model-index"][0]["results"][0]["dataset"]["name"]
    if task == "binary":
        assert f"is dark from a probability of {threshold:.4g} on" in text
        assert printed.strip() in facts.data.classes
        assert names == "a folder of pictures with 2 classes"
    elif task == "multilabel":
        for name, column_N in zip(facts.data.classes, found.targets.T, strict=True):
            trained = sum(sample.target[facts.data.classes.index(name)] for sample in facts.data.splits["train"])
            assert f"| {name} | {trained:.0f} | {column_N.sum():.0f} |" in text
        assert not re.search(r"\bclass(es)?\b", text.replace("per_class", ""))
        assert "a picture can have several, or none" in text
        answer = ast.literal_eval(printed)
        assert tuple(answer) == facts.data.classes
        assert all(0 < share < 1 for share in answer.values())
    else:
        errors_NK = np.abs(found.logits_NK - found.targets.astype(np.float64))
        half = 1.96 * errors_NK.mean(axis=1).std(ddof=1) / len(errors_NK) ** 0.5
        low, high = errors_NK.mean() - half, errors_NK.mean() + half
        assert f"**MAE {errors_NK.mean():.4f}** (95 % interval {low:.4f} – {high:.4f})" in text
        for name, error, targets_N in zip(facts.data.classes, errors_NK.mean(axis=0), found.targets.T, strict=True):
            assert f"| {name} | {error:.4f} | " in text
            r2 = 1 - ((found.logits_NK - found.targets) ** 2).mean(axis=0) / found.targets.var(axis=0)
            is_bad = r2[facts.data.classes.index(name)] < 0
            assert (f"On {name} it is worse than always answering the mean" in text) == is_bad
            assert f"| {targets_N.mean(dtype=np.float64):.4f} |" in text
        assert not re.search(
            r"\b(class(es)?|labels?|logits|accuracy)\b", text.replace("`data.labels`", "").replace("label_", "")
        )
        assert "fine-tuned to estimate bright and dark" in text
        assert tuple(ast.literal_eval(printed)) == facts.data.classes


@pytest.mark.prove
@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_a_task_goes_through_every_command(
    task: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the run, the package and the repository: the same metrics and predictions, and an exact reproduction."""
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("TASK", task).replace("EXTRA", EXTRA[task]))
    data, run, package = draw(tmp_path / "data", task), tmp_path / "run", tmp_path / "package"
    picture = str(data / "pictures" / "00.png")

    def told(*words: object) -> Any:
        assert commands([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    told("finetune", tmp_path / "mine.yaml", "--data", data, "--run", run, "--device", "cpu", "--workers", "0")
    told("pack", run, "--out", package)
    assert told("verify", package, "--data", data)["is_ok"]
    told("push", package, "me/task", "--hub", "local")
    hubs = {str(run): (), str(package): (), "me/task": ("--hub", "local")}
    metrics = [told("evaluate", target, "--data", data, *hub)["metrics"] for target, hub in hubs.items()]
    assert metrics[0].keys() >= {TASKS[task].metrics[0], "loss"}
    for found in metrics[1:]:
        assert found == pytest.approx(metrics[0], rel=1e-4, abs=1e-6)
    scores = [dict(told("predict", target, picture, *hub)[0]["scores"]) for target, hub in hubs.items()]
    for predicted in scores[1:]:
        assert predicted == pytest.approx(scores[0], rel=1e-3, abs=1e-5)
    again = told("reproduce", "me/task", "--data", data, "--hub", "local")
    assert again["verdict"]["state"] == "exact"
