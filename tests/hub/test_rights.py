"""A hub with accounts: each refusal has its own text, says whether a token was sent, and never shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.core.errors import HubtoolError
from hubtool.hub.client import Hub, open_hub, store_token
from hubtool.hub.push import plan, push
from hubtool.jobs import login
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.store import Store
from tests.hub.test_push import make

REPO = "ada/flowers"


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """ada writes, bob reads everything of ada's, eve has an account, key is ada's for reading alone."""
    store = Store(tmp_path / "root")
    accounts = store.accounts
    for name in ("ada", "bob", "eve"):
        accounts.add_user(name)
    accounts.grant("bob", "ada", "read")
    found = {name: accounts.add_token(name)[1] for name in ("ada", "bob", "eve")}
    found["key"] = accounts.add_token("ada", access="read")[1]
    store.close()
    return found


@pytest.fixture
def url(tokens: dict[str, str], tmp_path: Path) -> Iterator[str]:
    with EmbeddedHub(tmp_path / "root", is_open=False) as hub:
        yield hub.url


def client_of(url: str, token: str | None, tmp_path: Path, name: str = "cache") -> Hub:
    return Hub(endpoint=url, name=url, cache_dir=tmp_path / name, token=token, retry_wait_s=0.01)


def test_login_then_push_then_what_others_are_told(
    url: str, tokens: dict[str, str], tmp_path: Path, home: Path
) -> None:
    package = make(tmp_path / "package")
    assert login.login(tokens["ada"], hub=url)["user"] == "ada"
    ada = open_hub(url)
    commit = push(ada, plan(ada, package, REPO), package)
    told: dict[str, HubtoolError] = {}
    make(package, **{"config.json": b"[1]"})
    for who, token in {**tokens, "nobody": None, "wrong": "hf_wrong"}.items():
        if who == "ada":
            continue
        client = client_of(url, token, tmp_path, who)
        with pytest.raises(HubtoolError) as caught:
            push(client, plan(client, package, REPO), package)
        told[who] = caught.value
        assert caught.value.exit_code == 4
        assert token is None or token not in caught.value.line() + caught.value.hint
        assert ("no token was sent" if token is None else "a token was sent") in caught.value.what
    assert "hubtool login" in told["nobody"].line()
    assert told["bob"].code == "E-HUB-403"
    assert told["key"].code == "E-HUB-403"
    assert ada.call(REPO, lambda api: api.model_info(REPO)).sha == commit


def test_a_name_in_somebody_elses_space_is_no_name_for_us(url: str, tokens: dict[str, str], tmp_path: Path) -> None:
    eve = client_of(url, tokens["eve"], tmp_path)
    package = make(tmp_path / "package")
    with pytest.raises(HubtoolError) as caught:
        push(eve, plan(eve, package, "ada/mine"), package)
    assert caught.value.code == "E-HUB-403"


def test_a_stored_token_is_used_for_its_hub(url: str, tokens: dict[str, str], tmp_path: Path, home: Path) -> None:
    store_token(url, tokens["bob"], home)
    assert open_hub(url).token == tokens["bob"]
    assert login.whoami(hub=url) == {"endpoint": url, "user": "bob"}
