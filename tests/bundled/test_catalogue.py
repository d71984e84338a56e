"""The catalogue, registry.json and model_cards/ say what the installed libraries say, and agree with each other."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from hubtool.core.settings import PACKAGE
from hubtool.jobs.registry import check_registry
from hubtool.records.catalogue import read_catalogue
from hubtool.records.registry import read_registry

TOP = PACKAGE.parent

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit, of timm's and torchvision's imports
    from benchmarks import build_catalogue as build
    from benchmarks._curated import CURATED


@pytest.fixture
def _as_installed() -> None:
    """The catalogue was written from these versions; with others it may differ."""
    was, now = read_catalogue().versions, build.versions()
    if was != now:
        pytest.skip(f"the catalogue was written from {was}, installed are {now}")


@pytest.mark.usefixtures("_as_installed")
def test_the_catalogue_is_what_the_libraries_say() -> None:
    """Everything but the counts, for every model."""
    counts = {"num_params": None, "num_features": None}
    wanted = {ref: build.described(build.parse_backbone_ref(ref)) for ref in build.references()}
    found = {entry.ref: entry for entry in read_catalogue().entries}
    assert wanted.keys() == found.keys()
    for ref, entry in wanted.items():
        assert found[ref].model_copy(update=counts) == entry.model_copy(update=counts)


_SAMPLE = (
    "timm:resnet18.a1_in1k", "timm:efficientnet_b0.ra_in1k", "timm:vit_tiny_patch16_384.augreg_in21k_ft_in1k",
    "timm:vit_small_patch14_dinov2.lvd142m", "timm:repvgg_a2.rvgg_in1k", "timm:mobilenetv3_small_100.lamb_in1k",
    "torchvision:regnet_y_400mf@IMAGENET1K_V2", "torchvision:vgg11@IMAGENET1K_V1",
    "torchvision:squeezenet1_1@IMAGENET1K_V1", "torchvision:swin_t@IMAGENET1K_V1",
)  # fmt: skip


@pytest.mark.usefixtures("_as_installed")
def test_the_counts_of_a_sample_are_counted_again() -> None:
    found = {entry.ref: entry for entry in read_catalogue().entries}
    assert {entry.ref: entry for entry in build.build_catalogue(_SAMPLE).entries} == {r: found[r] for r in _SAMPLE}


@pytest.mark.prove
@pytest.mark.usefixtures("_as_installed")
def test_the_whole_catalogue_is_built_again() -> None:
    assert build.build_catalogue(build.references()).entries == read_catalogue().entries


def test_every_model_has_its_counts() -> None:
    """Only encoders without a head (NAME_enc) have no feature width."""
    entries = read_catalogue().entries
    assert all(entry.num_params for entry in entries)
    assert all(entry.architecture.endswith("_enc") for entry in entries if entry.num_features is None)


def test_registry_and_cards_agree() -> None:
    report = check_registry(TOP / "registry.json")
    assert report.is_ok, [finding for finding in report.findings if not finding.is_ok]
    assert sum(finding.name.startswith("model_cards/") for finding in report.findings) == len(CURATED)


def test_the_registry_is_what_its_script_writes() -> None:
    found = read_registry(TOP / "registry.json")
    assert found is not None
    assert found == build.build_registry(read_catalogue())


def test_the_registry_holds_what_it_promises() -> None:
    registry = read_registry(TOP / "registry.json")
    assert registry is not None
    entries = registry.backbones
    assert 25 <= len(entries) <= 30
    for family in (
        "resnet",
        "mobilenet",
        "convnext",
        "vit",
        "deit",
        "swin",
        "dinov2",
        *(f"efficientnet_b{n}" for n in range(8)),
    ):
        assert any(family in name for name in entries), family
    assert {entry.ref.partition(":")[0] for entry in entries.values()} == {"timm", "torchvision", "hf", "bundled"}
    for name, entry in entries.items():
        is_bundled = name == "test_resnet.fractal"
        assert entry.license and entry.num_params and entry.num_features, name
        assert entry.digests_from == ("published" if is_bundled else None)
        assert bool(entry.origin.files) == is_bundled
        assert entry.origin.revision is None and entry.origin.directory is None


def test_writing_cards_keeps_what_a_person_wrote_and_drops_strays(tmp_path: Path) -> None:
    registry = build.build_registry(read_catalogue())
    build.write_cards(registry, tmp_path)
    card = tmp_path / "resnet18.md"
    card.write_text(card.read_text() + "\nMine.\n")
    (tmp_path / "stray.md").write_text("x")
    build.write_cards(registry, tmp_path)
    assert card.read_text().endswith("\nMine.\n") and not (tmp_path / "stray.md").exists()
