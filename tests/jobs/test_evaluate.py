"""evaluate --out: what a person is told about the data, and what stands in the directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from hubtool.cli.main import run
from hubtool.core.digests import sha256_file
from hubtool.core.errors import UsageError
from hubtool.jobs.evaluate import evaluate
from hubtool.records.reports import Evaluation
from jobs import finished


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """New pictures, one of them under a wrong label, one twice, one that was trained on, one under two labels."""
    root = finished.draw_pictures(tmp_path / "new", num=48)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        image = Image.open(path)
        image.putpixel((0, 0), (number, 0, 0))
        image.save(path)
    shutil.copy(root / "left/private-000.png", root / "left/again.png")
    shutil.copy(root / "middle/private-001.png", root / "right/other-label.png")
    (root / "middle/private-004.png").rename(root / "right/mislabelled.png")
    trained = RunData().first("train")
    shutil.copy(finished.data() / trained, root / trained.parent / "trained-on.png")
    return root


class RunData:
    def first(self, split: str) -> Path:
        from hubtool.records.rundir import RunDir

        return Path(str(RunDir(finished.run()).data().splits[split][0].path))


def test_wrong_labels_and_copies_are_named(data: Path, tmp_path: Path) -> None:
    report = evaluate(str(finished.run()), data=data, out=tmp_path / "out", device="cpu", num_workers=0)
    evaluation = report.evaluation
    assert evaluation is not None
    suspected = {one.path: one for one in evaluation.suspicions}
    wrong = suspected["right/mislabelled.png"]
    assert (wrong.given, wrong.suggested) == ("right", "middle")
    assert wrong.confidence > 0.5
    twins = {twin.paths: (twin.given, twin.splits) for twin in evaluation.twins}
    assert twins[("left/again.png", "left/private-000.png")] == (("left",), ())
    assert twins[("middle/private-001.png", "right/other-label.png")] == (("middle", "right"), ())
    [(paths, found)] = [(p, t) for p, t in twins.items() if t[1]]
    assert found[1] == ("train",) and paths[0].endswith("trained-on.png")
    assert len(twins) == 3


def test_the_directory_is_whole_and_says_what_it_holds(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    evaluate(str(finished.package()), data=data, out=out, device="cpu", num_workers=0)
    evaluation = Evaluation.read(out / "evaluation.json")
    there = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"evaluation.json"}
    assert {file.path for file in evaluation.files} == there
    assert all(sha256_file(out / file.path) == file.sha256 for file in evaluation.files)
    top1 = evaluation.metrics["top1"]
    assert top1.low is not None and top1.high is not None
    assert top1.low < top1.value < top1.high
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_would_be_overwritten_is_refused_before_anything_is_computed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="it is there already"):
        evaluate(str(finished.run()), data=data, out=out)
    with pytest.raises(UsageError, match="cannot lie in the data"):
        evaluate(str(finished.run()), data=data, out=data / "evidence")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_person_reads_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(finished.run()), "--data", str(data), "--device", "cpu", "--workers", "0"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "95 % interval" in text
    assert "labels are likely wrong (confident learning), the likeliest first:" in text
    copies = text[text.index("copies, byte for byte") :].splitlines()
    assert [line.split("  ")[0] for line in copies[1:4]] == [
        "also in the training data",
        "more than once here",
        "with labels that contradict",
    ]
    assert copies[3].split()[-2:] == ["1", "middle/private-001.png"]
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert run([*words, "--out", str(tmp_path / "again"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["evidence"] == str(tmp_path / "again")
    assert document["evaluation"]["twins"]
