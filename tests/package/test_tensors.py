"""Reading safetensors by hand: what it gives, and what it refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from hubtool.backbones.weights import state_digest
from hubtool.core.errors import IntegrityError
from hubtool.package.tensors import opened, packed_weights


def test_the_digest_is_that_of_the_model(tmp_path: Path) -> None:
    state = {
        "b": torch.randn(3, 2),
        "a": torch.randn(4).bfloat16(),
        "n": torch.tensor(7),
        "h": torch.randn(2, 2).half(),
        "e": torch.zeros(0, 3),
        "flag": torch.tensor([True, False]),
    }
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    packed = packed_weights(tmp_path)
    assert packed.weights_digest == state_digest(state)
    assert set(packed.tensors) == set(state)


def test_a_head_in_a_file_of_its_own_counts(tmp_path: Path) -> None:
    body, head = {"w": np.ones(3, np.float32)}, {"fc": np.zeros(2, np.float32)}
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(body))
    (tmp_path / "head.safetensors").write_bytes(safetensors.numpy.save(head))
    two = packed_weights(tmp_path).weights_digest
    (tmp_path / "head.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(body | head))
    assert packed_weights(tmp_path).weights_digest == two


def made(header: dict[str, object] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no safetensors"),
        (struct.pack("<Q", 1 << 60) + b"{}", "longer than the file"),
        (made(b"{"), "cannot be read"),
        (made(b"[]"), "cannot be read"),
        (made(b'{"a": 1}'), "cannot be read"),
        (made(b'{"a": {}, "a": {}}'), "stands twice"),
        (made(b"[" * 5000), "cannot be read"),
        (made({"a": one("F4")}, b"0" * 8), "do not agree"),
        (made({"a": one(shape=(3,))}, b"0" * 8), "do not agree"),
        (made({"a": one(shape=(-2,))}, b"0" * 8), "do not agree"),
        (made({"a": one()}, b"0" * 4), "do not agree"),
        (made({"a": one(offsets=(4, 12))}, b"0" * 12), "do not follow"),
        (made({"a": one(), "b": one(offsets=(4, 12))}, b"0" * 12), "do not follow"),
        (made({"a": one(offsets=(-8, 0))}, b"0" * 8), "do not follow"),
        (made({"a": one()}, b"0" * 9), "follow the last tensor"),
    ],
)
def test_what_is_not_the_format_is_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=problem), opened(path):
        pass
