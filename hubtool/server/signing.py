"""Links and tokens that carry their own right: what they allow, until when, and an HMAC over both."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from hubtool.core.errors import SecurityError

_MAX_TEXT = 4096


class Signer:
    """Makes and checks them. ``purpose`` keeps a link made for one thing from opening another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, facts: dict[str, Any], *, ttl_s: float) -> str:
        body = json.dumps(facts | {"exp": int(time.time() + ttl_s)}, separators=(",", ":"), sort_keys=True).encode()
        return f"{_encode(body)}.{_encode(self._mac(purpose, body))}"

    def check(self, purpose: str, text: str) -> dict[str, Any]:
        """The facts. Raises SecurityError E-HUB-SIGNATURE when they were not signed here, or are too old."""
        body, _, mac = text.partition(".")
        try:
            data, tag = _decode(body), _decode(mac)
        except ValueError as error:
            raise SecurityError("E-HUB-SIGNATURE", "the link is not valid") from error
        if len(text) > _MAX_TEXT or not hmac.compare_digest(tag, self._mac(purpose, data)):
            raise SecurityError("E-HUB-SIGNATURE", "the link is not valid")
        facts: dict[str, Any] = json.loads(data)
        if facts["exp"] < time.time():
            raise SecurityError("E-HUB-SIGNATURE", "the link has expired", do="ask for a new one")
        return facts

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.new(self._key, purpose.encode() + b"\0" + body, hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("not ASCII")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
