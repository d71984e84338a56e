"""``pretrained: false`` through the commands: nothing is fetched, and the weights are a function of the recipe's seed."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import UsageError
from hubtool.core.settings import BUNDLED
from hubtool.jobs.card import card
from hubtool.jobs.finetune import finetune
from hubtool.jobs.lint import lint
from hubtool.jobs.pack import pack
from hubtool.jobs.pull import backbone_of
from hubtool.jobs.push import push
from hubtool.jobs.recipe import show_recipe
from hubtool.jobs.reproduce import reproduce
from hubtool.jobs.verify import verify
from hubtool.records.registry import read_registry
from hubtool.records.rundir import RunDir
from hubtool.server.embedded import EmbeddedHub
from jobs import finished

pytestmark = pytest.mark.usefixtures("blank_plots")

FRACTAL = BUNDLED / "backbones" / "test_resnet.fractal"
RECIPE = """
schema: hubtool/recipe/v1
backbone: {ref: "REF", pretrained: false}
freeze: {through: PART}
data: {img_size: 32, val_fraction: 0.25}
train: {epochs: 1, batch_size: 8, optimizer: {name: adamw, lr: 2e-3}, seed: 5}
run: {card: {license: mit}, log: {tensorboard: false}}
"""


@pytest.fixture(autouse=True)
def _offline(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.chdir(tmp_path)


def write(ref: str, part: str = "stage2") -> Path:
    return finished.write_recipe(Path("recipe.yaml"), RECIPE.replace("REF", ref).replace("PART", part))


def train(ref: str, name: str, *, part: str = "stage2", **options: Any) -> RunDir:
    recipe = write(ref, part)
    return RunDir(Path(finetune(recipe, data=finished.data(), run=Path(name), num_workers=0, **options).run))


@pytest.mark.parametrize(
    ("ref", "part", "layout"),
    [
        ("timm:test_vit", "block2", "timm"),
        pytest.param("torchvision:shufflenet_v2_x0_5", "stage2", "torchvision", marks=pytest.mark.prove),
    ],
)
def test_trained_packed_pushed_and_reproduced(ref: str, part: str, layout: str, home: Path, tmp_path: Path) -> None:
    run = train(ref, "run", part=part)
    report = pack(run.path)
    package = Path(report.package)
    assert report.layout == layout
    assert verify(package).is_ok
    text = card(package)
    assert "trained from random weights in the shape of" in text
    assert "pretraining" not in text
    assert "base_model" not in text.split("---")[1]
    assert "no weights of others" in text
    assert [finding.name for finding in lint(str(package)).findings if not finding.is_ok] == []
    with EmbeddedHub(tmp_path / "hub") as hub:
        push(package, "me/random", hub=hub.url, yes=True)
        verdict = reproduce("me/random", data=finished.data(), hub=hub.url, out=tmp_path / "again").verdict
    assert (verdict.state, verdict.findings) == ("exact", ())
    registry = read_registry(home / "registry.json")
    assert registry is not None
    assert not registry.backbones, "there is nothing of it to keep"
    assert not (home / "cache" / "url").exists()


@pytest.mark.prove
def test_the_seed_decides_and_two_processes_draw_the_same() -> None:
    first = train("timm:test_resnet", "one").result()
    again = train("timm:test_resnet", "two").result()
    other = train("timm:test_resnet", "three", overrides=("train.seed=6",)).result()
    shared = train("timm:test_resnet", "four", overrides=("train.grad_accum_steps=2",), num_processes=2).result()
    assert (first.weights_digest, first.initial_digest) == (again.weights_digest, again.initial_digest)
    assert other.initial_digest != first.initial_digest
    assert other.backbone_digest == first.backbone_digest
    assert shared.initial_digest == first.initial_digest
    assert shared.is_frozen_equal and shared.numerics.num_processes == 2


def test_a_directory_needs_its_config_alone_and_its_digest_counts(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(FRACTAL / "config.json", tmp_path / "mine")
    entry = backbone_of("local:mine", pretrained=False).entry
    assert [file.path for file in entry.origin.files] == ["config.json"]
    was = show_recipe(write("local:mine"))
    config = json.loads((FRACTAL / "config.json").read_text())
    config["model_args"] = {"act_layer": "gelu"}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    now = show_recipe(write("local:mine"))
    assert was.backbone.digest() != now.backbone.digest()
    assert train("local:mine", "run").result().is_frozen_equal


def test_the_licence_is_the_authors_to_name() -> None:
    """The shipped backbone's own licence goes with its weights, not with its shape."""
    run = train("bundled:test_resnet.fractal", "run", overrides=("run.card.license=null",))
    with pytest.raises(UsageError) as caught:
        pack(run.path)
    assert caught.value.code == "E-LICENSE-UNKNOWN"
