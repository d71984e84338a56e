"""lint, over a hub: the weights are never fetched."""

from __future__ import annotations

import json
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
    "ONNX export": (
        NEVER_THERE | {"safe weights", "class names", "card", "results"},
        "safe weights",
        "push the model.safetensors that it was made from beside it",
    ),
    "ONNX pointer": (BARE | {"safe weights", "card"}, "safe weights", "git lfs pull"),
    "adapter": (
        NEVER_THERE | {"class names", "card", "licence", "results"},
        "base model",
        'write into adapter_config.json "revision": the commit it was loaded from',
    ),
    "adapter of a directory": (
        BARE - {"architecture"} | {"safe weights", "card"},
        "base model",
        'write into adapter_config.json "base_model_name_or_path": "OWNER/NAME"',
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
    for shape, pickle in (
        ("timm without a card", "pytorch_model.bin"),
        ("adapter of a directory", "adapter_model.bin"),
    ):
        repository = Path(shutil.copytree(shapes / shape, tmp_path / shape))
        convert(repository / pickle)
        (repository / pickle).unlink()
        assert "safe weights" not in lacking(repository)
        assert (repository / "adapter_model.safetensors").exists() == shape.startswith("adapter")


def test_the_mends_of_an_adapter_mend_it(shapes: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(shapes / "adapter of a directory", tmp_path / "repository"))
    path = repository / "adapter_config.json"
    config = json.loads(path.read_text())
    for name, revision, what in (
        ("/content/drive/MyDrive/vit", "a" * 40, "nobody else has that directory"),
        (None, "a" * 40, "the backbone is not named"),
        ("google/vit-base-patch16-224-in21k", "main", "main can move"),
        ("google/vit-base-patch16-224-in21k", "a" * 40, ""),
    ):
        path.write_text(json.dumps(config | {"base_model_name_or_path": name, "revision": revision}))
        detail = lacking(repository).get("base model", "")
        assert (what in detail) if what else not detail
    # The card alone cannot tell: PEFT loads what adapter_config.json names. Class names have no other place than the card.
    path.write_text(json.dumps(config))
    (repository / "README.md").write_text(
        "---\nbase_model: google/vit-base-patch16-224-in21k\n---\nid2label={0: 'rose'}\n"
    )
    assert "base model" in lacking(repository)
    assert "class names" not in lacking(repository)


def lacking(repository: Path) -> dict[str, str]:
    return {f.name: f.detail for f in lint(repository).findings if not f.is_ok}


def test_what_is_not_there(hub: str) -> None:
    with pytest.raises(NotFoundError):
        lint("me/nothing", hub=hub)
