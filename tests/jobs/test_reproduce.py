"""reproduce: from a hub into a fresh place, trained again; never a false pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import HfApi

from hubtool.backbones import export
from hubtool.core.errors import IntegrityError, UsageError
from hubtool.jobs.pack import golden_pictures
from hubtool.jobs.push import push
from hubtool.jobs.reproduce import reproduce
from hubtool.jobs.verify import verify
from hubtool.package import build
from hubtool.package import card as cards
from hubtool.package.facts import GOLDEN_NAME, WEIGHTS_NAME
from hubtool.package.tensors import packed_weights
from hubtool.records.evidence import Golden
from hubtool.records.package import MANIFEST_NAME
from hubtool.records.reports import Reproduction
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import RunOptions
from hubtool.server.embedded import EmbeddedHub
from jobs import blank, finished


@pytest.fixture(scope="module", autouse=True)
def _blank_plots() -> Iterator[None]:
    """In what is trained again: the package that other files share has its plots."""
    finished.package()
    with blank.plots():
        yield


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedHub(tmp_path_factory.mktemp("hub")) as embedded:
        yield embedded.url


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.package(), tmp_path / "package"))


def forge(package: Path, hub: str, repo: str) -> None:
    """Seal a changed package again, card and all, and put it on the hub past our own checks."""
    manifest = build.read_manifest(package)
    (package / "README.md").write_text(cards.render(package, layout=manifest.layout, repo=repo))
    manifest.model_copy(update={"files": build.file_digests(package)}).write(package / MANIFEST_NAME)
    upload(package, hub, repo)


def upload(package: Path, hub: str, repo: str) -> None:
    api = HfApi(endpoint=hub, token=False)
    api.create_repo(repo, private=False)
    api.upload_folder(repo_id=repo, folder_path=package)


def set_json(path: Path, *keys: str | int, value: object) -> None:
    tree = json.loads(path.read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(tree, sort_keys=True, separators=(",", ":")) + "\n")


def other_weights(package: Path) -> None:
    """The most careful forger: other weights, their digests, and golden logits measured on them."""
    path = package / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    _write_weights(package, tensors)


def nearly_the_weights(package: Path) -> None:
    """One weight a millionth off: no metric moves."""
    tensors = safetensors.numpy.load_file(package / "model.safetensors")
    tensors["fc.weight"] = tensors["fc.weight"].copy()
    tensors["fc.weight"][0, 0] *= 1 + 1e-6
    _write_weights(package, tensors)


def _write_weights(package: Path, tensors: dict[str, np.ndarray]) -> None:
    (package / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    packed = packed_weights(package)
    packed.write(package / WEIGHTS_NAME)
    set_json(package / "result.json", "weights_digest", value=packed.weights_digest)
    golden = Golden.read(package / GOLDEN_NAME)
    preprocess = ResolvedRecipe.read(package / "resolved.json").preprocess
    export.golden(
        package,
        pictures_BCHW=golden_pictures(golden.input_seed, preprocess),
        input_seed=golden.input_seed,
        input_shape=golden.input_shape,
    ).write(package / GOLDEN_NAME)


def a_target(package: Path) -> None:
    tree = json.loads((package / "data.json").read_text())
    samples = tree["splits"]["train"]
    samples[0]["target"] = (samples[0]["target"] + 1) % 3
    (package / "data.json").write_text(json.dumps(tree))


def a_label_everywhere(package: Path) -> None:
    """A target of the training data, with the data digest of the result brought in line."""
    from hubtool.records.dataset import DataManifest

    a_target(package)
    set_json(package / "result.json", "data_digest", value=DataManifest.read(package / "data.json").digest())


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "metric": (lambda p: set_json(p / "result.json", "claims", 0, "value", value=0.999), "result.json"),
    "tolerance": (lambda p: set_json(p / "result.json", "claims", 0, "tolerance", value=1.0), "result.json"),
    "seed": (lambda p: set_json(p / "resolved.json", "train", "seed", value=6), "resolved.json"),
    "recipe": (lambda p: set_json(p / "resolved.json", "train", "epochs", value=1), "resolved.json"),
    "data digest": (lambda p: set_json(p / "result.json", "data_digest", value="0" * 64), "data.json"),
    "target": (a_target, "data.json"),
    "label everywhere": (a_label_everywhere, "have another label here"),
    "weights digest": (
        lambda p: set_json(p / "result.json", "weights_digest", value="0" * 64),
        "evidence/weights.json",
    ),
    "parameters": (lambda p: set_json(p / "result.json", "num_params", value=7), "the numbers of parameters"),
    "trainable": (lambda p: set_json(p / "result.json", "num_trainable", value=7), "the numbers of parameters"),
    "frozen": (lambda p: set_json(p / "result.json", "is_frozen_equal", value=False), "is_frozen_equal is said False"),
    "weights": (other_weights, "packaged weights"),
    "weights, a little": (nearly_the_weights, "equal and are not"),
}


def test_exact_on_this_machine(package: Path, hub: str, tmp_path: Path) -> None:
    push(package, "me/bars", hub=hub, yes=True)
    report = reproduce("me/bars", data=finished.data(), hub=hub, out=tmp_path / "again")
    verdict = report.verdict
    assert (verdict.state, verdict.weights_equal, verdict.findings) == ("exact", True, ())
    assert {claim.state for claim in verdict.claims} == {"exact"}
    record = Reproduction.read(Path(report.report))
    assert record.measured_weights_digest == record.claimed_weights_digest
    assert Path(report.report).name == f"{record.id}.json"
    assert str(tmp_path) not in Path(report.report).read_text()
    assert report.run is not None
    assert not RunOptions.read(Path(report.run) / "options.json").use_cache, (
        "rows of the first training measure nothing"
    )
    again = reproduce("me/bars", data=finished.data(), hub=hub, out=tmp_path / "again")
    assert again.run != report.run, "a finished training is never taken for a new measurement"
    assert again.report == report.report


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_package_never_passes_for_exact(name: str, package: Path, hub: str, tmp_path: Path) -> None:
    change, wanted = FORGERIES[name]
    change(package)
    repo = f"forger/{name.replace(' ', '-').replace(',', '')}"
    forge(package, hub, repo)
    report = reproduce(repo, data=finished.data(), hub=hub, out=tmp_path / "again")
    assert any(wanted in finding for finding in report.verdict.findings), report.verdict.findings
    allowed = {"weights, a little": "within tolerance", "label everywhere": "not checkable"}
    assert report.verdict.state == allowed.get(name, "not reproduced")
    assert Path(report.report).is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "result.json", "recipe.yaml", "evidence/val.safetensors"])
def test_a_changed_byte_is_named_before_anything_else(name: str, package: Path, hub: str, tmp_path: Path) -> None:
    data = bytearray((package / name).read_bytes())
    data[-2] ^= 1
    (package / name).write_bytes(bytes(data))
    repo = f"broken/{name.replace('/', '-').replace('.', '-')}"
    upload(package, hub, repo)
    with pytest.raises(IntegrityError) as caught:
        reproduce(repo, data=finished.data(), hub=hub, out=tmp_path / "again")
    assert name in caught.value.line()
    assert not (tmp_path / "again" / "package").exists()


def test_missing_pictures_are_not_a_failure_but_no_pass_either(package: Path, hub: str, tmp_path: Path) -> None:
    push(package, "me/missing", hub=hub, yes=True)
    data = Path(shutil.copytree(finished.data(), tmp_path / "data"))
    next(data.rglob("*.png")).unlink()
    report = reproduce("me/missing", data=data, hub=hub, out=tmp_path / "again")
    assert report.verdict.state == "not checkable"
    assert report.run is None
    assert any("1 of" in finding and "are not here" in finding for finding in report.verdict.findings)


def test_other_numerics_are_told(package: Path, hub: str, tmp_path: Path) -> None:
    for name in ("environment.json", "result.json"):
        set_json(package / name, "numerics", "libraries", "torch", value="2.14.0")
    forge(package, hub, "me/older")
    report = reproduce("me/older", data=finished.data(), hub=hub, out=tmp_path / "again")
    assert report.verdict.state == "within tolerance"
    assert [(d.field, d.was) for d in report.verdict.numerics_differ] == [("libraries.torch", "2.14.0")]


def card_of(api: HfApi, repo: str, folder: Path) -> str:
    return Path(api.hf_hub_download(repo, "README.md", local_dir=folder)).read_text()


def test_a_reproduction_is_added_to_the_repository_once_and_survives_the_next_push(
    package: Path, hub: str, tmp_path: Path
) -> None:
    push(package, "me/shown", hub=hub, yes=True)
    report = reproduce("me/shown", data=finished.data(), hub=hub, out=tmp_path / "again", publish=True)
    name = f"reproductions/{Path(report.report).name}"
    api = HfApi(endpoint=hub, token=False)
    assert api.model_info("me/shown").sha == report.published
    assert name in api.list_repo_files("me/shown")
    fetched = Path(api.hf_hub_download("me/shown", name, local_dir=tmp_path / "one"))
    assert fetched.read_bytes() == Path(report.report).read_bytes()
    commits = api.list_repo_commits("me/shown")
    assert commits[0].title == f"Reproduction of {report.commit[:8]}: exact"
    assert commits[1].commit_id == report.commit, "record and card go in one commit"
    assert "**Reproduced by 1 of 1 attempt**" in card_of(api, "me/shown", tmp_path / "counted")
    assert verify("me/shown", hub=hub).is_ok
    text = (package / "README.md").read_text()
    end = "<!-- yours:end about -->"
    (package / "README.md").write_text(text.replace(end, f"Another word.\n{end}"))
    push(package, "me/shown", hub=hub, yes=True)
    assert "**Reproduced by 1 of 1 attempt**" in card_of(api, "me/shown", tmp_path / "pushed")
    assert name in api.list_repo_files("me/shown")
    assert verify("me/shown", hub=hub).is_ok


def test_a_persons_text_in_the_repository_survives_the_next_push(package: Path, hub: str, tmp_path: Path) -> None:
    push(package, "me/edited", hub=hub, yes=True)
    api = HfApi(endpoint=hub, token=False)
    end = "<!-- yours:end limits -->"
    text = Path(api.hf_hub_download("me/edited", "README.md", local_dir=tmp_path / "one")).read_text()
    edited = text.replace(end, f"Not at night.\n{end}").encode()
    api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="me/edited")
    assert verify("me/edited", hub=hub).is_ok
    push(shutil.copytree(finished.run(), tmp_path / "run"), "me/edited", hub=hub, yes=True)
    again = Path(api.hf_hub_download("me/edited", "README.md", local_dir=tmp_path / "two")).read_text()
    assert f"Not at night.\n{end}" in again
    assert verify("me/edited", hub=hub).is_ok


def test_it_never_writes_into_the_data(hub: str) -> None:
    with pytest.raises(UsageError):
        reproduce("me/bars", data=finished.data(), hub=hub, out=finished.data() / "again")


def test_a_reproduction_is_published_where_the_package_came_from(
    package: Path, hub: str, home: Path, tmp_path: Path
) -> None:
    push(package, "me/home", hub=hub, yes=True)  # the registry knows the hub from now on
    report = reproduce("me/home", data=finished.data(), out=tmp_path / "again", publish=True)
    assert report.published is not None
    assert HfApi(endpoint=hub, token=False).model_info("me/home").sha == report.published
