from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubtool.backbones import weights
from hubtool.core.errors import ConflictError, NotFoundError
from hubtool.jobs.convert import convert


def test_a_checkpoint_becomes_safetensors_beside_it(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "m.pth")
    report = convert(tmp_path / "m.pth")
    assert report.path == str(tmp_path / "m.safetensors")
    assert report.num_tensors == 2
    assert report.weights_digest == weights.state_digest(state)
    with pytest.raises(ConflictError):
        convert(tmp_path / "m.pth")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        convert(tmp_path / "x.pth")
