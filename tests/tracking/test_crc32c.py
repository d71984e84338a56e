from __future__ import annotations

import random

import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from hubtool.tracking.crc32c import BLOCK_SIZE, crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksums_of_rfc_3720(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def test_a_record_of_any_length_has_the_checksum_that_tensorboard_gives_it() -> None:
    source = random.Random(0)
    sizes = [
        1,
        8,
        BLOCK_SIZE - 1,
        BLOCK_SIZE,
        BLOCK_SIZE + 1,
        2 * BLOCK_SIZE,
        *(source.randrange(9000) for _ in range(9)),
    ]
    for size in sizes:
        data = source.randbytes(size)
        assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data), size
