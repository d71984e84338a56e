"""Anything may come in on any route: never a 5xx (but the honest 501), never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtool.server.app import route_table
from hubtool.server.call import Limits
from hubtool.server.embedded import EmbeddedHub
from tests.server.clients import Http, commit_lines, put

ROUTES = [(route, method) for route in route_table() for method in route.methods]
SEEDS = [
    "lab",
    "net",
    "main",
    "a.txt",
    "dir",
    "v1",
    "0" * 40,
    "0" * 64,
    "..",
    "%2e%2e",
    ".git",
    "HEAD",
    "refs/heads/main",
]
SEEDS += ["refs/../x", "a\\b", "~", "x" * 300, "net.git", "é", "\u202e", "con", "-", "@{0}", "1", "files", "default"]
segment = st.one_of(
    st.sampled_from(SEEDS).map(lambda s: quote(s, safe="")),
    st.binary(max_size=12).map(lambda b: quote_from_bytes(b, safe="")),
)
word = st.one_of(st.sampled_from(SEEDS), st.text(max_size=20), st.integers(), st.floats(), st.none(), st.booleans())
KEYS = [
    "deletions",
    "sha",
    "target",
    "sha256",
    "name",
    "organization",
    "type",
    "visibility",
    "private",
    "files",
    "path",
    "size",
    "oid",
    "objects",
    "operation",
]
KEYS += [
    "tag",
    "message",
    "startingPoint",
    "content",
    "gated",
    "fromRepo",
    "toRepo",
    "transfers",
    "paths",
    "gitIgnore",
    "parts",
]
value = st.recursive(
    word,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
body = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), value, max_size=6).map(lambda v: json.dumps(v).encode()),
    st.binary(max_size=200),
    st.lists(value, max_size=4).map(lambda lines: b"\n".join(json.dumps(v).encode() for v in lines)),
    st.just(commit_lines(put("x.txt", b"x"), {"key": "deletedFile", "value": {"path": "a.txt"}})),
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "Range",
            "If-Range",
            "If-None-Match",
            "Content-Type",
            "Content-Encoding",
            "Authorization",
            "Accept",
            "Git-Protocol",
        ]
    ),
    st.sampled_from(
        [
            "bytes=0-1",
            "bytes=9-1",
            "bytes=-0",
            '"x"',
            "gzip",
            "text/html",
            "Basic !!",
            "Bearer x",
            "version=2",
            "*",
            "multipart/form-data",
        ]
    ),
    max_size=3,
)
query = st.dictionaries(
    st.sampled_from(
        [
            "recursive",
            "expand",
            "limit",
            "cursor",
            "p",
            "sort",
            "search",
            "filter",
            "service",
            "grant",
            "author",
            "gated",
            "start",
        ]
    ),
    st.one_of(
        st.sampled_from(
            ["true", "1", "-1", "99999999999999999999", "git-upload-pack", "git-receive-pack", "lastModified"]
        ),
        st.text(max_size=8),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    with EmbeddedHub(tmp_path_factory.mktemp("fuzz"), limits=Limits(receive_s=2)) as hub:
        yield Http(hub.url)


@st.composite
def requests(draw: Any) -> tuple[str, str, bytes | None, dict[str, str]]:
    route, method = draw(st.sampled_from(ROUTES))
    path = route.path
    for part in (
        "{owner}",
        "{name}",
        "{rev}",
        "{branch}",
        "{path:path}",
        "{rest:path}",
        "{epoch}",
        "{area}",
        "{prefix_}",
        "{hash}",
        "{oid}",
        "{number}",
    ):
        if part in path:
            kept = {"{owner}": "lab", "{name}": "net", "{rev}": "main", "{path:path}": "a.txt"}.get(part)
            path = path.replace(part, kept if kept and draw(st.integers(0, 3)) else draw(segment))
    parameters = draw(query)
    if parameters:
        path += "?" + "&".join(f"{key}={quote(text, safe='', errors='replace')}" for key, text in parameters.items())
    return method, path, draw(body) if method not in ("GET", "HEAD") else None, draw(headers)


def _check(http: Http, request: tuple[str, str, bytes | None, dict[str, str]]) -> None:
    method, path, sent, extra = request
    http("POST", "/api/repos/create", {"name": "net", "organization": "lab"})
    reply = http(method, path, sent, extra)
    assert reply.status < 500 or reply.status == 501, (request, reply.status, reply.body[:300])
    assert b"Traceback" not in reply.body and b"/root/" not in reply.body and b"hubtool/server" not in reply.body


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(request=requests())
def test_no_request_is_answered_by_a_5xx(http: Http, request: tuple[str, str, bytes | None, dict[str, str]]) -> None:
    _check(http, request)


@pytest.mark.prove
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests())
def test_no_request_is_answered_by_a_5xx_for_long(
    http: Http, request: tuple[str, str, bytes | None, dict[str, str]]
) -> None:
    _check(http, request)
