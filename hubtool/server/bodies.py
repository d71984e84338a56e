"""Reading request bodies: each under a limit, large ones to disk as they come."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from hubtool.server.incoming import CHUNK_SIZE_BYTES
from hubtool.server.refusals import Refusal

MAX_JSON_BYTES = 1 << 20


def too_large(limit: int) -> Refusal:
    return Refusal(413, f"The request body is larger than {limit} bytes", code="E-HUB-BODY")


def content_length(request: Request) -> int | None:
    """The announced length; uvicorn has refused what is no number."""
    text = request.headers.get("content-length")
    return int(text) if text is not None and text.isdigit() else None


async def read_body(request: Request, limit: int = MAX_JSON_BYTES) -> bytes:
    """The whole body; a compressed one is inflated under the same limit. Raises Refusal 413, 415 or 400."""
    if (content_length(request) or 0) > limit:
        raise too_large(limit)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", ""):
        raise Refusal(415, "The content encoding is not supported", code="E-HUB-BODY")
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += inflate.decompress(chunk, limit + 1 - len(body)) if inflate else chunk
            if len(body) > limit:
                raise too_large(limit)
    except zlib.error as error:
        raise Refusal(400, "The body is not valid gzip", code="E-HUB-BODY") from error
    except ClientDisconnect as error:
        raise Refusal(400, "The body ended early", code="E-HUB-BODY") from error
    return bytes(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one. Raises Refusal 400."""
    try:
        value = json.loads(body or b"{}", parse_constant=_refuse_constant)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "The body is not valid JSON", code="E-HUB-BODY") from error
    if not isinstance(value, dict):
        raise Refusal(400, "The body must be a JSON object", code="E-HUB-BODY")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


async def read_form(request: Request, limit: int = MAX_JSON_BYTES) -> dict[str, list[str]]:
    """An urlencoded form, or JSON of the same shape (newer clients send it)."""
    body = await read_body(request, limit)
    form: dict[str, list[str]] = {}
    if request.headers.get("content-type", "").startswith("application/json"):
        for key, value in parse_json(body).items():
            form[key] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        return form
    try:
        for key, value in parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=5000):
            form.setdefault(key, []).append(value)
    except ValueError as error:
        raise Refusal(400, "The form cannot be read", code="E-HUB-BODY") from error
    return form


class Receiver(Protocol):
    """What takes a body, piece by piece, and says how much of it came."""

    size_bytes: int

    def write_pieces(self, pieces: Iterable[bytes]) -> None: ...

    def discard(self) -> None: ...


async def receive(request: Request, incoming: Receiver, limit: int) -> None:
    """Stream the body into ``incoming``; discards it when anything is wrong."""
    try:
        announced = content_length(request)
        if (announced or 0) > limit:
            raise too_large(limit)
        try:
            await _store(request, incoming, limit)
        except ClientDisconnect as error:
            raise Refusal(400, "The body ended early", code="E-HUB-BODY") from error
        if announced is not None and incoming.size_bytes != announced:
            raise Refusal(400, "The body ended early", code="E-HUB-BODY")
    except BaseException:
        incoming.discard()
        raise


async def _store(request: Request, incoming: Receiver, limit: int) -> None:
    """One piece is written and hashed in a thread while the next one comes; no thread is left when this ends."""
    total, waiting, waiting_bytes = 0, [], 0
    writing: asyncio.Future[None] | None = None
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise too_large(limit)
            waiting.append(chunk)
            waiting_bytes += len(chunk)
            if waiting_bytes >= CHUNK_SIZE_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(incoming.write_pieces, waiting))
                waiting, waiting_bytes = [], 0
    finally:
        if writing is not None:
            await writing
    await run_in_threadpool(incoming.write_pieces, waiting)


def text_field(body: dict[str, Any], key: str, default: str | None = None) -> str:
    """A text of the body; raises Refusal 400 when it is missing or something else."""
    value = body.get(key, default)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise Refusal(400, f"The field {key!r} must be a text", code="E-HUB-FIELD")
    return value
