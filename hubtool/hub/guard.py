"""What every request and every answer must satisfy while this process talks to a hub.

huggingface_hub 2.4 uses a hub's ETag and X-Repo-Commit headers as file names, follows ``Link: rel="next"`` and redirects
with the token, decodes whatever is compressed and waits without end. A ``Guard`` is active for the block of one call;
hooks on the library's own HTTP client check each request before it is sent and each answer before the library reads it,
so there is no window between a check and the use of what was checked. Outside such a block the hooks do nothing.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from hubtool.core.errors import HubtoolError, IntegrityError, SecurityError, UnavailableError
from hubtool.core.ids import CommitSha
from hubtool.core.settings import read_settings

if TYPE_CHECKING:
    import httpx2

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PORTS = {"http": 80, "https": 443}
_TIMEOUT_S = {"connect": 20.0, "read": 60.0, "write": 60.0, "pool": 60.0}
_MAX_ANSWER_BYTES = 64 << 20
# The library asks again for the rest of a broken stream, without end as long as bytes come. A hub that always breaks at
# the same place, or starts anew each time, would never let it go.
_MAX_SAME_GETS = 3


@dataclass(frozen=True, slots=True)
class Expected:
    """The one file a block may download: the commit, its id in the tree listing, its size. ``stop`` ends the download."""

    commit: str
    oid: str
    size_bytes: int
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Guard:
    """The rules of one block: the hub's origin, and the file expected, if a file is fetched."""

    origin: str
    expected: Expected | None = None
    gets: Counter[str] = field(default_factory=Counter)


_ACTIVE: ContextVar[Guard | None] = ContextVar("hubtool_guard", default=None)


def origin_of(url: str) -> str:
    """``scheme://host:port``, with the port always: two URLs of one origin give one string."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def is_loopback(url: str) -> bool:
    host = (urlsplit(url).hostname or "").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_redirect(source: str, target: str) -> None:
    """Raise SecurityError for a target that no hub has a reason to send us to."""
    scheme = urlsplit(target).scheme
    where = f"{origin_of(source)} → {target[:200]!a}"
    if scheme not in _PORTS:
        raise SecurityError(
            "E-HUB-REDIRECT", f"the hub redirects to {scheme!a}:", where=where, do="do not use this hub"
        )
    if urlsplit(source).scheme == "https" and scheme == "http":
        raise SecurityError("E-HUB-REDIRECT", "the hub redirects from https to http", where=where)
    if _is_inside(target) and not _is_inside(source):
        raise SecurityError("E-HUB-REDIRECT", "the hub redirects into this machine's own network", where=where)


def _is_inside(url: str) -> bool:
    if is_loopback(url):
        return True
    try:
        address = ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return address.is_private or address.is_link_local


@contextmanager
def guarded(origin: str, expected: Expected | None = None) -> Iterator[None]:
    """Every request of this thread's block obeys the rules of ``origin``."""
    _install()
    token = _ACTIVE.set(Guard(origin, expected))
    try:
        with _online() if is_loopback(origin) else nullcontext():
            yield
    finally:
        _ACTIVE.reset(token)


_online_lock = threading.Lock()
_num_online = 0
_offline_before = False


@contextmanager
def _online() -> Iterator[None]:
    """HF_HUB_OFFLINE means no network; the library takes this machine's own loopback for network, we do not."""
    global _num_online, _offline_before
    from huggingface_hub import constants

    with _online_lock:
        if _num_online == 0:
            _offline_before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
        _num_online += 1
    try:
        yield
    finally:
        with _online_lock:
            _num_online -= 1
            if _num_online == 0:
                constants.HF_HUB_OFFLINE = _offline_before


def _check_request(request: httpx2.Request) -> None:
    guard = _ACTIVE.get()
    if guard is None:
        return
    url = str(request.url)
    origin = origin_of(url)
    if guard.origin.startswith("https:") and request.url.scheme != "https":
        raise SecurityError("E-HUB-REDIRECT", "the hub leads from https to http", where=f"{guard.origin} → {origin}")
    if origin != guard.origin and "authorization" in request.headers:
        raise SecurityError(
            "E-HUB-TOKEN",
            "the hub leads the token to another origin",
            where=f"{guard.origin} → {origin}",
            do="not sent",
        )
    if request.method in ("GET", "HEAD"):
        request.headers["Accept-Encoding"] = "identity"
    if request.method == "GET" and guard.expected is not None:
        part = f"{url} {request.headers.get('Range', '')}"
        guard.gets[part] += 1
        if guard.gets[part] > _MAX_SAME_GETS:
            raise UnavailableError(
                "E-HUB-BROKEN", "the connection breaks again and again", where=origin, do="try again later"
            )
    if all(value is None for value in request.extensions.get("timeout", {}).values()):
        request.extensions["timeout"] = dict(_TIMEOUT_S)


def _check_response(response: httpx2.Response) -> None:
    guard = _ACTIVE.get()
    if guard is None:
        return
    url = str(response.request.url)
    if response.has_redirect_location:
        check_redirect(url, urljoin(url, response.headers["Location"]))
    _check_commit(response, guard)
    if response.request.method == "HEAD" and response.status_code < 400:
        _check_head(response, guard)
    _check_length(response, guard)


def _check_commit(response: httpx2.Response, guard: Guard) -> None:
    """X-Repo-Commit becomes a directory name, also on a 404: refuse it in any answer where it is no commit."""
    commit = response.headers.get("X-Repo-Commit")
    if commit is None:
        return
    CommitSha(commit)
    if guard.expected and commit != guard.expected.commit:
        raise IntegrityError(
            "E-INTEGRITY",
            f"asked for commit {guard.expected.commit}, the hub answers with {commit}",
            where=guard.origin,
        )


def _check_head(response: httpx2.Response, guard: Guard) -> None:
    """The ETag becomes a file name; it must be the id that the tree listing gave."""
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag")
    is_plain_redirect = response.has_redirect_location and "X-Repo-Commit" not in response.headers
    if etag is None or is_plain_redirect:
        return
    oid = etag.lstrip("W/").strip('"')
    if not _OID.fullmatch(oid):
        raise SecurityError("E-HUB-BADOID", f"the hub's ETag {etag[:100]!a} is no digest", where=guard.origin)
    if guard.expected is None:
        return
    if oid != guard.expected.oid:
        raise IntegrityError(
            "E-INTEGRITY", f"want {guard.expected.oid} got {oid}: the hub contradicts its listing", where=guard.origin
        )
    size = response.headers.get("X-Linked-Size") or (
        None if response.has_redirect_location else response.headers.get("Content-Length")
    )
    if size is not None and size != str(guard.expected.size_bytes):
        raise IntegrityError(
            "E-INTEGRITY",
            f"want {guard.expected.size_bytes} bytes, the hub announces {size[:20]!a}",
            where=guard.origin,
        )


def _check_length(response: httpx2.Response, guard: Guard) -> None:
    """No answer is larger than it may be; what is compressed although we asked for it plain is refused."""
    import httpx2

    if response.request.method == "HEAD" or response.status_code >= 300:
        return
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise IntegrityError(
            "E-INTEGRITY", "the hub sends a compressed body that was asked for plain", where=guard.origin
        )
    size_bytes = guard.expected.size_bytes if guard.expected else 0
    limit = (
        size_bytes
        if guard.expected and "/resolve/" in response.request.url.path
        else max(size_bytes, _MAX_ANSWER_BYTES)
    )
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _limited(response.stream, limit, guard)


def _limited(inner: httpx2.SyncByteStream, limit: int, guard: Guard) -> httpx2.SyncByteStream:
    import httpx2

    class Limited(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            total = 0
            for chunk in inner:
                total += len(chunk)
                if guard.expected is not None and guard.expected.stop.is_set():
                    raise HubtoolError("E-STOPPED", "the download was stopped", where=guard.origin)
                if total > limit:
                    raise IntegrityError(
                        "E-INTEGRITY", f"want {limit} bytes at most, the hub sends more", where=guard.origin
                    )
                yield chunk

        def close(self) -> None:
            inner.close()

    return Limited()


_install_lock = threading.Lock()
_is_installed = False


def _install() -> None:
    """Put the hooks on the library's client, once; a client the user configured keeps its settings."""
    global _is_installed
    with _install_lock:
        if not _is_installed:
            _hook()
            _is_installed = True


def _hook() -> None:
    quiet()
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    make: Callable[[], httpx2.Client] = _http._GLOBAL_CLIENT_FACTORY

    def make_guarded() -> httpx2.Client:
        client = make()
        hooks = client.event_hooks
        hooks["request"] = [*hooks.get("request", []), _check_request]
        hooks["response"] = [_check_response, *hooks.get("response", [])]
        client.event_hooks = hooks
        return client

    set_client_factory(make_guarded)


def quiet() -> None:
    """No telemetry, from the library or from hf_xet, before either is imported; what hf_xet remembers of uploads is ours."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_XET_CACHE", str(read_settings().home / "cache" / "xet"))
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
