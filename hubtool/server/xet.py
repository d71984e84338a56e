"""Xet: what a client with hf_xet needs to upload, and to fetch in chunks (the client side is huggingface/xet-core).

Chunks come as xorbs, files as shards that refer to them; each file is put together once and hashed before it counts.

Files are served over plain HTTP. Those that came in chunks can be fetched in chunks too, by whoever asks for that (a
client that copies from one repository to another wants the ``xetHash`` that ``paths-info`` tells). A hash that a
client may keep for later names bytes here and nothing else: that of a file is its sha256, that of a xorb is made from
its place and epoch, for the protocol's own are whatever their sender said.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from hubtool.core.errors import SecurityError
from hubtool.core.ids import Oid
from hubtool.server.access import Rule
from hubtool.server.answers import Streamed, range_of
from hubtool.server.bodies import read_body, receive, too_large
from hubtool.server.call import Call, Route
from hubtool.server.chunks import IncomingXorb
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo
from hubtool.server.xorbs import MAX_XORB_BYTES, Term, parse_shard

_TTL_S = 3600
_WRITE, _READ, _GET = "xet-write", "xet-read", "xet-get"


def write_token(call: Call) -> Response:
    """Where to send xorbs and shards, and a token for this repository alone."""
    call.repo.git.resolve(call.revision)
    return _token(call, _WRITE)


def _token(call: Call, purpose: str) -> Response:
    area = hashlib.sha256(call.author.lower().encode()).hexdigest()[:16]
    url = f"{call.base_url}/xet/{call.store.xorbs.epoch}/{area}"
    facts = {
        "repo": call.repo.key,
        "user": call.author,
        "token": call.caller.token_id,
        "url": url.rpartition("/xet/")[2],
    }
    token = call.store.signer.sign(purpose, facts, ttl_s=_TTL_S)
    exp = call.store.signer.check(purpose, token)["exp"]
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(exp)}
    body = json.dumps({"casUrl": url, "accessToken": token, "exp": exp}).encode()
    return Response(body, headers=headers, media_type="application/json")


def _admit(call: Call, purpose: str, rule: Rule) -> Repo:
    """The repository a CAS token was made for; its user must still have the right."""
    scheme, _, text = call.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(401, "A token is needed for this", code="E-HUB-TOKEN")
    try:
        facts = call.store.signer.check(purpose, text)
    except SecurityError as error:
        raise Refusal(401, str(error), code="E-HUB-TOKEN") from error
    if facts["url"] != f"{call.params['epoch']}/{call.params['area']}":
        raise Refusal(404, "This address is no longer served; ask for a token again", code="E-HUB-EPOCH")
    call.caller, repo = call.access.admit(call.caller, facts, rule)
    return repo


async def put_xorb(call: Call) -> Any:
    await run_in_threadpool(_admit, call, _WRITE, Rule.WRITE)
    xorbs = call.store.xorbs
    name = xorbs.name(call.params["area"], call.params["hash"])
    incoming = IncomingXorb(call.store.objects.receive(is_hashed=False))
    await receive(call.request, incoming, MAX_XORB_BYTES)
    return {"was_inserted": await run_in_threadpool(xorbs.keep, incoming, name)}


async def put_shard(call: Call) -> Any:
    repo = await run_in_threadpool(_admit, call, _WRITE, Rule.WRITE)
    body = await read_body(call.request, call.site.limits.shard_bytes)
    await run_in_threadpool(_ingest, call, repo, body)
    return {"result": 1}


def _ingest(call: Call, repo: Repo, body: bytes) -> None:
    for file in parse_shard(body):
        if file.size_bytes > call.site.limits.object_bytes:
            raise too_large(call.site.limits.object_bytes)
        oid = Oid(file.sha256)
        call.store.objects.publish_parts(file.within(call.params["area"]), oid, partial(repo.link_object, oid))


def read_token(call: Call) -> Response:
    """Where to fetch the chunks of this repository's files, and a token for it alone."""
    call.repo.git.resolve(call.revision)
    return _token(call, _READ)


def reconstruction(call: Call) -> Any:
    """Which chunks of which xorbs make up a range of a file, and signed links to those chunks alone."""
    repo = _admit(call, _READ, Rule.READ)
    oid = Oid(call.params["hash"])
    terms = call.store.objects.parts(oid) if repo.has_object(oid) else None
    if terms is None:
        raise Refusal(404, "Not found", code="E-HUB-OBJECT")
    size = sum(term.size_bytes for term in terms)
    low, high = range_of(call.request, "", size) or (0, size)
    wanted, offset = _cut(call, terms, low, high)
    runs = _merged(wanted)
    epoch = call.store.xorbs.epoch
    return {
        "offset_into_first_range": offset,
        "terms": [
            {
                "hash": _public_name(epoch, term.xorb),
                "unpacked_length": term.size_bytes,
                "range": {"start": term.start, "end": term.stop},
            }
            for term in wanted
        ],
        "fetch_info": {
            _public_name(epoch, name): [_fetch_info(call, repo, oid, name, start, stop) for start, stop in found]
            for name, found in runs.items()
        },
    }


def _cut(call: Call, terms: tuple[Term, ...], low: int, high: int) -> tuple[list[Term], int]:
    """The terms of the bytes ``low`` to ``high``, cut at chunks; and how far ``low`` lies behind the first chunk."""
    found: list[Term] = []
    offset = at = 0
    for term in terms:
        heads = call.store.xorbs.layout(term.xorb).heads
        first = last = None
        length = 0
        for number in range(term.start, term.stop):
            if at < high and at + heads[number].unpacked > low:
                if not found and first is None:
                    offset = low - at
                first, last = number if first is None else first, number
                length += heads[number].unpacked
            at += heads[number].unpacked
        if first is not None and last is not None:
            found.append(Term(term.xorb, first, last + 1, length))
    return found, offset


def _merged(terms: list[Term]) -> dict[str, list[tuple[int, int]]]:
    """Per xorb the runs of chunks, joined where they touch or overlap: a client fails on overlapping ones."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for term in sorted(terms, key=lambda term: (term.xorb, term.start, term.stop)):
        found = runs.setdefault(term.xorb, [])
        if found and term.start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], term.stop))
        else:
            found.append((term.start, term.stop))
    return runs


def _public_name(epoch: str, xorb: str) -> str:
    return hashlib.sha256(f"{epoch}/{xorb}".encode()).hexdigest()


def _fetch_info(call: Call, repo: Repo, oid: Oid, name: str, start: int, stop: int) -> dict[str, Any]:
    low, high = call.store.xorbs.layout(name).wire_span(start, stop)
    facts = {"repo": repo.key, "user": call.author, "token": call.caller.token_id, "oid": oid}
    grant = call.store.signer.sign(_GET, facts | {"xorb": name, "start": low, "stop": high}, ttl_s=_TTL_S)
    return {
        "range": {"start": start, "end": stop},
        "url": f"{call.base_url}/xet/chunks?grant={quote(grant)}",
        "url_range": {"start": low, "end": high - 1},
    }


def get_chunks(call: Call) -> Response:
    """The bytes of a xorb that the link is for; a xorb may hold chunks of files that the caller may not read.

    So the answer does not tell how large the xorb is.
    """
    facts = call.store.signer.check(_GET, call.query("grant"))
    _, repo = call.access.admit(call.caller, facts, Rule.READ)
    if not repo.has_object(Oid(facts["oid"])) or not call.store.xorbs.path(facts["xorb"]).exists():
        raise Refusal(404, "Object does not exist", code="E-HUB-OBJECT")
    part = range_of(call.request, "", 2 * MAX_XORB_BYTES)  # more than when it came: what hardly packs is kept unpacked
    if part is None or part[0] < facts["start"] or part[1] > facts["stop"]:
        raise Refusal(403, "The link is for another range", code="E-HUB-SIGNATURE")
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(part[1] - part[0]),
        "Content-Range": f"bytes {part[0]}-{part[1] - 1}/*",
    }
    if call.request.method == "HEAD":
        return Response(None, 206, headers=headers)
    return Streamed(call.store.xorbs.wire(facts["xorb"], *part), 206, headers)


async def not_kept(call: Call) -> Any:
    """Global deduplication, grants and the newer shard call: the client falls back from a 404."""
    raise Refusal(404, "Not found", code="E-HUB-XET")


_CAS = "/xet/{epoch}/{area}"
ROUTES = (
    Route(
        methods=("GET",),
        path="/api/{kind}/{owner}/{name}/xet-write-token/{rev}",
        rule=Rule.WRITE,
        endpoint=write_token,
    ),
    Route(
        methods=("GET",), path="/api/{kind}/{owner}/{name}/xet-read-token/{rev}", rule=Rule.READ, endpoint=read_token
    ),
    Route(methods=("GET",), path="/xet/chunks", rule=Rule.SIGNED, endpoint=get_chunks),
    Route(methods=("GET",), path=f"{_CAS}/v1/reconstructions/{{hash}}", rule=Rule.SIGNED, endpoint=reconstruction),
    Route(methods=("POST",), path=f"{_CAS}/v1/xorbs/{{prefix_}}/{{hash}}", rule=Rule.SIGNED, endpoint=put_xorb),
    Route(methods=("POST",), path=f"{_CAS}/v1/shards", rule=Rule.SIGNED, endpoint=put_shard),
    Route(methods=("GET", "POST"), path=f"{_CAS}/{{rest:path}}", rule=Rule.SIGNED, endpoint=not_kept),
)
