"""`hubtool search`: offline, over timm, torchvision and the registries, without importing them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hubtool.core.errors import IntegrityError, UsageError
from hubtool.jobs.search import search
from hubtool.records.backbone import BackboneEntry, FileDigest, Origin, Preprocess
from hubtool.records.catalogue import CATALOGUE, read_catalogue, write_catalogue
from hubtool.records.registry import Registry, add_backbone

_REVISION = "a" * 40
_FILE = FileDigest(path="model.safetensors", size_bytes=1, sha256="b" * 64)


@pytest.fixture(autouse=True)
def _nowhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No registry in the working directory, none under HUBTOOL_HOME: the shipped one alone."""
    monkeypatch.chdir(tmp_path)


def _pulled(ref: str, **changes: object) -> BackboneEntry:
    origin = Origin(repo_id="timm/resnet18.a1_in1k", revision=_REVISION, files=(_FILE,))
    values: dict[str, object] = {
        "ref": ref, "library": "timm", "architecture": "resnet18", "origin": origin,
        "preprocess": Preprocess(img_size=(224, 224)), "digests_from": "first_pull",
    }  # fmt: skip
    return BackboneEntry.model_validate(values | changes)


def test_all_of_both_libraries_are_there() -> None:
    found = search()
    sources = [entry.ref.partition(":")[0] for entry in found.rows]
    assert found.num_found == len(found.rows)
    assert sources.count("timm") >= 1826 and sources.count("torchvision") >= 111
    assert sources.count("bundled") == 1 and sources.count("hf") >= 4
    assert len({entry.ref for entry in found.rows}) == len(found.rows)


def test_the_example_of_the_help() -> None:
    found = search("vit", license="apache-2.0", max_params=30_000_000, sort="params")
    counts = [entry.num_params or 0 for entry in found.rows]
    assert counts == sorted(counts) and counts[0] > 0 and counts[-1] <= 30_000_000
    assert {entry.license for entry in found.rows} == {"apache-2.0"}
    assert "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k" in {entry.ref for entry in found.rows}
    assert not any("levit" in entry.ref or "mobilevit" in entry.ref for entry in found.rows)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("levit", "timm:levit_128.fb_dist_in1k"),
        ("RESNET18 a1", "timm:resnet18.a1_in1k"),
        ("obilevit", "timm:mobilevit_s.cvnets_in1k"),
        ("torchvision_resnet50", "torchvision:resnet50@IMAGENET1K_V2"),
        ("fractal", "bundled:test_resnet.fractal"),
        ("google vit", "hf:google/vit-base-patch16-224"),
    ],
)
def test_words_find_by_beginning_by_middle_and_by_a_registrys_name(text: str, wanted: str) -> None:
    assert wanted in {entry.ref for entry in search(text).rows}


def test_nothing_fits_nothing_found() -> None:
    assert search("no-such-model-anywhere") == search("resnet", max_params=1)
    assert search("resnet", max_params=1).num_found == 0


def test_source_size_and_unknown_licence() -> None:
    assert all(entry.ref.startswith("torchvision:") for entry in search(source="torchvision").rows)
    assert all(448 in entry.preprocess.img_size for entry in search(input_size=448).rows)
    assert {entry.license for entry in search(license="unknown").rows} == {None}
    assert search(license="Apache-2.0").num_found == search(license="apache-2.0").num_found > 1000


def test_licences_that_are_not_permissive_are_known_offline() -> None:
    permissive = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"}
    of_timm = search(source="timm").rows
    assert sum(entry.license not in permissive for entry in of_timm) >= 230
    assert {entry.license for entry in search("swag", source="torchvision").rows} == {"cc-by-nc-4.0"}


def test_sorting_and_limit() -> None:
    sizes = [max(entry.preprocess.img_size) for entry in search("swin", sort="size").rows]
    assert sizes == sorted(sizes)
    licences = [entry.license or "~" for entry in search("dino", sort="license").rows]
    assert licences == sorted(licences)
    limited = search("resnet", limit=3)
    assert len(limited.rows) == 3 and limited.num_found > 100
    with pytest.raises(UsageError) as caught:
        search(sort="age")  # type: ignore[arg-type]
    assert caught.value.code == "E-SEARCH-SORT"


def test_what_was_pulled_stands_for_the_catalogues_row_and_is_completed(home: Path) -> None:
    home.mkdir()
    add_backbone(home / "registry.json", "timm:resnet18.a1_in1k", _pulled(f"timm:resnet18.a1_in1k@{_REVISION}"))
    mine = [entry for entry in search("resnet18.a1").rows if entry.architecture == "resnet18"]
    assert [entry.ref for entry in mine] == [f"timm:resnet18.a1_in1k@{_REVISION}"]
    assert (mine[0].num_params, mine[0].num_features, mine[0].license) == (11_689_512, 512, "apache-2.0")
    assert mine[0].origin.files == (_FILE,)
    unpulled = _pulled("timm:resnet18.a1_in1k", origin=Origin(repo_id="timm/resnet18.a1_in1k"), digests_from=None)
    Registry(backbones={"resnet18": unpulled}).write(Path("registry.json"))
    assert search("resnet18.a1").rows[0].origin.files == (_FILE,), "a name without digests must not hide it"


def test_an_entry_of_another_hub_is_found_too(home: Path) -> None:
    home.mkdir()
    add_backbone(home / "registry.json", "ours", _pulled("hf:lab/ours", origin=Origin(repo_id="lab/ours")))
    assert [entry.ref for entry in search("ours").rows] == ["hf:lab/ours"]


def test_under_two_seconds_in_a_fresh_process_without_a_heavy_import(tmp_path: Path) -> None:
    code = (
        "import sys; from hubtool.jobs.search import search; assert search('vit').num_found > 100;"
        "print([m for m in ('torch', 'timm', 'torchvision', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ), cwd=tmp_path
    )
    assert time.monotonic() - start < 2.0
    assert done.stdout.strip() == "[]"


def test_a_damaged_catalogue_is_an_integrity_error(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    path.write_bytes(CATALOGUE.read_bytes()[:-100])
    with pytest.raises(IntegrityError):
        read_catalogue(path)
    path.write_bytes(CATALOGUE.read_bytes().replace(b"hubtool/catalogue/v1", b"hubtool/catalogue/v9", 1))
    with pytest.raises(IntegrityError):
        read_catalogue(path)


def test_the_catalogue_is_written_in_one_spelling() -> None:
    assert write_catalogue(read_catalogue()) == CATALOGUE.read_bytes()
