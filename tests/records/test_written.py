"""Resolve, data manifest, claims, registry, evidence: what is written down and what it means."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from hubtool.core.errors import HubtoolError, IntegrityError, UsageError
from hubtool.records.backbone import BackboneEntry, FileDigest, Origin, Preprocess
from hubtool.records.claims import Claim, judge, overall, tolerance_of
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.environment import Numerics, differences
from hubtool.records.evidence import Golden, Predictions
from hubtool.records.recipe_file import parse_recipe
from hubtool.records.registry import add_backbone, read_registry
from hubtool.records.resolve import resolve, resolve_preprocess

SHA = "0" * 64


def entry(**changes: object) -> BackboneEntry:
    fields: dict[str, object] = {
        "ref": "timm:resnet18.a1_in1k@" + "a" * 40,
        "library": "timm",
        "architecture": "resnet18",
        "origin": Origin(
            repo_id="timm/resnet18.a1_in1k",
            revision="a" * 40,
            files=(FileDigest(path="model.safetensors", size_bytes=3, sha256=SHA),),
        ),
        "preprocess": Preprocess(img_size=(224, 224)),
    }
    return BackboneEntry.model_validate(fields | changes)


def test_a_resolved_recipe_depends_on_recipe_and_backbone_alone() -> None:
    recipe = parse_recipe(b"backbone: timm:resnet18", "r")
    resolved = resolve(recipe, entry())
    elsewhere = Origin(**{**entry().origin.to_dict(), "directory": "/home/somebody", "files": entry().origin.files})
    assert resolve(recipe, entry(origin=elsewhere)).digest() == resolved.digest()
    louder = parse_recipe(b"backbone: timm:resnet18\nrun: {keep_checkpoints: 9}", "r")
    assert resolve(louder, entry()).digest() == resolved.digest()
    other = parse_recipe(b"backbone: timm:resnet18\ntrain: {epochs: 9}", "r")
    assert resolve(other, entry()).digest() != resolved.digest()
    assert b"/home" not in resolve(recipe, entry(ref="local:/home/somebody/net", origin=elsewhere)).to_json()


def test_preprocess_follows_the_backbone_unless_told() -> None:
    base = Preprocess(img_size=(224, 224), mean=(0.1, 0.2, 0.3))
    assert resolve_preprocess(parse_recipe(b"backbone: x", "r").data, base) == base
    grey = resolve_preprocess(parse_recipe(b"backbone: x\ndata: {in_chans: 1, img_size: 96}", "r").data, base)
    assert grey.img_size == (96, 96)
    assert grey.mean == pytest.approx((0.2,))


def test_the_data_digest_ignores_names_and_sees_content_split_and_target() -> None:
    def manifest(path: str, sha: str = SHA, split: str = "train", target: int = 0) -> DataManifest:
        return DataManifest(
            classes=("a",), splits={split: (Sample(path=path, sha256=sha, size_bytes=1, target=target),)}
        )

    digest = manifest("a/1.png").digest()
    assert manifest("b/other.png").digest() == digest
    assert manifest("a/1.png").without_names().digest() == digest
    assert b"1.png" not in manifest("a/1.png").without_names().to_json()
    others = [manifest("a", "1" * 64), manifest("a", split="val"), manifest("a", target=1)]
    assert digest not in {other.digest() for other in others}


def claim(value: float, metric: str = "top1") -> Claim:
    return Claim(
        metric=metric,
        split="val",
        value=value,
        tolerance=tolerance_of(metric, value, 100),
        num_samples=100,
        evidence="evidence/val.safetensors",
        evidence_sha256=SHA,
    )


def test_verdicts() -> None:
    assert judge(claim(0.9), 0.9).state == "exact"
    assert judge(claim(0.9), 0.88).state == "within tolerance"
    assert judge(claim(0.9), 0.7).state == "not reproduced"
    assert judge(claim(0.9), None, "no test split").state == "not checkable"
    assert tolerance_of("top1", 1.0, 100) > 0


def test_exact_needs_weights_and_numerics_too() -> None:
    same = (judge(claim(0.9), 0.9),)
    numerics = Numerics(device="cpu", cpu_capability="AVX2", num_threads=2, libraries={"torch": "2.15.0"})
    drift = differences(numerics, numerics.model_copy(update={"num_threads": 1}))
    assert [d.field for d in drift] == ["num_threads"]
    assert overall(same, weights_equal=True, numerics_differ=()) == "exact"
    assert overall(same, weights_equal=False, numerics_differ=()) == "within tolerance"
    assert overall(same, weights_equal=True, numerics_differ=drift) == "within tolerance"
    assert overall((), weights_equal=True, numerics_differ=()) == "not checkable"
    bad = (*same, judge(claim(0.9), 0.1))
    assert overall(bad, weights_equal=True, numerics_differ=()) == "not reproduced"


def test_evidence_round_trips_and_damage_is_named(tmp_path: Path) -> None:
    predictions = Predictions(
        split="val",
        samples=(SHA, "ab" * 32),
        targets=np.array([1, 0]),
        logits_NK=np.array([[0.5, 1], [2, -1]], np.float32),
    )
    path = tmp_path / "val.safetensors"
    predictions.write(path)
    again = Predictions.read(path)
    assert (again.split, again.samples, again.targets.tolist()) == ("val", predictions.samples, [1, 0])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="damaged"):
        Predictions.read(path)
    golden = Golden(
        input_seed=7,
        input_shape=(3, 64, 64),
        tensor_logits_BK=np.zeros((8, 2), np.float32),
        picture_logits_BK=np.ones((8, 2), np.float32),
    )
    golden.write(tmp_path / "golden.safetensors")
    assert Golden.read(tmp_path / "golden.safetensors").input_shape == (3, 64, 64)


def test_registry_writers_take_turns_and_strangers_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "registry.json"
    threads = [threading.Thread(target=add_backbone, args=(path, f"n{i}", entry())) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry = read_registry(path)
    assert registry is not None
    assert len(registry.backbones) == 8
    foreign = tmp_path / "registry.json"
    foreign.write_text('{"repositories": []}')
    assert read_registry(foreign) is None
    foreign.write_text('{"schema": "hubtool/registry/v7"}')
    with pytest.raises(UsageError, match="newer hubtool"):
        read_registry(foreign)


def test_a_damaged_record_names_its_field(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(
        '{"classes": ["a"], "splits": {"train": [{"path": "x", "sha256": "zz", "size_bytes": 1, "target": 0}]}}'
    )
    with pytest.raises(HubtoolError, match=r"splits\.train\.0\.sha256"):
        DataManifest.read(path)


def test_numerics_of_before_are_read() -> None:
    """Packages from then lie on hubs, and say a thing more that was always true."""
    now = Numerics(device="cpu", cpu_capability="AVX2", num_threads=2, libraries={"torch": "2.15.0"})
    before = now.to_json().replace(b'"device"', b'"is_deterministic":true,"device"')
    assert Numerics.from_json(before, "environment.json") == now
