"""Changing a repository: preupload, commit, branches, tags, history."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from hubtool.core.errors import HubtoolError
from hubtool.core.ids import Oid, RepoPath, Revision
from hubtool.server import cards, commits
from hubtool.server.access import Rule
from hubtool.server.api_files import iso, json_page, read_file
from hubtool.server.bodies import text_field, too_large
from hubtool.server.call import Call, Route
from hubtool.server.ndjson import CommitParser
from hubtool.server.pointers import LFS_THRESHOLD_BYTES, ignore_rules, is_ignored, is_lfs, lfs_rules
from hubtool.server.refusals import Refusal, from_error

_MAX_PREUPLOAD = 1000
_MAX_RULES_BYTES = 1 << 20


def validate_yaml(call: Call) -> Any:
    """Whether the head of a README can be read."""
    card = cards.parse_card(text_field(call.body, "content"))
    errors, warnings = cards.check_metadata(card.data)
    if card.problem:
        errors.insert(0, card.problem)
    if errors:
        extra = {"errors": [{"message": text} for text in errors], "warnings": []}
        raise Refusal(400, errors[0], code="E-HUB-CARD", extra=extra)
    return {"errors": [], "warnings": [{"message": text} for text in warnings]}


def _refuse_pull_request(call: Call) -> None:
    if call.flag("create_pr"):
        raise Refusal(501, "This hub has no pull requests: push to a branch", code="E-HUB-UNSUPPORTED")


def _branch(call: Call) -> Revision:
    """The branch a commit goes to; raises Refusal when the revision is something else."""
    name = call.revision.removeprefix("refs/heads/")
    git = call.repo.git
    if git.ref(f"refs/heads/{name}") is None:
        git.resolve(name)  # 404 for what is nothing at all
        raise Refusal(400, "Invalid reference for a branch", code="E-HUB-BRANCH")
    return Revision(name)


def preupload(call: Call) -> Any:
    """How each file is to be sent, and what stands in its place now."""
    _refuse_pull_request(call)
    files = call.body.get("files")
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise Refusal(400, "The field 'files' must be a list", code="E-HUB-FIELD")
    if len(files) > _MAX_PREUPLOAD:
        raise Refusal(413, f"At most {_MAX_PREUPLOAD} files at once", code="E-HUB-COUNT")
    git, sha = call.repo.git, call.repo.git.resolve(_branch(call))
    rules = lfs_rules(read_file(call, call.repo, sha, ".gitattributes", _MAX_RULES_BYTES) or b"")
    given = call.body.get("gitIgnore")
    text = given.encode() if isinstance(given, str) else read_file(call, call.repo, sha, ".gitignore", _MAX_RULES_BYTES)
    ignored = ignore_rules(text or b"")
    answers = []
    for item in files:
        path, size = RepoPath(text_field(item, "path")), item.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise Refusal(400, f"The size of {path} is no number of bytes", code="E-HUB-FIELD")
        mode = "lfs" if size and (size > LFS_THRESHOLD_BYTES or is_lfs(path, rules)) else "regular"
        answer: dict[str, Any] = {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored)}
        entry = git.entry(sha, path)
        if entry is not None and entry.kind == "blob":
            answer["oid"] = entry.pointer.oid if entry.pointer else entry.oid
        answers.append(answer)
    return {"files": answers, "commitOid": sha}


async def commit(call: Call) -> Any:
    """One atomic commit from an NDJSON body, which is read line by line; file contents wait on disk."""
    _refuse_pull_request(call)
    await run_in_threadpool(_branch, call)
    limits = call.site.limits
    with CommitParser(call.store.objects.incoming, limits) as parser:
        rest, total = bytearray(), 0
        try:
            async for chunk in call.request.stream():
                total += len(chunk)
                if total > limits.commit_body_bytes:
                    raise too_large(limits.commit_body_bytes)
                rest += chunk
                if b"\n" in chunk:
                    *lines, rest = rest.split(b"\n")
                    await run_in_threadpool(_parse, parser, lines)
                if len(rest) > limits.commit_line_bytes:
                    raise too_large(limits.commit_line_bytes)
        except ClientDisconnect as error:
            raise Refusal(400, "The body ended early", code="E-HUB-BODY") from error
        await run_in_threadpool(_parse, parser, [rest])
        return await run_in_threadpool(_commit, call, parser)


def _parse(parser: CommitParser, lines: list[bytearray]) -> None:
    for line in lines:
        parser.feed(bytes(line))


def _commit(call: Call, parser: CommitParser) -> Any:
    repo = call.repo
    draft = parser.draft(_branch(call), call.author)

    def pointer_size(oid: Oid) -> int | None:
        return call.store.objects.size_bytes(oid) if repo.has_object(oid) else None

    draft = parser.with_pointers(draft, pointer_size)
    try:
        with call.store.objects.keeping():
            sha = repo.commit(draft)
    except HubtoolError as error:
        if error.code == "E-HUB-STALE":
            raise Refusal(412, commits.STALE + f" ({error.where})", code=error.code) from error
        raise from_error(error) from error
    return {
        "success": True,
        "commitOid": sha,
        "commitUrl": f"{call.repo_url(repo)}/commit/{sha}",
        "hookOutput": "",
    }


def refs(call: Call) -> Any:
    found = call.repo.git.refs()

    def listed(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name.removeprefix(prefix), "ref": name, "targetCommit": sha}
            for name, sha in found.items()
            if name.startswith(prefix)
        ]

    value: dict[str, Any] = {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": []}
    if call.flag("include_prs"):
        value["pullRequests"] = []
    return value


def add_branch(call: Call) -> Any:
    start = call.body.get("startingPoint")
    if start is not None and not isinstance(start, str):
        raise Refusal(400, "The field 'startingPoint' must be a text", code="E-HUB-FIELD")
    call.repo.add_branch(Revision(call.params["branch"]), Revision(start) if start else None)
    return {}


def remove_branch(call: Call) -> Any:
    call.repo.remove_branch(Revision(call.params["branch"]))
    return {}


def add_tag(call: Call) -> Any:
    tag = Revision(text_field(call.body, "tag"))
    call.repo.add_tag(tag, call.revision, text_field(call.body, "message", ""), call.author)
    return {}


def remove_tag(call: Call) -> Any:
    call.repo.remove_tag(Revision(call.params["rev"]))
    return {}


def squash(call: Call) -> Any:
    branch = _branch(call)
    sha = commits.squash(
        call.repo.git, branch, text_field(call.body, "message", "") or f"Super-squash branch '{branch}'", call.author
    )
    return {"commitOid": sha}


def history(call: Call) -> Response:
    git = call.repo.git
    sha = git.resolve(call.revision)
    page, limit = call.number("p", 0, 1 << 40), max(1, call.number("limit", 50, 1000))
    found = git.log(sha, skip=page * limit, count=limit + 1)
    value = [_commit_json(commit_) for commit_ in found[:limit]]
    headers = call.next_link(p=page + 1) if len(found) > limit else {}
    return json_page(value, headers)


def _commit_json(item: Any) -> dict[str, Any]:
    title, _, rest = item.message.partition("\n")
    return {
        "id": item.sha,
        "title": title,
        "message": rest.strip(),
        "date": iso(item.time),
        "authors": [{"user": item.author}],
        "formatted": {"title": _escaped(title), "message": _escaped(rest.strip())},
    }


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


_REPO = "/api/{kind}/{owner}/{name}"

ROUTES = (
    Route(methods=("POST",), path="/api/validate-yaml", rule=Rule.ANYONE, endpoint=validate_yaml, body_bytes=4 << 20),
    Route(
        methods=("POST",), path=f"{_REPO}/preupload/{{rev}}", rule=Rule.WRITE, endpoint=preupload, body_bytes=8 << 20
    ),
    Route(methods=("POST",), path=f"{_REPO}/commit/{{rev}}", rule=Rule.WRITE, endpoint=commit),
    Route(methods=("GET",), path=f"{_REPO}/refs", rule=Rule.READ, endpoint=refs),
    Route(methods=("GET",), path=f"{_REPO}/commits/{{rev}}", rule=Rule.READ, endpoint=history),
    Route(methods=("POST",), path=f"{_REPO}/branch/{{branch}}", rule=Rule.WRITE, endpoint=add_branch),
    Route(methods=("DELETE",), path=f"{_REPO}/branch/{{branch}}", rule=Rule.WRITE, endpoint=remove_branch),
    Route(methods=("POST",), path=f"{_REPO}/tag/{{rev}}", rule=Rule.WRITE, endpoint=add_tag),
    Route(methods=("DELETE",), path=f"{_REPO}/tag/{{rev}}", rule=Rule.WRITE, endpoint=remove_tag),
    Route(methods=("POST",), path=f"{_REPO}/super-squash/{{rev}}", rule=Rule.WRITE, endpoint=squash),
)
