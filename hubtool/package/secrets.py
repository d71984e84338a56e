"""Secrets that must not leave the machine: found by their shape, in every file of a package.

What is found is never printed: file, line, rule and its first four characters are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubtool.core.errors import SecurityError
from hubtool.core.files import safe_walk
from hubtool.records.secret_shapes import Secret, scan_bytes, scan_text

_MAX_WHOLE_BYTES = 64 << 20
_OVERLAP_BYTES = 4096


def scan_file(file: Path, path: str) -> tuple[Secret, ...]:
    """Every secret in one file. Of safetensors the header is read (tensors are numbers), of others every byte;
    UTF-16 text is read as text. Large files go through in overlapping pieces."""
    with file.open("rb") as stream:
        if path.endswith(".safetensors"):
            size_bytes = int.from_bytes(stream.read(8), "little")
            return scan_bytes(stream.read(min(size_bytes, _MAX_WHOLE_BYTES)), path)
        found: dict[tuple[int, str, str], Secret] = {}
        line, tail = 1, b""
        while chunk := stream.read(_MAX_WHOLE_BYTES):
            data = tail + chunk
            for piece in _readings(data):
                for secret in scan_bytes(piece, path, first_line=line):
                    found[secret.line, secret.rule, secret.start] = secret
            line += data.count(b"\n", 0, max(0, len(data) - _OVERLAP_BYTES))
            tail = data[-_OVERLAP_BYTES:]
    return tuple(found.values())


def _readings(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield data.decode("utf-16", "ignore").encode("utf-8", "ignore")


def scan(directory: Path) -> tuple[Secret, ...]:
    """Every secret in the files below ``directory``, and in their names."""
    found: list[Secret] = []
    for name, file in safe_walk(directory):
        found += scan_text(name, name)
        found += scan_file(file, name)
    return tuple(found)


def refuse(secrets: tuple[Secret, ...]) -> None:
    """Raises SecurityError (exit 6) naming the first find and counting the others."""
    if secrets:
        first = secrets[0]
        more = f" and {len(secrets) - 1} more" if len(secrets) > 1 else ""
        raise SecurityError(
            "E-SEC-SECRET",
            f"{first.rule} starting with {first.start!r}{more}",
            where=f"{first.path}:{first.line}",
            do="take it out, and revoke it: it may have been seen",
        )


__all__ = ["Secret", "refuse", "scan", "scan_bytes", "scan_file", "scan_text"]
