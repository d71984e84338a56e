"""git-lfs: the batch call, uploads whole or in parts, downloads, verify.

(https://github.com/git-lfs/git-lfs/blob/main/docs/api; the multipart form is the Hub's own, as huggingface_hub
``lfs.py`` speaks it.) Clients send no token with an upload link, so the link carries who may do what until when.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from hubtool.core.errors import SecurityError
from hubtool.core.files import make_dirs
from hubtool.core.ids import Oid
from hubtool.server.access import Rule
from hubtool.server.answers import INERT, Streamed, range_of
from hubtool.server.bodies import content_length, parse_json, read_body, receive
from hubtool.server.call import Call, Route
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo
from hubtool.server.spans import read, span_of

MEDIA_TYPE = "application/vnd.git-lfs+json"
MULTIPART_BYTES = 1 << 30  # parts are put together once more, so only where sending all of it again would cost more
PART_BYTES = 64 << 20
_MAX_PARTS = 1000
_MAX_OBJECTS = 1000
_TTL_S = 6 * 3600
_GET, _PUT = "lfs-get", "lfs-put"


def _reply(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value).encode(), status, media_type=MEDIA_TYPE)


def batch(call: Call) -> Response:
    """For each object: where to send or fetch it, nothing (it is there), or an error of its own."""
    body = call.body
    operation, objects = body.get("operation"), body.get("objects")
    if operation not in ("upload", "download") or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(422, "The operation is 'upload' or 'download', the hash sha256", code="E-HUB-FIELD")
    if not isinstance(objects, list):
        raise Refusal(422, "The field 'objects' must be a list", code="E-HUB-FIELD")
    if len(objects) > _MAX_OBJECTS:
        raise Refusal(413, f"At most {_MAX_OBJECTS} objects at once", code="E-HUB-COUNT")
    if operation == "upload":
        call.access.require(call.caller, Rule.WRITE, call.repo.kind, call.repo.id)
    transfers = body.get("transfers")
    can_multipart = isinstance(transfers, list) and "multipart" in transfers
    answers = []
    for item in objects:
        oid, size = _object(call, item)
        if operation == "download":
            answers.append(_download(call, oid, size))
        else:
            answers.append(_upload(call, oid, size, can_multipart=can_multipart))
    is_multipart = any("chunk_size" in a.get("actions", {}).get("upload", {}).get("header", {}) for a in answers)
    return _reply({"transfer": "multipart" if is_multipart else "basic", "objects": answers, "hash_algo": "sha256"})


def _object(call: Call, item: Any) -> tuple[Oid, int]:
    if not isinstance(item, dict) or not isinstance(item.get("oid"), str):
        raise Refusal(422, "An object has an oid and a size", code="E-HUB-FIELD")
    size = item.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= call.site.limits.object_bytes:
        raise Refusal(422, "The size of an object is no number of bytes, or too large", code="E-HUB-SIZE")
    return Oid(item["oid"]), size


def _grant(call: Call, purpose: str, oid: Oid, size: int, **more: Any) -> str:
    facts = {"repo": call.repo.key, "user": call.author, "token": call.caller.token_id, "oid": oid, "size": size}
    return quote(call.store.signer.sign(purpose, facts | more, ttl_s=_TTL_S))


def _download(call: Call, oid: Oid, size: int) -> dict[str, Any]:
    """An object that only another repository has is answered like one that nobody has."""
    store = call.store.objects
    if not call.repo.has_object(oid) or not store.has(oid) or store.size_bytes(oid) != size:
        return {"oid": oid, "size": size, "error": {"code": 404, "message": "Object does not exist"}}
    href = f"{call.base_url}/lfs/objects/{oid}?grant={_grant(call, _GET, oid, size)}"
    return {"oid": oid, "size": size, "authenticated": True, "actions": {"download": _action(href)}}


def _action(href: str, header: dict[str, str] | None = None) -> dict[str, Any]:
    return {"href": href, "header": header or {}, "expires_in": _TTL_S}


def _upload(call: Call, oid: Oid, size: int, *, can_multipart: bool) -> dict[str, Any]:
    store = call.store.objects
    if call.repo.has_object(oid) and store.has(oid):
        if store.size_bytes(oid) != size:
            return {"oid": oid, "size": size, "error": {"code": 422, "message": "The object has another size"}}
        with store.keeping():
            call.repo.link_object(oid)
        return {"oid": oid, "size": size}
    # git-lfs sends no token with a verify either, once it was told that the links are authenticated
    verify = _action(f"{call.base_url}/lfs/objects/{oid}/verify?grant={_grant(call, _PUT, oid, size)}")
    if can_multipart and size > MULTIPART_BYTES:
        upload = _multipart_action(call, oid, size)
    else:
        upload = _action(f"{call.base_url}/lfs/objects/{oid}?grant={_grant(call, _PUT, oid, size)}")
    return {"oid": oid, "size": size, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _multipart_action(call: Call, oid: Oid, size: int) -> dict[str, Any]:
    part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))
    num_parts = -(-size // part_bytes)
    grant = _grant(call, _PUT, oid, size, upload=secrets.token_hex(12), part_bytes=part_bytes)
    url = f"{call.base_url}/lfs/objects/{oid}"
    header = {str(n): f"{url}/parts/{n}?grant={grant}" for n in range(1, num_parts + 1)}
    return _action(f"{url}/complete?grant={grant}", {"chunk_size": str(part_bytes), **header})


# Signed links


def _admit(call: Call, purpose: str) -> tuple[dict[str, Any], Repo]:
    """What the link allows, if whoever got it still has that right."""
    facts = call.store.signer.check(purpose, call.query("grant"))
    if facts["oid"] != call.oid:
        raise SecurityError("E-HUB-SIGNATURE", "the link is not valid")
    call.caller, repo = call.access.admit(call.caller, facts, Rule.WRITE if purpose == _PUT else Rule.READ)
    return facts, repo


def get_object(call: Call) -> Response:
    facts, repo = _admit(call, _GET)
    if not repo.has_object(call.oid):
        raise Refusal(404, "Object does not exist", code="E-HUB-OBJECT")
    etag, size = f'"{call.oid}"', int(facts["size"])
    part = range_of(call.request, etag, size)
    start, stop = part or (0, size)
    headers = {**INERT, "ETag": etag, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    headers["Content-Type"] = "application/octet-stream"
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 200 if part is None else 206
    if call.request.method == "HEAD":
        return Response(None, status, headers=headers)
    return Streamed(call.store.objects.spans(call.oid, start, stop), status, headers)


async def put_object(call: Call) -> Response:
    facts, repo = await run_in_threadpool(_admit, call, _PUT)
    size = int(facts["size"])
    if content_length(call.request) not in (None, size):
        raise Refusal(422, f"{size} bytes were announced", code="E-HUB-SIZE")
    incoming = call.store.objects.receive()
    await receive(call.request, incoming, size)
    link = partial(repo.link_object, call.oid)
    await run_in_threadpool(call.store.objects.publish, incoming, call.oid, size, link)
    return Response(None, 200, headers={"ETag": f'"{call.oid}"'})


def _parts_directory(call: Call, facts: dict[str, Any]) -> Path:
    return call.store.objects.incoming / f"parts-{facts['upload']}"


def _part_size(facts: dict[str, Any], number: int) -> int:
    """Bytes of part ``number`` (from 1); raises Refusal when there is no such part."""
    left = int(facts["size"]) - (number - 1) * int(facts["part_bytes"])
    if number < 1 or left <= 0:
        raise Refusal(400, "There is no such part", code="E-HUB-PART")
    return min(left, int(facts["part_bytes"]))


async def put_part(call: Call) -> Response:
    facts, _ = await run_in_threadpool(_admit, call, _PUT)
    number = call.params["number"]
    if "upload" not in facts or not re.fullmatch(r"[0-9]{1,4}", number):
        raise Refusal(400, "There is no such part", code="E-HUB-PART")
    size, directory = _part_size(facts, int(number)), _parts_directory(call, facts)
    await run_in_threadpool(make_dirs, directory)
    incoming = call.store.objects.receive(is_hashed=False)
    await receive(call.request, incoming, size)
    try:
        if incoming.size_bytes != size:
            raise Refusal(422, f"The part has {size} bytes", code="E-HUB-SIZE")
        await run_in_threadpool(incoming.close)  # it lives until the whole is put together, hashed and made durable
        incoming.path.replace(directory / str(int(number)))
    finally:
        incoming.discard()
    return Response(None, 200, headers={"ETag": f'"{int(number)}"'})


async def complete(call: Call) -> Response:
    body = parse_json(await read_body(call.request))
    return await run_in_threadpool(_complete, call, body)


def _complete(call: Call, body: dict[str, Any]) -> Response:
    facts, repo = _admit(call, _PUT)
    if "upload" not in facts or body.get("oid", call.oid) != call.oid:
        raise Refusal(422, "The parts belong to another object", code="E-HUB-PART")
    directory, size = _parts_directory(call, facts), int(facts["size"])
    incoming = call.store.objects.receive()
    try:
        for number in range(1, -(-size // int(facts["part_bytes"])) + 1):
            path = directory / str(number)
            if not path.exists() or path.stat().st_size != _part_size(facts, number):
                raise Refusal(422, f"Part {number} is missing", code="E-HUB-PART")
            for chunk in read(span_of(path)):
                incoming.write(chunk)
    except BaseException:
        incoming.discard()
        raise
    call.store.objects.publish(incoming, call.oid, size, partial(repo.link_object, call.oid))
    shutil.rmtree(directory, ignore_errors=True)
    return _reply({"oid": call.oid, "size": size})


def verify(call: Call) -> Response:
    """Whether an object has arrived; for who may write to the repository."""
    return _verified(call, call.repo, *_object(call, call.body))


async def verify_signed(call: Call) -> Response:
    body = parse_json(await read_body(call.request))
    _, repo = await run_in_threadpool(_admit, call, _PUT)
    oid, size = _object(call, body)
    if oid != call.oid:
        raise Refusal(422, "The link belongs to another object", code="E-HUB-FIELD")
    return await run_in_threadpool(_verified, call, repo, oid, size)


def _verified(call: Call, repo: Repo, oid: Oid, size: int) -> Response:
    store = call.store.objects
    if not repo.has_object(oid) or not store.has(oid):
        raise Refusal(404, "Object does not exist", code="E-HUB-OBJECT")
    if store.size_bytes(oid) != size:
        raise Refusal(422, "The object has another size", code="E-HUB-SIZE")
    return _reply({})


_LFS = "{prefix}/{owner}/{name}/info/lfs"
_OBJECT = "/lfs/objects/{oid}"
ROUTES = (
    Route(methods=("POST",), path=f"{_LFS}/objects/batch", rule=Rule.READ, endpoint=batch),
    Route(methods=("POST",), path=f"{_LFS}/verify", rule=Rule.WRITE, endpoint=verify),
    Route(methods=("GET", "HEAD"), path=_OBJECT, rule=Rule.SIGNED, endpoint=get_object),
    Route(methods=("PUT",), path=_OBJECT, rule=Rule.SIGNED, endpoint=put_object),
    Route(methods=("PUT",), path=f"{_OBJECT}/parts/{{number}}", rule=Rule.SIGNED, endpoint=put_part),
    Route(methods=("POST",), path=f"{_OBJECT}/complete", rule=Rule.SIGNED, endpoint=complete),
    Route(methods=("POST",), path=f"{_OBJECT}/verify", rule=Rule.SIGNED, endpoint=verify_signed),
)
