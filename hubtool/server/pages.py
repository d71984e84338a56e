"""Pages for people, and the health check."""

from __future__ import annotations

from typing import Any

from hubtool.server.access import Rule
from hubtool.server.call import Call, Route


def health(call: Call) -> Any:
    return {"status": "ok"}


ROUTES = (Route(methods=("GET", "HEAD"), path="/healthz", rule=Rule.ANYONE, endpoint=health),)
