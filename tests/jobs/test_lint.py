"""lint, over a hub: the weights are never fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubtool.core.errors import NotFoundError
from hubtool.jobs.lint import lint
from hubtool.jobs.push import push
from hubtool.server.embedded import EmbeddedHub
from jobs import finished


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedHub(tmp_path_factory.mktemp("hub")) as embedded:
        yield embedded.url


def test_what_we_push_has_every_point(hub: str, tmp_path: Path) -> None:
    push(shutil.copytree(finished.package(), tmp_path / "package"), "me/bars", hub=hub, yes=True)
    report = lint("me/bars", hub=hub)
    assert [(f.name, f.detail) for f in report.findings if not f.is_ok] == []
    assert report.score == 100


def test_a_bare_pickle_is_told_and_left_where_it_is(hub: str, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub, token=False)
    api.create_repo("me/pickle", private=False)
    api.upload_file(path_or_fileobj=b"\x80\x04." * 4000, path_in_repo="model.pth", repo_id="me/pickle")
    report = lint("me/pickle", hub=hub)
    weights = next(f for f in report.findings if f.name == "safe weights")
    assert (weights.is_ok, weights.mend) == (False, "hubtool convert model.pth, and push that")
    assert report.score < 20


def test_what_is_not_there(hub: str) -> None:
    with pytest.raises(NotFoundError):
        lint("me/nothing", hub=hub)
