"""verify, on a real package: the model too, and the data if they are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.jobs.verify import verify
from hubtool.package import build
from hubtool.package.facts import WEIGHTS_NAME
from hubtool.package.tensors import packed_weights
from hubtool.records.package import MANIFEST_NAME
from jobs import finished


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.package(), tmp_path / "package"))


def reseal(package: Path) -> None:
    packed_weights(package).write(package / WEIGHTS_NAME)
    manifest = build.read_manifest(package)
    manifest.model_copy(update={"files": build.file_digests(package)}).write(package / MANIFEST_NAME)


def swap_outputs(package: Path) -> None:
    """The head's rows in another order: other weights that look as good."""
    path = package / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    reseal(package)


def test_a_package_and_its_run_are_fine() -> None:
    report = verify(finished.package(), data=finished.data())
    assert report.is_ok, report.findings
    details = {f.name: f.detail for f in report.findings}
    assert details["golden logits"] == "bit for bit"
    assert details["evaluated again: val/top1"].endswith("exact")
    assert verify(finished.run()).is_ok


def test_other_weights_do_not_give_the_golden_logits(package: Path) -> None:
    swap_outputs(package)
    wrong = {f.name: f.detail for f in verify(package).findings if not f.is_ok}
    assert list(wrong) == [WEIGHTS_NAME, "golden logits"]
    assert "off its golden logits" in wrong["golden logits"]


def test_with_data_the_claims_are_measured_again(package: Path) -> None:
    swap_outputs(package)
    wrong = [f.name for f in verify(package, data=finished.data()).findings if not f.is_ok]
    assert "evaluated again: val/top1" in wrong


def test_pictures_are_found_by_content_whatever_their_names(tmp_path: Path) -> None:
    for number, path in enumerate(sorted(finished.data().rglob("*.png"))):
        target = tmp_path / "renamed" / path.parent.name / f"{997 * number % 1000:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    Image.new("RGB", (8, 8)).save(tmp_path / "renamed" / "left" / "one-more.png")
    assert verify(finished.package(), data=tmp_path / "renamed").is_ok


def test_other_data_are_no_evidence(tmp_path: Path) -> None:
    data = Path(shutil.copytree(finished.data(), tmp_path / "data"))
    for path in data.rglob("*.png"):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    findings = [f for f in verify(finished.package(), data=data).findings if not f.is_ok]
    assert [f.name for f in findings] == ["data"]
    assert "12 of 12 pictures of val are not here" in findings[0].detail


def test_data_with_other_labels_are_told(tmp_path: Path) -> None:
    data = Path(shutil.copytree(finished.data(), tmp_path / "data"))
    (data / "left").rename(data / "x")
    (data / "right").rename(data / "left")
    (data / "x").rename(data / "right")
    findings = [f for f in verify(finished.package(), data=data).findings if not f.is_ok]
    assert "have another label here" in findings[0].detail


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a backbone"):
        verify("bundled:test_resnet.fractal")
    with pytest.raises(NotFoundError):
        verify(tmp_path)
