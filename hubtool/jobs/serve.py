"""A hub for others: serve a root on an address until a signal ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hubtool.core.errors import UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings

DEFAULT_PORT = 8100


def serve(
    root: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    public_url: str | None = None,
    with_tokens: bool = False,
    on_ready: Callable[[dict[str, str]], None] | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Serve ``root`` (default: the store behind ``--hub local``); returns after SIGTERM or SIGINT, requests finished.

    On loopback it is open for one person unless ``with_tokens``; on any other address tokens are required.
    ``on_ready`` gets {"url", "root", "rights"} once the port is bound. Port 0 takes a free one.
    """
    from hubtool.server.run import is_loopback, listen, make_server, site_of

    directory = (root or read_settings().home / "hub").expanduser().absolute()
    is_open = is_loopback(host) and not with_tokens
    if host in ("0.0.0.0", "::") and public_url is None:
        raise UsageError(
            "E-HUB-URL",
            f"{host} is no address that others can reach",
            do="say how they do: --public-url http://NAME:PORT",
        )
    if public_url is not None and not public_url.startswith(("http://", "https://")):
        raise UsageError("E-HUB-URL", f"{public_url!r} is no address", do="write http://… or https://…")
    sock = listen(host, port)
    try:
        site = site_of(host, sock.getsockname()[1], public_url=public_url, is_open=is_open)
        server = make_server(directory, site)
        if not is_open:
            _warn_without_users(directory, reporter)
        if on_ready is not None:
            rights = "open to you on this machine" if is_open else "tokens required to write"
            on_ready({"url": site.public_url, "root": str(directory), "rights": rights})
        server.run(sockets=[sock])
    finally:
        sock.close()


def _warn_without_users(root: Path, reporter: Reporter) -> None:
    from hubtool.server.accounts import Accounts

    accounts = Accounts(root)
    try:
        if not accounts.users():
            reporter.warn(f"nobody has an account here yet: hubtool hub user add NAME --root {root}")
    finally:
        accounts.close()
