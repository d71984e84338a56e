"""A route of the hub, and the request that came through its door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from hubtool.core.ids import Oid, RepoPath, Revision
from hubtool.server.access import Access, Caller, Rule
from hubtool.server.bodies import MAX_JSON_BYTES
from hubtool.server.refusals import Refusal
from hubtool.server.repos import Repo
from hubtool.server.store import Store

MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost. Bytes, seconds and counts; a test makes them small."""

    object_bytes: int = 1 << 40
    commit_body_bytes: int = 1 << 30
    commit_line_bytes: int = 48 << 20
    commit_operations: int = 25_000
    shard_bytes: int = 64 << 20
    git_body_bytes: int = 2 << 30
    header_bytes: int = 16 << 10
    num_headers: int = 100
    receive_s: float = 30.0
    send_s: float = 60.0
    min_bytes_per_s: int = 1024
    num_connections: int = 512


@dataclass(frozen=True, slots=True)
class Site:
    """How this hub is reached. ``public_url`` has no slash at its end; ``is_open``: one person on loopback."""

    public_url: str
    is_open: bool
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """``endpoint(call)`` answers ``methods`` on ``path`` for those whom ``rule`` lets in.

    A plain function runs in a thread with its JSON body (at most ``body_bytes``) already read; a coroutine function
    reads its body itself. ``{kind}`` in the path stands for models and datasets.
    """

    methods: tuple[str, ...]
    path: str
    rule: Rule
    endpoint: Callable[[Call], Any]
    body_bytes: int = MAX_JSON_BYTES


@dataclass
class Call:
    """One request that passed its route's rule. ``params`` are decoded path segments, ``body`` the JSON of a plain endpoint."""

    request: Request
    store: Store
    access: Access
    site: Site
    caller: Caller
    params: dict[str, str]
    kind: str = "models"
    found: Repo | None = None
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def repo(self) -> Repo:
        assert self.found is not None, "only routes below a repository have one"
        return self.found

    @property
    def author(self) -> str:
        return self.caller.name or "anonymous"

    @cached_property
    def revision(self) -> Revision:
        return Revision(self.params["rev"])

    @cached_property
    def path(self) -> RepoPath:
        return RepoPath(self.params["path"])

    @cached_property
    def oid(self) -> Oid:
        return Oid(self.params["oid"])

    @cached_property
    def base_url(self) -> str:
        """The address to build links from: never the Host of the request, but for the names of loopback on an open hub."""
        if self.site.is_open:
            return f"{self.request.url.scheme}://{self.request.headers.get('host', '')}"
        return self.site.public_url

    def repo_url(self, repo: Repo) -> str:
        prefix = "" if repo.kind == "models" else f"/{repo.kind}"
        return f"{self.base_url}{prefix}/{repo.id}"

    def query(self, key: str, default: str = "") -> str:
        return self.request.query_params.get(key, default)

    def flag(self, key: str) -> bool:
        return self.query(key).lower() in ("true", "1", "yes")

    def number(self, key: str, default: int, maximum: int = MAX_LIMIT) -> int:
        text = self.query(key)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 12:
            raise Refusal(400, f"The parameter {key!r} must be a number", code="E-HUB-QUERY")
        return min(int(text), maximum)

    def next_link(self, **changes: object) -> dict[str, str]:
        """The header that leads to the next page of this list."""
        query = self.request.query_params.multi_items()
        kept = [(key, value) for key, value in query if key not in changes]
        text = "&".join(f"{quote(k)}={quote(str(v))}" for k, v in [*kept, *changes.items()])
        return {"Link": f'<{self.base_url}{self.request.scope["path"]}?{text}>; rel="next"'}
