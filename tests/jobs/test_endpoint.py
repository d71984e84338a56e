"""Which hub is meant, and that the embedded one is there while it is used."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from hubtool.core.errors import HubtoolError
from hubtool.core.settings import PUBLIC_HUB
from hubtool.jobs import login
from hubtool.jobs.endpoint import reading, writing, writing_hub
from hubtool.records.registry import Published, add_published
from tests.hub.lying_hub import Lies, LyingHub

OTHER = "http://127.0.0.1:9"
TOKEN = "hf_canary0000000000000000000000000000"


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """A HUBTOOL_HOME of the test's own."""


def test_reading_goes_by_option_then_environment_then_registry_then_the_public_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(hub: str | None = None, recorded: str | None = None) -> str:
        with reading(hub, recorded=recorded) as opened:
            return opened.endpoint

    assert chosen() == PUBLIC_HUB
    assert chosen(recorded="http://127.0.0.1:1") == "http://127.0.0.1:1"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:2/")
    assert chosen(recorded="http://127.0.0.1:1") == "http://127.0.0.1:2"
    assert chosen("http://127.0.0.1:3", recorded="http://127.0.0.1:1") == "http://127.0.0.1:3"


def test_a_pushed_repository_is_read_where_it_was_pushed_to(home: Path) -> None:
    add_published(home / "registry.json", Published(repo_id="ada/x", hub=OTHER, commit="a" * 40, license="mit"))
    with reading(repo="ada/x") as opened:
        assert opened.endpoint == OTHER
    with reading(repo="ada/y") as opened:
        assert opened.endpoint == PUBLIC_HUB


def test_writing_asks_a_person_and_goes_home_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert writing_hub() == "local"
    assert writing_hub(ask=lambda: "http://127.0.0.1:4") == "http://127.0.0.1:4"
    monkeypatch.setenv("HF_ENDPOINT", OTHER)
    assert writing_hub(ask=lambda: pytest.fail("nobody is asked")) == OTHER
    assert writing_hub("local") == "local"


def test_the_embedded_hub_is_there_for_the_block(home: Path) -> None:
    with writing("local") as opened:
        assert opened.name == "local"
        assert opened.cache_dir == home / "cache" / "local"
        assert opened.token is None
        with urllib.request.urlopen(f"{opened.endpoint}/api/models") as answer:
            assert answer.status == 200
    assert (home / "hub").is_dir()


@pytest.mark.parametrize(
    ("address", "exit_code"),
    [
        ("hub.example", 2),
        ("ftp://hub.example", 2),
        ("http://", 2),
        ("http://h:99999", 2),
        ("https://h/?token=x", 2),
        ("https://me:secret@hub.example", 6),
        ("file:///etc/passwd", 2),
    ],
)
def test_what_is_no_hub(address: str, exit_code: int) -> None:
    with pytest.raises(HubtoolError) as caught, reading(address):
        pass
    assert caught.value.exit_code == exit_code
    assert "secret" not in caught.value.line()


def test_a_token_is_kept_for_its_hub_alone_and_readable_by_its_owner_alone(home: Path) -> None:
    with LyingHub({}, user="ada") as hub, LyingHub({}, user="eve") as other:
        assert login.login(TOKEN, hub=hub.url) == {"endpoint": hub.url, "user": "ada"}
        assert (home / "tokens.json").stat().st_mode & 0o777 == 0o600
        assert login.whoami(hub=hub.url)["user"] == "ada"
        with pytest.raises(HubtoolError, match="no token is kept"):
            login.whoami(hub=other.url)
        with reading(other.url) as opened:
            assert opened.token is None
        assert not [seen for seen in other.seen if TOKEN in str(seen)]
        assert TOKEN not in repr(opened)
        login.logout(hub=hub.url)
        assert TOKEN not in (home / "tokens.json").read_text()
        with pytest.raises(HubtoolError) as caught:
            login.logout(hub=hub.url)
    assert caught.value.exit_code == 4


def test_a_token_that_the_hub_does_not_know_is_not_kept(home: Path) -> None:
    with LyingHub({}, lies=Lies(answer=(401, {}))) as hub, pytest.raises(HubtoolError) as caught:
        login.login(TOKEN, hub=hub.url)
    assert (caught.value.code, caught.value.exit_code) == ("E-HUB-401", 4)
    assert TOKEN not in caught.value.line()
    assert not (home / "tokens.json").exists()


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "é"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(HubtoolError) as caught:
        login.login(token, hub=OTHER)
    assert caught.value.exit_code == 2


def test_tokens_that_others_may_read_are_not_used(home: Path) -> None:
    with LyingHub({}, user="ada") as hub:
        login.login(TOKEN, hub=hub.url)
        (home / "tokens.json").chmod(0o644)
        with pytest.raises(HubtoolError) as caught:
            login.whoami(hub=hub.url)
    assert caught.value.exit_code == 6
