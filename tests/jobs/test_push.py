"""push of a package to the embedded hub: the plan first, the card addressed, one commit, once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import HubtoolError, SecurityError, UsageError
from hubtool.core.progress import SILENT
from hubtool.hub.client import Hub
from hubtool.hub.fetch import fetch_package
from hubtool.jobs.cache import list_cache, prune_cache
from hubtool.jobs.endpoint import reading
from hubtool.jobs.push import _agree, push
from hubtool.records.registry import read_registry
from hubtool.records.reports import PushPlan
from tests.package import made

REPO = "ada/flowers"


class Listener:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say

    def task(self, label: str, total: float | None = None, unit: str = "") -> Any:
        return SILENT.task(label, total, unit)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    made.make_package(made.make_run(place / "run"), place / "package")
    return place / "package"


@pytest.fixture
def package(clean: Path, tmp_path: Path, home: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(clean, tmp_path / "package"))


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_to_the_embedded_hub_and_back(package: Path, home: Path, tmp_path: Path) -> None:
    listener = Listener()
    report = push(package, REPO, hub="local", reporter=listener)
    assert report.commit
    assert report.is_new_commit
    assert listener.lines[0].startswith(f"destination: {REPO} (private, new) on local (http://127.0.0.1:")
    assert any(line.startswith("of your data: data.json") for line in listener.lines)
    assert REPO in (package / "README.md").read_text()
    with reading("local") as hub:
        fetched = fetch_package(hub, REPO, None, tmp_path / "fetched")
    assert bytes_of(fetched.directory) == bytes_of(package)
    assert (fetched.commit, fetched.is_card_edited) == (report.commit, False)
    registry = read_registry(home / "registry.json")
    assert registry is not None
    assert (registry.published[REPO].hub, registry.published[REPO].commit) == ("local", report.commit)


def test_a_second_push_makes_no_commit_and_tells_its_outcome_once(package: Path) -> None:
    first = push(package, REPO, hub="local")
    listener = Listener()
    second = push(package, REPO, hub="local", reporter=listener)
    assert (second.commit, second.is_new_commit) == (first.commit, False)
    assert not any("pushed" in line for line in listener.lines), "the outcome is the report's, told once"


def test_a_dry_run_changes_nothing_here_or_there(package: Path, home: Path) -> None:
    before = bytes_of(package)
    report = push(package, REPO, hub="local", dry_run=True)
    assert report.commit is None
    assert len(report.plan.adds) == len(before)
    assert bytes_of(package) == before
    assert {p.name for p in package.parent.iterdir()} == {"package", "home"}
    assert not (home / "registry.json").exists()
    with reading("local") as hub, pytest.raises(HubtoolError) as caught:
        fetch_package(hub, REPO, None, home / "x")
    assert caught.value.code == "E-HUB-404"


def test_what_a_person_wrote_in_the_card_on_the_hub_stays(package: Path, clean: Path) -> None:
    push(package, REPO, hub="local")
    card = (package / "README.md").read_text()
    begin = next(line for line in card.splitlines() if line.startswith("<!-- yours:begin limits"))
    edited = card.replace(begin, f"{begin}\nOnly in daylight.")
    with reading("local") as hub:
        hub.call(
            REPO,
            lambda api: api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=REPO),
            again=False,
        )
    shutil.rmtree(package)
    shutil.copytree(clean, package)
    report = push(package, REPO, hub="local")
    assert "Only in daylight." in (package / "README.md").read_text()
    assert report.is_new_commit
    assert "README.md" in report.plan.unchanged


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        ("config.json", b"{}", "E-PACKAGE"),
        ("logs/note.txt", b"token hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789", "E-SEC-SECRET"),
        ("extra.bin", b"x", "E-PACKAGE"),
    ],
)
def test_what_does_not_hold_is_not_sent(package: Path, path: str, data: bytes, code: str) -> None:
    (package / path).parent.mkdir(exist_ok=True)
    (package / path).write_bytes(data)
    before = bytes_of(package)
    with pytest.raises(HubtoolError) as caught:
        push(package, REPO, hub="local")
    assert caught.value.code == code
    assert bytes_of(package) == before, "nothing is written before it is refused"
    assert "AbCdEfGhIj" not in caught.value.line()
    with reading("local") as hub, pytest.raises(HubtoolError, match="is not there"):
        fetch_package(hub, REPO, None, package.parent / "x")


def test_a_card_that_was_removed_is_made_again(package: Path) -> None:
    (package / "README.md").unlink()
    assert push(package, REPO, hub="local").is_new_commit
    assert REPO in (package / "README.md").read_text()


def test_a_record_that_somebody_sent_goes_along_and_is_counted(package: Path) -> None:
    record = made.reproduction(package)
    made.add_reproduction(package, record)
    made.add_reproduction(package, record.model_copy(update={"data_digest": "0" * 64}))
    report = push(package, REPO, hub="local")
    name = f"reproductions/{record.id}.json"
    assert [file.path for file in report.plan.adds if file.path.startswith("reproductions/")] == [name]
    shutil.rmtree(package / "reproductions")
    (package / "README.md").unlink()
    push(package, REPO, hub="local")
    assert (package / name).is_file(), "what stands in the repository is counted, whoever has it here"
    assert f"]({name})" in (package / "README.md").read_text()


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"])
def test_what_somebody_else_wrote_in_the_card_is_read_before_it_is_taken_over(
    text: str, package: Path, clean: Path
) -> None:
    push(package, REPO, hub="local")
    end = "<!-- yours:end limits -->"
    edited = (package / "README.md").read_text().replace(end, f"{text}\n{end}").encode()
    with reading("local") as hub:
        hub.call(REPO, lambda api: api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=REPO))
    shutil.rmtree(package)
    shutil.copytree(clean, package)
    before = bytes_of(package)
    with pytest.raises(SecurityError):
        push(package, REPO, hub="local")
    assert bytes_of(package) == before


def test_a_package_without_pictures_cannot_be_pushed_with_them(package: Path) -> None:
    with pytest.raises(UsageError):
        push(package, REPO, hub="local", with_images=True)


@pytest.mark.parametrize(
    ("target", "repo", "exit_code"),
    [("nowhere", REPO, 4), (".", "flowers", 6), (".", "a/../b", 6), (".", "a/b.git", 6)],
)
def test_names_that_cannot_be(package: Path, target: str, repo: str, exit_code: int) -> None:
    with pytest.raises(HubtoolError) as caught:
        push(package / target, repo, hub="local")
    assert caught.value.exit_code == exit_code


def test_a_first_push_to_somebody_elses_machine_needs_a_yes(home: Path) -> None:
    hub = Hub(endpoint="https://hub.example", name="https://hub.example", cache_dir=home)
    plan = PushPlan(
        endpoint=hub.endpoint, repo_id=REPO, revision="main", parent=None, is_new_repo=True, is_private=True,
        adds=(), unchanged=(), deletes=(), shares=(),
    )  # fmt: skip
    with pytest.raises(UsageError, match="--yes"):
        _agree(hub, plan, False, None)
    with pytest.raises(UsageError, match="--yes"):
        _agree(hub, plan, False, lambda plan: False)
    _agree(hub, plan, False, lambda plan: True)
    _agree(hub, plan, True, None)
    _agree(Hub(endpoint="http://127.0.0.1:1", name="local", cache_dir=home), plan, False, None)


def test_the_cache_is_listed_and_pruned(package: Path, home: Path) -> None:
    push(package, REPO, hub="local")
    with reading("local") as hub:
        fetch_package(hub, REPO, None, package.parent / "fetched")
    entries = list_cache()
    assert {str(entry["name"]).partition("@")[0] for entry in entries} == {REPO}
    assert not list_cache(older_than_days=1)
    prune_cache(entries)
    assert list_cache() == []
    assert not [p for p in (home / "cache").rglob("*") if p.is_file() and p.name == "model.safetensors"]
    with pytest.raises(HubtoolError, match="does not lie in the cache"):
        prune_cache([{"kind": "weights", "path": str(package)}])
    assert package.is_dir()
