"""What every request passes before any route: a number, the raw path, limits on headers and time, and the access log.

The log has one JSON line a request: when, who, what, how it ended. Never a query, a header or a body: they carry secrets.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubtool.core.errors import HubtoolError
from hubtool.core.files import AppendFile
from hubtool.server.answers import ZERO_COPY
from hubtool.server.call import Limits, Site
from hubtool.server.refusals import Refusal, as_response

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]", "::1")
_SECRET_PARAMETERS = (b"token=", b"access_token=", b"authorization=", b"api_key=")
_MAX_LOG_BYTES = 64 << 20


class TooSlow(Refusal):
    """The peer did not keep up. A slow sender is told; either way its connection ends."""

    def __init__(self) -> None:
        super().__init__(408, "The request came too slowly", code="E-HUB-SLOW", headers={"Connection": "close"})


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, site: Site, log_path: Path) -> None:
        self.app = app
        self.site = site
        self._log_path = log_path
        self._log: AppendFile | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started, request_id = time.monotonic(), uuid4().hex
        state = {"status": 0, "sent": 0}
        scope["path"] = scope["raw_path"].decode("ascii", "replace")  # an encoded slash stays inside its segment

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            else:
                state["sent"] += message["count"] if message["type"] == ZERO_COPY else len(message.get("body", b""))
            try:
                async with asyncio.timeout(self.site.limits.send_s):
                    await send(message)
            except TimeoutError as error:
                raise TooSlow from error

        try:
            refusal = _problem(scope, self.site)
            if refusal is not None:
                await as_response(refusal)(scope, receive, sending)
            else:
                await self.app(scope, paced(receive, self.site.limits), sending)
        except (TooSlow, ClientDisconnect):
            state["status"] = (
                499  # a reader that stopped reading, or left; its half-sent answer ends with its connection
            )
        finally:
            self._write(scope, state, request_id, time.monotonic() - started)

    def _write(self, scope: Scope, state: dict[str, int], request_id: str, wall_s: float) -> None:
        client = scope.get("client") or ("", 0)
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "id": request_id,
            "method": scope["method"][:16],
            "path": scope["path"][:1024],
            "status": state["status"],
            "bytes": state["sent"],
            "wall_ms": round(wall_s * 1000, 1),
            "user": scope.get("hub.caller"),
            "client": client[0],
        }
        try:
            if self._log is None:
                _rotate(self._log_path)
                self._log = AppendFile(self._log_path)
            self._log.append(json.dumps(line).encode() + b"\n")
        except (OSError, HubtoolError):
            self._log = None  # a full disk must not turn answers into errors; the next request tries again


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_suffix(".1.jsonl"))


def _problem(scope: Scope, site: Site) -> Refusal | None:
    """What is wrong with the head of a request, if anything."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    limits = site.limits
    if len(headers) > limits.num_headers or sum(len(k) + len(v) for k, v in headers) > limits.header_bytes:
        return Refusal(431, "The request headers are too large", code="E-HUB-HEADERS")
    if len(scope["raw_path"]) + len(scope["query_string"]) > limits.header_bytes:
        return Refusal(414, "The address is too long", code="E-HUB-PATH")
    if any(part.lower().startswith(_SECRET_PARAMETERS) for part in scope["query_string"].split(b"&")):
        return Refusal(400, "A token does not belong into an address; send it as a header", code="E-HUB-TOKEN")
    named = {key: value.decode("latin-1") for key, value in headers}
    if site.is_open:
        return _foreign(scope["method"], named)
    return None


def _foreign(method: str, headers: dict[bytes, str]) -> Refusal | None:
    """An open hub trusts its caller, so no web page may call it: not by another Host (DNS rebinding), not across sites."""
    if _host_name(headers.get(b"host", "")) not in LOOPBACK_NAMES:
        return Refusal(403, "This hub answers on loopback names only", code="E-HUB-HOST")
    origin = headers.get(b"origin")
    is_cross = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
    if origin is not None and origin.partition("://")[2] != headers.get(b"host"):
        is_cross = True
    if is_cross and method not in ("GET", "HEAD"):
        return Refusal(403, "Requests from other sites are refused", code="E-HUB-ORIGIN")
    return None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def paced(receive: Receive, limits: Limits, clock: Callable[[], float] = time.monotonic) -> Receive:
    """``receive`` that gives up on a body which pauses too long, or trickles."""
    total, waited_s, is_complete = 0, 0.0, False

    async def receiving() -> Message:
        nonlocal total, waited_s, is_complete
        if is_complete:
            return await receive()  # nothing but the disconnect is left; that may take as long as the answer does
        began = clock()
        try:
            async with asyncio.timeout(limits.receive_s):
                message = await receive()
        except TimeoutError as error:
            raise TooSlow from error
        total += len(message.get("body", b""))
        waited_s += clock() - began
        is_complete = not message.get("more_body", False)
        if not is_complete and waited_s > limits.receive_s and total < limits.min_bytes_per_s * waited_s:
            raise TooSlow
        return message

    return receiving
