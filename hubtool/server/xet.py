"""The ingest side of Xet: what a client with hf_xet needs to upload (the client side is huggingface/xet-core).

Chunks come as xorbs, files as shards that refer to them; each file is put together once and hashed before it counts.
There is no Xet download: files are served over plain HTTP, and no ``xetHash`` is ever shown.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from hubtool.core.errors import SecurityError
from hubtool.core.ids import Oid, RepoId
from hubtool.server.access import Rule
from hubtool.server.bodies import read_body, receive, too_large
from hubtool.server.call import Call, Route
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo
from hubtool.server.xorbs import MAX_XORB_BYTES, parse_shard

_TTL_S = 3600
_PURPOSE = "xet-write"


def write_token(call: Call) -> Response:
    """Where to send xorbs and shards, and a token for this repository alone."""
    call.repo.git.resolve(call.revision)
    area = hashlib.sha256(call.author.lower().encode()).hexdigest()[:16]
    url = f"{call.base_url}/xet/{call.store.xorbs.epoch}/{area}"
    facts = {
        "repo": call.repo.key,
        "user": call.author,
        "token": call.caller.token_id,
        "url": url.rpartition("/xet/")[2],
    }
    token = call.store.signer.sign(_PURPOSE, facts, ttl_s=_TTL_S)
    exp = call.store.signer.check(_PURPOSE, token)["exp"]
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(exp)}
    body = json.dumps({"casUrl": url, "accessToken": token, "exp": exp}).encode()
    return Response(body, headers=headers, media_type="application/json")


def _admit(call: Call) -> Repo:
    """The repository a CAS token was made for; its user must still have the right to write there."""
    scheme, _, text = call.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(401, "A token is needed for this", code="E-HUB-TOKEN")
    try:
        facts = call.store.signer.check(_PURPOSE, text)
    except SecurityError as error:
        raise Refusal(401, str(error), code="E-HUB-TOKEN") from error
    caller = call.access.caller_of(facts["token"], facts["user"])
    if facts["url"] != f"{call.params['epoch']}/{call.params['area']}":
        raise Refusal(404, "This upload address is no longer served; start the upload again", code="E-HUB-EPOCH")
    kind, _, repo_id = facts["repo"].partition("/")
    call.caller = caller
    return call.access.require(caller, Rule.WRITE, kind, RepoId(repo_id))


async def put_xorb(call: Call) -> Any:
    await run_in_threadpool(_admit, call)
    xorbs = call.store.xorbs
    name = xorbs.name(call.params["area"], call.params["hash"])
    incoming = call.store.objects.receive()
    await receive(call.request, incoming, MAX_XORB_BYTES)
    return {"was_inserted": await run_in_threadpool(xorbs.keep, incoming, name)}


async def put_shard(call: Call) -> Any:
    repo = await run_in_threadpool(_admit, call)
    body = await read_body(call.request, call.site.limits.shard_bytes)
    await run_in_threadpool(_ingest, call, repo, body)
    return {"result": 1}


def _ingest(call: Call, repo: Repo, body: bytes) -> None:
    for file in parse_shard(body):
        if file.size_bytes > call.site.limits.object_bytes:
            raise too_large(call.site.limits.object_bytes)
        oid = Oid(file.sha256)
        call.store.objects.publish_parts(file.within(call.params["area"]), oid, partial(repo.link_object, oid))


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
    Route(methods=("POST",), path=f"{_CAS}/v1/xorbs/{{prefix_}}/{{hash}}", rule=Rule.SIGNED, endpoint=put_xorb),
    Route(methods=("POST",), path=f"{_CAS}/v1/shards", rule=Rule.SIGNED, endpoint=put_shard),
    Route(methods=("GET", "POST"), path=f"{_CAS}/{{rest:path}}", rule=Rule.SIGNED, endpoint=not_kept),
)
