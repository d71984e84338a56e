"""A hub as this machine sees it: its endpoint, the token of that origin alone, the cache its files go to.

Tokens lie in HUBTOOL_HOME/tokens.json, mode 0600, one per origin. HF_TOKEN and the token that ``hf auth login`` stored
belong to huggingface.co and are sent nowhere else, whatever HF_ENDPOINT says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from hubtool import __version__
from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import NotFoundError, SecurityError, UsageError
from hubtool.core.files import make_dirs, write_json
from hubtool.core.locks import hold
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import PUBLIC_HUB, Settings, read_settings
from hubtool.hub.guard import Expected, guarded, is_loopback, origin_of
from hubtool.hub.translate import persist, translated

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
TOKENS = "tokens.json"
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Hub:
    """One hub. ``name`` is what records keep of it: the endpoint, or ``local`` for the embedded one."""

    endpoint: str
    name: str
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False
    reporter: Reporter = SILENT
    max_attempts: int = 3
    retry_wait_s: float = 1.0

    @property
    def is_public(self) -> bool:
        return origin_of(self.endpoint) == origin_of(PUBLIC_HUB)

    @property
    def is_on_loopback(self) -> bool:
        return is_loopback(self.endpoint)

    @property
    def sent_token(self) -> str | bool:
        """For the library's ``token=``: False sends none, where None would send the one stored for the public hub."""
        return self.token or False

    def api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.sent_token, library_name="hubtool", library_version=__version__)

    def call(self, what: str, work: Callable[[HfApi], T], *, expected: Expected | None = None, again: bool = True) -> T:
        """Run ``work`` with the client: guarded, translated, and tried again while the hub is not reachable.

        ``again`` False for what must not be sent twice.
        """

        def once() -> T:
            with translated(self, what), guarded(origin_of(self.endpoint), expected):
                return work(self.api())

        if not again:
            return once()
        return persist(once, max_attempts=self.max_attempts, first_wait_s=self.retry_wait_s, reporter=self.reporter)


def open_hub(
    endpoint: str, *, name: str | None = None, settings: Settings | None = None, reporter: Reporter = SILENT
) -> Hub:
    """The hub at ``endpoint``, with its own token and cache. Raises UsageError for what is no web address."""
    settings = settings or read_settings()
    endpoint = check_endpoint(endpoint)
    return Hub(
        endpoint=endpoint,
        name=name or endpoint,
        token=token_of(endpoint, settings),
        cache_dir=cache_dir(name or endpoint, settings),
        is_offline=settings.is_offline and not is_loopback(endpoint),
        reporter=reporter,
    )


def check_endpoint(text: str) -> str:
    """``http(s)://HOST[:PORT][/PATH]`` without user, query and trailing slash. Raises UsageError, SecurityError."""
    try:
        parts = urlsplit(text.strip())
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or any(c.isspace() or ord(c) < 33 for c in text.strip()) or parts.query or parts.fragment:
        raise UsageError("E-HUB-URL", f"{text[:200]!a} is no address of a hub", do="write https://HOST, or local")
    if parts.username is not None or parts.password is not None:
        raise SecurityError("E-HUB-URL", "a user or password stands in the hub's address", do="use `hubtool login`")
    return text.strip().rstrip("/")


def cache_dir(name: str, settings: Settings) -> Path:
    """Where files of a hub go. The client's cache is keyed by repo_id alone, so each hub but the public one has its own."""
    if name == LOCAL:
        return settings.home / "cache" / LOCAL
    origin = origin_of(name)
    if origin == origin_of(PUBLIC_HUB):
        return settings.hf_cache
    host = "".join(c if c.isalnum() or c in ".-" else "-" for c in urlsplit(name).netloc.lower())
    return settings.home / "cache" / f"{host[:80]}-{sha256_bytes(name.encode())[:8]}"


def token_of(endpoint: str, settings: Settings) -> str | None:
    """The token of this origin, or None."""
    origin = origin_of(endpoint)
    token = read_tokens(settings.home).get(origin)
    if token or origin != origin_of(PUBLIC_HUB):
        return token
    if settings.hf_token:
        return settings.hf_token
    try:
        return (settings.hf_home / "token").read_text().strip() or None
    except OSError:
        return None


def read_tokens(home: Path) -> dict[str, str]:
    """Tokens by origin. Raises SecurityError when the file can be read by others."""
    path = home / TOKENS
    try:
        if path.stat().st_mode & 0o077:
            raise SecurityError(
                "E-TOKEN-MODE", "others may read the tokens", where=str(path), do=f"`chmod 600 {path}`, and renew them"
            )
        tokens = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError("E-TOKEN-FILE", "the file of tokens is damaged", where=str(path), do="remove it") from error
    return {str(k): str(v) for k, v in tokens.items()} if isinstance(tokens, dict) else {}


def store_token(endpoint: str, token: str | None, home: Path) -> bool:
    """Keep the token of an origin, or with None forget it; False when there was none to forget."""
    make_dirs(home)
    with hold(home / f".{TOKENS}.lock", "the token file", wait_s=10):
        tokens = read_tokens(home)
        origin = origin_of(endpoint)
        had = tokens.pop(origin, None) is not None
        if token is not None:
            tokens[origin] = check_token(token)
        if had or token is not None:
            write_json(home / TOKENS, tokens, mode=0o600)
    return had


def check_token(token: str) -> str:
    """A token is one word that fits into a header."""
    if not token or len(token) > 4096 or any(not 33 <= ord(c) <= 126 for c in token):
        raise UsageError("E-TOKEN", "this is no token", do="paste it without spaces")
    return token


def who_am_i(hub: Hub) -> str:
    """The account behind the token. Raises NotFoundError (401) when the hub does not know it."""
    if hub.is_offline:
        raise NotFoundError("E-OFFLINE", "HF_HUB_OFFLINE is set", where=hub.name)
    answer = hub.call("the account", lambda api: api.whoami(token=hub.sent_token))
    name = answer.get("name") if isinstance(answer, dict) else None
    return name if isinstance(name, str) else "?"
