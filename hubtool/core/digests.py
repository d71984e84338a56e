"""Digests: of bytes, files, git blobs and of JSON in its one canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

CHUNK_SIZE_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO) -> tuple[str, int]:
    """The sha256 in hex and the number of bytes read to the end of ``stream``."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_SIZE_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256_stream(stream)[0]


def git_blob_sha1(path: Path) -> str:
    """The object id git gives the file: sha1 over ``blob <size>\\0`` and the bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_SIZE_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: object) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8, shortest float; NaN and Inf are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(value: object) -> str:
    return sha256_bytes(canonical_json(value))


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes | memoryview]]) -> str:
    """The digest of weights: over (name, dtype, shape, bytes), sorted by name, never over a file.

    ``dtype`` is torch's name without its prefix (``float32``, ``bfloat16``, ``int64``); bytes are little-endian, row by row.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        header = json.dumps([name, dtype, list(shape), len(memoryview(data).cast("B"))], separators=(",", ":"))
        digest.update(header.encode())
        digest.update(data)
    return digest.hexdigest()
