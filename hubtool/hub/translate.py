"""huggingface_hub's, httpx2's and hf_xet's exceptions as ours: one table, the subclass before its base.

A hub's own words are shown shortened, on one line, without control characters and without the token.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from hubtool.core.errors import (
    ConflictError,
    HubtoolError,
    IntegrityError,
    NotFoundError,
    SecurityError,
    StorageError,
    UnavailableError,
    UsageError,
    from_os_error,
)
from hubtool.core.progress import Reporter
from hubtool.hub.cache import repositories

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")
# huggingface_hub's "Consistency check failed" when a body is shorter or longer than announced.
_SIZES = re.compile(r"should be of size (\d+) but has size (\d+)")
_MAX_WORDS = 200
_MAX_WAIT_S = 120.0
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


class Asked(Protocol):
    """The hub an error tells about."""

    @property
    def endpoint(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def token(self) -> str | None: ...

    @property
    def cache_dir(self) -> Path: ...


class Wait(UnavailableError):
    """The hub asks to come back after ``after_s`` seconds."""

    def __init__(self, code: str, what: str, *, after_s: float, where: str = "", do: str = "") -> None:
        super().__init__(code, what, where=where, do=do)
        self.after_s = after_s


def persist(work: Callable[[], T], *, max_attempts: int, first_wait_s: float, reporter: Reporter) -> T:
    """Run ``work`` again while the hub is not reachable; the last error says how often it was tried."""
    for attempt in range(1, max_attempts + 1):
        try:
            return work()
        except UnavailableError as error:
            if attempt == max_attempts:
                error.what += f" (tried {max_attempts} times)"
                raise
            wait_s = min(_MAX_WAIT_S, getattr(error, "after_s", first_wait_s * 2 ** (attempt - 1)))
            reporter.warn(f"{error.what}; again in {wait_s:.0f} s (try {attempt} of {max_attempts})")
            time.sleep(wait_s)
    raise AssertionError("unreachable")


@contextmanager
def translated(hub: Asked, what: str) -> Iterator[None]:
    """Turn what the libraries raise inside the block into a HubtoolError about ``what`` (a repository, as a rule)."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except HubtoolError:
        raise
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        if cause is None:
            raise offline(hub, what) from error
        with translated(hub, what):
            raise cause from None
    except errors.OfflineModeIsEnabled as error:
        raise offline(hub, what) from error
    except (errors.HFValidationError, httpx2.InvalidURL) as error:
        raise SecurityError("E-REF-INVALID", "refused by the client library", where=ascii(what)) from error
    except errors.HfHubHTTPError as error:
        raise from_status(hub, what, error) from error
    except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
        raise SecurityError(
            "E-HUB-REDIRECT", "the hub redirects in circles or to no web address", where=what
        ) from error
    except httpx2.HTTPError as error:
        raise unreachable(hub.endpoint, error) from error
    except errors.FileMetadataError as error:
        raise IntegrityError(
            "E-HUB-ANSWER", "this does not answer like a hub", where=hub.endpoint, do="check --hub and HF_ENDPOINT"
        ) from error
    except ConnectionError as error:
        raise unreachable(hub.endpoint, error) from error
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            raise from_os_error(error) from error
        sizes = _SIZES.search(str(error))
        text = f"want {sizes[1]} bytes got {sizes[2]}" if sizes else words(hub, str(error))
        raise IntegrityError("E-INTEGRITY", text, where=what) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            "E-HUB-ANSWER", f"the hub's answer cannot be read ({type(error).__name__})", where=what
        ) from error
    except RuntimeError as error:
        raise UnavailableError("E-HUB-TRANSFER", words(hub, str(error)), where=hub.endpoint) from error


def from_status(hub: Asked, what: str, error: HfHubHTTPError) -> HubtoolError:
    """The error for an HTTP status; 401, 403 and 404 of a repository are three texts, and say whether a token was sent."""
    from huggingface_hub import errors

    status = error.response.status_code
    said = words(hub, error.server_message or "")
    sent = "a token was sent" if hub.token else "no token was sent"
    login = "" if hub.token else f"`hubtool login --hub {hub.name}`"
    match error:
        case errors.GatedRepoError():
            ask = f"ask for access at {hub.endpoint}/{what.partition('@')[0]}"
            return NotFoundError("E-HUB-GATED", f"{what} is gated; {sent}", where=hub.endpoint, do=ask, hint=login)
        case errors.DisabledRepoError():
            return NotFoundError("E-HUB-DISABLED", f"{what} was disabled by its hub", where=hub.endpoint)
        case errors.RevisionNotFoundError():
            return NotFoundError("E-HUB-REVISION", f"{what}: no such revision", where=hub.endpoint)
        case errors.EntryNotFoundError():
            return NotFoundError("E-HUB-ENTRY", f"{what}: no such file", where=hub.endpoint)
        case errors.RepositoryNotFoundError() if status == 401:
            return NotFoundError(
                "E-HUB-401",
                f"{what} is not there, or is private; {sent}",
                where=hub.endpoint,
                do=login or "check the name",
            )
        case errors.RepositoryNotFoundError():
            return NotFoundError(
                "E-HUB-404", f"{what} is not there; {sent}", where=hub.endpoint, do="check the name", hint=login
            )
    retry_after = error.response.headers.get("Retry-After", "")
    if status == 401:
        return NotFoundError(
            "E-HUB-401", f"the hub does not know who asks; {sent}", where=hub.endpoint, do=login, hint=said
        )
    if status == 403:
        return NotFoundError("E-HUB-403", f"no right to {what}; {sent}", where=hub.endpoint, do=login, hint=said)
    return from_plain_status(hub.endpoint, status, retry_after, what=what, said=said)


def from_plain_status(where: str, status: int, retry_after: str, *, what: str = "it", said: str = "") -> HubtoolError:
    """The error for a status that says all there is to say."""
    told = f": {said}" if said else ""
    if status in (401, 403):
        return NotFoundError(f"E-HUB-{status}", f"no right to read {what}{told}", where=where)
    if status in (404, 410):
        return NotFoundError("E-HUB-404", f"{what} is not there{told}", where=where, do="check the name")
    if status in (409, 412):
        return ConflictError("E-HUB-MOVED", f"{what} was changed meanwhile{told}", where=where, do="run it again")
    if status == 413:
        return StorageError(
            "E-HUB-SIZE", f"larger than the hub takes{told}", where=where, do="make the package smaller"
        )
    if status == 507:
        return StorageError("E-HUB-FULL", f"the hub's storage or quota is full{told}", where=where)
    if status == 429:
        wait_s = float(retry_after) if retry_after.isdigit() else 5.0
        return Wait("E-HUB-BUSY", f"the hub asks to slow down{told}", after_s=wait_s, where=where, do="try again later")
    if status in (407, 408) or status >= 500:
        return UnavailableError("E-HUB-DOWN", f"an answer of status {status}{told}", where=where, do="try again later")
    return UsageError("E-HUB-REFUSED", f"the hub refuses {what} ({status}){told}", where=where)


def unreachable(endpoint: str, error: BaseException) -> UnavailableError:
    """DNS, TLS, timeout, proxy and broken connections, told apart by what lies at the bottom of the chain."""
    import httpx2

    chain = list(_chain(error))
    if any(isinstance(link, ssl.SSLError) for link in chain):
        what, do = "the TLS connection fails", "check the certificate and the clock"
    elif any(isinstance(link, socket.gaierror) for link in chain):
        what, do = "the host name is not found", "check the address and the network"
    elif any(isinstance(link, httpx2.ProxyError) for link in chain):
        what, do = "the proxy refuses", "check HTTPS_PROXY"
    elif any(isinstance(link, (httpx2.TimeoutException, TimeoutError)) for link in chain):
        what, do = "no answer in time", "try again later"
    elif any(isinstance(link, httpx2.ConnectError) for link in chain):
        what, do = "nobody answers", "check the address, or try again later"
    else:
        what, do = "the connection breaks", "try again later"
    return UnavailableError("E-HUB-UNREACHABLE", what, where=endpoint, do=do)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(16):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def offline(hub: Asked, what: str) -> NotFoundError:
    """Offline by HF_HUB_OFFLINE, and not here; names what is here."""
    cached = [f"{repo}@{commit[:8]}" for repo, commit, _ in repositories(hub.cache_dir)]
    return NotFoundError(
        "E-OFFLINE",
        f"{what} is not here, and HF_HUB_OFFLINE is set",
        where=hub.name,
        do="unset it, or use what is cached",
        hint=f"cached refs: {', '.join(cached[:12])}{', …' if len(cached) > 12 else ''}"
        if cached
        else "cached refs: none",
    )


def words(hub: Asked, text: str) -> str:
    """A server's words, fit for one line of a terminal."""
    if hub.token:
        text = text.replace(hub.token, "***")
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    short = " ".join(plain.split())
    return short if len(short) <= _MAX_WORDS else f"{short[:_MAX_WORDS]}…"
