"""git over smart HTTP: ``git http-backend`` behind our rules (git help http-backend).

The body goes to it as it comes and its answer leaves as it comes; nothing is kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from hubtool.server import received
from hubtool.server.access import Rule
from hubtool.server.bodies import too_large
from hubtool.server.call import Call, Route
from hubtool.server.gitprocess import git_environment, git_program, kept_fds
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo

_PROTOCOL = re.compile(r"version=[0-2]")
_CHUNK = 1 << 16
_MAX_HEAD = 16 << 10


def _environment(call: Call, repo: Repo, tail: str) -> dict[str, str]:
    request = call.request
    env = git_environment() | {
        "GIT_PROJECT_ROOT": str(repo.path.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repo.path.name}/{tail}",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": f"service={call.query('service')}" if tail == "info/refs" else "",
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "REMOTE_USER": call.author,
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GIT_COMMITTER_NAME": call.author,
        "GIT_COMMITTER_EMAIL": f"{call.author}@users.noreply.hub",
    }
    if tail == "git-receive-pack":
        env |= received.environment(call.store.root)
    protocol = request.headers.get("git-protocol", "")
    if _PROTOCOL.fullmatch(protocol):
        env["GIT_PROTOCOL"] = protocol
    if request.headers.get("content-encoding") in ("gzip", "x-gzip"):
        env["HTTP_CONTENT_ENCODING"] = "gzip"
    return env


async def _serve(call: Call, repo: Repo, tail: str) -> Response:
    child = await asyncio.create_subprocess_exec(
        git_program(),
        "http-backend",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(call, repo, tail),
        limit=_MAX_HEAD * 4,
        cwd="/",
        pass_fds=kept_fds(),
    )
    feeding = asyncio.create_task(_feed(call, child))
    try:
        assert child.stdout is not None
        # The answer may begin before the body has ended; a refused body ends the child, so this read ends too.
        head = await child.stdout.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        await _end(child, feeding)
        if feeding.done() and not feeding.cancelled() and isinstance(feeding.exception(), Refusal):
            raise feeding.exception() from error  # type: ignore[misc]
        raise Refusal(400, "git could not read the request", code="E-HUB-GIT") from error
    status, headers = _parse_head(head)
    return StreamingResponse(_body(child, feeding), status, headers)


async def _feed(call: Call, child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    total, limit = 0, call.site.limits.git_body_bytes
    try:
        async for chunk in call.request.stream():
            total += len(chunk)
            if total > limit:
                raise too_large(limit)
            child.stdin.write(chunk)
            await child.stdin.drain()
        child.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        return  # git has answered without reading everything
    except (ClientDisconnect, Refusal, asyncio.CancelledError) as error:
        with contextlib.suppress(ProcessLookupError):
            child.kill()  # half a pack must not look like a whole one
        if not isinstance(error, ClientDisconnect):
            raise


async def _body(child: asyncio.subprocess.Process, feeding: asyncio.Task[None]) -> AsyncIterator[bytes]:
    assert child.stdout is not None
    try:
        while chunk := await child.stdout.read(_CHUNK):
            yield chunk
    finally:
        await _end(child, feeding)


async def _end(child: asyncio.subprocess.Process, feeding: asyncio.Task[None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if child.returncode is None and not feeding.done():
            child.kill()
    await child.wait()
    if not feeding.done():
        feeding.cancel()
    with contextlib.suppress(asyncio.CancelledError, Refusal):
        await feeding


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status, headers = 200, {}
    for line in head.decode("latin-1").split("\r\n"):
        key, _, value = line.partition(": ")
        if key.lower() == "status":
            status = int(value.split(" ")[0])
        elif key:
            headers[key] = value
    return status, headers


async def info_refs(call: Call) -> Response:
    service = call.query("service")
    if service not in ("git-upload-pack", "git-receive-pack"):
        raise Refusal(400, "This hub speaks git's smart protocol only", code="E-HUB-GIT")
    if service == "git-receive-pack":
        await run_in_threadpool(call.access.require, call.caller, Rule.WRITE, call.repo.kind, call.repo.id)
    return await _serve(call, call.repo, "info/refs")


async def upload_pack(call: Call) -> Response:
    return await _serve(call, call.repo, "git-upload-pack")


async def receive_pack(call: Call) -> Response:
    return await _serve(call, call.repo, "git-receive-pack")


_GIT = "{prefix}/{owner}/{name}"
ROUTES = (
    Route(methods=("GET",), path=f"{_GIT}/info/refs", rule=Rule.READ, endpoint=info_refs),
    Route(methods=("POST",), path=f"{_GIT}/git-upload-pack", rule=Rule.READ, endpoint=upload_pack),
    Route(methods=("POST",), path=f"{_GIT}/git-receive-pack", rule=Rule.WRITE, endpoint=receive_pack),
)
