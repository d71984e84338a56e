"""CRC-32C (RFC 3720, appendix B.4), the checksum of TensorBoard's records, a block at a time.

TensorBoard's own goes byte by byte in Python: a second of the interpreter for the plots of one run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK_SIZE = 512
_POLYNOMIAL = 0x82F63B78  # of Castagnoli, its bits reversed
_ONES = 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """As a record holds it: rotated and shifted, for a checksum over bytes that hold their own is a bad one."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & _ONES


def crc32c(data: bytes) -> int:
    crc, of_byte, head = _ONES, _of_byte(), len(data) % BLOCK_SIZE
    for byte in data[:head]:
        crc = of_byte[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    if len(data) >= BLOCK_SIZE:
        crc = _over_blocks(crc, np.frombuffer(data, np.uint8, offset=head).reshape(-1, BLOCK_SIZE))
    return crc ^ _ONES


def _over_blocks(crc: int, blocks: Array) -> int:
    """The checksum is linear: a block's share is the sum of its bytes', and what was before is added to its first four."""
    tables = _tables()
    one, two, three, four = tables[:4].tolist()
    for share in np.bitwise_xor.reduce(tables[np.arange(BLOCK_SIZE), blocks], axis=1).tolist():
        crc = share ^ one[crc & 0xFF] ^ two[crc >> 8 & 0xFF] ^ three[crc >> 16 & 0xFF] ^ four[crc >> 24]
    return crc


@cache
def _tables() -> Array:
    """(BLOCK_SIZE, 256): the share of each byte by its place in a block."""
    rows = [np.asarray(_of_byte(), np.uint32)]
    for _ in range(1, BLOCK_SIZE):
        rows.append(rows[0][rows[-1] & 0xFF] ^ (rows[-1] >> 8))
    return np.stack(rows[::-1])


@cache
def _of_byte() -> list[int]:
    values: Array = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = (values >> 1) ^ np.where(values & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    found: list[int] = values.tolist()
    return found
