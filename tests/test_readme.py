"""The README does what it says: its tour and its Python block are run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hubtool.core.digests import sha256_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)
    assert found, language
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def _environ(place: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB", "HUBTOOL"))}
    user = place / "user"  # a home directory in which nothing may appear
    user.mkdir(exist_ok=True)
    return {
        **keep,
        "PATH": path,
        "HUBTOOL_HOME": str(place / "home"),
        "HOME": str(user),
        "XDG_CACHE_HOME": str(user / "cache"),
    }


def _run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    cwd = place / "work"
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        command, cwd=cwd, env=_environ(place), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def tour(place: Path) -> subprocess.CompletedProcess[str]:
    """The tour, run once: the demo, and a run pushed to the hub under HUBTOOL_HOME."""
    return _run(["bash", "-euo", "pipefail", "-c", _block("sh")], place)


def test_the_tour_runs_as_written(tour: subprocess.CompletedProcess[str], place: Path) -> None:
    assert tour.returncode == 0, tour.stderr[-3000:]
    assert tour.stdout.count("reproduced: exact") == 2
    assert "finished before, nothing to do" in tour.stdout
    assert "nothing was sent" in tour.stdout
    assert "Traceback" not in tour.stderr
    written = [str(p.relative_to(place)) for p in (place / "user").rglob("*") if p.is_file()]
    assert written == [], "files outside HUBTOOL_HOME and the working directory"


def test_the_demo_reaches_what_it_promises(tour: subprocess.CompletedProcess[str], place: Path) -> None:
    """Logistic regression on the raw pixels gives 96 to 97 %."""
    report = json.loads((place / "home" / "demo" / "finished.json").read_text())
    assert set(report) == {"backbone", "run", "package", "repo", "commit", "hub_root", "metrics", "reproduce", "wall_s"}
    assert report["repo"] == "demo/digits"
    assert report["reproduce"] == {"verdict": "exact"}
    assert report["metrics"]["val/top1"] >= 0.97


LOAD = """
import json, sys, timm, torch
from transformers import AutoModelForImageClassification
x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ours = timm.create_model("hf-hub:demo/digits", pretrained=True).eval()
theirs = AutoModelForImageClassification.from_pretrained("demo/digits").eval()
with torch.no_grad():
    assert torch.equal(ours(x), theirs(x).logits), "logits differ"
assert ours.pretrained_cfg["label_names"] == [str(n) for n in range(10)], ours.pretrained_cfg
assert [theirs.config.id2label[n] for n in range(10)] == [str(n) for n in range(10)]
"""


def test_strangers_load_what_was_pushed(tour: subprocess.CompletedProcess[str], place: Path) -> None:
    """In new processes with only HF_ENDPOINT set: timm, transformers and the hf command, unmodified."""
    assert tour.returncode == 0
    scripts = Path(sys.executable).parent
    serve = [str(scripts / "hubtool"), "serve", "--port", "0", "--json"]
    with subprocess.Popen(serve, env=_environ(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hub:
        try:
            assert hub.stdout is not None
            url = json.loads(hub.stdout.readline())["url"]
            environ = _environ(place) | {"HF_ENDPOINT": url, "HF_HOME": str(place / "stranger")}
            loaded = subprocess.run(
                [sys.executable, "-c", LOAD], env=environ, capture_output=True, text=True, check=False
            )
            assert loaded.returncode == 0, loaded.stderr[-3000:]
            target = place / "downloaded"
            command = [str(scripts / "hf"), "download", "demo/digits", "--local-dir", str(target)]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        finally:
            hub.terminate()
            hub.communicate(timeout=20)
    files = json.loads((target / "hubtool.json").read_text())["files"]
    assert {"model.safetensors", "config.json", "README.md", "result.json"} <= {file["path"] for file in files}
    for file in files:
        assert sha256_file(target / file["path"]) == file["sha256"], file["path"]


def test_the_python_block_runs_as_written(tour: subprocess.CompletedProcess[str], place: Path) -> None:
    assert tour.returncode == 0
    done = _run([sys.executable, "-c", _block("python")], place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val/top1" in done.stdout
    assert done.stdout.strip().endswith("True")


def test_every_command_the_readme_names_exists() -> None:
    from hubtool.cli.main import COMMANDS

    named = set(re.findall(r"\bhubtool ([a-z]+)\b", README)) - {"is", "on"}
    assert named <= set(COMMANDS), named - set(COMMANDS)
