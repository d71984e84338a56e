"""Identity, and repositories as wholes: create, delete, move, settings, info, list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from hubtool.core.errors import ConflictError, HubtoolError
from hubtool.core.ids import CommitSha, RepoId
from hubtool.server.access import LOCAL_USER, Rule
from hubtool.server.api_files import iso, json_page
from hubtool.server.bodies import text_field
from hubtool.server.call import Call, Route
from hubtool.server.refusals import Refusal
from hubtool.server.repos import KIND_OF_TYPE, MAIN, Repo
from hubtool.server.summaries import Summary, summarize

# Words that stand at the beginning of addresses, so they cannot be names of owners.
RESERVED = {
    "api",
    "datasets",
    "models",
    "spaces",
    "xet",
    "lfs",
    "healthz",
    "static",
    "oauth",
    "docs",
    "settings",
    "kernels",
}


def whoami(call: Call) -> Any:
    if call.caller.name is None:
        raise Refusal(401, "Invalid user token.", code="E-HUB-TOKEN")
    role = "write" if call.caller.can_write else "read"
    grants = [] if call.site.is_open else call.store.accounts.grants_of(call.caller.name)
    return {
        "type": "user",
        "id": call.caller.name,
        "name": call.caller.name,
        "fullname": call.caller.name,
        "email": None,
        "isPro": False,
        "orgs": [{"type": "org", "name": owner, "roleInOrg": access} for owner, access in grants],
        "auth": {"type": "access_token", "accessToken": {"displayName": call.caller.label or "token", "role": role}},
    }


def auth_check(call: Call) -> Any:
    return {"name": call.repo.id}


def _named(call: Call, body: dict[str, Any]) -> tuple[str, RepoId]:
    """(kind, id) from the fields ``type``, ``organization`` and ``name``; a bare name is the caller's own."""
    kind = KIND_OF_TYPE.get(body.get("type")) if isinstance(body.get("type"), str | None) else None
    if kind is None:
        raise Refusal(501, f"This hub keeps models and datasets, no {body.get('type')!r}", code="E-HUB-TYPE")
    name, owner = text_field(body, "name"), text_field(body, "organization", "")
    if not owner and "/" not in name:
        owner = call.caller.name or LOCAL_USER
    return kind, RepoId(f"{owner}/{name}" if owner else name)


def _visibility(body: dict[str, Any], default: str | None) -> str | None:
    """``visibility`` of current clients, ``private`` of older ones."""
    if body.get("visibility") is not None:
        value = body["visibility"]
        if value not in ("public", "private"):
            raise Refusal(400, "The visibility is 'public' or 'private'", code="E-HUB-FIELD")
        return str(value)
    if body.get("private") is not None:
        return "private" if body["private"] else "public"
    return default


def create(call: Call) -> Any:
    kind, repo_id = _named(call, call.body)
    visibility = _visibility(call.body, "public") or "public"
    if repo_id.owner.lower() in RESERVED:
        raise Refusal(400, f"The name {repo_id.owner!r} is reserved", code="E-HUB-NAME")
    call.access.require_namespace(call.caller, repo_id.owner)
    try:
        repo = call.store.repos.create(kind, repo_id, author=call.author)
    except ConflictError as error:
        if error.code != "E-HUB-TAKEN":
            raise
        taken = call.store.repos.find(kind, repo_id)
        message = f"You already created this {kind[:-1]} repo: {error.what}"
        raise Refusal(409, message, code=error.code, extra={"url": call.repo_url(taken)}) from error
    call.store.accounts.enter_repo(kind, repo.id, visibility)
    return {"url": call.repo_url(repo), "name": repo.id, "id": repo.id}


def delete(call: Call) -> Any:
    kind, repo_id = _named(call, call.body)
    repo = call.access.require(call.caller, Rule.OWN, kind, repo_id)
    call.store.repos.remove(repo)
    call.store.accounts.remove_repo(kind, repo.id)
    return {}


def move(call: Call) -> Any:
    kind = KIND_OF_TYPE.get(text_field(call.body, "type", "model"))
    if kind is None:
        raise Refusal(501, "This hub keeps models and datasets", code="E-HUB-TYPE")
    target = RepoId(text_field(call.body, "toRepo"))
    if target.owner.lower() in RESERVED:
        raise Refusal(400, f"The name {target.owner!r} is reserved", code="E-HUB-NAME")
    repo = call.access.require(call.caller, Rule.OWN, kind, RepoId(text_field(call.body, "fromRepo")))
    call.access.require_namespace(call.caller, target.owner)
    moved = call.store.repos.move(repo, target)
    call.store.accounts.move_repo(kind, repo.id, moved.id)
    return {"url": call.repo_url(moved)}


def change_settings(call: Call) -> Any:
    gated = call.body.get("gated")
    if gated not in (None, False, "auto", "off"):
        raise Refusal(501, "A repository is gated 'auto' or not at all", code="E-HUB-FIELD")
    visibility = _visibility(call.body, None)
    new_gated = None if "gated" not in call.body or gated is None else "auto" if gated == "auto" else "off"
    call.store.accounts.change_repo(call.repo.kind, call.repo.id, visibility=visibility, gated=new_gated)
    return {}


# Info

_Field = Callable[[Call, Repo, Summary], Any]
_LIST_FIELDS = (
    *("_id", "author", "createdAt", "downloads", "gated", "lastModified", "library_name", "likes"),
    *("pipeline_tag", "private", "sha", "tags"),
)
_INFO_FIELDS = [
    *_LIST_FIELDS,
    "cardData",
    "config",
    "disabled",
    "model-index",
    "safetensors",
    "siblings",
    "usedStorage",
]


def _siblings(call: Call, summary: Summary, *, with_blobs: bool) -> list[dict[str, Any]]:
    siblings = []
    for entry in summary.files:
        value: dict[str, Any] = {"rfilename": entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")}
        if with_blobs:
            value |= {"size": entry.true_size_bytes, "blobId": entry.oid}
            if entry.pointer is not None:
                pointer = entry.pointer
                value["lfs"] = {"sha256": pointer.oid, "size": pointer.size_bytes, "pointerSize": entry.size_bytes}
        siblings.append(value)
    return siblings


def _safetensors(summary: Summary) -> Any:
    counts = summary.parameters
    return None if counts is None else {"parameters": counts, "total": sum(counts.values())}


FIELDS: dict[str, _Field] = {
    "_id": lambda call, repo, s: repo.key,
    "author": lambda call, repo, s: repo.id.owner,
    "baseModels": lambda call, repo, s: None,
    "cardData": lambda call, repo, s: s.card.data,
    "config": lambda call, repo, s: s.config,
    "createdAt": lambda call, repo, s: iso(call.access.settings(repo).created_at),
    "description": lambda call, repo, s: s.card.data.get("description"),
    "disabled": lambda call, repo, s: False,
    "downloads": lambda call, repo, s: call.access.settings(repo).downloads,
    "downloadsAllTime": lambda call, repo, s: call.access.settings(repo).downloads,
    "gated": lambda call, repo, s: "auto" if call.access.settings(repo).gated == "auto" else False,
    "lastModified": lambda call, repo, s: iso(s.commit.time),
    "library_name": lambda call, repo, s: s.library,
    "likes": lambda call, repo, s: 0,
    "model-index": lambda call, repo, s: s.card.data.get("model-index"),
    "pipeline_tag": lambda call, repo, s: s.pipeline,
    "private": lambda call, repo, s: call.access.settings(repo).visibility == "private",
    "safetensors": lambda call, repo, s: _safetensors(s),
    "sha": lambda call, repo, s: s.commit.sha,
    "siblings": lambda call, repo, s: _siblings(call, s, with_blobs=call.flag("blobs")),
    "spaces": lambda call, repo, s: [],
    "tags": lambda call, repo, s: list(s.tags),
    "trendingScore": lambda call, repo, s: 0,
    "usedStorage": lambda call, repo, s: s.size_bytes,
}


def info(call: Call) -> Any:
    sha = call.repo.git.resolve((call.params.get("rev") and call.revision) or MAIN)
    asked = [*call.request.query_params.getlist("expand"), *call.request.query_params.getlist("expand[]")]
    return _as_json(call, call.repo, sha, _asked(asked) or _INFO_FIELDS)


def _asked(names: list[str]) -> list[str]:
    """The fields a client asks for. What this hub does not keep is left out; a word nobody knows is an error."""
    unknown = [name for name in names if name not in FIELDS and name not in _FIELDS_NOT_KEPT]
    if unknown:
        raise Refusal(400, f"There is no field {unknown[0]!r} to expand", code="E-HUB-QUERY")
    return [name for name in names if name in FIELDS]


_FIELDS_NOT_KEPT = {
    *("gguf", "inference", "inferenceProviderMapping", "mask_token", "resourceGroup", "transformersInfo", "widgetData"),
    *("childrenModelCount", "evalResults", "securityRepoStatus", "xetEnabled", "citation", "paperswithcode_id"),
}


def _as_json(call: Call, repo: Repo, sha: CommitSha, fields: list[str]) -> dict[str, Any]:
    summary = summarize(call.store, repo, sha)
    value: dict[str, Any] = {"id": repo.id}
    if repo.kind == "models":
        value["modelId"] = repo.id
    for name in fields:
        item = FIELDS[name](call, repo, summary)
        if item is not None:
            value[name] = item
    return value


# List


def _matches(call: Call, repo: Repo, summary: Summary) -> bool:
    filters = [word for text in call.request.query_params.getlist("filter") for word in text.split(",") if word]
    tags = {tag.lower() for tag in summary.tags}
    if any(word.lower() not in tags for word in filters):
        return False
    pipeline = call.query("pipeline_tag")
    return not pipeline or summary.pipeline == pipeline


def _sort_key(call: Call, sort: str) -> Callable[[tuple[Repo, Summary]], tuple[float, str]]:
    def key(item: tuple[Repo, Summary]) -> tuple[float, str]:
        repo, summary = item
        if sort in ("lastModified", "last_modified"):
            return -float(summary.commit.time), repo.id.lower()
        settings = call.access.settings(repo)
        number = settings.created_at if sort in ("createdAt", "created_at") else settings.downloads
        return -float(number), repo.id.lower()

    return key


def visible(call: Call) -> list[tuple[Repo, Summary]]:
    """The repositories the caller may see and asked for by name, author and filter."""
    words = call.query("search").lower().split()[:10]
    author = call.query("author").lower()
    gated = call.query("gated")
    found = []
    for repo in call.store.repos.of_kind(call.kind):
        text = repo.id.lower()
        if (author and repo.id.owner.lower() != author) or any(word not in text for word in words):
            continue
        if not call.access.may_see(call.caller, repo):
            continue
        if gated and (call.access.settings(repo).gated != "off") != (gated.lower() == "true"):
            continue
        try:
            summary = summarize(call.store, repo, repo.git.resolve(MAIN))
        except HubtoolError:
            continue  # removed meanwhile, or damaged: fsck names it
        if _matches(call, repo, summary):
            found.append((repo, summary))
    return found


def list_repos(call: Call) -> Response:
    found = visible(call)
    sort = call.query("sort")
    if sort not in (
        "",
        "lastModified",
        "last_modified",
        "createdAt",
        "created_at",
        "downloads",
        "likes",
        "trendingScore",
    ):
        raise Refusal(400, f"There is no order {sort!r}", code="E-HUB-QUERY")
    found.sort(key=_sort_key(call, sort or "downloads"), reverse=call.query("direction") == "1")
    start, limit = call.number("cursor", 0, 1 << 40), max(1, call.number("limit", 1000))
    page = found[start : start + limit]
    asked = [*call.request.query_params.getlist("expand"), *call.request.query_params.getlist("expand[]")]
    fields = _asked(asked) or list(_LIST_FIELDS)
    if not asked:
        fields += ["siblings"] if call.flag("full") else []
        fields += [name for name in ("config", "cardData") if call.flag(name)]
    value = [_as_json(call, repo, CommitSha(summary.commit.sha), fields) for repo, summary in page]
    headers = call.next_link(cursor=start + limit) if start + limit < len(found) else {}
    return json_page(value, headers)


_REPO = "/api/{kind}/{owner}/{name}"
ROUTES = (
    Route(methods=("GET",), path="/api/whoami-v2", rule=Rule.PERSON, endpoint=whoami),
    Route(methods=("POST",), path="/api/repos/create", rule=Rule.NAMED, endpoint=create),
    Route(methods=("DELETE",), path="/api/repos/delete", rule=Rule.NAMED, endpoint=delete),
    Route(methods=("POST",), path="/api/repos/move", rule=Rule.NAMED, endpoint=move),
    Route(methods=("GET",), path="/api/{kind}", rule=Rule.ANYONE, endpoint=list_repos),
    Route(methods=("GET",), path=_REPO, rule=Rule.SEE, endpoint=info),
    Route(methods=("GET",), path=f"{_REPO}/revision/{{rev}}", rule=Rule.SEE, endpoint=info),
    Route(methods=("GET",), path=f"{_REPO}/auth-check", rule=Rule.READ, endpoint=auth_check),
    Route(methods=("GET",), path=f"{_REPO}/auth-check/write", rule=Rule.WRITE, endpoint=auth_check),
    Route(methods=("PUT",), path=f"{_REPO}/settings", rule=Rule.OWN, endpoint=change_settings),
)
