"""evaluate --out: what a person is told about the data, and what stands in the directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hubtool.cli import main
from hubtool.core.digests import sha256_file
from hubtool.core.errors import UsageError
from hubtool.data.images import draw_pictures
from hubtool.jobs.evaluate import evaluate
from hubtool.jobs.finetune import finetune
from hubtool.records.reports import Evaluation, Lookalikes
from hubtool.records.rundir import RunDir
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
    assert main.run([*words, "--out", str(tmp_path / "out")]) == 0
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
    assert main.run([*words, "--out", str(tmp_path / "again"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["evidence"] == str(tmp_path / "again")
    assert document["evaluation"]["twins"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on drawn pictures and its data."""
    place = tmp_path_factory.mktemp("drawn")
    for number, image in enumerate(draw_pictures(3, 24)):
        path = place / "data" / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    recipe = finished.write_recipe(place / "r.yaml")
    return Path(finetune(recipe, data=place / "data", run=place / "run", num_workers=0).run), place / "data"


def _new_pictures(root: Path, *, seed: int = 9, num: int = 12) -> Path:
    for number, image in enumerate(draw_pictures(seed, num)):
        path = root / "abc"[number % 3] / f"new-{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return root


def _lookalikes(run: Path, data: Path, out: Path, **how: Any) -> Lookalikes:
    report = evaluate(str(run), data=data, out=out, device="cpu", num_workers=0, **how)
    assert report.evaluation is not None
    found = Evaluation.read(out / "evaluation.json").lookalikes
    assert found is not None
    assert found == report.evaluation.lookalikes
    return found


def test_the_same_picture_in_another_file_is_named_as_likely(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    run, made_with = drawn
    data = _new_pictures(tmp_path / "new")
    first = {split: RunDir(run).data().splits[split][0] for split in ("train", "val")}
    Image.open(made_with / str(first["train"].path)).convert("RGB").save(data / "a/reencoded.jpg", quality=70)
    smaller = Image.open(made_with / str(first["val"].path))
    smaller.resize((smaller.width // 2, smaller.height // 2)).save(data / "b/smaller.png")
    Image.open(data / "c/new-02.png").save(data / "c/again.webp", quality=80)
    for name, colour in (("white", "white"), ("black", "black")):
        Image.new("RGB", (30, 30), colour).save(data / f"a/{name}.png")
    found = _lookalikes(run, data, tmp_path / "out")
    named = {(pair.path, pair.of, pair.split, pair.like) for pair in found.pairs if pair.of == "model"}
    assert named == {
        ("a/reencoded.jpg", "model", "train", str(first["train"].path)),
        ("b/smaller.png", "model", "val", str(first["val"].path)),
    }
    [here] = [pair for pair in found.pairs if pair.of == "evaluated"]
    assert {here.path, here.like} == {"c/again.webp", "c/new-02.png"}
    assert (found.num_even, found.unknown) == (2, "")
    assert all(0 <= pair.distance <= found.limit for pair in found.pairs)


def test_other_splits_of_the_directory_are_looked_through_too(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = drawn
    data = tmp_path / "new"
    _new_pictures(data / "test")
    _new_pictures(data / "train", seed=11)
    Image.open(data / "test/a/new-00.png").save(data / "train/b/copy.jpg", quality=85)
    shutil.copy(data / "test/c/new-02.png", data / "train/c/same.png")
    found = _lookalikes(run, data, tmp_path / "out")
    assert [(p.path, p.of, p.split, p.like) for p in found.pairs] == [
        ("test/a/new-00.png", "evaluated", "train", "train/b/copy.jpg")
    ]
    twins = Evaluation.read(tmp_path / "out/evaluation.json").twins
    assert [(twin.paths, twin.splits, twin.beside) for twin in twins] == [(("test/c/new-02.png",), (), ("train",))]


def test_what_of_the_models_own_data_is_not_here_is_said(
    drawn: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, made_with = drawn
    data = _new_pictures(tmp_path / "new")
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    part = Path(shutil.copytree(made_with, tmp_path / "part"))
    options = RunDir(moved).options()
    (part / str(RunDir(run).data().splits["train"][0].path)).unlink()
    options.model_copy(update={"data_dir": str(part)}).write(moved / "options.json")
    assert _lookalikes(moved, data, tmp_path / "a").unknown.startswith("1 of its pictures are not")
    shutil.rmtree(part)
    gone = _lookalikes(moved, data, tmp_path / "b")
    assert gone.unknown == "its data directory is not here any more"
    assert gone.compared == ("data (evaluated)",)
    words = ["evaluate", str(moved), "--data", str(data), "--device", "cpu", "--workers", "0", "--out"]
    assert main.run([*words, str(tmp_path / "c")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "not fully known, its data directory is not here any more" in text
