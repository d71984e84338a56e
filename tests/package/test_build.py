"""Packing: whole or not at all, private by default, nothing but data inside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError, UsageError
from hubtool.core.files import safe_walk
from hubtool.package import build, check, licenses
from hubtool.package import card as cards
from hubtool.package.privacy import is_picture_free_plot, read_records
from hubtool.records.backbone import BackboneEntry
from hubtool.records.dataset import DataManifest
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result
from hubtool.records.rundir import RunDir
from package import made


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "own"))


def test_the_manifest_lists_every_file_and_nothing_else(clean: Path) -> None:
    manifest = build.read_manifest(clean)
    on_disk = {name for name, _ in safe_walk(clean)} - {"hubtool.json"}
    assert {f.path for f in manifest.files} == on_disk
    assert {"README.md", "model.safetensors", "config.json", "recipe.yaml", "logs/metrics.jsonl"} <= on_disk
    assert (manifest.base_model, manifest.license, manifest.layout) == ("timm/resnet18.a1_in1k", "apache-2.0", "timm")


def test_no_pixel_name_host_or_path_of_the_user_leaves(clean: Path) -> None:
    for name, path in safe_walk(clean):
        data = path.read_bytes()
        for private in (b"secret-name", b"/home/", b"secrethost", b"10.0.0.7", b"first-batch"):
            assert private not in data, name
            assert private.decode() not in name
    assert not (clean / "plots" / "predictions.png").exists()
    (events,) = (clean / "logs" / "tensorboard").iterdir()
    assert events.name == "events.out.tfevents.1763000000.hubtool.0"
    assert [r[12:-4] for r in read_records(events)] == [b"scalar loss 0.5", b"scalar top1 0.9"]


def test_pictures_and_names_leave_when_asked(run: Path, tmp_path: Path) -> None:
    manifest = made.make_package(run, tmp_path / "package", with_images=True, with_names=True)
    paths = {f.path for f in manifest.files}
    assert {"plots/predictions.png", "logs/first-batch.png"} <= paths
    assert DataManifest.read(tmp_path / "package" / "data.json").splits["val"][0].path is not None
    assert all(finding.is_ok for finding in check.verify(tmp_path / "package"))
    told = " ".join(build.shares(manifest))
    assert "file name" in told
    assert "pictures of the data" in told


@pytest.mark.parametrize(
    "name", ["plots/predictions.png", "plots/top_losses.svg", "plots/x/curves.png", "plots/curves.exe", "curves.png"]
)
def test_what_is_no_plot_of_numbers(name: str) -> None:
    assert not is_picture_free_plot(name)


def test_packing_again_gives_the_same_bytes_and_keeps_a_persons_text(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "package"
    first = made.make_package(run, target)
    assert made.make_package(run, target) == first
    text = (target / "README.md").read_text()
    end = "<!-- yours:end limits -->"
    (target / "README.md").write_text(text.replace(end, "Not for use at night.\n" + end))
    made.make_package(run, target)
    assert "Not for use at night.\n" + end in (target / "README.md").read_text()
    assert all(finding.is_ok for finding in check.verify(target))
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


def test_what_is_no_package_is_never_replaced(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("x")
    with pytest.raises(UsageError) as caught:
        made.make_package(run, target)
    assert caught.value.code == "E-PACK-OUT"
    assert (target / "chapter1.tex").read_text() == "x"


def test_a_failure_half_way_leaves_the_old_package_and_no_rubbish(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "package"
    made.make_package(run, target)
    before = {name: path.read_bytes() for name, path in safe_walk(target)}

    def fails(directory: Path) -> str:
        made.write_model(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make_package(run, target, write_model=fails)
    assert {name: path.read_bytes() for name, path in safe_walk(target)} == before
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


_KILLED = """
import os, sys
from pathlib import Path
from package import made
from hubtool.package import build

run, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_, **__: os.kill(os.getpid(), 9)
replace = os.replace

def second_rename(source, target):
    if Path(target) == run / "package":
        die()
    replace(source, target)

if moment == "renames":
    build.os.replace = second_rename
elif moment == "rubbish":
    build.shutil.rmtree = die
made.make_package(run, run / "package", **({"write_model": die} if moment == "model" else {}))
"""


@pytest.mark.parametrize("moment", ["model", "renames", "rubbish"])
def test_a_persons_text_survives_a_kill_at_any_moment_of_packing_again(moment: str, own_run: Path) -> None:
    target = own_run / "package"
    made.make_package(own_run, target)
    text = (target / "README.md").read_text()
    end = "<!-- yours:end limits -->"
    (target / "README.md").write_text(text.replace(end, "Not for use at night.\n" + end))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(own_run), moment], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.is_dir() == (moment != "renames")
    with RunDir(own_run).held():  # as the next finetune does
        pass
    made.make_package(own_run, target)
    assert "Not for use at night.\n" + end in (target / "README.md").read_text()
    assert {p.name for p in own_run.iterdir() if p.name.startswith(".")} == {".lock"}


@pytest.mark.parametrize("carrier", ["recipe.yaml", "config.json", "title"])
def test_a_secret_stops_the_packing(carrier: str, own_run: Path, tmp_path: Path) -> None:
    token = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    changes: dict[str, object] = {}
    if carrier == "recipe.yaml":
        (own_run / carrier).write_text(made.RECIPE + f"# {token}\n")
    elif carrier == "config.json":

        def leaks(directory: Path) -> str:
            layout = made.write_model(directory)
            (directory / "config.json").write_text(f'{{"x": "{token}"}}')
            return layout

        changes["write_model"] = leaks
    else:
        license_ = licenses.License(id="mit")
        changes["about"] = build.About(backbone=made.backbone_entry("mit"), license=license_, title=f"my {token}")
    with pytest.raises(SecurityError) as caught:
        made.make_package(own_run, tmp_path / "package", **changes)
    assert caught.value.code == "E-SEC-SECRET"
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("name", ["resolved.json", "data.json"])
def test_a_file_of_another_run_is_refused(name: str, own_run: Path, tmp_path: Path) -> None:
    if name == "resolved.json":
        resolved = ResolvedRecipe.read(own_run / name)
        train = resolved.train.model_copy(update={"seed": 7})
        resolved.model_copy(update={"train": train}).write(own_run / name)
    else:
        shutil.copyfile(made.make_run(tmp_path / "other", seed=5) / name, own_run / name)
    with pytest.raises(IntegrityError, match="is not that of the result"):
        made.make_package(own_run, tmp_path / "package")


def test_an_unfinished_run_has_no_result(own_run: Path, tmp_path: Path) -> None:
    (own_run / "result.json").unlink()
    with pytest.raises(NotFoundError):
        made.make_package(own_run, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_evidence_outside_the_run_is_not_fetched(own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("private")
    result = Result.read(own_run / "result.json")
    claims = tuple(c.model_copy(update={"evidence": "../outside"}) for c in result.claims)
    result.model_copy(update={"claims": claims}).write(own_run / "result.json")
    with pytest.raises(NotFoundError):
        made.make_package(own_run, tmp_path / "package")


def test_the_directory_of_a_local_backbone_stays_here(own_run: Path, tmp_path: Path) -> None:
    entry = made.backbone_entry().model_copy(update={"ref": "local:/home/someone/nets/my_net"})
    resolved = ResolvedRecipe.read(own_run / "resolved.json")
    backbone = resolved.backbone.model_copy(update={"ref": "local:my_net"})
    resolved = resolved.model_copy(update={"backbone": backbone})
    resolved.write(own_run / "resolved.json")
    result = Result.read(own_run / "result.json")
    digests = {"recipe_digest": resolved.digest(), "backbone_digest": backbone.digest()}
    result.model_copy(update=digests).write(own_run / "result.json")
    text = made.RECIPE.replace("timm:resnet18.a1_in1k", "local:/home/someone/nets/my_net   # mine")
    (own_run / "recipe.yaml").write_text(text)
    about = build.About(backbone=entry, license=licenses.License(id="apache-2.0"))
    made.make_package(own_run, tmp_path / "package", about=about)
    public = text.replace("/home/someone/nets/", "")
    assert (tmp_path / "package" / "recipe.yaml").read_text() == public
    assert BackboneEntry.read(tmp_path / "package" / "evidence" / "backbone.json").ref == "local:my_net"
    assert all(finding.is_ok for finding in check.verify(tmp_path / "package"))


def test_address_names_the_repository_and_is_idempotent(package: Path) -> None:
    first = build.address(package, "me/zoo", person={"about": "From the hub."})
    text = (package / "README.md").read_text()
    assert 'timm.create_model("hf-hub:me/zoo"' in text
    assert "hubtool reproduce me/zoo" in text
    assert "OWNER/NAME" not in text
    assert "From the hub." in text
    assert cards.repo_of(text) == "me/zoo"
    assert build.address(package, "me/zoo") == first
    assert all(finding.is_ok for finding in check.verify(package))


def test_address_refuses_a_card_edited_outside_the_markers(package: Path) -> None:
    path = package / "README.md"
    path.write_text(path.read_text().replace("| train | 140 |", "| train | 999 |"))
    with pytest.raises(IntegrityError) as caught:
        build.address(package, "me/zoo")
    assert caught.value.code == "E-CARD-MISMATCH"
    assert "999" in caught.value.line()
    assert "999" in path.read_text()


def test_results_on_a_data_set_of_the_hub_have_the_hubs_newer_form_too(run: Path, clean: Path, tmp_path: Path) -> None:
    license_ = licenses.License(id="apache-2.0")
    about = build.About(backbone=made.backbone_entry(), license=license_, dataset="uoft-cs/cifar10")
    target = tmp_path / "package"
    made.make_package(run, target, about=about)
    path = target / ".eval_results" / "hubtool.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    top1 = next(c for c in Result.read(target / "result.json").claims if c.metric == "top1")
    assert (entry.dataset_id, entry.task_id, entry.value) == ("uoft-cs/cifar10", "default", top1.value)
    assert all(finding.is_ok for finding in check.verify(target))
    path.write_text(path.read_text().replace("value: 0.", "value: 0.9"))
    assert [f.name for f in check.verify(target) if not f.is_ok] == [".eval_results/hubtool.yaml"] * 2
    assert not (clean / ".eval_results").exists()
