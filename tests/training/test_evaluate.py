from __future__ import annotations

import numpy as np
import pytest
import torch

from hubtool.core.errors import NumericError
from hubtool.training.evaluate import predict, predictions
from training.tiny import CPU, DrawnLoader, make_model, make_samples


def test_predictions_are_in_order_and_do_not_depend_on_who_stands_beside() -> None:
    model = make_model()
    found = predict(model, DrawnLoader(10), make_samples(10), split="val", micro_size=4, device=CPU)
    fewer = predict(model, DrawnLoader(7), make_samples(7), split="val", micro_size=4, device=CPU)
    assert np.array_equal(found.logits_NK[:7], fewer.logits_NK)
    assert list(found.samples) == [sample.sha256 for sample in make_samples(10)]
    assert found.targets.tolist() == [number % 3 for number in range(10)]
    assert found.logits_NK.dtype == np.float32


def test_the_model_is_left_as_it_was() -> None:
    model = make_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, DrawnLoader(5), make_samples(5), split="val", micro_size=4, device=CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_logits_that_are_not_finite_name_the_picture() -> None:
    logits = np.zeros((3, 3), np.float32)
    logits[1, 2] = np.nan
    with pytest.raises(NumericError, match=r"001\.png"):
        predictions("val", make_samples(3), logits)
