"""How the hub says no: one exception, one table from our errors to HTTP, one JSON shape.

The clients read ``X-Error-Code`` and ``X-Error-Message`` (huggingface_hub ``utils/_http.py``): on plain http a missing
repository must carry ``RepoNotFound`` itself. They retry 500, 502, 503 and 504, so a permanent error is none of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from hubtool.core.errors import (
    ConflictError,
    HubtoolError,
    IntegrityError,
    NotFoundError,
    SecurityError,
    StorageError,
    UsageError,
)

BAD_CREDENTIALS = "Invalid credentials in Authorization header"


class Refusal(Exception):
    """An answer that is no success. ``hub_code`` is the client's word for it, ``code`` ours; ``extra`` joins the JSON."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "E-HUB",
        hub_code: str = "",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.hub_code = hub_code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


_STATUS = {
    "E-HUB-REPO": (404, "RepoNotFound"),
    "E-HUB-REVISION": (404, "RevisionNotFound"),
    "E-HUB-ENTRY": (404, "EntryNotFound"),
    "E-HUB-STALE": (412, ""),
    "E-HUB-MAIN": (403, ""),
    "E-HUB-SIGNATURE": (403, ""),
    "E-HUB-DIGEST": (422, ""),
    "E-HUB-SIZE": (422, ""),
    "E-HUB-XET": (422, ""),
    "E-HUB-XORB": (400, ""),
    "E-HUB-BADOID": (422, ""),
    "E-DISK-FULL": (507, ""),
    "E-DISK-QUOTA": (507, ""),
    "E-DISK-LIMIT": (507, ""),
    "E-LOCKED": (409, ""),
}
_KINDS: tuple[tuple[type[HubtoolError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (SecurityError, 400),
    (UsageError, 400),
    (IntegrityError, 500),
    (StorageError, 500),
)


def from_error(error: HubtoolError) -> Refusal:
    status, hub_code = _STATUS.get(error.code, (0, ""))
    status = status or next((status for kind, status in _KINDS if isinstance(error, kind)), 500)
    message = str(error) if status < 500 else f"{error.what}{f' – {error.do}' if error.do else ''}"
    return Refusal(status, message, code=error.code, hub_code=hub_code)


def as_response(refusal: Refusal) -> Response:
    """JSON with ``error`` and ``code``; the message in a header too, in the few characters a header may have."""
    body = {"error": refusal.message, "code": refusal.code, **refusal.extra}
    text = "".join(c if 32 <= ord(c) < 127 else "-" if c == "–" else "?" for c in refusal.message)[:1000].strip()
    headers = {"X-Error-Message": text, "Cache-Control": "no-store", **refusal.headers}
    if refusal.hub_code:
        headers["X-Error-Code"] = refusal.hub_code
    content = json.dumps(body, ensure_ascii=True).encode()
    return Response(content, refusal.status, headers=headers, media_type="application/json")
