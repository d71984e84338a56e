"""lint, over a hub: the weights are never fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from hubtool.core.errors import NotFoundError
from hubtool.jobs.convert import convert
from hubtool.jobs.lint import lint
from hubtool.jobs.push import push
from hubtool.server.embedded import EmbeddedHub
from jobs import finished, wild


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedHub(tmp_path_factory.mktemp("hub")) as embedded:
        yield embedded.url


def test_what_we_push_has_every_point(hub: str, tmp_path: Path) -> None:
    push(shutil.copytree(finished.package(), tmp_path / "package"), "me/bars", hub=hub, yes=True)
    report = lint("me/bars", hub=hub)
    assert [(f.name, f.detail) for f in report.findings if not f.is_ok] == []
    assert report.score == 100


def test_a_bare_pickle_is_told_and_left_where_it_is(hub: str, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub, token=False)
    api.create_repo("me/pickle", private=False)
    api.upload_file(path_or_fileobj=b"\x80\x04." * 4000, path_in_repo="model.pth", repo_id="me/pickle")
    report = lint("me/pickle", hub=hub)
    weights = next(f for f in report.findings if f.name == "safe weights")
    assert (weights.is_ok, weights.mend) == (False, "hubtool convert model.pth, and push that as model.safetensors")
    assert report.score < 20


NEVER_THERE = {"base model", "training data", "evidence", "recipe", "digests"}
BARE = NEVER_THERE | {"architecture", "class names", "preprocessing", "licence", "results"}

# shape → (what is found, a part of the mend of one of them)
FOUND: dict[str, tuple[set[str], str, str]] = {
    "timm push": (
        NEVER_THERE | {"no pickle beside", "class names", "card", "results"},
        "class names",
        'add "label_names": [3 names in the order of the outputs] to config.json',
    ),
    "timm without a card": (
        NEVER_THERE | {"safe weights", "card", "licence", "results"},
        "safe weights",
        "hubtool convert pytorch_model.bin",
    ),
    "transformers push": (
        NEVER_THERE | {"no pickle beside", "class names", "card"},
        "base model",
        "base_model_revision",
    ),
    "bare state_dict": (BARE | {"safe weights", "card"}, "safe weights", "hubtool convert model.pth"),
    "pickled model": (BARE | {"safe weights", "card"}, "licence", "license: apache-2.0"),
    "fastai export": (BARE | {"safe weights", "card"}, "safe weights", "safetensors.torch.save_file"),
    "PyTorchModelHubMixin": (BARE | {"card"}, "card", "More information needed"),
    "one sentence": (BARE | {"card"}, "preprocessing", "preprocessor_config.json"),
    "LFS pointers": (
        NEVER_THERE | {"safe weights", "class names", "preprocessing", "card", "results"},
        "safe weights",
        "git lfs pull",
    ),
    "remote code": (
        NEVER_THERE | {"no code", "preprocessing", "card", "licence", "results"},
        "no code",
        "an architecture of timm or transformers",
    ),
}
# Prints what the command prints; whatever unpickles or runs anything of the repository fails it.
HOOKED = """
import sys
def hook(event, args):
    if event == "pickle.find_class" or (event == "exec" and "wild" in str(args[0].co_filename)):
        raise AssertionError((event, args))
sys.addaudithook(hook)
from hubtool.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wild")
    os.environ["WILD_CANARY"] = str(root / "canary")
    for name, make in wild.SHAPES.items():
        (root / name).mkdir()
        make(root / name)
    return root


@pytest.mark.parametrize("shape", wild.SHAPES)
def test_what_libraries_push_is_found_as_it_is(shape: str, shapes: Path) -> None:
    wanted, rule, mend = FOUND[shape]
    report = lint(shapes / shape)
    assert {f.name for f in report.findings if not f.is_ok} == wanted
    assert mend in next(f.mend for f in report.findings if f.name == rule)
    assert report.score == sum(f.points for f in report.findings if f.is_ok)


def test_nothing_of_a_repository_is_run_and_the_list_fits_a_terminal(shapes: Path) -> None:
    for shape in wild.SHAPES:
        command = [sys.executable, "-c", HOOKED, "lint", str(shapes / shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= 80, lines
        kept = sum(int(line[:2]) for line in lines[:-1] if line[3:5] == "of")
        assert lines[-1] == f"{kept:2} of 100 points"
    assert not (shapes / "canary").exists()


def test_the_canary_sings_where_a_pickle_is_loaded(shapes: Path) -> None:
    torch.load(shapes / "pickled model" / "best.pt", weights_only=False)
    assert (shapes / "canary").exists()
    (shapes / "canary").unlink()


def test_the_mend_of_a_pickle_mends_it(shapes: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(shapes / "timm without a card", tmp_path / "repository"))
    convert(repository / "pytorch_model.bin")
    (repository / "pytorch_model.bin").unlink()
    assert "safe weights" not in {f.name for f in lint(repository).findings if not f.is_ok}


def test_what_is_not_there(hub: str) -> None:
    with pytest.raises(NotFoundError):
        lint("me/nothing", hub=hub)
