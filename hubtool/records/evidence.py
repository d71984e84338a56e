"""Predictions and golden logits: the files from which every claim is compiled. Written as safetensors, never pickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from hubtool.core.errors import IntegrityError, NotFoundError
from hubtool.core.files import write_bytes

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The model's outputs on a split.

    N samples, K outputs: ``samples`` N sha256 (hex), ``targets`` int64 (N,) or float32 (N, K), ``logits_NK`` float32.
    """

    split: str
    samples: tuple[str, ...]
    targets: Array
    logits_NK: Array

    def write(self, path: Path) -> None:
        arrays = {
            "logits": np.ascontiguousarray(self.logits_NK, dtype=np.float32),
            "samples": np.frombuffer(bytes.fromhex("".join(self.samples)), np.uint8).reshape(-1, 32),
            "targets": np.ascontiguousarray(self.targets),
        }
        write_bytes(path, safetensors.numpy.save(arrays, metadata={"split": self.split}))

    @classmethod
    def read(cls, path: Path) -> Predictions:
        arrays, metadata = _read(path, {"logits", "samples", "targets"})
        samples = tuple(bytes(row).hex() for row in arrays["samples"])
        if not len(samples) == len(arrays["targets"]) == len(arrays["logits"]):
            raise IntegrityError("E-EVIDENCE", "the numbers of samples, targets and logits differ", where=path.name)
        return cls(
            split=metadata.get("split", ""), samples=samples, targets=arrays["targets"], logits_NK=arrays["logits"]
        )


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Logits on inputs that anyone can make again from ``input_seed``: 8 tensors, and 8 drawn pictures.

    B = 8, K outputs; ``input_shape`` is (C, H, W).
    """

    input_seed: int
    input_shape: tuple[int, int, int]
    tensor_logits_BK: Array
    picture_logits_BK: Array

    def write(self, path: Path) -> None:
        arrays = {
            "input": np.asarray([self.input_seed, *self.input_shape], dtype=np.int64),
            "pictures": np.ascontiguousarray(self.picture_logits_BK, dtype=np.float32),
            "tensors": np.ascontiguousarray(self.tensor_logits_BK, dtype=np.float32),
        }
        write_bytes(path, safetensors.numpy.save(arrays))

    @classmethod
    def read(cls, path: Path) -> Golden:
        arrays, _ = _read(path, {"input", "pictures", "tensors"})
        seed, channels, height, width = (int(v) for v in arrays["input"])
        return cls(
            input_seed=seed,
            input_shape=(channels, height, width),
            tensor_logits_BK=arrays["tensors"],
            picture_logits_BK=arrays["pictures"],
        )


def _read(path: Path, names: set[str]) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError("E-EVIDENCE-404", "the evidence is missing", where=path.name) from error
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError("E-EVIDENCE", f"a damaged file: {error}", where=path.name) from error
    if set(arrays) != names:
        raise IntegrityError(
            "E-EVIDENCE", f"expected the arrays {sorted(names)}, got {sorted(arrays)}", where=path.name
        )
    return arrays, header.get("__metadata__", {})
