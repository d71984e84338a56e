from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtool.core.errors import SecurityError
from hubtool.core.ids import CommitSha, Oid, RepoId, RepoPath, Revision, case_twins

NASTY = st.text(alphabet=st.sampled_from(list("a./\\%~:\0\n -_@\u202e\u200b\u0430é")), max_size=40)


@pytest.mark.parametrize(
    "text",
    [
        "org/../../x",
        "a//b",
        "a",
        "a/b/c",
        "a/b.git",
        "../b",
        "a/..",
        "a/" + "b" * 96,
        "\u0430/b",
        "a/b\0",
        "-a/b",
        "a/b.",
    ],
)
def test_repo_ids_that_no_hub_has(text: str) -> None:
    with pytest.raises(SecurityError, match="no repository name"):
        RepoId(text)


def test_repo_id_parts() -> None:
    repo = RepoId("timm/resnet18.a1_in1k")
    assert (repo.owner, repo.name) == ("timm", "resnet18.a1_in1k")


@pytest.mark.parametrize(
    "text",
    ["", "/a", "a/../b", "a//b", ".git/hooks/x", "a/.GIT/x", "a\\b", "a\0", "con", "a/nul.txt", "x" * 300, "a:b",
     "git~1/x", "a ", "a\u202eb", "a/", "./a", "e\u0301"],
)  # fmt: skip
def test_paths_that_leave_or_confuse(text: str) -> None:
    with pytest.raises(SecurityError):
        RepoPath(text)


@given(NASTY)
def test_an_accepted_path_stays_inside(text: str) -> None:
    try:
        path = RepoPath(text)
    except SecurityError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\\" not in path
    assert "\0" not in path


@given(NASTY)
def test_an_accepted_repo_id_is_two_plain_names(text: str) -> None:
    try:
        repo = RepoId(text)
    except SecurityError:
        return
    assert repo.count("/") == 1
    assert repo.isascii()
    assert ".." not in repo


@pytest.mark.parametrize("text", ["", "ABC", "g" * 40, "A" * 40, "0" * 39, "0" * 41, "0" * 40 + "\n"])
def test_commits_and_oids(text: str) -> None:
    with pytest.raises(SecurityError):
        CommitSha(text)
    with pytest.raises(SecurityError):
        Oid(text)


@pytest.mark.parametrize("text", ["-x", "a..b", "a//b", "a/.b", "a.lock", "a b", "a~1", "a^", "a/", "a@{1}", "x" * 201])
def test_bad_revisions(text: str) -> None:
    with pytest.raises(SecurityError):
        Revision(text)


def test_good_revisions() -> None:
    assert Revision("refs/pr/1") == "refs/pr/1"
    assert Revision("v1.0-rc.1") == "v1.0-rc.1"


def test_case_twins() -> None:
    assert case_twins(["README.md", "readme.md"]) == ("README.md", "readme.md")
    assert case_twins(["a", "a/b"]) == ("a", "a/b")
    assert case_twins(["a/b", "a/c"]) is None
