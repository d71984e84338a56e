"""Tables of labels: what is read, and each refusal with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.made import Heard, folders
from hubtool.core.errors import DataError, HubtoolError, SecurityError
from hubtool.core.progress import SILENT
from hubtool.data import tables
from hubtool.records.tasks import TaskName


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folders(tmp_path, {"img": 4})


def read(root: Path, text: str | bytes, task: TaskName = "classification", name: str = "labels.csv") -> list[object]:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    listing = tables.read_table(root, name, task, SILENT)
    return [listing.classes, *((row.path, row.split, row.label) for row in listing.rows)]


def test_classes(root: Path) -> None:
    text = "file_name,label\nimg/0.png,dog\nimg/1.png, cat \n"
    assert read(root, text) == [("cat", "dog"), ("img/0.png", None, "dog"), ("img/1.png", None, "cat")]


def test_a_byte_order_mark_and_windows_lines(root: Path) -> None:
    text = b"\xef\xbb\xbffile_name,label,split\r\nimg\\0.png,dog,train\r\n\r\nimg/1.png,cat,validation\r\n"
    assert read(root, text)[1:] == [("img/0.png", "train", "dog"), ("img/1.png", "val", "cat")]


def test_jsonl(root: Path) -> None:
    text = '{"file_name": "img/0.png", "label": "dog"}\n\n{"file_name": "img/1.png", "label": 7}\n'
    assert read(root, text, name="l.jsonl") == [("7", "dog"), ("img/0.png", None, "dog"), ("img/1.png", None, "7")]


def test_the_table_may_lie_beside_the_pictures(root: Path) -> None:
    assert read(root, "file_name,label\n0.png,a\n1.png,b\n", name="img/labels.csv")[1] == ("img/0.png", None, "a")


def test_multilabel(root: Path) -> None:
    text = "file_name,labels\nimg/0.png,dog|cat\nimg/1.png,\nimg/2.png,cat\n"
    rows = read(root, text, "multilabel")
    assert rows == [
        ("cat", "dog"),
        ("img/0.png", None, ("cat", "dog")),
        ("img/1.png", None, ()),
        ("img/2.png", None, ("cat",)),
    ]
    text = '{"file_name": "img/0.png", "labels": ["dog", "cat"]}\n'
    assert read(root, text, "multilabel", "l.jsonl")[1] == ("img/0.png", None, ("cat", "dog"))


def test_regression(root: Path) -> None:
    assert read(root, "file_name,target\nimg/0.png,1e-3\n", "regression") == [
        ("target",),
        ("img/0.png", None, (0.001,)),
    ]
    text = "target_x,file_name,target_y\n1,img/0.png,-2.5\n"
    assert read(root, text, "regression") == [("x", "y"), ("img/0.png", None, (1.0, -2.5))]


def test_pictures_that_no_row_names_are_told(root: Path) -> None:
    (root / "labels.csv").write_text("file_name,label\nimg/0.png,a\nimg/1.png,b\n")
    heard = Heard()
    tables.read_table(root, "labels.csv", "classification", heard)
    assert heard.warned == ["2 pictures are not in labels.csv and are left out"] and not heard.said


HEAD = "file_name,label,split\n"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "labels.csv", "no rows"),
        (HEAD, "labels.csv", "no rows"),
        ("file,label\nimg/0.png,a\n", "labels.csv", "'file_name' is missing"),
        ("file_name,klass\nimg/0.png,a\n", "labels.csv", "'label' is missing"),
        ("file_name,label,label\nimg/0.png,a,b\n", "labels.csv", "stands twice"),
        (HEAD + "img/9.png,a,train\n", "labels.csv line 2", "img/9.png is not there"),
        (HEAD + "img/0.png,a,train\nimg/0.png,b,train\n", "labels.csv", "stands on lines 2 and 3"),
        (HEAD + "img/0.png,a,train\n./img/0.png,b,train\n", "labels.csv", "stands on lines 2 and 3"),
        (HEAD + "img/0.png,a\n", "labels.csv line 2", "2 fields, the header has 3"),
        (HEAD + "img/0.png,,train\n", "labels.csv line 2", "expected a name"),
        (HEAD + ",a,train\n", "labels.csv line 2", "file_name is empty"),
        (HEAD + "img/0.png,a,training\n", "labels.csv line 2", "unknown split 'training'"),
        (HEAD + "img/0.png,a,\n", "labels.csv line 2", "unknown split ''"),
        (HEAD + 'img/0.png,"a,train\n', "labels.csv line 2", "no valid CSV"),
        (b"file_name,label\nimg/0.png,caf\xe9\n", "labels.csv", "not UTF-8 at byte 29"),
    ],
)
def test_bad_tables(root: Path, text: str | bytes, where: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        read(root, text)
    assert caught.value.code == "E-DATA-TABLE"
    assert what in caught.value.what and caught.value.where == where


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no valid JSON"),
        ("[1]", "expected an object"),
        ('{"file_name": 3, "label": "a"}', "file_name is empty"),
        ('{"file_name": "img/0.png", "label": true}', "expected a name"),
        ("[" * 100_000, "no valid JSON"),
        ('{"file_name": "img/0.png", "label": "a", "label": "b"}', "'label' stands twice"),
        ('{"file_name": "img/0.png", "label": "a", "split": ["train"]}', "unknown split"),
        ('{"file_name": "img/0.png", "label": "a", "split": {"train": 1}}', "unknown split"),
    ],
)
def test_bad_jsonl(root: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read(root, text + "\n", name="l.jsonl")


@pytest.mark.parametrize("target", ["1" + "0" * 400, "1e39", "-4e38", "[1]", "null", "true", "NaN"])
def test_targets_that_no_float32_holds(root: Path, target: str) -> None:
    with pytest.raises(DataError, match="expected a finite number"):
        read(root, f'{{"file_name": "img/0.png", "target": {target}}}\n', "regression", "t.jsonl")


@pytest.mark.parametrize("value", ["", "ten", "nan", "inf", "1,5"])
def test_targets_that_are_no_numbers(root: Path, value: str) -> None:
    with pytest.raises(DataError, match="expected a finite number"):
        read(root, f'file_name,target\nimg/0.png,"{value}"\n', "regression")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "img/../../x.png", "..\\x.png"])
def test_a_path_that_leaves_the_directory_is_refused(root: Path, path: str) -> None:
    with pytest.raises(SecurityError) as caught:
        read(root, f"file_name,label\n{path},a\n")
    assert caught.value.exit_code == 6


def test_a_missing_table_and_one_that_is_linked_from_outside(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        tables.read_table(root, "none.csv", "classification", SILENT)
    outside = tmp_path_factory.mktemp("outside") / "labels.csv"
    outside.write_text("file_name,label\nimg/0.png,a\n")
    (root / "linked.csv").symlink_to(outside)
    with pytest.raises(SecurityError):
        tables.read_table(root, "linked.csv", "classification", SILENT)


@settings(max_examples=120, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["classification", "multilabel", "regression"]),
    st.sampled_from(["t.csv", "t.jsonl"]),
    st.one_of(
        st.binary(max_size=80),
        st.text(
            st.sampled_from('file_name,label,labels,target,split\n"|{}[]:\0 0.png train nan 1e999'), max_size=60
        ).map(lambda rest: b"file_name,label,labels,target\nimg/0.png,a,b,1\n" + rest.encode()),
    ),
)
def test_any_bytes_give_rows_or_our_error(root: Path, task: TaskName, name: str, content: bytes) -> None:
    try:
        read(root, content, task, name)
    except HubtoolError as error:
        assert error.exit_code in (3, 6)
