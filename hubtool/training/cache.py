"""Activations of the frozen prefix, computed once and shared by every run with the same key.

A cache is a directory ``<digest of its key>``: about.json (the key, the tensors of a row), rows.bin (rows of one size, mapped
into memory), index.bin (for each row 32 bytes: which picture and draw it is of, and the CRC-32 of the row). Rows are durable
before their index entry is written, so that a kill loses at most what was being written, and the next run goes on from there.
A process compares a row with its checksum when it first reads it; a damaged one is computed again, and of two entries of one
name the later counts. One process fills at a time; any number read. Removing a directory under a reader is harmless: it
keeps its mapping.

B pictures of a batch, R bytes of a row.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from hubtool.core.errors import ConflictError, HubtoolError, StorageError
from hubtool.core.files import AppendFile, make_dirs, remove_dir, remove_leftovers
from hubtool.core.locks import hold, is_held
from hubtool.records.activations import About, Activation, ActivationsKey, CacheRow
from hubtool.records.evidence import Array
from hubtool.training.feed import Features

MAX_BYTES = 20 * 10**9
_NAME_BYTES = 32
_ENTRY_BYTES = _NAME_BYTES + 4
FLUSH_BYTES = 32 << 20
_ABOUT, _ROWS, _INDEX = "about.json", "rows.bin", "index.bin"


class Activations:
    """One cache directory. ``rows`` finds, ``write`` appends (the lock must be held), ``read`` gathers.

    ``is_dead``: it must not be read any more, by any of the feeds that share it. ``is_checked``: one of them has compared
    rows with live features; ``is_old_checked``: some of the ``num_old`` rows that were there when it was opened.
    """

    def __init__(self, root: Path, key: ActivationsKey, tensors: tuple[Activation, ...]) -> None:
        self.directory = root / key.digest()[:32]
        self.is_dead = False
        self.is_checked = self.is_old_checked = False
        self._tensors = tensors
        self._sizes = [_size_bytes(tensor) for tensor in tensors]
        self.row_bytes = sum(self._sizes)
        self._row_of: dict[bytes, int] = {}
        self._sums: Array = np.zeros(0, "<u4")
        self._is_sound: Array = np.zeros(0, np.bool_)  # compared with its checksum by this process
        self._num_rows = 0
        self._map: Array | None = None
        about = About(key=key, tensors=tensors, row_bytes=self.row_bytes, nonce=secrets.token_hex(8))
        self._nonce = _nonce_of(self.directory, about) or self._make(about)
        self.refresh()
        self.num_old = self._num_rows

    def _make(self, about: About) -> str:
        """Begin it anew, unless another process has just done so. Returns its nonce."""
        make_dirs(self.directory)
        remove_leftovers(self.directory.parent)
        with hold(self.directory / ".lock", "the activation cache", wait_s=10):
            if nonce := _nonce_of(self.directory, about):
                return nonce
            for name in (_INDEX, _ROWS):
                (self.directory / name).unlink(missing_ok=True)
            about.write(self.directory / _ABOUT)
        return about.nonce

    def refresh(self) -> None:
        """Take in what another process has written; find out whether the directory is still the one it was."""
        index, rows = self.directory / _INDEX, self.directory / _ROWS
        try:
            data, size_bytes = index.read_bytes(), rows.stat().st_size
            num_rows = min(len(data) // _ENTRY_BYTES, size_bytes // self.row_bytes)
            # as a plain array: a memmap's own indexing takes as long as the reading
            found = np.asarray(np.memmap(rows, np.uint8, "r", shape=(num_rows, self.row_bytes))) if num_rows else None
        except FileNotFoundError:
            data, num_rows, found = b"", 0, None
        # about.json is looked at last: in a directory made anew it stands before the first row
        self.is_dead = self.is_dead or self._found_nonce() != self._nonce or num_rows < self._num_rows
        if self.is_dead or num_rows == self._num_rows:
            return
        entries = np.frombuffer(data, np.uint8)[: num_rows * _ENTRY_BYTES].reshape(num_rows, _ENTRY_BYTES)
        for row in range(self._num_rows, num_rows):
            self._row_of[entries[row, :_NAME_BYTES].tobytes()] = row
        self._sums = np.ascontiguousarray(entries[:, _NAME_BYTES:]).view("<u4")[:, 0]
        self._is_sound = np.append(self._is_sound, np.zeros(num_rows - self._num_rows, np.bool_))
        self._num_rows, self._map = num_rows, found

    def _found_nonce(self) -> str:
        try:
            os.utime(self.directory / _ABOUT)  # it is in use
            return About.read(self.directory / _ABOUT).nonce
        except (OSError, HubtoolError):
            return ""

    def rows(self, names: Iterable[bytes]) -> list[int | None]:
        return [self._row_of.get(name) for name in names]

    def forget_damaged(self, rows: Sequence[int] | Array) -> bool:
        """Compare rows that this process has not read yet with their checksums; those that differ are not found any more."""
        if self._is_sound[rows].all():
            return False
        assert self._map is not None
        damaged = {row for row in rows if not self._is_sound[row] and zlib.crc32(self._map[row]) != self._sums[row]}
        self._is_sound[[row for row in rows if row not in damaged]] = True
        for name in [name for name, row in self._row_of.items() if row in damaged] if damaged else ():
            del self._row_of[name]
        return bool(damaged)

    def write(self, chunks: Iterable[tuple[Sequence[bytes], Features]]) -> None:
        """Append rows; after each 32 MiB they are durable and can be found.

        Raises StorageError, or ConflictError where the directory was removed or its files are not what they were.
        """
        self.refresh()
        self._refuse_dead()
        self._cut_torn()
        rows, index = AppendFile(self.directory / _ROWS), AppendFile(self.directory / _INDEX)
        entries: list[bytes] = []
        pending_bytes = 0

        def flush() -> None:
            rows.sync()
            index.append(b"".join(entries))
            index.sync()
            entries.clear()

        try:
            for chunk_names, features in chunks:
                data_BR = self._encode(features)
                rows.append(data_BR.tobytes())
                sums = (zlib.crc32(row).to_bytes(4, "little") for row in data_BR)
                entries.extend(name + crc for name, crc in zip(chunk_names, sums, strict=True))
                pending_bytes += data_BR.size
                if pending_bytes >= FLUSH_BYTES:
                    flush()
                    pending_bytes = 0
        finally:
            try:
                flush()
            finally:
                rows.close()
                index.close()
                self.refresh()
        self._refuse_dead()

    def read(self, rows: Sequence[int] | Array) -> Features:
        assert self._map is not None
        data_BR = torch.from_numpy(self._map[rows])
        if len(self._tensors) == 1:
            return (_decode(data_BR, self._tensors[0]),)
        parts_BR = data_BR.split(self._sizes, dim=1)
        return tuple(_decode(part.contiguous(), tensor) for part, tensor in zip(parts_BR, self._tensors, strict=True))

    def remove(self) -> None:
        self.is_dead = True
        remove(self.directory)

    def _refuse_dead(self) -> None:
        if self.is_dead:
            raise ConflictError("E-CACHE-GONE", "the kept features were removed or changed meanwhile")

    def _cut_torn(self) -> None:
        """Make both files end with the last row that stands in both: a kill may have left more."""
        for name, one_bytes in ((_ROWS, self.row_bytes), (_INDEX, _ENTRY_BYTES)):
            file = AppendFile(self.directory / name)
            file.cut_back(self._num_rows * one_bytes)
            file.close()

    def _encode(self, features: Features) -> Array:
        parts = [f.detach().cpu().contiguous().reshape(len(f), -1).view(torch.uint8).numpy() for f in features]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def describe(features: Features) -> tuple[Activation, ...]:
    return tuple(
        Activation(dtype=str(f.dtype).removeprefix("torch."), shape=tuple(int(n) for n in f.shape[1:]))
        for f in features
    )


def default_limit_bytes(root: Path) -> int:
    """A fifth of the free disk, and at most 20 GB."""
    return min(MAX_BYTES, shutil.disk_usage(root).free // 5)


def list_caches(root: Path) -> tuple[CacheRow, ...]:
    """Every cache below ``root``, the one that was used last first; damaged ones count as empty."""
    found = []
    for directory in root.iterdir() if root.is_dir() else ():
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        size_bytes = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
        try:
            about = About.read(directory / _ABOUT)
            used, architecture = (directory / _ABOUT).stat().st_mtime, about.key.architecture
            num_rows = (directory / _ROWS).stat().st_size // about.row_bytes if (directory / _ROWS).exists() else 0
        except HubtoolError:
            used, architecture, num_rows = 0.0, "damaged", 0
        found.append(
            CacheRow(
                name=directory.name,
                architecture=architecture,
                num_rows=num_rows,
                size_bytes=size_bytes,
                last_used_s=used,
            )
        )
    return tuple(sorted(found, key=lambda row: (-row.last_used_s, row.name)))


def prune(root: Path, *, keep_bytes: int = 0, besides: str = "") -> tuple[CacheRow, ...]:
    """Remove the caches used longest ago until the rest is at most ``keep_bytes``; returns what was removed."""
    rows = [row for row in list_caches(root) if row.name != besides]
    total, removed = sum(row.size_bytes for row in rows), []
    while rows and total > keep_bytes:
        row = rows.pop()
        if remove(root / row.name):
            total -= row.size_bytes
            removed.append(row)
    return tuple(removed)


def remove(directory: Path) -> bool:
    """Remove a cache, in one step for those that look at it; one that is being filled stays."""
    if is_held(directory / ".lock"):
        return False
    remove_dir(directory)
    return not directory.exists()


def make_room(cache: Activations, needed_bytes: int, limit_bytes: int | None) -> None:
    root = cache.directory.parent
    limit = default_limit_bytes(root) if limit_bytes is None else limit_bytes
    own = sum(path.stat().st_size for path in cache.directory.iterdir() if path.is_file())
    if own + needed_bytes > limit:
        raise StorageError(
            "E-CACHE-LIMIT",
            f"the cache needs {(own + needed_bytes) / 1e6:.0f} MB and may have {limit / 1e6:.0f} MB",
            do="--cache-limit gives it more",
        )
    prune(root, keep_bytes=limit - own - needed_bytes, besides=cache.directory.name)


def _nonce_of(directory: Path, wanted: About) -> str:
    """The nonce of a directory that is of the same key and tensors, else ''."""
    try:
        about = About.read(directory / _ABOUT)
    except HubtoolError:
        return ""
    return about.nonce if about.model_copy(update={"nonce": wanted.nonce}) == wanted else ""


def _size_bytes(tensor: Activation) -> int:
    return int(
        torch.empty((), dtype=getattr(torch, tensor.dtype)).element_size() * np.prod(tensor.shape, dtype=np.int64)
    )


def _decode(data_BR: torch.Tensor, tensor: Activation) -> torch.Tensor:
    return data_BR.view(getattr(torch, tensor.dtype)).reshape(len(data_BR), *tensor.shape)
