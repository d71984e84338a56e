"""A line to a real hub that can be cut at any request, before it arrives or before its answer does."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_NOT_FORWARDED = {"host", "connection", "content-length", "transfer-encoding"}


@dataclass
class BrokenLine:
    """Forwards to ``target``. ``cut`` gets (number of the request, "METHOD path") and may say "before" or "after";
    ``status`` may answer in the hub's place; ``tamper`` changes the body of an answer."""

    target: str
    cut: Callable[[int, str], str | None] = lambda number, what: None
    status: Callable[[str], int | None] = lambda what: None
    tamper: Callable[[str, bytes], bytes] = lambda what, body: body
    before: Callable[[str], None] = lambda what: None
    seen: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                line._forward(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

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

    def _forward(self, request: Any) -> None:
        what = f"{request.command} {request.path}"
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.seen.append(what)
        fault = self.cut(len(self.seen), what)
        if fault == "before":
            self._hang_up(request)
            return
        self.before(what)
        status = self.status(what)
        if status is not None:
            self._answer(request, status, b"{}", {"Content-Type": "application/json"})
            return
        status, headers, answer = self._ask(request, body)
        if fault == "after":
            self._hang_up(request)
            return
        self._answer(request, status, self.tamper(what, answer), headers)

    def _ask(self, request: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc, timeout=30)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_FORWARDED}
        connection.request(request.command, request.path, body=body, headers=headers)
        response = connection.getresponse()
        answer = response.read()
        kept = {k: v for k, v in response.getheaders() if k.lower() not in _NOT_FORWARDED}
        if request.command == "HEAD" and response.headers.get("Content-Length"):
            kept["Content-Length"] = response.headers["Content-Length"]
        connection.close()
        mine, theirs = self.url.encode(), self.target.encode()
        is_text = not response.headers.get("Content-Type", "").startswith("application/octet-stream")
        kept = {k: v.replace(self.target, self.url) for k, v in kept.items()}
        return response.status, kept, answer.replace(theirs, mine) if is_text else answer

    def _answer(self, request: Any, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        if "Content-Length" not in headers:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def _hang_up(self, request: Any) -> None:
        request.close_connection = True
        request.connection.close()
