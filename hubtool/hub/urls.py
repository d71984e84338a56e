"""Weights behind a plain URL (torchvision's, some of timm's): downloaded without a token, checked against the digits of
sha256 that their file names carry, kept under the sha256 of their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urljoin, urlsplit

from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError, UnavailableError, from_os_error
from hubtool.core.files import make_dirs, write_chunks
from hubtool.core.ids import RepoPath
from hubtool.core.progress import SILENT, Reporter
from hubtool.hub.client import Hub, check_endpoint
from hubtool.hub.guard import check_redirect
from hubtool.hub.translate import from_plain_status, persist, translated
from hubtool.records.backbone import FileDigest, Origin

if TYPE_CHECKING:
    import httpx2

# torch.hub's convention: NAME-<the first hex digits of the sha256>.EXT; eight digits that are a date are none.
_HASH_IN_NAME = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")
_MAX_REDIRECTS = 5
_MAX_BYTES = 64 << 30
_MAX_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class FetchedUrl:
    """``directories`` are named by content: ``path`` lies alone in one called like its sha256."""

    origin: Origin
    path: Path
    digests_from: Literal["published", "first_pull"]


def url_dir(home: Path, sha256: str) -> Path:
    """Where the file with this sha256 is kept, and what was made from it."""
    return home / "cache" / "url" / sha256


def fetch_url(
    url: str,
    *,
    home: Path,
    is_offline: bool = False,
    reporter: Reporter = SILENT,
    max_attempts: int = 3,
    retry_wait_s: float = 1.0,
) -> FetchedUrl:
    """Download, verify, keep. Raises NotFoundError (4), IntegrityError (5), SecurityError (6), UnavailableError (75)."""
    check_endpoint(url)
    name = RepoPath(urlsplit(url).path.rpartition("/")[2])
    if is_offline:
        raise NotFoundError("E-OFFLINE", f"{url} is not here, and HF_HUB_OFFLINE is set", do="unset it")
    match = _HASH_IN_NAME.search(name)
    want = match.group(1) if match else ""
    store = home / "cache" / "url"
    make_dirs(store)
    hub = Hub(endpoint=url, name=url, cache_dir=store)
    temp = store / f"incoming-{sha256_bytes(url.encode())[:16]}"

    def once() -> tuple[str, int]:
        with translated(hub, url):
            return _download(url, temp, reporter)

    for attempt in range(1, _MAX_TRIES + 1):
        try:
            got, size_bytes = persist(once, max_attempts=max_attempts, first_wait_s=retry_wait_s, reporter=reporter)
            if got.startswith(want):
                break
            wrong = f"want sha256 {want}… got {got}"
        except IntegrityError as error:
            wrong = error.what
        temp.unlink(missing_ok=True)
        if attempt == _MAX_TRIES:
            raise IntegrityError("E-INTEGRITY", wrong, where=url, do=f"deleted after {_MAX_TRIES} tries")
        reporter.warn(f"E-INTEGRITY {name}: {wrong}; deleted; retrying {attempt}/{_MAX_TRIES - 1}")
    path = url_dir(home, got) / name
    make_dirs(path.parent)
    try:
        os.replace(temp, path)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    file = FileDigest(path=name, size_bytes=size_bytes, sha256=got)
    return FetchedUrl(
        origin=Origin(url=url, files=(file,)), path=path, digests_from="published" if want else "first_pull"
    )


def _download(url: str, temp: Path, reporter: Reporter) -> tuple[str, int]:
    import httpx2

    digest, headers = hashlib.sha256(), {"Accept-Encoding": "identity", "User-Agent": "hubtool"}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx2.Client(timeout=60.0))
        response = _follow(client, url, headers, stack)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise IntegrityError("E-INTEGRITY", "a compressed body that was asked for plain", where=url)
        length = response.headers.get("Content-Length", "")
        size_bytes = int(length) if length.isdigit() else None
        if (size_bytes or 0) > _MAX_BYTES:
            raise SecurityError("E-HUB-SIZE", f"{size_bytes} bytes are more than any weights have", where=url)
        task = stack.enter_context(reporter.task(f"pull {url.rpartition('/')[2]}", size_bytes, "B"))

        def chunks() -> Iterator[bytes]:
            total = 0
            for chunk in response.iter_raw(1 << 20):
                total += len(chunk)
                if total > _MAX_BYTES:
                    raise SecurityError("E-HUB-SIZE", "the body does not end", where=url)
                digest.update(chunk)
                task.advance(len(chunk))
                yield chunk
            if size_bytes is not None and total != size_bytes:
                raise IntegrityError("E-INTEGRITY", f"want {size_bytes} bytes got {total}", where=url)

        written = write_chunks(temp, chunks())
    return digest.hexdigest(), written


def _follow(client: httpx2.Client, url: str, headers: dict[str, str], stack: contextlib.ExitStack) -> httpx2.Response:
    """GET, following a few redirects, each checked."""
    target = url
    for _ in range(_MAX_REDIRECTS + 1):
        response = stack.enter_context(client.stream("GET", target, headers=headers))
        if not response.has_redirect_location:
            if response.status_code >= 400:
                raise from_plain_status(url, response.status_code, response.headers.get("Retry-After", ""))
            if response.status_code != 200:
                raise UnavailableError("E-HUB-DOWN", f"an answer of status {response.status_code}", where=url)
            return response
        following = urljoin(target, response.headers["Location"])
        check_redirect(target, following)
        target = following
    raise SecurityError("E-HUB-REDIRECT", f"more than {_MAX_REDIRECTS} redirects", where=url)
