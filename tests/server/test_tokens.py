"""A hub that requires tokens, through the real clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubtool.server.embedded import EmbeddedHub
from hubtool.server.store import Store
from tests.server.clients import Client, Http
from tests.server.test_git import IDENTITY


@dataclass
class Lab:
    url: str
    tokens: dict[str, str]
    home: Path

    def client(self, name: str) -> Client:
        return Client(self.url, self.home / name, self.tokens.get(name))

    def git_url(self, name: str, path: str) -> str:
        return self.url.replace("http://", f"http://{name}:{self.tokens[name]}@") + path


@pytest.fixture
def lab(root: Path, tmp_path: Path) -> Iterator[Lab]:
    store, tokens = Store(root), {}
    for name in ("ada", "eve"):
        store.accounts.add_user(name)
        tokens[name] = store.accounts.add_token(name)[1]
    tokens["reader"] = store.accounts.add_token("ada", access="read")[1]
    store.close()
    (tmp_path / "homes").mkdir()
    with EmbeddedHub(root, is_open=False) as hub:
        yield Lab(hub.url, tokens, tmp_path / "homes")


PUSH = """
    import os
    from huggingface_hub import HfApi
    api = HfApi()
    assert api.whoami()["name"] == "ada"
    api.create_repo("net", private=True)  # below the own name
    api.upload_file(repo_id="ada/net", path_in_repo="w.bin", path_or_fileobj=os.urandom(500_000))
    api.upload_file(repo_id="ada/net", path_in_repo="note.txt", path_or_fileobj=b"private words")
"""
FETCH = """
    import sys
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    try:
        print(open(hf_hub_download("ada/net", "note.txt")).read())
    except GatedRepoError:
        print("gated")
    except RepositoryNotFoundError:
        print("no such repository")
    except HfHubHTTPError as error:
        print(error.response.status_code)
"""


@pytest.mark.parametrize("without_xet", ["0", "1"])
def test_private_gated_and_public_through_the_client(lab: Lab, without_xet: str) -> None:
    ada, eve, stranger = lab.client("ada"), lab.client("eve"), lab.client("nobody")
    ada.python(PUSH, HF_HUB_DISABLE_XET=without_xet)
    assert ada.python(FETCH).strip() == "private words" == lab.client("reader").python(FETCH).strip()
    assert eve.python(FETCH).strip() == stranger.python(FETCH).strip() == "no such repository"
    http = Http(lab.url, lab.tokens["ada"])
    http("PUT", "/api/models/ada/net/settings", {"visibility": "public", "gated": "auto"})
    assert stranger.python(FETCH).strip() == "gated" and eve.python(FETCH).strip() == "private words"
    http("PUT", "/api/models/ada/net/settings", {"gated": False})
    assert stranger.python(FETCH).strip() == "private words"
    refused = eve.python(
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        try:
            HfApi().upload_file(repo_id="ada/net", path_in_repo="x.txt", path_or_fileobj=b"x")
        except HfHubHTTPError as error:
            print(error.response.status_code, error)
        """
    )
    assert refused.startswith("403") and "no right to change" in refused


def test_git_and_lfs_with_a_token(lab: Lab, root: Path) -> None:
    ada = lab.client("ada")
    Http(lab.url, lab.tokens["ada"])("POST", "/api/repos/create", {"name": "net", "visibility": "private"})
    ada.run(["git", "lfs", "install", "--skip-repo"])
    ada.run(["git", "clone", "-q", lab.git_url("ada", "/ada/net"), "one"], **IDENTITY)
    data = os.urandom(200_000)
    (ada.home / "one/w.bin").write_bytes(data)
    ada.run(["git", "add", "."], cwd=ada.home / "one")
    ada.run(["git", "commit", "-qm", "w"], cwd=ada.home / "one", **IDENTITY)
    ada.run(["git", "push", "-q"], cwd=ada.home / "one", **IDENTITY)
    ada.run(["git", "clone", "-q", lab.git_url("ada", "/ada/net.git"), "two"], **IDENTITY)
    assert (ada.home / "two/w.bin").read_bytes() == data
    for name, word in (("eve", "not found"), ("nobody", "could not read Username")):
        url = lab.git_url("eve", "/ada/net") if name == "eve" else f"{lab.url}/ada/net"
        assert word in lab.client(name).run(["git", "clone", url], check=False), name
    log = (root / "logs/access.jsonl").read_text()
    assert not any(token in log for token in lab.tokens.values())


def test_a_read_token_cannot_push_by_git(lab: Lab) -> None:
    Http(lab.url, lab.tokens["ada"])("POST", "/api/repos/create", {"name": "net"})
    reader = lab.client("reader")
    reader.run(["git", "clone", "-q", lab.git_url("reader", "/ada/net"), "one"], **IDENTITY)
    (reader.home / "one/x").write_text("x")
    reader.run(["git", "add", "."], cwd=reader.home / "one")
    reader.run(["git", "commit", "-qm", "x"], cwd=reader.home / "one", **IDENTITY)
    assert "403" in reader.run(["git", "push"], cwd=reader.home / "one", check=False, **IDENTITY)
