"""hubtool login, logout, whoami: one token for each hub, kept in HUBTOOL_HOME/tokens.json (0600), sent to no other."""

from __future__ import annotations

from dataclasses import replace

from hubtool.core.errors import NotFoundError, UsageError
from hubtool.core.settings import PUBLIC_HUB, Settings, read_settings
from hubtool.hub.client import LOCAL, Hub, check_token, open_hub, store_token, who_am_i


def login(token: str, *, hub: str | None = None) -> dict[str, str]:
    """Ask the hub whose token this is, then keep it. Returns ``{"endpoint", "user"}``.

    Raises UsageError for what is no token, NotFoundError when the hub does not know it; nothing is kept then.
    """
    settings = read_settings()
    opened = replace(_hub(hub, settings), token=check_token(token))
    user = who_am_i(opened)
    store_token(opened.endpoint, token, settings.home)
    return {"endpoint": opened.endpoint, "user": user}


def logout(*, hub: str | None = None) -> dict[str, str]:
    """Forget the token of one hub. Raises NotFoundError where none is kept."""
    settings = read_settings()
    opened = _hub(hub, settings)
    if not store_token(opened.endpoint, None, settings.home):
        raise NotFoundError("E-TOKEN-404", f"no token is kept for {opened.endpoint}")
    return {"endpoint": opened.endpoint}


def whoami(*, hub: str | None = None) -> dict[str, str]:
    """Who a hub takes us for. Raises NotFoundError without a token, or with one it does not know."""
    opened = _hub(hub, read_settings())
    if opened.token is None:
        raise NotFoundError(
            "E-TOKEN-404",
            f"no token is kept for {opened.endpoint}",
            do=f"`hubtool login --hub {opened.name}`",
        )
    return {"endpoint": opened.endpoint, "user": who_am_i(opened)}


def _hub(hub: str | None, settings: Settings) -> Hub:
    if hub == LOCAL:
        raise UsageError("E-HUB-LOCAL", "the embedded hub takes no token", do="it is open to you alone")
    return open_hub(hub or settings.hf_endpoint or PUBLIC_HUB, settings=settings)
