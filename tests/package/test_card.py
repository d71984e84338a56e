"""The card: valid metadata, true numbers, a person's text kept, nothing from outside taken for markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hubtool.core.errors import IntegrityError
from hubtool.package import card as cards
from hubtool.package.front import to_yaml
from hubtool.records.environment import Environment
from hubtool.records.evidence import Predictions
from hubtool.records.recipe import Card
from hubtool.records.run import Result
from hubtool.records.yaml_loader import load_yaml
from hubtool.tracking.intervals import intervals
from package import made


def test_the_hubs_own_reader_takes_the_front_matter(clean: Path) -> None:
    card = ModelCard.load(clean / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert (data["base_model"], data["base_model_relation"]) == ("timm/resnet18.a1_in1k", "finetune")
    assert data["base_model_revision"] == "491b427b45c94c7fb0e78b5474cc919aff584bbf"
    assert (data["library_name"], data["pipeline_tag"]) == ("timm", "image-classification")
    claims = {claim.metric: claim.value for claim in Result.read(clean / "result.json").claims}
    results = card.data.eval_results
    assert results is not None
    by_name = {result.metric_name: result for result in results}
    assert by_name["Top-1 accuracy"].metric_value == claims["top1"]
    assert by_name["Loss"].metric_value == claims["loss"]
    assert (by_name["Loss"].dataset_split, by_name["Loss"].task_type) == ("val", "image-classification")


def test_the_body_says_what_a_reader_asks_first(clean: Path) -> None:
    text = (clean / "README.md").read_text()
    top1 = next(c.value for c in Result.read(clean / "result.json").claims if c.metric == "top1")
    for wanted in (
        f"**Top-1 accuracy {top1:.4f}**",
        "which also chose the epoch",
        "| **2** |",
        "hubtool reproduce OWNER/NAME --data DIR",
        'timm.create_model("hf-hub:OWNER/NAME", pretrained=True)',
        "![Training curves](plots/curves.png)",
        "| `train.optimizer.lr` | 0.05 |",
        "Trained in 1 min 23 s on cpu",
        "| train | 140 |",
        "apache-2.0, carried over from the backbone.",
    ):
        assert wanted in text, wanted
    assert "secret-name" not in text
    assert "/home/" not in text


def test_the_interval_is_the_one_that_compare_and_evaluate_give(clean: Path) -> None:
    found = Predictions.read(clean / made.PREDICTIONS)
    top1 = intervals("classification", found, threshold=None)["top1"]
    assert top1.low is not None
    assert top1.high is not None
    text = (clean / "README.md").read_text()
    assert f"**Top-1 accuracy {top1.value:.4f}** (95 % interval {top1.low:.4f} – {top1.high:.4f})" in text


def test_every_table_is_one_table(clean: Path) -> None:
    """No empty line inside, as many cells in each row: else a reader sees pipes."""
    lines = (clean / "README.md").read_text().split("\n")
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if before.startswith("|") and after.startswith("|"):
            assert line.startswith("|"), (before, line, after)
        if line.startswith("|") and after.startswith("|"):
            assert line.replace(r"\|", "").count("|") == after.replace(r"\|", "").count("|"), (line, after)


def test_rendering_twice_gives_the_same_bytes(clean: Path) -> None:
    assert cards.render(clean, layout="timm") == (clean / "README.md").read_text()


def test_a_persons_text_is_kept_to_the_byte(clean: Path) -> None:
    person = {"limits": "Not for  X-rays.\n\n\n| a |\n\n| b |   \n", "about": "Made for the *museum*."}
    text = cards.render(clean, layout="timm", person=person, repo="me/zoo")
    kept = cards.person_text(text)
    assert kept == {"limits": person["limits"], "about": person["about"] + "\n"}
    assert cards.render(clean, layout="timm", person=kept, repo=cards.repo_of(text)) == text


def test_names_from_outside_are_no_markup(package: Path) -> None:
    evil = "</details><script>x</script> ![a](http://e.example/i.png) | `x` \n# heading\nlicense: mit"
    Card(license="mit", title=evil, dataset=evil).write(package / "evidence" / "card.json")
    text = cards.render(package, layout="timm")
    body = text.split("\n---\n", 1)[1]
    assert "<script" not in body.replace("\\<script", "")
    outside = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert "![a](" not in outside
    assert "`x`" not in body
    assert "\n# heading" not in text
    front = yaml.safe_load(cards.front_matter(text))
    assert front["license"] == "mit"
    assert "\n" not in front["model-index"][0]["name"]


def test_a_data_set_of_the_hub_is_named_as_one(package: Path) -> None:
    Card(license="mit", dataset="uoft-cs/cifar10").write(package / "evidence" / "card.json")
    front = yaml.safe_load(cards.front_matter(cards.render(package, layout="timm")))
    assert front["datasets"] == ["uoft-cs/cifar10"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "uoft-cs/cifar10"


def test_a_licence_without_an_identifier_has_its_name(package: Path) -> None:
    Card(license="other:dinov3-license").write(package / "evidence" / "card.json")
    front = yaml.safe_load(cards.front_matter(cards.render(package, layout="timm")))
    assert (front["license"], front["license_name"]) == ("other", "dinov3-license")


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1e-05, "b": -2.5e-300, "c": 0.1, "d": 3, "e": True, "f": None},
        {"a": "no", "b": "1e-3", "c": "12:30", "d": "true", "e": "- x", "f": "a: b", "g": "é✓", "h": "", "i": "#"},
        {"list": ["a", "b c"], "maps": [{"x": 1, "y": [1, 2]}, {"z": {"k": "v"}}], "empty": []},
    ],
)
def test_both_yamls_read_what_was_written(value: dict[str, object]) -> None:
    text = to_yaml(value)
    assert yaml.safe_load(text) == value
    assert load_yaml(text.encode(), "x").value == value


def test_a_newer_card_is_not_taken_for_a_false_one(clean: Path) -> None:
    text = (clean / "README.md").read_text().replace("hubtool card v2", "hubtool card v3")
    with pytest.raises(IntegrityError, match=r"template v3, this hubtool writes v2 – README\.md – update hubtool"):
        cards.repo_of(text)


def test_a_run_made_with_another_seed_has_another_card(clean: Path, tmp_path: Path) -> None:
    made.make_package(made.make_run(tmp_path / "run", seed=9), tmp_path / "package")
    assert (tmp_path / "package" / "README.md").read_text() != (clean / "README.md").read_text()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_run_of_several_processes_says_what_they_shared_and_how_batchnorm_was_trained(
    num_processes: int, package: Path
) -> None:
    path = package / "environment.json"
    environment = Environment.read(path)
    changed = environment.numerics.model_copy(update={"num_processes": num_processes})
    environment.model_copy(update={"numerics": changed}).write(path)
    text = cards.render(package, layout="timm", repo="me/shared")
    assert ("trained BatchNorm normalised over its micro-batch" in text) == (num_processes > 1)
