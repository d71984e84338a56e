"""pack, on a real run: others load what it writes, and get the same logits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from hubtool.backbones import export
from hubtool.core.errors import ConflictError, IntegrityError, NotFoundError, SecurityError, UsageError
from hubtool.core.files import safe_walk
from hubtool.core.settings import BUNDLED
from hubtool.jobs.card import card
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import _run, golden_pictures, pack
from hubtool.package import build
from hubtool.package.snippets import PICTURE
from hubtool.records.evidence import Golden
from hubtool.records.package import Snippets
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import RunOptions
from hubtool.records.rundir import RunDir
from jobs import finished
from jobs.test_cached_backbones import Told


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.run(), tmp_path / "run"))


def test_unmodified_timm_and_transformers_give_the_golden_logits_and_the_class_names() -> None:
    import timm
    import transformers

    package = finished.package()
    golden = Golden.read(package / "evidence" / "golden.safetensors")
    x_BCHW = export.golden_input(golden.input_seed, golden.input_shape)
    pictures_BCHW = golden_pictures(golden.input_seed, ResolvedRecipe.read(package / "resolved.json").preprocess)
    model = timm.create_model(f"local-dir:{package}", pretrained=True).eval()
    other = transformers.AutoModelForImageClassification.from_pretrained(package).eval()
    with torch.no_grad():
        for x, wanted in ((x_BCHW, golden.tensor_logits_BK), (pictures_BCHW, golden.picture_logits_BK)):
            assert torch.equal(model(x), torch.from_numpy(wanted))
            # transformers maps the file: another alignment in memory may change the last bit of a kernel
            assert torch.allclose(other(x).logits, torch.from_numpy(wanted), rtol=0, atol=1e-6)
    assert model.pretrained_cfg["label_names"] == ["left", "middle", "right"]
    assert list(other.config.id2label.values()) == ["left", "middle", "right"]


def test_each_snippet_of_the_card_was_run() -> None:
    snippets = Snippets.read(finished.package() / "evidence" / "snippets.json").snippets
    assert [s.library for s in snippets] == ["timm", "transformers", "hubtool"]
    for snippet in snippets:
        assert snippet.output.strip() in ("left", "middle", "right")
        assert PICTURE in snippet.code
        assert snippet.code.strip() in card(finished.package())


def test_a_transformers_that_refuses_to_be_imported_is_left_out_and_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does beside a huggingface_hub that is too new for it."""

    class Refuse:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "transformers":
                raise ImportError("huggingface-hub>=1.5.0,<2.0 is required, but found 2.4.0\nTry: pip install -U")

    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    told = Told()
    package = Path(pack(run, out=tmp_path / "package", reporter=told).package)
    assert [s.library for s in Snippets.read(package / "evidence" / "snippets.json").snippets] == ["timm", "hubtool"]
    (line,) = [line for line in told.lines if "transformers" in line]
    assert line.endswith("cannot be imported here (huggingface-hub>=1.5.0,<2.0 is required, but found 2.4.0)")


def test_nothing_private_is_inside() -> None:
    for name, path in safe_walk(finished.package()):
        data = path.read_bytes()
        assert b"private-0" not in data, name
        assert str(finished.place()).encode() not in data, name


def test_the_directory_of_a_local_backbone_is_private(tmp_path: Path) -> None:
    nets = tmp_path / "nets" / "mine"
    shutil.copytree(BUNDLED / "backbones" / "test_resnet.fractal", nets)
    chosen = (f"backbone=local:{nets}", "train.epochs=1", "run.card.license=apache-2.0")
    recipe = finished.write_recipe(tmp_path / "recipe.yaml")
    report = finetune(recipe, data=finished.data(), run=tmp_path / "run", overrides=chosen, num_workers=0)
    package = Path(pack(report.run).package)
    assert (package / "logs" / "tensorboard").is_dir()
    for name, path in safe_walk(package):
        assert str(tmp_path).encode() not in path.read_bytes(), name


def test_a_package_lies_in_its_run_unless_told_otherwise(run: Path) -> None:
    report = pack(run)
    assert report.package == str(run / "package")
    assert report.num_files == len([*safe_walk(run / "package")])
    assert pack(run).weights_digest == report.weights_digest
    first = build.read_manifest(finished.package()).model_dump()
    assert build.read_manifest(run / "package").model_dump() == first, "packing is reproducible"


def test_a_run_in_use_is_not_packed(run: Path) -> None:
    with RunDir(run).held(), pytest.raises(ConflictError, match="in use"):
        pack(run)
    assert not (run / "package").exists()


@pytest.mark.parametrize("out", [".", "..", "logs/package", "checkpoints"])
def test_a_package_never_lies_over_its_run(out: str, run: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pack(run, out=run / out)
    assert caught.value.code == "E-PACK-OUT"


def test_an_unfinished_run_says_what_to_do(run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(NotFoundError, match="start its command again"):
        pack(run)


def test_a_looser_licence_is_refused_and_a_stricter_one_taken(run: Path) -> None:
    def choose(license_: str) -> None:
        options = RunOptions.read(run / "options.json")
        chosen = options.run.card.model_copy(update={"license": license_, "title": "Bars"})
        recipe_run = options.run.model_copy(update={"card": chosen})
        options.model_copy(update={"run": recipe_run}).write(run / "options.json")

    choose("cc0-1.0")
    with pytest.raises(UsageError, match=r"run\.card\.license"):
        pack(run)
    choose("gpl-3.0")
    pack(run)
    text = card(run / "package")
    assert 'license: "gpl-3.0"' in text
    assert "# Bars" in text


def test_the_licence_can_be_named_when_the_training_is_over(run: Path) -> None:
    recipe = finished.write_recipe(run.parent / "recipe.yaml")
    report = finetune(recipe, data=finished.data(), run=run, overrides=("run.card.license=mpl-2.0",), num_workers=0)
    assert report.status == "already"
    pack(run)
    assert 'license: "mpl-2.0"' in card(run / "package")


def test_weights_that_are_not_the_results_are_not_packed(run: Path) -> None:
    (path,) = [p for p in (run / "checkpoints").rglob("trainable.safetensors") if _is_selected(run, p)]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        pack(run)
    assert not (run / "package").exists()


def _is_selected(run: Path, path: Path) -> bool:
    selected = json.loads((run / "result.json").read_text())["selected"]["checkpoint"]
    return path.parent.name == selected


def test_a_secret_in_the_recipe_never_leaves(run: Path) -> None:
    with (run / "recipe.yaml").open("a") as stream:
        stream.write("# token hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567\n")
    with pytest.raises(SecurityError) as caught:
        pack(run)
    assert "recipe.yaml:" in caught.value.line()
    assert not (run / "package").exists()


def test_the_card_of_a_run_is_that_of_its_package() -> None:
    assert card(finished.run()) == card(finished.package())


def test_a_package_may_lie_in_a_folder_of_any_name(run: Path, tmp_path: Path) -> None:
    """The snippets, which name it, run there."""
    target = tmp_path / 'a "quoted" \\name' / "package"
    pack(run, out=target)
    snippets = Snippets.read(target / "evidence" / "snippets.json").snippets
    assert [s.library for s in snippets] == ["timm", "transformers", "hubtool"]


def test_a_snippet_that_is_no_program_is_one_line() -> None:
    with pytest.raises(IntegrityError, match="the timm snippet of the card fails: SyntaxError"):
        _run('print("a" b")', "timm")
