"""The large files of a repository as such: listed, removed for good, and lent to another repository."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from hubtool.core.ids import Oid, RepoId
from hubtool.server import history
from hubtool.server.access import Rule
from hubtool.server.api_files import iso, json_page
from hubtool.server.bodies import text_field
from hubtool.server.call import Call, Route
from hubtool.server.refusals import Refusal
from hubtool.server.repos import KIND_OF_TYPE, Repo

_MAX_FILES = 1000


def listed(call: Call) -> Response:
    """Every large file that the history refers to, the last sent first."""
    repo, git = call.repo, call.repo.git
    at_tips = {oid: ref for ref, sha in git.refs().items() for oid in history.large_files(repo.path, sha)}
    found = [
        {
            "fileOid": pointer.oid,
            "oid": pointer.oid,
            "filename": path,
            "size": pointer.size_bytes,
            "pushedAt": iso(age),
            "ref": at_tips.get(pointer.oid),
        }
        for pointer, path in history.known_pointers(repo.path).items()
        if (age := repo.object_age(pointer.oid)) is not None
    ]
    found.sort(key=lambda item: (str(item["pushedAt"]), str(item["oid"])), reverse=True)
    start, limit = call.number("cursor", 0, 1 << 40), max(1, call.number("limit", _MAX_FILES))
    following = call.next_link(cursor=start + limit) if start + limit < len(found) else {}
    return json_page(found[start : start + limit], following)


def remove(call: Call) -> Any:
    """Take large files out of the whole history of all refs; from then on they are not served."""
    deletions = call.body.get("deletions")
    if not isinstance(deletions, dict) or not isinstance(deletions.get("sha"), list):
        raise Refusal(400, "The field 'deletions' holds a list 'sha'", code="E-HUB-FIELD")
    if deletions.get("rewriteHistory") is False:
        message = "This hub removes a file together with what refers to it: leave rewriteHistory on"
        raise Refusal(400, message, code="E-HUB-FIELD")
    oids = {_oid_of_this(call.repo, text) for text in _bounded(deletions["sha"])}
    history.drop_files(call.repo.git, oids)
    with call.store.objects.collecting():
        kept = oids & {pointer.oid for pointer in history.pointers(call.repo.path)}
        for oid in oids - kept:
            call.repo.unlink_object(oid)
    for oid in sorted(kept):
        raise Refusal(409, f"{oid} came into the history again meanwhile", code="E-HUB-RACE")
    return {"success": True}


def lend(call: Call) -> Any:
    """Let another repository, which the caller may write, refer to large files of this one. No byte is copied."""
    target, files = call.body.get("target"), call.body.get("files")
    if not isinstance(target, dict) or not isinstance(files, list):
        raise Refusal(400, "The fields are 'target' and 'files'", code="E-HUB-FIELD")
    kind = KIND_OF_TYPE.get(text_field(target, "type", "model"))
    if kind is None:
        raise Refusal(501, "This hub keeps models and datasets", code="E-HUB-TYPE")
    borrower = call.access.require(call.caller, Rule.WRITE, kind, RepoId(text_field(target, "name")))
    failed = []
    for item in _bounded(files):
        text = text_field(item, "sha256") if isinstance(item, dict) else ""
        oid = Oid(text)
        with call.store.objects.keeping():
            if call.repo.has_object(oid) and call.store.objects.has(oid):
                borrower.link_object(oid)
            else:
                failed.append({"sha256": text, "error": "The file is not in this repository"})
    return {"failed": failed}


def _bounded(items: list[Any]) -> list[Any]:
    if len(items) > _MAX_FILES:
        raise Refusal(413, f"At most {_MAX_FILES} files at once", code="E-HUB-COUNT")
    return items


def _oid_of_this(repo: Repo, text: object) -> Oid:
    oid = Oid(text if isinstance(text, str) else "")
    if not repo.has_object(oid):
        raise Refusal(404, f"{oid} is not in this repository", code="E-HUB-OBJECT")
    return oid


_FILES = "/api/{kind}/{owner}/{name}/lfs-files"
ROUTES = (
    Route(methods=("GET",), path=_FILES, rule=Rule.READ, endpoint=listed),
    Route(methods=("POST",), path=f"{_FILES}/batch", rule=Rule.WRITE, endpoint=remove),
    Route(methods=("POST",), path=f"{_FILES}/duplicate", rule=Rule.READ, endpoint=lend),
)
