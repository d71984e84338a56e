"""A hub that lies: whatever it does, wrong bytes are not handed out and nothing is written outside the cache."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtool.core.errors import (
    HubtoolError,
    IntegrityError,
    NotFoundError,
    SecurityError,
    StorageError,
    UnavailableError,
)
from hubtool.core.settings import PUBLIC_HUB, read_settings
from hubtool.hub.client import Hub, cache_dir, check_endpoint, open_hub
from hubtool.hub.fetch import fetch_package, fetch_repo
from hubtool.hub.guard import check_redirect, guarded
from tests.hub.lying_hub import COMMIT, REPO, Lies, LyingHub

WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": b'{"architecture": "tiny"}', "model.safetensors": WEIGHTS, "README.md": b"# tiny\n"}
WANTED = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


class Listener:
    """A reporter that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say

    def task(self, label: str, total: float | None = None, unit: str = "") -> Any:
        from hubtool.core.progress import SILENT

        return SILENT.task(label, total, unit)


def client_of(liar: LyingHub, tmp_path: Path, **changes: Any) -> Hub:
    settings = {"endpoint": liar.url, "name": liar.url, "cache_dir": tmp_path / "root" / "cache", "retry_wait_s": 0.01}
    return Hub(**{**settings, "max_attempts": 2, **changes})


def fetch(liar: LyingHub, tmp_path: Path, **changes: Any) -> Path:
    return fetch_repo(client_of(liar, tmp_path, **changes), REPO, None, wanted=WANTED)[1]


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_a_repository_comes_pinned_with_a_digest_of_every_file(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar:
        origin, directory, vouch = fetch_repo(client_of(liar, tmp_path), REPO, None, wanted=WANTED)
    assert (origin.revision, origin.hub, vouch) == (COMMIT, liar.url, "published")
    assert [file.path for file in origin.files] == ["config.json", "model.safetensors"]
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert not (directory / "README.md").exists()


@pytest.mark.parametrize("size", ["same", "short", "long", "empty"])
def test_wrong_bytes_are_deleted_and_named(tmp_path: Path, size: str) -> None:
    wrong = {"same": flip, "short": lambda d: d[:-7], "long": lambda d: d + b"!", "empty": lambda d: b""}[size]
    listener = Listener()
    with LyingHub(FILES, lies=Lies(body=wrong)) as liar, pytest.raises(IntegrityError) as caught:
        fetch(liar, tmp_path, reporter=listener)
    assert caught.value.code == "E-INTEGRITY"
    assert "want" in caught.value.what
    assert any("deleted; retrying 1/2" in line for line in listener.lines)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name in (*FILES, "blobs")]
    assert all(p.read_bytes() != wrong(WEIGHTS) for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size)


def test_wrong_bytes_once_are_fetched_again(tmp_path: Path) -> None:
    with LyingHub(FILES, lies=Lies(num_lies=1, body=flip)) as liar:
        directory = fetch(liar, tmp_path)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert (directory / "config.json").read_bytes() == FILES["config.json"]


def test_a_bad_cache_is_healed(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar:
        directory = fetch(liar, tmp_path)
        blob = (directory / "model.safetensors").resolve()
        blob.write_bytes(flip(WEIGHTS))
        assert fetch(liar, tmp_path) == directory
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("politely", [True, False])
def test_a_connection_that_breaks_once_goes_on(tmp_path: Path, politely: bool) -> None:
    with LyingHub(FILES, lies=Lies(num_lies=1, cut_after=5, is_cut_politely=politely)) as liar:
        assert (fetch(liar, tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(("politely", "code"), [(True, "E-HUB-BROKEN"), (False, "E-HUB-UNREACHABLE")])
def test_a_connection_that_always_breaks_ends(tmp_path: Path, politely: bool, code: str) -> None:
    lies = Lies(cut_after=5, is_cut_politely=politely)
    with LyingHub(FILES, lies=lies) as liar, pytest.raises(UnavailableError) as caught:
        fetch(liar, tmp_path, max_attempts=1)
    assert caught.value.code == code


def test_a_compressed_body_is_refused(tmp_path: Path) -> None:
    lies = Lies(only_get=(200, {"Content-Encoding": "gzip", "Content-Length": str(len(gzip.compress(b"")))}))
    with LyingHub(FILES, lies=lies) as liar, pytest.raises(IntegrityError, match="compressed"):
        fetch(liar, tmp_path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ETag": '"../../../../evil"'}, "E-HUB-BADOID"),
        ({"ETag": f'"{tempfile.gettempdir()}/evil"'}, "E-HUB-BADOID"),
        ({"ETag": '"abc"'}, "E-HUB-BADOID"),
        ({"X-Linked-Etag": '"..%2f..%2fevil"'}, "E-HUB-BADOID"),
        ({"X-Repo-Commit": "../../../evil"}, "E-HUB-BADOID"),
        ({"X-Repo-Commit": "main"}, "E-HUB-BADOID"),
        ({"X-Repo-Commit": "b" * 40}, "E-INTEGRITY"),
        ({"ETag": f'"{"c" * 64}"'}, "E-INTEGRITY"),
        ({"X-Linked-Size": "99999999999999"}, "E-INTEGRITY"),
        ({"X-Linked-Size": "-1"}, "E-INTEGRITY"),
    ],
)
def test_hostile_headers_write_nothing(tmp_path: Path, change: dict[str, str], code: str) -> None:
    with (
        LyingHub(FILES, lies=Lies(head=lambda headers: headers.update(change))) as liar,
        pytest.raises(HubtoolError) as caught,
    ):
        fetch(liar, tmp_path)
        assert liar.num_seen("GET", "/resolve/") == 0
    assert caught.value.code == code
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_hostile_commit_on_a_404_writes_nothing(tmp_path: Path) -> None:
    answer = (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "../../../evil"})
    with LyingHub(FILES) as liar:
        client = client_of(liar, tmp_path)
        liar.lies.answer = answer
        with pytest.raises(SecurityError) as caught:
            client.call(REPO, lambda api: api.hf_hub_download(REPO, "x", revision=COMMIT, cache_dir=client.cache_dir))
    assert caught.value.code == "E-HUB-BADOID"
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["../x"], "E-PATH-INVALID"),
        (["/etc/passwd"], "E-PATH-INVALID"),
        ([".git/hooks/x"], "E-PATH-INVALID"),
        (["a\\..\\b"], "E-PATH-INVALID"),
        (["a\0b"], "E-PATH-INVALID"),
        (["con.txt"], "E-PATH-INVALID"),
        (["a\u202eb"], "E-PATH-INVALID"),
        (["Model.safetensors"], "E-PATH-TWINS"),
        (["a", "a/b"], "E-PATH-TWINS"),
    ],
)
def test_a_hostile_listing_is_refused_whole(tmp_path: Path, names: list[str], code: str) -> None:
    def add(tree: list[dict[str, Any]]) -> None:
        tree.extend({"type": "file", "path": name, "oid": "d" * 40, "size": 1} for name in names)

    with LyingHub(FILES, lies=Lies(tree=add)) as liar, pytest.raises(SecurityError) as caught:
        fetch(liar, tmp_path)
        assert liar.num_seen("HEAD", "/resolve/") == 0
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"oid": "../../x"}, "E-HUB-BADOID"),
        ({"lfs": {"oid": "sha256:" + "a" * 57, "size": 1, "pointerSize": 1}}, "E-HUB-BADOID"),
        ({"size": -1}, "E-HUB-LISTING"),
        ({"size": "12"}, "E-HUB-LISTING"),
    ],
)
def test_a_listing_with_bad_digests_is_refused(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    with (
        LyingHub(FILES, lies=Lies(tree=lambda tree: tree[0].update(change))) as liar,
        pytest.raises(SecurityError) as caught,
    ):
        fetch(liar, tmp_path)
    assert caught.value.code == code


def test_a_listing_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.hub.fetch.MAX_FILES", 2)
    with LyingHub(FILES) as liar, pytest.raises(SecurityError) as caught:
        fetch(liar, tmp_path)
    assert caught.value.code == "E-HUB-LISTING"


@pytest.mark.parametrize(
    ("status", "headers", "code", "exit_code"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "E-HUB-404", 4),
        (401, {"X-Error-Code": "RepoNotFound"}, "E-HUB-401", 4),
        (403, {"X-Error-Code": "GatedRepo"}, "E-HUB-GATED", 4),
        (403, {}, "E-HUB-403", 4),
        (404, {"X-Error-Code": "RevisionNotFound"}, "E-HUB-REVISION", 4),
        (400, {}, "E-HUB-REFUSED", 2),
        (500, {}, "E-HUB-DOWN", 75),
        (503, {}, "E-HUB-DOWN", 75),
        (407, {}, "E-HUB-DOWN", 75),
        (429, {"Retry-After": "0"}, "E-HUB-BUSY", 75),
    ],
)
def test_each_refusal_has_its_text(
    tmp_path: Path, status: int, headers: dict[str, str], code: str, exit_code: int
) -> None:
    token = "hf_canary0000000000000000000000000000"
    shout = {"X-Error-Message": f"no {token}\x1b[31m", **headers}
    with LyingHub(FILES, lies=Lies(answer=(status, shout))) as liar, pytest.raises(HubtoolError) as caught:
        fetch(liar, tmp_path, token=token)
    error = caught.value
    assert (error.code, error.exit_code) == (code, exit_code)
    assert token not in error.line() + error.hint
    assert "\x1b" not in error.line() + error.hint
    assert exit_code != 75 or "tried 2 times" in error.what
    assert exit_code != 4 or code == "E-HUB-REVISION" or "a token was sent" in error.what


def test_without_a_token_the_error_says_how_to_log_in(tmp_path: Path) -> None:
    with (
        LyingHub(FILES, lies=Lies(answer=(401, {"X-Error-Code": "RepoNotFound"}))) as liar,
        pytest.raises(NotFoundError, match="no token was sent") as caught,
    ):
        fetch(liar, tmp_path)
    assert f"hubtool login --hub {liar.url}" in caught.value.line()


def test_the_hub_may_be_down_for_a_moment(tmp_path: Path) -> None:
    listener = Listener()
    with LyingHub(FILES, lies=Lies(num_lies=1, answer=(503, {}))) as liar:
        assert fetch(liar, tmp_path, reporter=listener).is_dir()
    assert any("try 1 of 2" in line for line in listener.lines)


def test_the_wait_that_the_hub_asks_for_is_shown(tmp_path: Path) -> None:
    listener = Listener()
    with LyingHub(FILES, lies=Lies(num_lies=1, answer=(429, {"Retry-After": "1"}))) as liar:
        assert fetch(liar, tmp_path, reporter=listener).is_dir()
    assert any("again in 1 s" in line for line in listener.lines)


def test_nobody_there(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar:
        pass
    with pytest.raises(UnavailableError, match="nobody answers") as caught:
        fetch(liar, tmp_path)
    assert caught.value.exit_code == 75
    assert "tried 2 times" in caught.value.what


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.hub.guard._TIMEOUT_S", dict.fromkeys(("connect", "read", "write", "pool"), 0.2))
    with LyingHub(FILES, lies=Lies(delay_s=0.5)) as liar, pytest.raises(UnavailableError, match="no answer in time"):
        fetch(liar, tmp_path, max_attempts=1)


def test_a_hub_that_speaks_no_tls(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar, pytest.raises(UnavailableError, match="TLS"):
        fetch(liar, tmp_path, max_attempts=1, endpoint=liar.url.replace("http:", "https:"))


def test_ctrl_c_ends_a_slow_download(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hubtool.hub.client import Hub; from hubtool.hub.fetch import fetch_repo;"
        "hub = Hub(endpoint=sys.argv[1], name='x', cache_dir=Path(sys.argv[2]));"
        "fetch_repo(hub, 'timm/tiny.test', None, wanted=('config.json', 'model.safetensors'))"
    )
    with LyingHub(FILES, lies=Lies(is_trickling=True)) as liar:
        command = [sys.executable, "-c", code, liar.url, str(tmp_path / "cache")]
        client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not liar.num_seen("GET", "/resolve/"):
            assert client.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=10)
    assert "KeyboardInterrupt" in said
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_name_that_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hub = Hub(endpoint="http://hub.invalid", name="x", cache_dir=tmp_path, max_attempts=1)
    with pytest.raises(UnavailableError, match="the host name is not found"):
        fetch_repo(hub, REPO, None, wanted=WANTED)


def test_several_at_once_get_the_same(tmp_path: Path) -> None:
    with LyingHub(FILES, lies=Lies(num_lies=2, body=flip)) as liar, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(liar, tmp_path), range(4)))
    assert len(set(found)) == 1
    assert (found[0] / "model.safetensors").read_bytes() == WEIGHTS


def test_what_checks_the_requests_is_put_on_once_when_several_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put on twice it would count each request twice, and take a download for one that breaks again and again."""
    made: list[Any] = []

    def set_slowly(make: Any) -> None:
        time.sleep(0.05)
        made.append(make)

    def begin(barrier: threading.Barrier) -> None:
        barrier.wait()
        with guarded(PUBLIC_HUB):
            pass

    monkeypatch.setattr("hubtool.hub.guard._is_installed", False)
    monkeypatch.setattr("huggingface_hub.set_client_factory", set_slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, [threading.Barrier(4)] * 4))
    assert len(made) == 1


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab0/.\\%:~\0\n-_@ \u00e9\u202e"), max_size=60))
def test_no_name_of_a_hub_makes_a_cache_elsewhere(name: str) -> None:
    where = Path("/home/ada/.local/share/hubtool")
    settings_ = read_settings({"HUBTOOL_HOME": str(where), "HF_HUB_CACHE": "/hf"})
    try:
        endpoint = check_endpoint(f"http://h{name}")
    except HubtoolError:
        return
    place = cache_dir(endpoint, settings_)
    assert place.parent == where / "cache"
    assert place.name not in (".", "..")


def test_what_is_no_hub_is_said(tmp_path: Path) -> None:
    with LyingHub(FILES, lies=Lies(api_body=b"<html>")) as liar, pytest.raises(IntegrityError) as caught:
        fetch(liar, tmp_path)
    assert caught.value.code == "E-HUB-ANSWER"


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.com/x", "LOOP"])
def test_a_redirect_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    with LyingHub(FILES) as liar:
        target = f"{liar.url}/api/models/{REPO}" if place == "LOOP" else place
        liar.lies.answer = (302, {"Location": target})
        with pytest.raises(SecurityError) as caught:
            fetch(liar, tmp_path)
    assert caught.value.code == "E-HUB-REDIRECT"


@pytest.mark.parametrize(
    "target", ["http://hub.example/x", "file:///x", "http://127.0.0.1/x", "https://localhost/", "https://10.0.0.1/"]
)
def test_redirects_that_no_public_hub_needs(target: str) -> None:
    with pytest.raises(SecurityError):
        check_redirect("https://hub.example/x", target)


def test_redirects_that_hubs_use() -> None:
    check_redirect("https://huggingface.co/x", "https://cas-bridge.xethub.hf.co/y")
    check_redirect("http://127.0.0.1:1/x", "http://127.0.0.1:2/y")


@pytest.mark.parametrize("way", ["next page", "redirect of the listing", "redirect of the file"])
def test_the_token_of_one_hub_never_reaches_another(tmp_path: Path, way: str) -> None:
    token = "hf_canary0000000000000000000000000000"
    with LyingHub(FILES) as other, LyingHub(FILES) as liar:
        elsewhere = {"Location": f"{other.url}/{REPO}/resolve/{COMMIT}/model.safetensors"}
        lies: dict[str, Callable[[], Lies]] = {
            "next page": lambda: Lies(next_page=f"{other.url}/api/models/{REPO}/tree/{COMMIT}"),
            "redirect of the listing": lambda: Lies(answer=(302, {"Location": f"{other.url}/api/models/{REPO}"})),
            "redirect of the file": lambda: Lies(only_get=(302, elsewhere)),
        }
        liar.lies = lies[way]()
        try:
            fetch(liar, tmp_path, token=token)
        except HubtoolError as error:
            assert token not in error.line()
        assert liar.seen[0].headers["authorization"] == f"Bearer {token}"
        assert not [seen for seen in other.seen if token in str(seen)]


def test_a_next_page_at_another_origin_is_named(tmp_path: Path) -> None:
    with (
        LyingHub(FILES) as other,
        LyingHub(FILES, lies=Lies(next_page=f"{other.url}/next")) as liar,
        pytest.raises(SecurityError) as caught,
    ):
        fetch(liar, tmp_path, token="hf_canary")
        assert not other.seen
    assert caught.value.code == "E-HUB-TOKEN"


def test_the_token_of_the_public_hub_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_publiccanary000000000000000000000"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(token)
    with LyingHub(FILES) as liar:
        fetch_repo(open_hub(liar.url), REPO, None, wanted=WANTED)
        assert not [seen for seen in liar.seen if token in str(seen)]
    assert open_hub(PUBLIC_HUB).token == token


@pytest.mark.parametrize(("files", "code"), [({"pytorch_model.bin": b"x"}, "E-SEC-PICKLE"), ({}, "E-REF-WEIGHTS")])
def test_a_repository_without_safetensors(tmp_path: Path, files: dict[str, bytes], code: str) -> None:
    with LyingHub({"config.json": b"{}", **files}) as liar, pytest.raises(HubtoolError) as caught:
        fetch(liar, tmp_path)
        assert liar.num_seen("HEAD", "/resolve/") == 0
    assert caught.value.code == code


def index(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}}).encode()


def test_shards_come_with_their_index(tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 1000 for i in (1, 2)}
    files = {"config.json": b"{}", "model.safetensors.index.json": index(*shards), **shards}
    with LyingHub(files, large=tuple(shards)) as liar:
        directory = fetch(liar, tmp_path)
    assert {p.name for p in directory.iterdir()} == files.keys()


@pytest.mark.parametrize(
    ("name", "code"),
    [("../evil.safetensors", "E-PATH-INVALID"), ("x.bin", "E-WEIGHTS-INDEX"), ("gone.safetensors", "E-WEIGHTS-SHARD")],
)
def test_an_index_that_names_what_it_must_not(tmp_path: Path, name: str, code: str) -> None:
    with (
        LyingHub({"config.json": b"{}", "model.safetensors.index.json": index(name)}) as liar,
        pytest.raises(HubtoolError) as caught,
    ):
        fetch(liar, tmp_path)
    assert caught.value.code == code


def test_offline_and_not_here(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar:
        fetch(liar, tmp_path)
        num_seen = len(liar.seen)
        with pytest.raises(NotFoundError) as caught:
            fetch_repo(client_of(liar, tmp_path, is_offline=True), "timm/other", None, wanted=WANTED)
        assert len(liar.seen) == num_seen
    assert caught.value.code == "E-OFFLINE"
    assert f"{REPO}@aaaaaaaa" in caught.value.hint


def test_offline_what_the_client_cached_is_taken_when_its_bytes_are_right(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar:
        fetch(liar, tmp_path)
    offline = client_of(liar, tmp_path, is_offline=True)
    origin, directory, vouch = fetch_repo(offline, REPO, COMMIT, wanted=WANTED)
    assert (origin.revision, vouch) == (COMMIT, "first_pull")
    (directory / "model.safetensors").resolve().write_bytes(flip(WEIGHTS))
    with pytest.raises(IntegrityError):
        fetch_repo(offline, REPO, COMMIT, wanted=WANTED)


def package() -> dict[str, bytes]:
    import hashlib

    files = {"model.safetensors": WEIGHTS, "evidence/val.json": b"[1]", "README.md": b"# card\n"}
    listed = [
        {"path": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    head = {"schema": "hubtool/package/v1", "hubtool": "0.1.0", "layout": "timm", "license": "mit", "files": listed}
    manifest = json.dumps({**head, "base_model": None, "base_revision": None}).encode()
    return {**files, "hubtool.json": manifest}


def test_a_package_arrives_whole(tmp_path: Path) -> None:
    with LyingHub({**package(), "extra.txt": b"x"}) as liar:
        fetched = fetch_package(client_of(liar, tmp_path), REPO, None, tmp_path / "root" / "package")
        assert liar.num_seen("HEAD", "extra.txt") == 0
    assert fetched.ignored == ("extra.txt",)
    assert (fetched.directory / "evidence" / "val.json").read_bytes() == b"[1]"
    assert not (fetched.directory / "extra.txt").exists()


def test_a_package_with_a_changed_file_is_refused_and_the_file_named(tmp_path: Path) -> None:
    with (
        LyingHub(package() | {"evidence/val.json": b"[2]"}) as liar,
        pytest.raises(IntegrityError, match="evidence/val"),
    ):
        fetch_package(client_of(liar, tmp_path), REPO, None, tmp_path / "root" / "package")
    assert not (tmp_path / "root" / "package").exists()


def test_a_card_edited_on_the_hub_is_said_and_an_earlier_fetch_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "root" / "package"
    with LyingHub(package()) as liar:
        assert not fetch_package(client_of(liar, tmp_path), REPO, None, target).is_card_edited
        liar.files["README.md"] = b"# by hand\n"
        again = fetch_package(client_of(liar, tmp_path, cache_dir=tmp_path / "other"), REPO, None, target)
    assert again.is_card_edited
    assert (target / "README.md").read_bytes() == b"# by hand\n"
    assert {p.name for p in target.parent.iterdir()} == {"package", "cache"}


def test_a_package_does_not_replace_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with LyingHub(package()) as liar, pytest.raises(StorageError):
        fetch_package(client_of(liar, tmp_path), REPO, None, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_package_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    files = package()
    del files["README.md"]
    with LyingHub(files) as liar, pytest.raises(IntegrityError, match=r"missing: README\.md"):
        fetch_package(client_of(liar, tmp_path), REPO, None, tmp_path / "package")


def test_a_repository_that_is_no_package(tmp_path: Path) -> None:
    with LyingHub(FILES) as liar, pytest.raises(NotFoundError, match=r"hubtool\.json"):
        fetch_package(client_of(liar, tmp_path), REPO, None, tmp_path / "package")
