"""`hubtool registry list | add | check`, against real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hubtool.core.errors import ConflictError, IntegrityError, NotFoundError, SecurityError, UsageError
from hubtool.core.settings import BUNDLED
from hubtool.jobs.registry import add_registry, check_registry, list_registry
from hubtool.records.backbone import BackboneEntry, FileDigest, Origin, Preprocess
from hubtool.records.registry import Published, Registry, add_backbone, add_published, read_registry

_REVISION = "a" * 40
_REF = "timm:resnet18.a1_in1k"


@pytest.fixture
def mine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HUBTOOL_HOME's registry with one pulled backbone and one pushed repository; nothing in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = home / "registry.json"
    add_backbone(path, _REF, _pulled())
    add_published(path, _published())
    return path


def _pulled(sha256: str = "b" * 64) -> BackboneEntry:
    file = FileDigest(path="model.safetensors", size_bytes=1, sha256=sha256)
    return BackboneEntry(
        ref=f"{_REF}@{_REVISION}",
        library="timm",
        architecture="resnet18",
        origin=Origin(repo_id="timm/resnet18.a1_in1k", revision=_REVISION, files=(file,)),
        license="apache-2.0",
        num_params=11_689_512,
        preprocess=Preprocess(img_size=(224, 224)),
        digests_from="published",
    )


def _published(commit: str = "c" * 40) -> Published:
    return Published(repo_id="me/flowers", hub="local", commit=commit, license="apache-2.0")


def _wrong(path: Path | None) -> dict[str, str]:
    return {finding.name: finding.detail for finding in check_registry(path).findings if not finding.is_ok}


def test_list_merges_all_registries_the_first_counts(mine: Path, tmp_path: Path) -> None:
    Registry(backbones={"resnet18": _pulled("d" * 64)}).write(tmp_path / "registry.json")
    listing = list_registry()
    assert listing.backbones["resnet18"].origin.files[0].sha256 == "d" * 64
    assert _REF in listing.backbones and "test_resnet.fractal" in listing.backbones
    assert list(listing.backbones) == sorted(listing.backbones)
    assert list(listing.published) == ["me/flowers"]
    assert list(list_registry(mine).backbones) == [_REF]


def test_add_writes_the_entry_and_its_card_beside_the_registry(mine: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    (team / "model_cards").mkdir(parents=True)
    added = add_registry(_REF, path=team / "registry.json")
    assert added == {"name": "resnet18.a1_in1k", "registry": str(team / "registry.json")}
    add_registry("me/flowers", path=team / "registry.json")
    registry = read_registry(team / "registry.json")
    assert registry is not None
    assert registry.backbones == {"resnet18.a1_in1k": _pulled()} and registry.published == {"me/flowers": _published()}
    assert "apache-2.0" in (team / "model_cards" / "resnet18.a1_in1k.md").read_text()
    assert _wrong(team / "registry.json") == {}


def test_add_takes_a_registrys_name(mine: Path, tmp_path: Path) -> None:
    added = add_registry("resnet18", path=tmp_path / "team.json")
    registry = read_registry(tmp_path / "team.json")
    assert added["name"] == "resnet18" and registry is not None
    assert registry.backbones["resnet18"] == _pulled(), "the pulled entry, not the shipped one without digests"


@pytest.mark.parametrize(
    ("target", "error", "code"),
    [
        ("timm:resnet34.a1_in1k", NotFoundError, "E-REGISTRY-NOTPULLED"),
        ("resnet19", NotFoundError, "E-REF-404"),
        ("me/trees", NotFoundError, "E-REGISTRY-NOTPUSHED"),
        ("me/../trees", SecurityError, "E-REF-INVALID"),
        ("foo:bar", UsageError, "E-REF-SOURCE"),
    ],
)
def test_add_refuses_what_is_not_here(
    mine: Path, tmp_path: Path, target: str, error: type[Exception], code: str
) -> None:
    with pytest.raises(error) as caught:
        add_registry(target, path=tmp_path / "team.json")
    assert getattr(caught.value, "code", "") == code
    assert not (tmp_path / "team.json").exists()


def test_add_never_overwrites_another_programs_file(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"images": []}')
    with pytest.raises(UsageError):
        add_registry(_REF, path=path)
    assert path.read_text() == '{"images": []}'


def test_add_refuses_another_meaning_and_other_bytes(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "team.json"
    other = _pulled().model_copy(update={"ref": "timm:resnet18.a2_in1k"})
    Registry(backbones={"resnet18.a1_in1k": other}).write(path)
    with pytest.raises(ConflictError):
        add_registry(_REF, path=path)
    Registry(backbones={"resnet18.a1_in1k": _pulled("e" * 64)}).write(path)
    with pytest.raises(IntegrityError):
        add_registry(_REF, path=path)


def test_a_directory_of_this_machine_does_not_travel(mine: Path, tmp_path: Path) -> None:
    entry = _pulled().model_copy(update={"ref": "local:/data/net"})
    add_backbone(mine, "local:/data/net", entry)
    with pytest.raises(UsageError) as caught:
        add_registry("local:/data/net", path=tmp_path / "team.json")
    assert caught.value.code == "E-REGISTRY-LOCAL"


def test_check_hashes_the_files_again(mine: Path, tmp_path: Path) -> None:
    source = tmp_path / "net"
    shutil.copytree(BUNDLED / "backbones" / "test_resnet.fractal", source)
    shipped = list_registry().backbones["test_resnet.fractal"]
    entry = shipped.model_copy(update={"ref": f"local:{source}"})
    add_backbone(mine, "net", entry)
    assert _wrong(mine) == {}
    weights = source / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "want sha256" in _wrong(mine)["net"]
    weights.unlink()
    assert _wrong(mine)["net"] == "model.safetensors is missing"


def test_check_finds_each_disagreement_between_cards_and_registry(mine: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    cards = team / "model_cards"
    cards.mkdir(parents=True)
    path = team / "registry.json"
    add_registry(_REF, path=path)
    card = cards / "resnet18.a1_in1k.md"
    good = card.read_text()
    card.write_text(good + "\nWhat a person adds below is theirs.\n")
    assert _wrong(path) == {}
    card.write_text(good.replace("apache-2.0", "mit"))
    assert "apache-2.0" in _wrong(path)["model_cards/resnet18.a1_in1k.md"]
    card.write_text(good[:100])
    assert "model_cards/resnet18.a1_in1k.md" in _wrong(path)
    card.unlink()
    assert _wrong(path) == {"model_cards/resnet18.a1_in1k.md": "no card"}
    card.write_text(good)
    (cards / "stray.md").write_text("x")
    assert _wrong(path) == {"model_cards/stray.md": "a card without an entry"}


def test_check_finds_bad_names_and_claims(mine: Path) -> None:
    content = json.loads(mine.read_text())
    content["published"]["me/flowers"]["commit"] = "main"
    content["backbones"]["bad"] = content["backbones"][_REF] | {"ref": "timm:../../x"}
    empty = content["backbones"][_REF]["origin"] | {"files": []}
    content["backbones"]["empty"] = content["backbones"][_REF] | {"origin": empty}
    mine.write_text(json.dumps(content))
    assert set(_wrong(mine)) == {"me/flowers", "bad", "empty"}


def test_check_without_a_path_looks_at_all_that_are_read(mine: Path) -> None:
    names = {finding.name for finding in check_registry().findings}
    assert {_REF, "me/flowers", "test_resnet.fractal"} <= names


def test_check_of_no_registry_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        check_registry(tmp_path / "none.json")
