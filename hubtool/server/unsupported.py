"""What other hubs do and this one does not: one table, one answer, so that a client says so instead of guessing.

A line moves from here into a room of its own when it is built.
"""

from __future__ import annotations

from typing import Any

from hubtool.server.access import Rule
from hubtool.server.call import Call, Route
from hubtool.server.refusals import Refusal

_REPO = "/api/{kind}/{owner}/{name}"
NOT_HERE = {
    f"{_REPO}/discussions": "pull requests and discussions",
    f"{_REPO}/discussions/{{rest:path}}": "pull requests and discussions",
    f"{_REPO}/duplicate": "duplicating a repository on the server",
    f"{_REPO}/like": "likes",
    f"{_REPO}/likers": "likes",
    f"{_REPO}/user-access-request/{{rest:path}}": "access requests (a repository is gated 'auto' or not at all)",
    f"{_REPO}/resource-group": "resource groups",
    f"{_REPO}/scan": "security scans",
    "{prefix}/{owner}/{name}/info/lfs/locks": "file locks",
    "{prefix}/{owner}/{name}/info/lfs/locks/{rest:path}": "file locks",
    "/api/collections": "collections",
    "/api/collections/{rest:path}": "collections",
    "/api/spaces": "spaces",
    "/api/spaces/{rest:path}": "spaces",
    "/api/settings/{rest:path}": "webhooks and settings of users",
    "/api/organizations/{rest:path}": "organisations",
    "/api/users/{rest:path}": "user pages",
    "/api/papers/{rest:path}": "papers",
    "/api/daily_papers": "papers",
    "/api/jobs/{rest:path}": "jobs",
    "/api/scheduled-jobs/{rest:path}": "jobs",
    "/api/buckets/{rest:path}": "buckets",
    "/api/kernels": "kernels",
    "/api/models-tags-by-type": "the list of all tags",
    "/api/datasets-tags-by-type": "the list of all tags",
    "/oauth/{rest:path}": "sign-in through another site; use a token",
}


def _answer(what: str) -> Any:
    async def unsupported(call: Call) -> Any:
        raise Refusal(501, f"This hub has no {what}", code="E-HUB-UNSUPPORTED")

    return unsupported


_METHODS = ("GET", "POST", "PUT", "DELETE")
ROUTES = tuple(
    Route(methods=_METHODS, path=path, rule=Rule.ANYONE, endpoint=_answer(what)) for path, what in NOT_HERE.items()
)
