"""Answers that carry a file: streamed in chunks, with ranges and conditions (RFC 9110)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from email.utils import formatdate
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hubtool.server.incoming import CHUNK_SIZE_BYTES
from hubtool.server.refusals import Refusal
from hubtool.server.spans import FileSpan, Span

ZERO_COPY = "http.response.zerocopysend"
_QUICK_S = 0.5
_MAX_SLICE_BYTES = 8 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
# A served file is data, never a page of this site: no sniffing, no script, shown as a download.
INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Streamed(Response):
    """Sends what an iterator yields; it runs in threads and is closed whatever happens.

    A place in a file goes from the kernel to the socket (ASGI zero copy send).
    """

    def __init__(self, spans: Iterator[Span], status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(None, status_code, headers)
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        coming = self._next()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while span := await coming:
                if isinstance(span, FileSpan):
                    await _send_file(span, send)
                    coming = self._next()
                else:
                    coming = self._next()  # made ready while this one is sent
                    await send({"type": "http.response.body", "body": span, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await asyncio.gather(coming, return_exceptions=True)  # the iterator must be at rest to be closed
            close = getattr(self._spans, "close", None)
            if close is not None:
                await run_in_threadpool(close)

    def _next(self) -> asyncio.Future[Span]:
        return asyncio.ensure_future(run_in_threadpool(next, self._spans, b""))


async def _send_file(span: FileSpan, send: Send) -> None:
    at, slice_bytes = span.start, CHUNK_SIZE_BYTES
    while at < span.stop:
        count, began = min(slice_bytes, span.stop - at), time.monotonic()
        await send({"type": ZERO_COPY, "file": span.file, "offset": at, "count": count, "more_body": True})
        at += count
        # The edge gives each slice the same time, so only a reader that is quick gets large ones.
        is_quick = time.monotonic() - began < _QUICK_S
        slice_bytes = min(2 * slice_bytes, _MAX_SLICE_BYTES) if is_quick else CHUNK_SIZE_BYTES


def parse_range(text: str, size_bytes: int) -> tuple[int, int] | None:
    """(start, stop) of one byte range; None when the whole file is to be sent. Raises Refusal 416."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[0] == "bytes=-":
        return None  # several ranges, or another unit: a server may answer with everything
    first, last = match[1], match[2]
    start = int(first) if first else max(0, size_bytes - int(last))
    stop = min(int(last) + 1, size_bytes) if first and last else size_bytes
    if start >= size_bytes or stop <= start:
        headers = {"Content-Range": f"bytes */{size_bytes}"}
        raise Refusal(416, "The range lies outside of the file", code="E-HUB-RANGE", headers=headers)
    return start, stop


def disposition(name: str) -> str:
    """``attachment`` with a name that no header can be broken by."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"


def is_unchanged(request: Request, etag: str) -> bool:
    asked = request.headers.get("if-none-match", "")
    return asked.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in asked.split(",")]


def range_of(request: Request, etag: str, size_bytes: int) -> tuple[int, int] | None:
    """The range to send, honoured only when If-Range names this very file."""
    text = request.headers.get("range")
    if text is None or request.headers.get("if-range", etag) != etag:
        return None
    return parse_range(text, size_bytes)


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)
