"""A torchvision backbone through the commands, from a mirror made here, and back: as a timm model, or by the card's loader."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from hubtool.backbones import export
from hubtool.hub.fetch import fetch_package
from hubtool.jobs import endpoint
from hubtool.jobs.finetune import finetune
from hubtool.jobs.lint import lint
from hubtool.jobs.pack import pack
from hubtool.jobs.predict import predict
from hubtool.jobs.pull import pull
from hubtool.jobs.push import push
from hubtool.jobs.reproduce import reproduce
from hubtool.jobs.verify import verify
from hubtool.package import build, check_evidence
from hubtool.package.facts import read_facts
from hubtool.package.snippets import REPO, for_package
from hubtool.records.backbone import Origin
from hubtool.records.evidence import Golden
from hubtool.records.package import Snippets
from hubtool.server.embedded import EmbeddedHub
from jobs import finished
from tests.hub.lying_hub import LyingHub

pytestmark = pytest.mark.usefixtures("blank_plots")

RECIPE = """
schema: hubtool/recipe/v1
backbone: torchvision:NAME
freeze: all
data: {img_size: 64, val_fraction: 0.25}
train: {epochs: 1, batch_size: 8, optimizer: {name: adamw, lr: 2e-3}, seed: 5}
run: {log: {tensorboard: false}}
"""
# A reader who has torchvision and safetensors: nothing else of this field may be imported.
READER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hubtool", "timm", "transformers", "huggingface_hub"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import warnings; warnings.simplefilter("ignore")
"""


def publish(name: str, root: Path) -> tuple[str, bytes]:
    """Random weights with running statistics that are not trivial, as torchvision publishes them: a pickled state_dict."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = root / "weights.pth"
    torch.save(model.state_dict(), path)
    data = path.read_bytes()
    return f"/models/{name}-{hashlib.sha256(data).hexdigest()[:8]}.pth", data


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def packed(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """Fine-tuned with weights from a mirror and packed when the mirror is gone."""
    place, data = publish(name, root)
    recipe = finished.write_recipe(root / "recipe.yaml", RECIPE.replace("NAME", name))
    with LyingHub({}, plain={place: data}) as mirror:
        url = mirror.url + place
        monkeypatch.setattr("hubtool.backbones.from_torchvision.locate", lambda *_: Origin(url=url))
        report = finetune(recipe, data=finished.data(), run=root / "run", num_workers=0, overrides=overrides)
        assert len(mirror.seen) == 1
    assert report.result.is_frozen_equal
    package = Path(pack(report.run).package)
    assert [finding for finding in verify(package).findings if not finding.is_ok] == []
    assert [finding.name for finding in lint(str(package)).findings if not finding.is_ok] == []
    return package


def logits_of(snippet: str, folder: Path, picture: Path) -> list[float]:
    """What the program of the card computes, in a process of its own where hubtool cannot be imported."""
    code = READER + for_package(snippet, "torchvision", str(folder), str(picture)) + "print(logits.tolist()[0])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    values: Any = done.stdout.splitlines()[-1]
    return [float(value) for value in values.strip("[]").split(",")]


def draw(path: Path) -> Path:
    from hubtool.data.images import draw_pictures

    draw_pictures(3, 1)[0].save(path)
    return path


def test_resnet18_comes_back_as_a_timm_model(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    package = packed("resnet18", at_home, monkeypatch)
    with EmbeddedHub(at_home / "hub") as hub:
        push(package, "me/bars", hub=hub.url, yes=True)
        fetched = pull("hf:me/bars", hub=hub.url)
        verdict = reproduce("me/bars", data=finished.data(), hub=hub.url, out=at_home / "again").verdict
    assert (verdict.state, verdict.findings) == ("exact", ())
    assert (fetched.entry.library, fetched.entry.architecture) == ("timm", "resnet18")
    model = timm.create_model(f"local-dir:{fetched.directory}", pretrained=True).eval()
    golden = Golden.read(package / "evidence" / "golden.safetensors")
    with torch.no_grad():
        logits = model(export.golden_input(golden.input_seed, golden.input_shape))
    assert torch.equal(logits, torch.from_numpy(golden.tensor_logits_BK))
    assert model.pretrained_cfg["label_names"] == ["left", "middle", "right"]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        pytest.param("mobilenet_v3_small", (), marks=pytest.mark.prove),
        ("shufflenet_v2_x0_5", ("head.type=mlp",)),
        pytest.param("shufflenet_v2_x0_5", ("head.type=cosine", "head.mode=append"), marks=pytest.mark.prove),
    ],
    ids=["linear", "mlp", "appended cosine"],
)
def test_others_come_back_by_the_cards_loader(
    name: str, overrides: tuple[str, ...], at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = packed(name, at_home, monkeypatch, *overrides)
    with EmbeddedHub(at_home / "hub") as hub:
        push(package, "me/bars", hub=hub.url, yes=True)
        with endpoint.reading(hub.url) as opened:
            fetch_package(opened, "me/bars", None, at_home / "fetched")
    snippets = Snippets.read(at_home / "fetched" / "evidence" / "snippets.json").snippets
    assert [snippet.library for snippet in snippets] == ["torchvision", "hubtool"]
    assert snippets[0].code.replace(REPO, "me/bars") in (at_home / "fetched" / "README.md").read_text()
    picture = draw(at_home / "picture.png")
    logits = np.array(logits_of(snippets[0].code, at_home / "fetched", picture))
    (prediction,) = predict("fetched", [picture])
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    classes = ["left", "middle", "right"]
    for label, score in prediction.scores:
        assert shares[classes.index(label)] == pytest.approx(score, abs=5e-3), "a resize of another library"
    _tamper(at_home / "fetched" / "config.json")
    facts = read_facts(at_home / "fetched", build.read_manifest(at_home / "fetched").layout)
    (finding,) = check_evidence.preprocessing(facts)
    assert finding.detail == "hubtool.preprocess is not that of resolved.json"


def _tamper(path: Path) -> None:
    config = json.loads(path.read_bytes())
    config["hubtool"]["preprocess"]["mean"][0] += 0.01
    path.write_text(json.dumps(config))
