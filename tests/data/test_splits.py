"""What trains and what validates, and that nothing damaged ever does."""

from __future__ import annotations

import hashlib
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.made import Heard, encoded, folders, picture
from data.test_images import bomb
from hubtool.core.errors import DataError, SecurityError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.data import splits
from hubtool.records.dataset import DataManifest
from hubtool.records.tasks import TaskName


def index(
    root: Path,
    *,
    task: TaskName = "classification",
    labels: str = "folders",
    val_fraction: float = 0.2,
    skip_bad: int = 0,
    num_workers: int = 0,
    reporter: Reporter = SILENT,
    is_strict: bool = False,
) -> DataManifest:
    return splits.index_data(
        root,
        task=task,
        labels=labels,
        val_fraction=val_fraction,
        in_chans=3,
        skip_bad=skip_bad,
        num_workers=num_workers,
        reporter=reporter,
        is_strict=is_strict,
    )


def paths(manifest: DataManifest, split: str) -> set[str]:
    return {str(sample.path) for sample in manifest.splits[split]}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_by_sha256_of_each_class_validate(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 10, "b": 7, "c": 2, "d": 1})
    manifest = index(root)
    for name, num, num_val in (("a", 10, 2), ("b", 7, 1), ("c", 2, 1), ("d", 1, 0)):
        ordered = sorted((root / name).iterdir(), key=sha256)
        assert {f"{name}/{p.name}" for p in ordered[:num_val]} == {p for p in paths(manifest, "val") if p[0] == name}
        assert sum(p[0] == name for p in paths(manifest, "train")) == num - num_val
    for samples in manifest.splits.values():
        assert list(samples) == sorted(samples, key=lambda s: (s.sha256, s.path))
        for sample in samples:
            assert sha256(root / str(sample.path)) == sample.sha256
            assert sample.size_bytes == (root / str(sample.path)).stat().st_size
            assert manifest.classes[int(sample.target)] == str(sample.path)[0]  # type: ignore[arg-type]


@given(st.integers(2, 500), st.floats(0.001, 0.999))
@hypothesis_settings(database=None, deadline=None)
def test_the_number_that_validates(num: int, fraction: float) -> None:
    found = splits.num_val(num, fraction)
    assert 1 <= found <= num - 1
    if 1 <= num * fraction <= num - 1:
        assert abs(found - num * fraction) <= 0.5


def test_halves_go_up() -> None:
    assert [splits.num_val(n, 0.5) for n in (2, 3, 5, 7)] == [1, 2, 3, 4]
    assert splits.num_val(5, 0.1) == 1 and math.isclose(5 * 0.1, 0.5)


def test_renaming_and_moving_change_nothing(tmp_path: Path) -> None:
    root = folders(tmp_path / "one", {"a": 8, "b": 8})
    other = tmp_path / "two"
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        target = other / path.parent.name / "deep" / f"{random.Random(number).random()}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert index(root).digest() == index(other).digest()
    assert index(root).splits["val"] != index(other).splits["val"], "only the names differ"


def test_copies_stay_together(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 10, "b": 10})
    for path in sorted((root / "a").iterdir()):
        shutil.copy(path, root / "a" / f"copy-{path.name}")
    manifest = index(root)
    assert manifest.num_leaked == 0
    assert sum(p[0] == "a" for p in paths(manifest, "val")) == 4, "two of ten contents, each twice"


def test_given_splits_are_taken_and_test_is_not_trained_on(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1, "test/a": 2, "test/b": 1})
    manifest = index(root)
    assert {split: len(samples) for split, samples in manifest.splits.items()} == {"train": 8, "val": 2, "test": 3}
    shutil.rmtree(root / "val")
    manifest = index(root)
    assert {split: len(samples) for split, samples in manifest.splits.items()} == {"train": 6, "val": 2, "test": 3}
    assert all(p.startswith("train/") for p in paths(manifest, "train") | paths(manifest, "val"))


def test_leaks_are_counted_warned_of_or_refused(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    shutil.copy(root / "train/a/0.png", root / "val/a/again.png")
    heard = Heard()
    assert index(root, reporter=heard).num_leaked == 1
    assert heard.warned == [
        "E-DATA-LEAK 1 files stand in train and in another split; first: val/a/again.png is train/a/0.png"
    ]
    with pytest.raises(DataError) as caught:
        index(root, is_strict=True)
    assert caught.value.code == "E-DATA-LEAK"


def test_one_picture_under_two_classes_is_told(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})
    shutil.copy(root / "a/0.png", root / "b/same.png")
    heard = Heard()
    index(root, reporter=heard)
    assert "1 pictures stand under more than one label" in heard.warned


@pytest.mark.parametrize(("task", "column"), [("classification", "label"), ("regression", "target")])
def test_one_content_under_two_labels_has_an_order_that_no_file_name_decides(
    task: TaskName, column: str, tmp_path: Path
) -> None:
    manifests = []
    for one, other in ("ab", "ba"):
        root = tmp_path / one
        root.mkdir()
        lines = [f"file_name,split,{column}"]
        for seed in range(6):
            for name, label in ((one, 1), (other, 2)):
                picture(seed).save(root / f"{name}{seed}.png")
                lines.append(f"{name}{seed}.png,{'val' if seed < 3 else 'train'},{label}")
        (root / "table.csv").write_text("\n".join(lines) + "\n")
        manifests.append(index(root, task=task, labels="table.csv"))
    assert manifests[0].digest() == manifests[1].digest()
    assert manifests[0].without_names() == manifests[1].without_names()


def test_imbalance_gets_one_hint(tmp_path: Path) -> None:
    heard = Heard()
    index(folders(tmp_path / "even", {"a": 10, "b": 1}), reporter=heard)
    assert not heard.said
    index(folders(tmp_path / "odd", {"a": 11, "b": 1}), reporter=heard)
    assert len(heard.said) == 1 and heard.said[0].startswith("hint: a has 11 pictures, b 1;")


def test_damaged_pictures_are_listed(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 8, "b": 8})
    data = (root / "a/7.png").read_bytes()
    (root / "a/7.png").write_bytes(data[:-174])
    (root / "b/2.png").write_bytes(b"")
    (root / "b/5.png").write_bytes(b"<html>")
    for num_workers in (0, 2):
        with pytest.raises(DataError) as caught:
            index(root, num_workers=num_workers)
        error = caught.value
        assert error.line() == (
            "error[E-DATA-DECODE] 3 of 16 files; first: a/7.png (truncated, 174 bytes short)"
            " – repair or remove them, or allow it with --skip-bad 3"
        )
        assert error.hint == "next: b/2.png (empty, 0 bytes); b/5.png (no picture in a known format)"
        assert error.exit_code == 3


def test_skip_bad_is_a_limit_and_is_written_down(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 5, "b": 5})
    (root / "a/1.png").write_bytes(b"")
    (root / "a/2.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 10 files"):
        index(root, skip_bad=1)
    heard = Heard()
    manifest = index(root, skip_bad=2, reporter=heard)
    assert [(s.path, s.reason) for s in manifest.skipped] == [
        ("a/1.png", "empty, 0 bytes"),
        ("a/2.png", "empty, 0 bytes"),
    ]
    assert sum(len(samples) for samples in manifest.splits.values()) == 8
    assert heard.warned == ["2 damaged pictures are left out (--skip-bad 2)"]
    for name in ("0", "3", "4"):
        (root / f"a/{name}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        index(root, skip_bad=9)
    assert (caught.value.code, caught.value.where) == ("E-DATA-EMPTYCLASS", "a/")


def test_a_bomb_has_its_own_code(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})
    (root / "a/0.png").write_bytes(bomb(10_000, 10_000))
    for num_workers in (0, 1):
        with pytest.raises(DataError, match="10000x10000") as caught:
            index(root, num_workers=num_workers)
        assert caught.value.code == "E-DATA-BOMB"


def test_conversions_are_counted(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})
    for number in range(3):
        (root / f"a/grey{number}.png").write_bytes(encoded(picture(90 + number, mode="L")))
    (root / "b/clear.png").write_bytes(encoded(picture(99, mode="RGBA")))
    assert index(root).conversions == {"alpha over white": 1, "grey": 3}


def test_a_file_without_the_right_to_read_it(tmp_path: Path) -> None:
    """Tried as a user without rights where the tests run as root, to whom every file is readable."""
    root = folders(tmp_path / "data", {"a": 9, "b": 9})
    (root / "a/1.png").chmod(0)
    code = (
        "import sys, os; from pathlib import Path\n"
        "from hubtool.data import splits; from hubtool.core.progress import SILENT\n"
        "from hubtool.core.errors import DataError\n"
        "import encodings.idna\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: splits.index_data(Path(sys.argv[1]), task='classification', labels='folders', val_fraction=.2, in_chans=3,"
        " num_workers=0, reporter=SILENT)\n"
        "except DataError as error: print(error.line(), error.exit_code)"
    )
    for directory in (tmp_path, *tmp_path.parents):
        if directory == Path("/") or directory.stat().st_uid != os.getuid():
            break
        directory.chmod(directory.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=False)
    if "Permission denied" in done.stderr and os.getuid() == 0:
        pytest.skip("the interpreter itself is not readable for another user")
    assert done.stdout.strip() == "error[E-DATA-UNREADABLE] cannot be read: Permission denied – a/1.png 3", done.stderr


def test_classes_that_do_not_fit_the_task(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 2})
    with pytest.raises(DataError, match="one class only: a/"):
        index(root)
    folders(root, {"b": 2, "c": 2}, first_seed=50)
    with pytest.raises(DataError, match="binary needs two classes, the data has 3: a, b, c"):
        index(root, task="binary")
    for task in ("multilabel", "regression"):
        with pytest.raises(DataError, match="needs a table"):
            index(root, task=task)  # type: ignore[arg-type]


def test_a_class_that_train_does_not_have(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dgo": 1})
    with pytest.raises(DataError, match="unknown label 'dgo'") as caught:
        index(root)
    assert caught.value.where == "val/dgo/0.png" and caught.value.do == "did you mean 'dog'?"


def test_nothing_left_to_validate(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        index(folders(tmp_path, {"a": 1, "b": 1}))
    assert caught.value.code == "E-DATA-NOVAL"


def test_no_train(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        index(folders(tmp_path, {"val/a": 1, "val/b": 1}))
    assert caught.value.exit_code == 3


def test_links_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    root = folders(tmp_path / "data", {"a": 2, "b": 2})
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "a/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SecurityError):
        index(root)


def test_multilabel_and_regression_tables(tmp_path: Path) -> None:
    root = folders(tmp_path, {"img": 10})
    rows = "\n".join(f"img/{i}.png,{'cat|dog' if i % 2 else 'cat' if i % 4 else ''}" for i in range(10))
    (root / "labels.csv").write_text("file_name,labels\n" + rows)
    manifest = index(root, task="multilabel", labels="labels.csv")
    assert manifest.classes == ("cat", "dog") and len(manifest.splits["val"]) == 2
    targets = {str(s.path): s.target for split in manifest.splits.values() for s in split}
    assert [targets[f"img/{i}.png"] for i in (0, 1, 2)] == [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)]
    (root / "t.csv").write_text(
        "file_name,target,split\n" + "\n".join(f"img/{i}.png,{i}.5,{'val' if i < 3 else 'train'}" for i in range(9))
    )
    manifest = index(root, task="regression", labels="t.csv")
    assert manifest.classes == ("target",) and len(manifest.splits["val"]) == 3
    assert DataManifest.from_json(manifest.to_json(), "again") == manifest


def test_a_label_that_stands_in_val_alone_is_unknown(tmp_path: Path) -> None:
    root = folders(tmp_path, {"img": 4})
    rows = ["img/0.png,cat,train", "img/1.png,dog,train", "img/2.png,dgo,val", "img/3.png,cat,val"]
    (root / "l.csv").write_text("\n".join(["file_name,label,split", *rows]))
    with pytest.raises(DataError, match="unknown label 'dgo'") as caught:
        index(root, labels="l.csv")
    assert caught.value.where == "line 4: img/2.png" and caught.value.do == "did you mean 'dog'?"
    rows = ["img/0.png,cat|dog,train", "img/1.png,,train", "img/2.png,cat|dgo,val"]
    (root / "l.csv").write_text("\n".join(["file_name,labels,split", *rows]))
    with pytest.raises(DataError, match="unknown label 'dgo'"):
        index(root, task="multilabel", labels="l.csv")


def test_workers_see_the_same(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 20, "b": 13})
    assert index(root, num_workers=2) == index(root)


def test_in_chans_out_of_range(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(UsageError):
        splits.index_data(
            root, task="classification", labels="folders", val_fraction=0.2, in_chans=5, num_workers=0, reporter=SILENT
        )


def evaluate(
    root: Path, classes: tuple[str, ...], task: TaskName = "classification", labels: str = "folders"
) -> DataManifest:
    return splits.index_for_evaluation(
        root, classes=classes, task=task, labels=labels, in_chans=3, num_workers=0, reporter=SILENT
    )


def test_for_evaluation_the_models_classes_count(tmp_path: Path) -> None:
    root = folders(tmp_path, {"dog": 3, "cat": 2})
    manifest = evaluate(root, ("emu", "dog", "cat"))
    assert list(manifest.splits) == ["data"] and manifest.classes == ("emu", "dog", "cat")
    assert sorted(int(s.target) for s in manifest.splits["data"]) == [1, 1, 1, 2, 2]  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown label 'cat'"):
        evaluate(root, ("emu", "dog"))


def test_for_evaluation_one_class_will_do_and_splits_stay(tmp_path: Path) -> None:
    assert len(evaluate(folders(tmp_path / "one", {"dog": 2}), ("cat", "dog")).splits["data"]) == 2
    root = folders(tmp_path / "two", {"train/dog": 2, "test/dog": 1})
    assert {k: len(v) for k, v in evaluate(root, ("cat", "dog")).splits.items()} == {"train": 2, "test": 1}


def test_for_evaluation_the_outputs_must_be_the_models(tmp_path: Path) -> None:
    root = folders(tmp_path, {"img": 2})
    (root / "t.csv").write_text("file_name,target_x\nimg/0.png,1\nimg/1.png,2\n")
    assert evaluate(root, ("x",), "regression", "t.csv").classes == ("x",)
    with pytest.raises(DataError, match="the model gives y; the table x"):
        evaluate(root, ("y",), "regression", "t.csv")
