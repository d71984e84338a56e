"""The shapes of secrets, and where a text holds one; what is found is never printed but for its first four characters.

A rule is a shape that nothing else has, or a common shape (40 hex digits, which a git commit has too) in a context that
says what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """One find: ``start`` is its first four characters. ``line`` counts from 1 (in a binary file: line feeds before it)."""

    path: str
    line: int
    rule: str
    start: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.rule} ({self.start}…)"


# Each pattern has one group: the secret itself.
_SHAPES: tuple[tuple[str, bytes], ...] = (
    ("Hugging Face token", rb"(?<![A-Za-z0-9_])((?:hf|api_org)_[A-Za-z0-9]{20,})"),
    (  # those of a hubtool hub have - and _ in them; a long name in snake_case has no capital, no digit. One token in 1,500
        # has no digit either, but then many capitals.
        "hub token",
        rb"(?<![A-Za-z0-9_])(hf_(?=[\w-]*[0-9]|(?:[a-z_-]*[A-Z]){8})(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{40,})",
    ),
    ("W&B key", rb"(?<![A-Za-z0-9_])(wandb_v\d+_[A-Za-z0-9_]{30,})"),
    (
        "W&B key",
        rb"(?i)(?:wandb|w&b|weights ?(?:and|&) ?biases)[^\n]{0,80}?(?:key|token|password|passwd|login|secret)"
        rb"[^\n]{0,24}?(?<![0-9a-f])((?:local-)?[0-9a-f]{40})(?![0-9a-f])",
    ),
    (
        "API key",
        rb"(?i)(?:api[_ -]?key|(?:auth|access)[_ -]?token|secret[_ -]?key)[\"']?\s*[=:]\s*[\"']?"
        rb"([0-9a-f]{40})(?![0-9a-f])",
    ),
    ("netrc password", rb"(?i)machine\s+\S+\s+login\s+\S+\s+password\s+([^\s\0]{6,})"),
    ("AWS access key", rb"(?<![A-Za-z0-9])((?:AKIA|ASIA)[0-9A-Z]{16})(?![A-Za-z0-9])"),
    ("AWS secret key", rb"(?i)aws.{0,30}?(?:secret|key).{0,20}?[=:]\s*[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"),
    ("private key", rb"(-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)"),
    (
        "password in a URL",
        rb"(?i)[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>\0]{0,100}:([^\s/@\"'<>\0]{3,200})@[a-z0-9\[]",
    ),
    ("GitHub token", rb"(?<![A-Za-z0-9_])(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})"),
    ("GitLab token", rb"(?<![A-Za-z0-9_])(glpat-[A-Za-z0-9_-]{20,})"),
    ("Slack token", rb"(?<![A-Za-z0-9_])(xox[abeprs]-[A-Za-z0-9-]{10,})"),
    ("Google API key", rb"(?<![A-Za-z0-9_])(AIza[0-9A-Za-z_-]{35})(?![0-9A-Za-z_-])"),
    ("Azure storage key", rb"AccountKey=([A-Za-z0-9+/]{60,}={0,2})"),
    ("API key", rb"(?<![A-Za-z0-9_])(sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{32,})"),
    ("npm token", rb"(?<![A-Za-z0-9_])(npm_[A-Za-z0-9]{36})"),
    ("PyPI token", rb"(?<![A-Za-z0-9_])(pypi-AgE[A-Za-z0-9_-]{50,})"),
    ("bearer token", rb"(?i)authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+([A-Za-z0-9._~+/-]{16,}=*)"),
    ("JSON web token", rb"(?<![A-Za-z0-9_])(eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,})"),
)
_RULES = tuple((name, re.compile(shape)) for name, shape in _SHAPES)
# In a binary file the byte before and after a text is a length, a checksum or a tag, and may look like a letter of it.
_EDGE = re.compile(rb"\(\?<?!\[[^]]*\]\)")
_BINARY_RULES = tuple((name, re.compile(_EDGE.sub(b"", shape))) for name, shape in _SHAPES)
# One pass that tells whether any rule is worth trying: a piece of text that each needs.
_ANY = re.compile(
    rb"hf_|api_org_|wandb|w&b|weights|key|token|password|AKIA|ASIA|aws|PRIVATE KEY|://|gh[pousr]_|github_pat_|glpat-|xox|AIza"
    rb"|AccountKey|sk-|npm_|pypi-|authorization|eyJ",
    re.IGNORECASE,
)


def scan_bytes(data: bytes, path: str, *, first_line: int = 1) -> tuple[Secret, ...]:
    """Every secret in ``data``; ``path`` is only for the report."""
    if not _ANY.search(data):
        return ()
    found: dict[int, Secret] = {}
    for rule, pattern in _BINARY_RULES if b"\0" in data else _RULES:
        for match in pattern.finditer(data):
            token, start = match.group(1), match.start(1)
            if start in found or _is_placeholder(token):
                continue
            line = first_line + data.count(b"\n", 0, start)
            text = token[:4].decode("latin-1")
            found[start] = Secret(path=path, line=line, rule=rule, start=text if text.isprintable() else "····")
    return tuple(found[start] for start in sorted(found))


def _is_placeholder(token: bytes) -> bool:
    """``hf_xxxxxxxx``, ``<password>``, ``$TOKEN``, ``***``: what documentation writes in a secret's place."""
    body = token.partition(b"_")[2] or token
    if token.startswith(b"-----"):
        return False
    return token[:1] in b"<${%[" or token.startswith(b"***") or len(set(body.lower())) < 3


def scan_text(text: str, path: str) -> tuple[Secret, ...]:
    return scan_bytes(text.encode("utf-8", "surrogatepass"), path)
