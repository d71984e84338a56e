"""A hub on loopback that speaks enough of the protocol to be believed, and then lies as a test asks it to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

REPO = "timm/tiny.test"
COMMIT = "a" * 40


def blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Lies:
    """What the hub lies about; the first ``num_lies`` times it can, then it tells the truth."""

    num_lies: int = 10**9
    body: Callable[[bytes], bytes] | None = None
    head: Callable[[dict[str, str]], None] | None = None
    tree: Callable[[list[dict[str, Any]]], None] | None = None
    answer: tuple[int, dict[str, str]] | None = None
    only_get: tuple[int, dict[str, str]] | None = None
    cut_after: int | None = None
    is_cut_politely: bool = False
    next_page: str | None = None
    api_body: bytes | None = None
    delay_s: float = 0.0
    is_trickling: bool = False


@dataclass
class LyingHub:
    files: dict[str, bytes]
    large: tuple[str, ...] = ("model.safetensors",)
    lies: Lies = field(default_factory=Lies)
    seen: list[Seen] = field(default_factory=list)
    user: str | None = None
    repo: str = REPO
    plain: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def num_seen(self, method: str, part: str) -> int:
        return sum(seen.method == method and part in seen.path for seen in self.seen)

    def _lies_now(self) -> bool:
        self.lies.num_lies -= 1
        return self.lies.num_lies >= 0

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.seen.append(Seen(request.command, request.path, {k.lower(): v for k, v in request.headers.items()}))
        path = unquote(urlsplit(request.path).path)
        time.sleep(self.lies.delay_s)
        if self.lies.answer and self._lies_now():
            self._send(request, self.lies.answer[0], b"", self.lies.answer[1])
        elif path in self.plain:
            self._send(request, 200, self.plain[path], {})
        elif path == "/api/whoami-v2" and self.user:
            self._send(request, 200, json.dumps({"name": self.user, "type": "user"}).encode(), {})
        elif path.startswith(f"/api/models/{self.repo}/tree/"):
            headers = {"Link": f'<{self.lies.next_page}>; rel="next"'} if self.lies.next_page else {}
            self._send(request, 200, json.dumps(self._tree()).encode(), headers)
        elif path.startswith(f"/api/models/{self.repo}"):
            body = json.dumps({"id": self.repo, "sha": COMMIT, "private": False}).encode()
            self._send(request, 200, self.lies.api_body or body, {})
        elif path.startswith(f"/{self.repo}/resolve/"):
            self._file(request, path.removeprefix(f"/{self.repo}/resolve/").partition("/")[2])
        else:
            self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tree(self) -> list[dict[str, Any]]:
        tree: list[dict[str, Any]] = []
        for name, data in self.files.items():
            entry = {"type": "file", "path": name, "oid": blob_sha1(data), "size": len(data)}
            if name in self.large:
                sha = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
            tree.append(entry)
        if self.lies.tree and self._lies_now():
            self.lies.tree(tree)
        return tree

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        oid = hashlib.sha256(data).hexdigest() if name in self.large else blob_sha1(data)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{oid}"'}
        if request.command == "HEAD":
            headers["Content-Length"] = str(len(data))
            if self.lies.head and self._lies_now():
                self.lies.head(headers)
            self._send(request, 200, b"", headers)
            return
        if self.lies.only_get and self._lies_now():
            self._send(request, self.lies.only_get[0], b"", self.lies.only_get[1])
        elif self.lies.cut_after is not None and self._lies_now():
            self._cut(request, data, headers)
        elif self.lies.is_trickling:
            self._trickle(request, data, headers)
        elif self.lies.body and self._lies_now():
            self._send(request, 200, self.lies.body(data), headers)
        else:
            self._send(request, 200, data, headers)

    def _trickle(self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str]) -> None:
        """Announce everything, send a byte now and then, until nobody listens."""
        request.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        with contextlib.suppress(OSError):
            for byte in data:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.05)
        request.close_connection = True

    def _cut(self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str]) -> None:
        """Announce everything, send a part, reset or close the connection."""
        request.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(data[: self.lies.cut_after])
        request.wfile.flush()
        request.close_connection = True
        if not self.lies.is_cut_politely:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        if not {"content-length", "transfer-encoding"} & {key.lower() for key in headers}:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
