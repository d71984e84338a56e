"""Tensors of a safetensors file as names, dtypes, shapes and bytes, read by hand under limits: this room knows no torch.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, little-endian; the header, JSON:
name → {dtype, shape, data_offsets}; then the bytes of all tensors, without a gap.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hubtool.core.digests import tensors_digest
from hubtool.core.errors import IntegrityError
from hubtool.records.package import PackedWeights

_MAX_HEADER_BYTES = 100 << 20
# The format's names → (torch's names, bytes of one element).
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}

Tensor = tuple[str, str, tuple[int, ...], memoryview]


@contextmanager
def opened(path: Path) -> Iterator[list[Tensor]]:
    """Every tensor of the file, in the order of its bytes, mapped and not copied: the views end with the block.

    Raises IntegrityError for whatever is not exactly the format: a gap, an overlap, an unknown dtype.
    """
    size_bytes = path.stat().st_size
    if size_bytes < 8:
        raise _damaged(path, f"{size_bytes} bytes are no safetensors file")
    views: list[memoryview] = []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            whole = memoryview(data)
            views.append(whole)
            tensors: list[Tensor] = []
            for name, kind, shape, start, stop in _index(path, whole):
                views.append(whole[start:stop])
                tensors.append((name, kind, shape, views[-1]))
            yield tensors
        finally:
            for view in reversed(views):
                view.release()


def _index(path: Path, whole: memoryview) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    """(name, dtype, shape, first byte, byte after the last) of each tensor, checked against the file."""
    length = int.from_bytes(whole[:8], "little")
    if length > min(_MAX_HEADER_BYTES, len(whole) - 8):
        raise _damaged(path, "the header is longer than the file")
    begin = end = 8 + length
    for name, (dtype, shape, start, stop) in _header(path, bytes(whole[8:begin])):
        if begin + start != end:
            raise _damaged(path, f"{name}: its bytes do not follow the tensor before it")
        kind, width = _DTYPES.get(dtype, ("", 0))
        end = begin + stop
        if not kind or stop - start != width * math.prod(shape) or end > len(whole):
            raise _damaged(path, f"{name}: dtype, shape and bytes do not agree")
        yield name, kind, shape, begin + start, end
    if end != len(whole):
        raise _damaged(path, f"{len(whole) - end} bytes follow the last tensor")


def _header(path: Path, data: bytes) -> list[tuple[str, tuple[str, tuple[int, ...], int, int]]]:
    """Name → (dtype, shape, start, stop), in the order of their bytes."""
    try:
        header = json.loads(data, object_pairs_hook=_no_twins)
        header.pop("__metadata__", None)
        rows = [
            (
                name,
                (
                    str(t["dtype"]),
                    tuple(int(n) for n in t["shape"]),
                    int(t["data_offsets"][0]),
                    int(t["data_offsets"][1]),
                ),
            )
            for name, t in header.items()
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"the header cannot be read: {error}") from error
    return sorted(rows, key=lambda row: (row[1][2], row[1][3]))


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError("E-WEIGHTS", what, where=path.name, do="pack or fetch it again")


WEIGHTS_FILES = ("model.safetensors", "head.safetensors")


def packed_weights(directory: Path) -> PackedWeights:
    """The digests of what a package holds: model.safetensors, and head.safetensors where there is one.

    Head tensors keep their names; a name in both files raises IntegrityError.
    """
    with ExitStack() as stack:
        tensors: list[Tensor] = []
        for file_name in WEIGHTS_FILES:
            path = directory / file_name
            if path.exists() or file_name == WEIGHTS_FILES[0]:
                tensors += stack.enter_context(opened(path))
        digests = {tensor[0]: tensors_digest([tensor]) for tensor in tensors}
        if len(digests) != len(tensors):
            raise _damaged(directory / WEIGHTS_FILES[1], "a tensor stands in both files")
        return PackedWeights(weights_digest=tensors_digest(tensors), tensors=digests)
