from __future__ import annotations

import torch

from hubtool.data import targets
from hubtool.data.scan import Row
from hubtool.records.dataset import Sample, Target


def sample(target: Target) -> Sample:
    return Sample(path="a.png", sha256="0" * 64, size_bytes=1, target=target)


def test_tensors_have_the_dtype_and_shape_of_the_task() -> None:
    x = targets.target_tensor((sample(2), sample(0)), "classification")
    assert x.dtype == torch.int64 and x.tolist() == [2, 0]
    x = targets.target_tensor((sample((1.0, 0.0)), sample((0.0, 0.0))), "multilabel")
    assert x.dtype == torch.float32 and x.shape == (2, 2)
    x = targets.target_tensor((sample((1.5,)),), "regression")
    assert x.dtype == torch.float32 and x.shape == (1, 1)


def test_binary_positive_is_the_second_class_by_name() -> None:
    assert targets.target_of(Row("x", None, "sick"), ("healthy", "sick"), "binary") == 1
