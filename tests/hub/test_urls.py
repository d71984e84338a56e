"""Weights behind a plain URL: the digits of sha256 in the name, and what a server may not do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError
from hubtool.hub.urls import FetchedUrl, fetch_url

DATA = bytes(range(256)) * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = f"tiny-{SHA256[:8]}.pth"


class Mirror:
    """Serves DATA; ``answers`` are taken first, one a request: (status, headers, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[dict[str, str]] = []


@contextmanager
def serving(mirror: Mirror) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            mirror.requests.append({key.lower(): value for key, value in self.headers.items()})
            status, headers, body = mirror.answers.pop(0) if mirror.answers else (200, {}, DATA)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = "Content-Length" in headers

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


def fetch(mirror: Mirror, home: Path, name: str = NAME, **options: Any) -> FetchedUrl:
    with serving(mirror) as url:
        return fetch_url(f"{url}/models/{name}", home=home, retry_wait_s=0.01, max_attempts=3, **options)


def test_what_the_name_promises_comes_and_is_kept_under_its_digest(mirror: Mirror, tmp_path: Path) -> None:
    fetched = fetch(mirror, tmp_path)
    assert fetched.path == tmp_path / "cache" / "url" / SHA256 / NAME
    assert fetched.path.read_bytes() == DATA
    assert fetched.digests_from == "published"
    assert [(file.path, file.sha256) for file in fetched.origin.files] == [(NAME, SHA256)]


@pytest.mark.parametrize("name", ["tiny.pth", "tiny-20210304.pth"])
def test_a_name_without_digits_is_trust_on_first_use(mirror: Mirror, tmp_path: Path, name: str) -> None:
    assert fetch(mirror, tmp_path, name).digests_from == "first_pull"


def test_wrong_bytes_are_deleted_and_named(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [(200, {}, DATA[:-1] + b"!")] * 3
    with pytest.raises(IntegrityError, match=f"want sha256 {SHA256[:8]}… got") as caught:
        fetch(mirror, tmp_path)
    assert caught.value.exit_code == 5
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_wrong_bytes_once_are_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [(200, {}, b""), (200, {"Content-Length": str(len(DATA))}, DATA[:10]), (503, {}, b"")]
    assert fetch(mirror, tmp_path).path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [
        ((404, {}, b""), 4),
        ((403, {}, b""), 4),
        ((503, {}, b""), 75),
        ((429, {"Retry-After": "0"}, b""), 75),
        ((302, {"Location": "file:///etc/passwd"}, b""), 6),
        ((302, {"Location": "/models/again.pth"}, b""), 6),
        ((200, {"Content-Encoding": "gzip"}, DATA), 5),
        ((200, {"Content-Length": "99999999999999"}, DATA), 6),
        ((206, {}, DATA), 75),
    ],
)
def test_each_refusal(
    mirror: Mirror, tmp_path: Path, answer: tuple[int, dict[str, str], bytes], exit_code: int
) -> None:
    mirror.answers = [answer] * 20
    with pytest.raises(HubtoolError) as caught:
        fetch(mirror, tmp_path)
    assert caught.value.exit_code == exit_code
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_redirect_is_followed_without_any_token(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary0000000000000000000000000000")
    mirror.answers = [(302, {"Location": f"/other/{NAME}"}, b"")]
    assert fetch(mirror, tmp_path).path.read_bytes() == DATA
    assert len(mirror.requests) == 2
    assert not [request for request in mirror.requests if "authorization" in request or "canary" in str(request)]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x.pth", "http://h/", "http://h/..", "http://h/a%00b"])
def test_what_is_no_web_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(HubtoolError) as caught:
        fetch_url(url, home=tmp_path, is_offline=True)
    assert caught.value.code in ("E-HUB-URL", "E-PATH-INVALID", "E-OFFLINE")


def test_offline(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        fetch(mirror, tmp_path, is_offline=True)
    assert caught.value.code == "E-OFFLINE"
    assert not mirror.requests
