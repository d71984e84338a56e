"""`hubtool serve` and `hubtool hub`, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hubtool.cli.main import run
from hubtool.server.embedded import EmbeddedHub
from tests.server.clients import Http

HUBTOOL = [sys.executable, "-c", "from hubtool.cli.main import main; main()"]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, (-15, 143)), (signal.SIGINT, (130,))])
def test_serve_says_where_it_is_and_ends_on_a_signal(
    tmp_path: Path, stop: signal.Signals, code: tuple[int, ...]
) -> None:
    command = [*HUBTOOL, "serve", "--root", str(tmp_path / "hub"), "--port", "0", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert child.stdout is not None and child.stderr is not None
    facts = json.loads(child.stdout.readline())
    http = Http(facts["url"])
    for _ in range(100):
        try:
            assert http("GET", "/healthz").status == 200
            break
        except ConnectionError:
            pass
    with EmbeddedHub(tmp_path / "hub") as embedded:  # both stand on one root
        assert Http(embedded.url)("POST", "/api/repos/create", {"name": "net", "organization": "lab"}).status == 200
        assert http("GET", "/api/models/lab/net").status == 200
    child.send_signal(stop)
    assert child.wait(30) in code
    assert "Traceback" not in child.stderr.read()
    child.stdout.close()
    child.stderr.close()


def test_users_tokens_and_their_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path / "hub")]

    def hub(*words: str) -> str:
        assert run(["hub", *words, *root]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    hub("user", "add", "ada")
    hub("user", "add", "bob")
    hub("user", "grant", "bob", "ada", "--access", "write")
    made = json.loads(hub("token", "add", "ada", "--label", "laptop", "--days", "30", "--json"))
    assert json.loads(hub("user", "ls", "--json"))[1]["grants"] == [["ada", "write"]]
    with EmbeddedHub(tmp_path / "hub", is_open=False) as served:
        http = Http(served.url, made["token"])
        assert http("GET", "/api/whoami-v2").json["auth"]["accessToken"] == {"displayName": "laptop", "role": "write"}
        listed = hub("token", "list")
        assert made["id"] in listed and "live" in listed and made["token"] not in listed
        hub("token", "revoke", made["id"])
        assert http("GET", "/api/whoami-v2").status == 401, "at once, in a server that runs"
        text = hub("token", "add", "ada", "-q").strip()
        assert Http(served.url, text)("GET", "/api/whoami-v2").status == 200
        hub("user", "remove", "ada")
        assert Http(served.url, text)("GET", "/api/whoami-v2").status == 401


def test_fsck_gc_backup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path / "hub")]
    run(["hub", "user", "add", "ada", *root])
    assert run(["hub", "gc", *root]) == 0 and run(["hub", "backup", str(tmp_path / "copy"), *root]) == 0
    assert run(["hub", "fsck", "--root", str(tmp_path / "copy")]) == 0
    assert "all is well" in capsys.readouterr().out
    (tmp_path / "hub/objects/ab").mkdir(parents=True)
    (tmp_path / "hub/objects/ab" / ("c" * 62)).write_bytes(b"not that")
    assert run(["hub", "fsck", *root]) == 5
    assert "ab" + "c" * 62 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["serve", "--host", "0.0.0.0", "--port", "0"], 2, "E-HUB-URL"),
        (["serve", "--host", "203.0.113.7", "--port", "0"], 8, "E-HUB-PORT"),
        (["serve", "--public-url", "hub.lab"], 2, "E-HUB-URL"),
        (["hub", "fsck"], 4, "E-HUB-ROOT"),
        (["hub", "token", "add", "nobody"], 4, "E-HUB-ROOT"),
        (["hub", "user", "add", "../x"], 6, "E-REF-INVALID"),
        (["hub", "backup", "."], 4, "E-HUB-ROOT"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], code: int, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == code
    error = capsys.readouterr().err
    assert said in error and len([line for line in error.splitlines() if line.startswith("error")]) == 1
