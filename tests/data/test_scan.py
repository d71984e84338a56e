"""Folders as people lay them out, and the refusals for what is ambiguous, empty or dangerous."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from data.made import Heard, folders
from hubtool.core.errors import DataError, SecurityError
from hubtool.core.progress import SILENT
from hubtool.data import scan


def laid_out(listing: scan.Listing) -> dict[str, tuple[str | None, scan.Label]]:
    return {row.path: (row.split, row.label) for row in listing.rows}


def test_class_folders(tmp_path: Path) -> None:
    folders(tmp_path, {"dogs": 1, "cats": 1, "cats/more": 1})
    listing = scan.read_folders(tmp_path, SILENT)
    assert listing.classes == ("cats", "dogs")
    assert laid_out(listing) == {
        "cats/0.png": (None, "cats"),
        "cats/more/0.png": (None, "cats"),
        "dogs/0.png": (None, "dogs"),
    }


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    folders(tmp_path, {"train/a": 1, "train/b": 1, f"{val}/a": 1, "test/b": 1})
    listing = scan.read_folders(tmp_path, SILENT)
    assert listing.classes == ("a", "b")
    assert {row.split for row in listing.rows} == {"train", "val", "test"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 2, "bus": 2})
    assert scan.read_folders(tmp_path, SILENT).classes == ("bus", "train")


def test_splits_beside_classes_are_ambiguous(tmp_path: Path) -> None:
    folders(tmp_path, {"train/a": 1, "train/b": 1, "bus": 1})
    with pytest.raises(DataError, match="train/ holds class folders and bus/ stands beside it"):
        scan.read_folders(tmp_path, SILENT)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    folders(tmp_path, {"train/a": 1, "val/a": 1, "valid/a": 1})
    with pytest.raises(DataError, match="two folders for the split val"):
        scan.read_folders(tmp_path, SILENT)


def test_hidden_things_are_left_alone_and_others_are_told(tmp_path: Path) -> None:
    folders(tmp_path, {"a": 1, "b": 1, ".ipynb_checkpoints": 1, "a/.thumbs": 1})
    (tmp_path / "a/._0.png").write_bytes(b"resource fork")
    (tmp_path / "a/Thumbs.db").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("about")
    shutil.copy(tmp_path / "a/0.png", tmp_path / "loose.png")
    heard = Heard()
    listing = scan.read_folders(tmp_path, heard)
    assert set(laid_out(listing)) == {"a/0.png", "b/0.png"}
    assert heard.said == ["1 files are no pictures by their names and are left out, first: README.txt"]
    assert heard.warned == ["1 pictures lie outside of any class folder and are left out, first: loose.png"]


def test_missing_not_a_directory_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        scan.read_folders(tmp_path / "none", SILENT)
    assert caught.value.code == "E-DATA-404"
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError) as caught:
        scan.read_folders(tmp_path / "file", SILENT)
    assert caught.value.code == "E-DATA-NOTDIR"
    (tmp_path / "dir").mkdir()
    with pytest.raises(DataError) as caught:
        scan.read_folders(tmp_path / "dir", SILENT)
    assert caught.value.code == "E-DATA-EMPTY"


def test_pictures_without_class_folders(tmp_path: Path) -> None:
    folders(tmp_path, {".": 3})
    with pytest.raises(DataError, match="3 pictures, but none in a class folder") as caught:
        scan.read_folders(tmp_path, SILENT)
    assert caught.value.code == "E-DATA-LAYOUT"


@pytest.mark.parametrize(
    ("layout", "where"),
    [({"cats": 1, "dogs": 0, "emus": 1}, "dogs/"), ({"train/a": 1, "train/b": 0, "val/a": 1}, "train/b/")],
)
def test_an_empty_class_folder(tmp_path: Path, layout: dict[str, int], where: str) -> None:
    folders(tmp_path, layout)
    with pytest.raises(DataError) as caught:
        scan.read_folders(tmp_path, SILENT)
    assert (caught.value.code, caught.value.where) == ("E-DATA-EMPTYCLASS", where)


def test_a_class_may_be_missing_from_val(tmp_path: Path) -> None:
    folders(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 0})
    assert len(scan.read_folders(tmp_path, SILENT).rows) == 3


def test_an_empty_split(tmp_path: Path) -> None:
    folders(tmp_path, {"train/a": 1, "train/b": 1, "val": 0})
    with pytest.raises(DataError) as caught:
        scan.read_folders(tmp_path, SILENT)
    assert caught.value.code == "E-DATA-EMPTYSPLIT"


def _link_out(root: Path) -> None:
    (root.parent / "secret.png").write_bytes(b"x")
    (root / "a/link.png").symlink_to(root.parent / "secret.png")


def _link_to_directory_out(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    (root / "c").symlink_to(root.parent / "elsewhere")


def _loop(root: Path) -> None:
    (root / "a/loop").symlink_to(root / "a")


def _self_loop(root: Path) -> None:
    (root / "a/l.png").symlink_to(root / "a/l.png")


def _fifo(root: Path) -> None:
    os.mkfifo(root / "a/pipe.png")


@pytest.mark.parametrize("spoil", [_link_out, _link_to_directory_out, _loop, _self_loop, _fifo])
def test_links_that_leave_or_loop_and_special_files_are_refused(tmp_path: Path, spoil: object) -> None:
    root = folders(tmp_path / "data", {"a": 1, "b": 1})
    spoil(root)  # type: ignore[operator]
    with pytest.raises(SecurityError) as caught:
        scan.read_folders(root, SILENT)
    assert caught.value.exit_code == 6


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a/twin.png").symlink_to(tmp_path / "b/0.png")
    assert len(scan.read_folders(tmp_path, SILENT).rows) == 3


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    folders(tmp_path, {"a": 1, "b": 1})
    shutil.copy(tmp_path / "a/0.png", os.fsencode(tmp_path) + b"/a/\xff.png")
    with pytest.raises(DataError) as caught:
        scan.read_folders(tmp_path, SILENT)
    assert caught.value.code == "E-DATA-NAME" and "udcff" in caught.value.where
