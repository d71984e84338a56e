"""pull: each kind of source from hubs and mirrors made here; a second pull needs neither network nor torch."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError
from hubtool.core.settings import BUNDLED
from hubtool.jobs.pull import pull
from hubtool.records.backbone import Origin
from hubtool.records.registry import read_registry
from hubtool.server.embedded import EmbeddedHub
from tests.hub.lying_hub import COMMIT, Lies, LyingHub

FRACTAL = BUNDLED / "backbones" / "test_resnet.fractal"
FILES = {path.name: path.read_bytes() for path in FRACTAL.iterdir()}
TIMM = "timm:test_resnet.r160_in1k"
TIMM_REPO = "timm/test_resnet.r160_in1k"


@pytest.fixture(autouse=True)
def _home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A HUBTOOL_HOME and a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EmbeddedHub]:
    with EmbeddedHub(tmp_path / "root") as running:
        yield running


def publish(hub: EmbeddedHub, repo: str, files: dict[str, bytes]) -> str:
    from huggingface_hub import CommitOperationAdd

    api = HfApi(endpoint=hub.url, token=False)
    api.create_repo(repo)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
    return str(api.create_commit(repo, operations, commit_message="weights").oid)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_bundled(home: Path) -> None:
    report = pull("bundled:test_resnet.fractal")
    assert (report.is_new, report.directory) == (True, str(FRACTAL))
    assert {file.path for file in report.entry.origin.files} == set(FILES)
    assert report.entry.digests_from == "published"
    registry = read_registry(home / "registry.json")
    assert registry is not None
    assert registry.find("bundled:test_resnet.fractal") == report.entry
    assert not pull("bundled:test_resnet.fractal").is_new


def test_bundled_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull("bundled:test_resnet.fractal")
    shutil.copytree(BUNDLED / "backbones", tmp_path / "bundled" / "backbones")
    monkeypatch.setattr("hubtool.jobs.pull.BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr("hubtool.backbones.sources.BUNDLED", tmp_path / "bundled")
    flip(tmp_path / "bundled" / "backbones" / "test_resnet.fractal" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: want sha256"):
        pull("bundled:test_resnet.fractal")


def test_a_second_pull_imports_neither_torch_nor_the_client(home: Path) -> None:
    pull("bundled:test_resnet.fractal")
    code = (
        "import sys; from hubtool.jobs.pull import pull; r = pull('bundled:test_resnet.fractal');"
        "print(r.is_new, sorted({'torch', 'timm', 'huggingface_hub', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n"


def test_local_and_changed(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(FRACTAL, tmp_path / "mine"))
    first = pull("local:mine")
    assert first.entry.ref == f"local:{directory}"
    assert first.entry.digests_from == "first_pull"
    assert not pull(f"local:{directory}").is_new
    shutil.copyfile(directory / "config.json", directory / "model.safetensors.txt")
    flip(directory / "config.json")
    (directory / "config.json").write_bytes(FILES["config.json"] + b"\n")
    again = pull("local:mine")
    assert again.is_new
    assert again.entry.files_digest() != first.entry.files_digest()


@pytest.mark.parametrize(
    ("names", "code"), [([], "E-REF-WEIGHTS"), (["pytorch_model.bin"], "E-SEC-PICKLE"), (["a.pth"], "E-SEC-PICKLE")]
)
def test_local_without_safetensors(tmp_path: Path, names: list[str], code: str) -> None:
    (tmp_path / "mine").mkdir()
    for name in [*names, "config.json"]:
        (tmp_path / "mine" / name).write_bytes(FILES["config.json"])
    with pytest.raises(HubtoolError) as caught:
        pull("local:mine")
    assert caught.value.code == code


@pytest.mark.parametrize(("ref", "repo"), [(TIMM, TIMM_REPO), ("hf:ada/tiny", "ada/tiny")])
def test_from_a_hub_then_without_it(home: Path, tmp_path: Path, ref: str, repo: str) -> None:
    with EmbeddedHub(tmp_path / "root") as hub:
        commit = publish(hub, repo, {**FILES, "notes.txt": b"x"})
        report = pull(ref, hub=hub.url)
    assert report.entry.ref == f"{ref}@{commit}"
    assert (report.entry.origin.hub, report.entry.digests_from) == (hub.url, "published")
    directory = Path(report.directory or "")
    assert directory.is_relative_to(home / "cache")
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == FILES
    again = pull(ref)
    assert (again.entry, again.directory, again.is_new) == (report.entry, report.directory, False)
    assert pull(f"{ref}@{commit}").directory == report.directory


def test_a_transformers_repository_under_its_real_name(hub: EmbeddedHub, tmp_path: Path) -> None:
    """A tiny model of the type; the licence is the catalogue's, for config.json has none."""
    import torch
    import transformers

    from hubtool.backbones import sources

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, num_labels=5
    )
    made = transformers.ViTForImageClassification(config).eval()
    made.save_pretrained(tmp_path / "made")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "made")
    publish(hub, "google/vit-base-patch16-224", {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()})
    report = pull("hf:google/vit-base-patch16-224", hub=hub.url)
    entry = report.entry
    assert (entry.library, entry.architecture, entry.num_classes, entry.license) == (
        "transformers",
        "vit",
        5,
        "apache-2.0",
    )
    assert {file.path for file in entry.origin.files} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    model = sources.build(entry, Path(report.directory or ""), pretrained=True, preprocess=entry.preprocess)
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x_BCHW), made(x_BCHW).logits)


def test_the_recorded_hub_and_commit_are_used_to_heal_a_bad_cache(hub: EmbeddedHub) -> None:
    publish(hub, TIMM_REPO, FILES)
    report = pull(TIMM, hub=hub.url)
    weights = Path(report.directory or "") / "model.safetensors"
    flip(weights.resolve())
    HfApi(endpoint=hub.url, token=False).upload_file(
        path_or_fileobj=b"newer", path_in_repo="model.safetensors", repo_id=TIMM_REPO
    )
    again = pull(TIMM)
    assert again.entry == report.entry
    assert weights.read_bytes() == FILES["model.safetensors"]


def test_a_name_of_a_registry(hub: EmbeddedHub, tmp_path: Path) -> None:
    commit = publish(hub, TIMM_REPO, FILES)
    entry = pull(TIMM, hub=hub.url).entry.to_dict() | {"ref": TIMM, "digests_from": None}
    entry["origin"] |= {"files": [], "revision": None}
    registry = {"schema": "hubtool/registry/v1", "backbones": {"tiny": entry}, "published": {}}
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    assert pull("tiny").entry.ref == f"{TIMM}@{commit}"
    with pytest.raises(NotFoundError, match="did you mean tiny"):
        pull("tinny")


def test_another_programs_registry_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text('{"schema": 3}')
    assert pull("bundled:test_resnet.fractal").is_new


def test_other_bytes_at_the_same_commit_are_refused(home: Path) -> None:
    """The listing agrees with itself, but not with what the first pull recorded."""
    with LyingHub(dict(FILES), repo=TIMM_REPO) as liar:
        first = pull(TIMM, hub=liar.url)
        assert first.entry.origin.revision == COMMIT
        shutil.rmtree(home / "cache")
        liar.files["model.safetensors"] = FILES["model.safetensors"][:-1] + b"\xff"
        with pytest.raises(IntegrityError, match=r"model\.safetensors: want sha256"):
            pull(TIMM)
    registry = read_registry(home / "registry.json")
    assert registry is not None
    assert registry.find(TIMM) == first.entry


@pytest.mark.parametrize(
    ("files", "lies", "code"),
    [
        (FILES, Lies(body=lambda data: data[:-1] + b"?"), "E-INTEGRITY"),
        (FILES, Lies(head=lambda headers: headers.update({"ETag": '"../../evil"'})), "E-HUB-BADOID"),
        (FILES, Lies(answer=(404, {"X-Error-Code": "RepoNotFound"})), "E-HUB-404"),
        (FILES, Lies(answer=(401, {"X-Error-Code": "RepoNotFound"})), "E-HUB-401"),
        (FILES, Lies(answer=(403, {"X-Error-Code": "GatedRepo"})), "E-HUB-GATED"),
        ({"config.json": FILES["config.json"], "pytorch_model.bin": b"x"}, Lies(), "E-SEC-PICKLE"),
        ({**FILES, "config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}, Lies(), "E-SEC-REMOTE-CODE"),
        ({**FILES, "config.json": b"{}"}, Lies(), "E-CONFIG"),
    ],
    ids=["wrong bytes", "hostile etag", "not there", "private", "gated", "pickle only", "remote code", "mixin"],
)
def test_what_cannot_be_pulled_leaves_no_entry(home: Path, files: dict[str, bytes], lies: Lies, code: str) -> None:
    with LyingHub(files, lies=lies, repo="ada/tiny") as liar, pytest.raises(HubtoolError) as caught:
        pull("hf:ada/tiny", hub=liar.url)
    assert caught.value.code == code
    assert not (home / "registry.json").exists()


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(NotFoundError) as caught:
        pull(TIMM)
    assert (caught.value.code, caught.value.hint) == ("E-OFFLINE", "cached refs: none")


@pytest.mark.parametrize(
    ("ref", "exit_code"),
    [
        ("timm:resnet5O", 4),
        ("foo:resnet50", 2),
        ("nobody", 4),
        ("hf:org/../../x", 6),
        ("hf:a//b", 6),
        ("hf:" + "a/" + "b" * 100, 6),
        ("hf:ada/tiny.git", 6),
        ("hf:\u0430da/tiny", 6),
        ("timm:resnet18@", 2),
        ("local:", 2),
        ("local:nowhere", 4),
        ("bundled:nothing", 4),
    ],
)
def test_references_that_name_nothing(home: Path, ref: str, exit_code: int) -> None:
    with pytest.raises(HubtoolError) as caught:
        pull(ref, hub="http://127.0.0.1:9")
    assert caught.value.exit_code == exit_code
    assert "\n" not in caught.value.line()
    assert not (home / "registry.json").exists()


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Random weights as torchvision publishes them: a pickled state_dict. 4.7 MiB."""
    import torch
    import torchvision

    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path.read_bytes()


def test_torchvision_is_converted_once_and_healed(
    squeezenet: bytes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubtool.backbones import sources

    sha256 = hashlib.sha256(squeezenet).hexdigest()
    place = f"/models/squeezenet1_1-{sha256[:8]}.pth"
    with LyingHub({}, plain={place: squeezenet}) as mirror:
        monkeypatch.setattr("hubtool.backbones.from_torchvision.locate", lambda *_: Origin(url=mirror.url + place))
        report = pull("torchvision:squeezenet1_1")
        assert report.entry.ref == "torchvision:squeezenet1_1@IMAGENET1K_V1"
        assert [file.sha256 for file in report.entry.origin.files] == [sha256]
        assert report.entry.digests_from == "published"
        directory = Path(report.directory or "")
        assert directory == home / "cache" / "url" / sha256
        assert {path.name for path in directory.iterdir()} == {"model.safetensors", "converted.json"}
        before = (directory / "model.safetensors").read_bytes()
        assert not pull("torchvision:squeezenet1_1").is_new
        assert len(mirror.seen) == 1
        flip(directory / "model.safetensors")
        assert pull("torchvision:squeezenet1_1").entry == report.entry
        assert len(mirror.seen) == 2
        assert (directory / "model.safetensors").read_bytes() == before
    model = sources.build(report.entry, directory, pretrained=True, preprocess=report.entry.preprocess)
    assert sum(parameter.numel() for parameter in model.parameters()) == report.entry.num_params


def test_a_mirror_with_other_bytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own name and address, on the mirror that the setting names."""
    with LyingHub({}, plain={"/models/squeezenet1_1-b8a52dc0.pth": b"other"}) as mirror:
        monkeypatch.setenv("HUBTOOL_TORCHVISION_URL", f"{mirror.url}/models")
        with pytest.raises(IntegrityError, match="want sha256 b8a52dc0… got"):
            pull("torchvision:squeezenet1_1")
    assert not (home / "registry.json").exists()


def test_a_pickle_of_a_repository_only_when_asked_and_in_a_child(hub: EmbeddedHub, tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    path = tmp_path / "pytorch_model.bin"
    torch.save(safetensors.torch.load(FILES["model.safetensors"]), path)
    publish(hub, "ada/old", {"config.json": FILES["config.json"], "pytorch_model.bin": path.read_bytes()})
    with pytest.raises(HubtoolError) as caught:
        pull("hf:ada/old", hub=hub.url)
    assert (caught.value.exit_code, "--convert-isolated" in caught.value.hint) == (6, True)
    report = pull("hf:ada/old", hub=hub.url, convert_isolated=True)
    directory = Path(report.directory or "")
    assert {path.name for path in directory.iterdir()} == {"model.safetensors", "config.json", "converted.json"}
    assert safetensors.torch.load_file(directory / "model.safetensors").keys()
    assert pull("hf:ada/old").directory == report.directory


def test_a_pickle_in_a_directory_the_same_way(home: Path, tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_bytes(FILES["config.json"])
    state = safetensors.torch.load(FILES["model.safetensors"])
    torch.save(state, tmp_path / "mine" / "weights.pth")
    report = pull("local:mine", convert_isolated=True)
    directory = Path(report.directory or "")
    assert directory.is_relative_to(home / "cache")
    assert safetensors.torch.load_file(directory / "model.safetensors").keys() == state.keys()
    assert not pull("local:mine").is_new
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "mine" / "weights.pth")
    assert pull("local:mine", convert_isolated=True).entry.files_digest() != report.entry.files_digest()


def test_a_pickle_that_runs_code_is_refused_unrun(hub: EmbeddedHub, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (canary,)

    publish(hub, "ada/evil", {"config.json": FILES["config.json"], "pytorch_model.bin": pickle.dumps({"w": Evil()})})
    with pytest.raises(HubtoolError) as caught:
        pull("hf:ada/evil", hub=hub.url, convert_isolated=True)
    assert caught.value.exit_code in (5, 6)
    assert not canary.exists()
