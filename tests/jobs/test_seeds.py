"""finetune --seeds: the run stays what it is, its claims get the band of several seeds, and the package says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtool.cli.main import run
from hubtool.core.errors import UsageError
from hubtool.jobs import seeds as jobs_seeds
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack
from hubtool.jobs.verify import verify
from hubtool.records.claims import tolerance_of
from hubtool.records.rundir import RunDir
from hubtool.records.seed_bands import SEEDS_NAME, Seeds
from jobs import finished

pytestmark = pytest.mark.usefixtures("blank_plots")

RECIPE = """
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
data: {img_size: 32, val_fraction: 0.25}
train: {epochs: 2, batch_size: 8, optimizer: {name: adamw, lr: 2e-3}, seed: 5}
run: {log: {tensorboard: false}}
"""


@pytest.fixture(scope="module")
def banded(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    place = tmp_path_factory.mktemp("seeds")
    recipe = finished.write_recipe(place / "recipe.yaml", RECIPE)
    plain = finetune(recipe, data=finished.data(), run=place / "run", device="cpu", num_workers=0)
    report = finetune(recipe, data=finished.data(), run=place / "run", device="cpu", num_workers=0, num_seeds=3)
    assert report.status == "already" and report.seeds and not plain.seeds
    assert report.result.weights_digest == plain.result.weights_digest
    assert [c.value for c in report.result.claims] == [c.value for c in plain.result.claims]
    return RunDir(place / "run")


def test_claims_have_the_band_of_four_seeds(banded: RunDir) -> None:
    seeds = Seeds.read(banded.path / SEEDS_NAME)
    result = banded.result()
    assert [one.seed for one in seeds.runs] == [5, 6, 7, 8]
    assert seeds.runs[0].metrics == {claim.metric: claim.value for claim in result.claims}
    losses = [one.metrics["loss"] for one in seeds.runs]
    assert len(set(losses)) == 4, "each seed is a training of its own"
    for claim in result.claims:
        band = seeds.band(claim.metric)
        by_rule = tolerance_of(claim.metric, claim.value, claim.num_samples)
        assert claim.tolerance == (by_rule if band is None else band.tolerance(claim.value))
    loss = next(claim for claim in result.claims if claim.metric == "loss")
    assert all(abs(value - loss.value) <= loss.tolerance for value in losses)


def test_a_seed_gives_what_a_run_of_it_gives(banded: RunDir, tmp_path: Path) -> None:
    recipe = finished.write_recipe(tmp_path / "recipe.yaml", RECIPE.replace("seed: 5", "seed: 7"))
    report = finetune(recipe, data=finished.data(), run=tmp_path / "run", device="cpu", num_workers=0)
    seeds = Seeds.read(banded.path / SEEDS_NAME)
    assert seeds.runs[2].metrics == {claim.metric: claim.value for claim in report.result.claims}


def test_what_is_done_is_not_done_again(banded: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(jobs_seeds, "_trained", refuse)
    before = (banded.path / SEEDS_NAME).read_bytes()
    recipe = banded.path.parent / "recipe.yaml"
    finetune(recipe, data=finished.data(), run=banded.path, device="cpu", num_workers=0, num_seeds=2)
    assert (banded.path / SEEDS_NAME).read_bytes() == before
    with pytest.raises(UsageError, match="give no band"):
        finetune(recipe, data=finished.data(), run=banded.path, device="cpu", num_workers=0, num_seeds=1)


def test_the_package_carries_and_checks_it(banded: RunDir, tmp_path: Path) -> None:
    package = Path(pack(banded.path, out=tmp_path / "package").package)
    assert verify(str(package)).is_ok
    card = (package / "README.md").read_text()
    assert "Trained with 4 seeds (evidence/seeds.json), the table is of seed 5:" in card
    assert "One more seed lies within the tolerance in 19 of 20 cases." in card
    seeds = Seeds.read(package / SEEDS_NAME)
    wider = seeds.runs[1].model_copy(update={"metrics": {**seeds.runs[1].metrics, "loss": 9.0}})
    seeds.model_copy(update={"runs": (seeds.runs[0], wider, *seeds.runs[2:])}).write(package / SEEDS_NAME)
    wrong = [f"{f.name}: {f.detail}" for f in verify(str(package)).findings if not f.is_ok]
    assert any("tolerance" in line for line in wrong), wrong
    swapped = (wider, seeds.runs[0], *seeds.runs[2:])
    seeds.model_copy(update={"runs": swapped}).write(package / SEEDS_NAME)
    wrong = [f"{f.name}: {f.detail}" for f in verify(str(package)).findings if not f.is_ok]
    assert any("its first run is not the one that is claimed" in line for line in wrong), wrong


def test_the_command(banded: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", str(banded.path.parent / "recipe.yaml"), "--data", str(finished.data())]
    assert run([*words, "--run", str(banded.path), "--device", "cpu", "--workers", "0", "--seeds", "3"]) == 0
    text = capsys.readouterr().out
    band = Seeds.read(banded.path / SEEDS_NAME).band("loss")
    assert band is not None
    assert text.splitlines()[-1].split() == ["val/loss", f"{band.mean:.4f}", f"{band.sd:.4f}"]
    assert "over 4 seeds" in text
    assert run([*words, "--seeds", "1"]) == 2
