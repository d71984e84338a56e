"""Who may do what: the matrix is generated from the route table, so a new route is in it by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubtool.server.access import Rule
from hubtool.server.app import route_table
from hubtool.server.call import Route
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.store import Store
from tests.server.clients import Http, commit_lines, put

CALLERS = ("anonymous", "other", "reader", "writer", "owner", "read_only", "revoked", "expired")
DEAD = ("revoked", "expired")
REPOS = {"public": ("public", "off"), "private": ("private", "off"), "gated": ("public", "auto")}
KINDS = ("models", "datasets")


@dataclass
class World:
    hub: EmbeddedHub
    root: Path
    tokens: dict[str, str | None]

    def http(self, caller: str) -> Http:
        return Http(self.hub.url, self.tokens[caller])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hub")
    store = Store(root)
    accounts, tokens = store.accounts, dict.fromkeys(CALLERS)
    for name in ("lab", "other", "reader", "writer"):
        accounts.add_user(name)
    accounts.grant("reader", "lab", "read")
    accounts.grant("writer", "lab", "write")
    for caller, user in (("other", "other"), ("reader", "reader"), ("writer", "writer"), ("owner", "lab")):
        tokens[caller] = accounts.add_token(user)[1]
    tokens["read_only"] = accounts.add_token("lab", access="read")[1]
    revoked, tokens["revoked"] = accounts.add_token("lab")
    accounts.revoke_token(revoked)
    tokens["expired"] = accounts.add_token("lab", days=1e-9)[1]
    with EmbeddedHub(root, is_open=False) as hub:
        owner = Http(hub.url, tokens["owner"])
        for kind in KINDS:
            for name, (visibility, gated) in REPOS.items():
                body = {"name": name, "organization": "lab", "type": kind[:-1], "visibility": visibility}
                assert owner("POST", "/api/repos/create", body).status == 200
                settings = f"/api/{kind}/lab/{name}/settings"
                assert owner("PUT", settings, {"gated": gated if gated == "auto" else False}).status == 200
                lines = commit_lines(put("a.txt", b"secret bytes"))
                assert owner("POST", f"/api/{kind}/lab/{name}/commit/main", lines).status == 200
        yield World(hub, root, tokens)
    store.close()


def _address(route: Route, name: str) -> str:
    values = {"owner": "lab", "name": name, "rev": "main", "path:path": "a.txt", "branch": "nothing", "rest:path": "x"}
    values |= {
        "epoch": "0",
        "area": "0",
        "prefix_": "default",
        "hash": "0" * 64,
        "oid": "0" * 64,
        "number": "1",
        "page": "files",
    }
    path = route.path
    for key, value in values.items():
        path = path.replace("{" + key + "}", value)
    assert "{" not in path, f"the test knows no value for {path}"
    return path


def _expected(route: Route, caller: str, repo: str) -> str:
    is_git = "/info/" in route.path or "/git-" in route.path
    if route.rule is Rule.SIGNED:
        return "refused"
    if caller in DEAD:
        return "401"
    if route.rule in (Rule.ANYONE, Rule.NAMED):
        return "in"
    if route.rule is Rule.PERSON:
        return "401" if caller == "anonymous" else "in"
    if repo == "private" and caller in ("anonymous", "other"):
        return "401" if is_git and caller == "anonymous" else "404"
    if route.rule in (Rule.SEE, Rule.READ):
        return "401" if caller == "anonymous" and repo == "gated" and route.rule is Rule.READ else "in"
    if caller == "anonymous":
        return "401"
    return "in" if caller == "owner" or (caller == "writer" and route.rule is Rule.WRITE) else "403"


def _got(status: int, error_code: str) -> str:
    if status in (401, 403):
        return str(status)
    return "404" if status == 404 and error_code == "RepoNotFound" else "in"


MATRIX = [(route, method) for route in route_table() for method in route.methods]


@pytest.mark.parametrize(("route", "method"), MATRIX, ids=[f"{m} {r.path}" for r, m in MATRIX])
def test_every_route_lets_in_whom_its_rule_says(world: World, route: Route, method: str) -> None:
    repos = REPOS if "{name}" in route.path else ("public",)
    for repo in repos:
        for caller in CALLERS:
            reply = world.http(caller)(method, _address(route, repo), {} if method not in ("GET", "HEAD") else None)
            expected = _expected(route, caller, repo)
            if expected == "refused":
                assert reply.status in (401, 403, 404), (repo, caller, reply)
                continue
            got = _got(reply.status, reply.headers.get("x-error-code", ""))
            assert got == expected, (repo, caller, reply.status, reply.body[:200])
            if expected != "in":
                assert b"secret bytes" not in reply.body


@pytest.mark.parametrize(("route", "method"), [(r, m) for r, m in MATRIX if "{name}" in r.path])
def test_a_private_repository_looks_like_none(world: World, route: Route, method: str) -> None:
    for caller in ("anonymous", "other"):
        there = world.http(caller)(method, _address(route, "private"))
        not_there = world.http(caller)(method, _address(route, "absent"))
        volatile = ("x-request-id", "date")
        facts = [
            (r.status, r.body, {k: v for k, v in r.headers.items() if k not in volatile}) for r in (there, not_there)
        ]
        assert facts[0] == facts[1], (route.path, caller)


def test_the_old_name_of_a_private_repository_tells_a_stranger_nothing(world: World) -> None:
    owner = world.http("owner")
    assert owner("POST", "/api/repos/create", {"name": "old-name", "visibility": "private"}).status == 200
    assert owner("POST", "/api/repos/move", {"fromRepo": "lab/old-name", "toRepo": "lab/new-name"}).status == 200
    for path in ("/api/models/lab/{}", "/lab/{}/resolve/main/a.txt", "/lab/{}", "/lab/{}.git/info/refs"):
        for caller in ("owner", "reader"):
            assert world.http(caller)("GET", path.format("old-name")).status == 307, (path, caller)
        for caller in ("anonymous", "other"):
            old, absent = (world.http(caller)("GET", path.format(name)) for name in ("old-name", "absent"))
            assert (old.status, old.body) == (absent.status, absent.body) and "location" not in old.headers


def test_every_rule_stands_on_some_route() -> None:
    assert {route.rule for route in route_table()} == set(Rule)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rights_of_repositories_named_in_bodies(world: World, caller: str, kind: str) -> None:
    http, kind_word = world.http(caller), kind[:-1]
    name = f"by-{caller}-{kind_word}".replace("_", "-")
    made = http("POST", "/api/repos/create", {"name": name, "organization": "lab", "type": kind_word})
    expected = {"owner": 200, "writer": 200, "anonymous": 401, "revoked": 401, "expired": 401}.get(caller, 403)
    assert made.status == expected, made
    expected = {"owner": 404, "anonymous": 404, "revoked": 401, "expired": 401, "other": 404}.get(caller, 403)
    body = {"name": "private", "organization": "lab", "type": kind_word}
    if caller != "owner":
        assert http("DELETE", "/api/repos/delete", body).status == expected
        move = {"fromRepo": "lab/private", "toRepo": f"lab/moved-{caller.replace('_', '-')}", "type": kind_word}
        assert http("POST", "/api/repos/move", move).status == expected
    else:
        assert (
            http(
                "POST", "/api/repos/move", {"fromRepo": f"lab/{name}", "toRepo": f"lab/{name}2", "type": kind_word}
            ).status
            == 200
        )
        assert (
            http("DELETE", "/api/repos/delete", {"name": f"{name}2", "organization": "lab", "type": kind_word}).status
            == 200
        )


def test_a_list_shows_each_caller_what_they_may_see(world: World) -> None:
    for caller in CALLERS:
        reply = world.http(caller)("GET", "/api/models")
        if caller in DEAD:
            assert reply.status == 401
            continue
        ids = {model["id"] for model in reply.json}
        assert ("lab/private" in ids) == (caller not in ("anonymous", "other")), caller


def _lfs(operation: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha256(data).hexdigest()
    return {"operation": operation, "transfers": ["basic"], "objects": [{"oid": oid, "size": len(data)}]}


def _path_of(href: str) -> str:
    return "/" + href.split("/", 3)[3]


def test_an_object_opens_only_through_a_repository_it_was_shown_to(world: World) -> None:
    data = b"private weights" * 100
    owner, other = world.http("owner"), world.http("other")
    batch = owner("POST", "/lab/private.git/info/lfs/objects/batch", _lfs("upload", data)).json["objects"][0]
    href = _path_of(batch["actions"]["upload"]["href"])
    anonymous = world.http("anonymous")  # the link carries the right by itself
    assert anonymous("PUT", href, b"x" * len(data)).status == 422, "other bytes under this digest"
    assert anonymous("PUT", href, data[:-1]).status == 422
    assert anonymous("PUT", href, data).status == 200
    other("POST", "/api/repos/create", {"name": "mine"})
    absent = other("POST", "/other/mine.git/info/lfs/objects/batch", _lfs("download", b"y" * len(data))).json[
        "objects"
    ][0]
    known = other("POST", "/other/mine.git/info/lfs/objects/batch", _lfs("download", data)).json["objects"][0]
    assert known["error"] == absent["error"] and "actions" not in known, "who knows a digest has not the bytes"
    upload = other("POST", "/other/mine.git/info/lfs/objects/batch", _lfs("upload", data)).json["objects"][0]
    assert "upload" in upload["actions"], "the bytes must be sent again, for another repository has them"
    claim = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": known["oid"], "size": len(data)}}
    refused = other("POST", "/api/models/other/mine/commit/main", commit_lines(claim))
    assert refused.status == 400 and "not uploaded" in refused.json["error"]
    download = owner("POST", "/lab/private/info/lfs/objects/batch", _lfs("download", data)).json["objects"][0]
    assert anonymous("GET", _path_of(download["actions"]["download"]["href"])).body == data


def test_links_are_bound_to_their_purpose_object_and_token(world: World) -> None:
    owner, anonymous = world.http("owner"), world.http("anonymous")
    data = b"bound" * 50
    reply = owner("POST", "/lab/public.git/info/lfs/objects/batch", _lfs("upload", data)).json["objects"][0]
    href = _path_of(reply["actions"]["upload"]["href"])
    oid = reply["oid"]
    assert anonymous("GET", href).status == 403, "a link to send is none to fetch"
    assert anonymous("PUT", href.replace(oid, "0" * 64), data).status == 403
    assert anonymous("PUT", href[:-2], data).status == 403
    assert anonymous("PUT", href.partition("?")[0], data).status == 403


def test_a_token_that_dies_ends_its_uploads(world: World) -> None:
    store = Store(world.root)
    token_id, text = store.accounts.add_token("lab")
    http, data = Http(world.hub.url, text), b"mid-upload" * 10
    href = http("POST", "/lab/public.git/info/lfs/objects/batch", _lfs("upload", data)).json["objects"][0]
    xet = http("GET", "/api/models/lab/public/xet-write-token/main").json
    store.accounts.revoke_token(token_id)
    store.close()
    assert world.http("anonymous")("PUT", _path_of(href["actions"]["upload"]["href"]), data).status == 401
    bearer = {"Authorization": f"Bearer {xet['accessToken']}"}
    assert world.http("anonymous")("POST", _path_of(xet["casUrl"]) + "/v1/shards", b"", bearer).status == 401


def test_a_token_in_the_address_is_refused_and_never_logged(world: World) -> None:
    token = world.tokens["owner"]
    reply = world.http("anonymous")("GET", f"/api/models/lab/private?token={token}")
    assert reply.status == 400
    world.http("owner")("GET", "/api/whoami-v2")
    log = (world.root / "logs/access.jsonl").read_text()
    assert token is not None and token not in log and '"path": "/api/models/lab/private"' in log
    assert not any(
        text and text in path.read_bytes().decode("latin-1")
        for text in world.tokens.values()
        for path in world.root.glob("hub.sqlite*")
    )


def test_links_never_follow_the_host_header(world: World) -> None:
    reply = world.http("owner")(
        "POST", "/lab/public.git/info/lfs/objects/batch", _lfs("upload", b"host"), {"Host": "evil.example"}
    )
    assert b"evil" not in reply.body and world.hub.url.encode() in reply.body


def test_an_open_hub_is_closed_to_web_pages(tmp_path: Path) -> None:
    with EmbeddedHub(tmp_path / "open") as hub:
        http = Http(hub.url)
        assert http("GET", "/api/models", headers={"Host": "evil.example"}).status == 403, "DNS rebinding"
        body = {"name": "x", "organization": "lab"}
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            assert http("POST", "/api/repos/create", body, headers).status == 403
        assert http("POST", "/api/repos/create", body, {"Origin": hub.url}).status == 200
