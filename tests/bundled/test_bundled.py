"""What travels with hubtool: recipes that parse, digits that are the published ones, a backbone that has learned something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hubtool.core.settings import BUNDLED
from hubtool.records.recipe_file import load_recipe

RECIPES = ("full", "gradual", "last-stage", "linear-probe")
BACKBONE = BUNDLED / "backbones" / "test_resnet.fractal"


def test_exactly_these_recipes_are_shipped() -> None:
    assert sorted(path.name for path in (BUNDLED / "recipes").iterdir()) == [f"{name}.yaml" for name in RECIPES]


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_parses_runs_offline_and_explains_itself(name: str) -> None:
    path = BUNDLED / "recipes" / f"{name}.yaml"
    recipe = load_recipe(path)
    assert recipe.backbone.ref == "bundled:test_resnet.fractal"
    first, *lines = path.read_text().splitlines()
    assert first.startswith(f"# {name}: ")
    assert sum("#" in line for line in lines) >= 5
    assert all(len(line) <= 120 for line in lines)


def test_the_recipes_differ_in_what_they_freeze() -> None:
    kinds = {name: load_recipe(BUNDLED / "recipes" / f"{name}.yaml") for name in RECIPES}
    assert {name: recipe.freeze.kind for name, recipe in kinds.items()} == {
        "full": "none", "gradual": "all", "last-stage": "through", "linear-probe": "all",
    }  # fmt: skip
    assert [step.through for step in kinds["gradual"].unfreeze] == ["stage3", "stage2", "none"]


def test_the_digits_are_scikit_learns_scaled_to_a_byte() -> None:
    from sklearn.datasets import load_digits

    wanted = load_digits()
    with np.load(BUNDLED / "digits" / "digits.npz", allow_pickle=False) as digits:
        images, labels = digits["images"], digits["labels"]
    assert images.dtype == np.uint8 and images.max() == 255
    assert np.array_equal(np.rint(images / 15.9375), wanted.images)
    assert np.array_equal(labels, wanted.target)


def test_the_notice_names_source_and_licence() -> None:
    notice = (BUNDLED / "digits" / "NOTICE.md").read_text()
    for words in ("10.24432/C50P49", "Alpaydin", "Kaynak", "CC BY 4.0", "creativecommons.org/licenses/by/4.0"):
        assert words in notice


def test_timm_loads_the_backbone_as_it_is() -> None:
    import timm
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    model = timm.create_model(f"local-dir:{BACKBONE}", pretrained=True)
    state = load_file(BACKBONE / "model.safetensors")
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with safe_open(BACKBONE / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    config = json.loads((BACKBONE / "config.json").read_text())
    assert (config["num_classes"], config["num_features"]) == (model.num_classes, model.num_features) == (100, 96)
    assert model.pretrained_cfg["license"] == "apache-2.0"
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 64, 64)


def test_its_features_beat_random_weights_and_raw_pixels() -> None:
    from benchmarks.probe_digits import measure

    shares = {name: {k: float(np.mean(v)) for k, v in row.items()} for name, row in measure(2).items()}
    assert shares["fractal"]["80/20"] >= 0.97
    assert shares["fractal"]["80/20"] > shares["random weights"]["80/20"] + 0.05
    assert shares["fractal"]["5 a class"] > shares["random weights"]["5 a class"] + 0.2
    assert shares["fractal"]["5 a class"] > shares["raw pixels"]["5 a class"]


def test_the_pictures_it_learned_from_are_drawn_by_their_seed() -> None:
    from benchmarks.pretrain_fractals import draw_class, draw_system

    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return draw_class(rng, draw_system(rng), 3)

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert draw(1).shape == (3, 64, 64) and draw(1).any(axis=(1, 2)).all()


@pytest.mark.prove
def test_the_figures_of_the_card_are_measured_again() -> None:
    from benchmarks.probe_digits import measure, table
    from hubtool.core.settings import shipped

    card = (shipped("model_cards") / "test_resnet.fractal.md").read_text()
    for line in table(measure()).splitlines()[2:]:
        for figure in line.split("|")[2:-1]:
            mean = float(figure.split("±")[0])
            claimed = [float(cell.split("±")[0].strip(" |")) for cell in card.split("|") if "±" in cell]
            assert min(abs(mean - value) for value in claimed) <= 0.3


@pytest.mark.prove
def test_pretraining_again_gives_features_as_good(tmp_path: Path) -> None:
    import benchmarks.probe_digits as probe
    from benchmarks.pretrain_fractals import main

    assert main(["--out", str(tmp_path / "again")]) == 0
    shares = probe.measure(3, backbone=tmp_path / "again")
    assert np.mean(shares["fractal"]["80/20"]) >= 0.975
