from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hubtool.backbones import unpickle, weights
from hubtool.core.errors import HubtoolError, IntegrityError, SecurityError, UsageError


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def _state() -> dict[str, torch.Tensor]:
    return torch.nn.Linear(3, 2).state_dict()


def test_a_state_dict_keeps_its_bytes(tmp_path: Path) -> None:
    state = _state()
    torch.save(state, tmp_path / "a.pth")
    unpickle.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert weights.state_digest(weights.load(tmp_path / "a.safetensors")) == weights.state_digest(state)


def test_of_a_training_checkpoint_the_weights_are_taken(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in _state().items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {}}, tmp_path / "c.pth")
    unpickle.convert(tmp_path / "c.pth", tmp_path / "c.safetensors")
    assert sorted(weights.load(tmp_path / "c.safetensors")) == ["bias", "weight"]


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    torch.save({"weight": torch.zeros(2), "x": _Canary(canary)}, tmp_path / "e.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    for name, said in (("e", "posix.system"), ("whole", "torch.nn.modules.linear.Linear")):
        with pytest.raises(SecurityError, match=said):
            unpickle.convert(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")
    assert not canary.exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("content", "error"), [(b"junk", IntegrityError), (b"", IntegrityError)])
def test_a_damaged_pickle(tmp_path: Path, content: bytes, error: type[HubtoolError]) -> None:
    (tmp_path / "f.pth").write_bytes(content)
    with pytest.raises(error):
        unpickle.convert(tmp_path / "f.pth", tmp_path / "out.safetensors")


def test_a_pickle_without_tensors(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "g.pth")
    with pytest.raises(UsageError, match="no named tensors"):
        unpickle.convert(tmp_path / "g.pth", tmp_path / "out.safetensors")
