"""The application: the route table, the edge that every request passes, and the one place that turns errors into answers."""

from __future__ import annotations

import inspect
import json
import logging
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from hubtool.core.errors import HubtoolError, NotFoundError, from_os_error
from hubtool.core.ids import RepoId
from hubtool.server import api_commits, api_files, api_lfs_files, api_repos, git_http, lfs, pages, unsupported, xet
from hubtool.server.access import CHALLENGE, Access, Rule
from hubtool.server.bodies import parse_json, read_body
from hubtool.server.call import Call, Route, Site
from hubtool.server.edge import Edge
from hubtool.server.gitprocess import close_processes
from hubtool.server.refusals import Refusal, as_response, from_error
from hubtool.server.repos import KINDS, Repo
from hubtool.server.store import Store

log = logging.getLogger("hubtool.server")
MOVED = 307  # the method and the body stay what they are


def route_table() -> tuple[Route, ...]:
    """Every route of the hub, the more special first. ``{kind}`` is written out."""
    tables = (unsupported, xet, lfs, git_http, api_repos, api_files, api_lfs_files, api_commits, pages)
    return tuple(written for table in tables for route in table.ROUTES for written in _written_out(route))


def _written_out(route: Route) -> list[Route]:
    """``/api/{kind}/…`` once per kind; ``{prefix}/…`` is nothing for models and the kind's name for the others."""
    if "{prefix}" in route.path:
        return [_with_path(route, route.path.replace("{prefix}", p)) for p in ("/datasets", "")]
    if "{kind}" in route.path:
        return [_with_path(route, route.path.replace("{kind}", kind)) for kind in KINDS]
    return [route]


def _with_path(route: Route, path: str) -> Route:
    return Route(
        methods=route.methods, path=path, rule=route.rule, endpoint=route.endpoint, body_bytes=route.body_bytes
    )


def kind_of(path: str) -> str:
    return "datasets" if path.startswith(("/datasets/", "/api/datasets")) else "models"


def create_app(root: Path, site: Site) -> Starlette:
    """The hub over the store at ``root``. Closes what it opened when the server shuts down."""
    store = Store(root)
    access = Access(store, is_open=site.is_open)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        await run_in_threadpool(store.close)
        close_processes()

    doors = [_door(route, store, access, site) for route in route_table()]
    app = Starlette(routes=doors, lifespan=lifespan, exception_handlers={404: _no_route, 405: _no_method})
    app.router.redirect_slashes = False
    app.add_middleware(Edge, site=site, log_path=store.root / "logs" / "access.jsonl")
    return app


def _door(route: Route, store: Store, access: Access, site: Site) -> StarletteRoute:
    """One route as starlette sees it: identify, apply the rule, read the body, answer; errors become responses."""
    is_async = inspect.iscoroutinefunction(route.endpoint)
    kind = kind_of(route.path)
    is_git = route.path.endswith(("/info/refs", "/git-upload-pack", "/git-receive-pack")) or "/info/lfs/" in route.path

    is_page = not route.path.startswith("/api/")

    def enter(request: Request, body: bytes | None) -> Call:
        caller = (
            access.identify(request.headers.get("authorization")) if route.rule is not Rule.SIGNED else _nobody(access)
        )
        params = {key: _decoded(value) for key, value in request.path_params.items()}
        call = Call(request, store, access, site, caller, params, kind)
        if "name" in params and route.rule in (Rule.SEE, Rule.READ, Rule.WRITE, Rule.OWN):
            call.found = _find(call, route, is_git=is_git)
        elif route.rule is Rule.PERSON and caller.name is None:
            raise Refusal(401, "Invalid user token.", code="E-HUB-TOKEN", headers=CHALLENGE)
        if body is not None:
            call.body = parse_json(body)
        request.scope["hub.caller"] = caller.name
        return call

    def answer(request: Request, body: bytes | None) -> Any:
        return _as_response(route.endpoint(enter(request, body)))

    async def endpoint(request: Request) -> Response:
        def _refused(refusal: Refusal) -> Response:
            if is_git:
                return as_response(_for_git(refusal, request))
            is_shown = is_page and _is_browser(request) and refusal.status >= 400
            return pages.error_page(refusal) if is_shown else as_response(refusal)

        try:
            if is_async:
                call = await run_in_threadpool(enter, request, None)
                return _as_response(await route.endpoint(call))
            if request.method in ("GET", "HEAD"):
                return await run_in_threadpool(answer, request, None)
            await run_in_threadpool(enter, request, None)  # refuse before a byte of the body is read
            return await run_in_threadpool(answer, request, await read_body(request, route.body_bytes))
        except Refusal as refusal:
            return _refused(refusal)
        except HubtoolError as error:
            return _refused(from_error(error))
        except OSError as error:
            return as_response(from_error(from_os_error(error)))
        except Exception:
            log.exception("%s %s", request.method, route.path)
            return as_response(Refusal(500, "Internal error", code="E-HUB-INTERNAL"))

    return StarletteRoute(route.path, endpoint, methods=list(route.methods), name=f"{route.rule.value} {route.path}")


def _find(call: Call, route: Route, *, is_git: bool) -> Repo:
    """The repository that the address names. One that has moved since is a redirect, to who may see it."""
    owner, name = call.params["owner"], call.params["name"]
    suffix = ".git" if is_git and name.endswith(".git") else ""
    repo_id = RepoId(f"{owner}/{name.removesuffix(suffix)}")
    try:
        return call.access.find(call.caller, route.rule, call.kind, repo_id)
    except NotFoundError:
        moved = call.access.moved(call.caller, call.kind, repo_id)
        if moved is None:
            raise
        place = dict(zip(route.path.split("/"), count(), strict=False))
        parts = call.request.scope["path"].split("/")
        parts[place["{owner}"]], parts[place["{name}"]] = moved.id.owner, f"{moved.id.name}{suffix}"
        query = call.request.scope["query_string"].decode("latin-1")
        location = "/".join(parts) + (f"?{query}" if query else "")
        message = f"{repo_id} is called {moved.id} now"
        raise Refusal(MOVED, message, code="E-HUB-MOVED", headers={"Location": location}) from None


def _nobody(access: Access) -> Any:
    return access.identify(None)


def _for_git(refusal: Refusal, request: Request) -> Refusal:
    """git asks for a password only after a 401, so a stranger gets one where others get 404: for any name alike.

    git-lfs shows the field ``message``.
    """
    refusal.extra.setdefault("message", refusal.message)
    if refusal.status == 404 and not request.headers.get("authorization"):
        return Refusal(401, "A token is needed for this", code="E-HUB-TOKEN", headers=CHALLENGE)
    return refusal


def _decoded(segment: str) -> str:
    """One decoding, of well-formed UTF-8 without control characters."""
    try:
        text = unquote_to_bytes(segment).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Refusal(400, "The path is not valid UTF-8", code="E-HUB-PATH") from error
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise Refusal(400, "The path holds control characters", code="E-HUB-PATH")
    return text


def _as_response(value: Any) -> Response:
    if isinstance(value, Response):
        return value
    return Response(json.dumps(value, ensure_ascii=True, allow_nan=False).encode(), media_type="application/json")


def _is_browser(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


async def _no_route(request: Request, error: Exception) -> Response:
    refusal = Refusal(404, "Sorry, we can't find the page you are looking for.", code="E-HUB-ROUTE")
    return pages.error_page(refusal) if _is_browser(request) else as_response(refusal)


async def _no_method(request: Request, error: Exception) -> Response:
    headers: dict[str, str] = getattr(error, "headers", None) or {}
    return as_response(Refusal(405, "This method is not allowed here", code="E-HUB-METHOD", headers=headers))
