from __future__ import annotations

import pytest
import torch

from hubtool.training.feed import LiveFeed
from training.tiny import CPU, DrawnLoader, StemCut, make_model


def make_feed(device: torch.device) -> LiveFeed:
    model = make_model().to(device)
    return LiveFeed(DrawnLoader(8), StemCut(model), micro_size=4, device=device)


def test_nothing_is_copied_where_it_lies_already() -> None:
    x = torch.rand(4, 3, 9, 9)
    assert make_feed(CPU)._moved(x) is x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: copies to one cannot be tried")
def test_what_goes_to_a_gpu_is_what_was_handed_in() -> None:
    """The copy runs on after the call: the caller's memory, which is used again, must not be what it reads."""
    feed = make_feed(torch.device("cuda"))
    for _ in range(20):
        x = torch.rand(64, 3, 224, 224)
        wanted = x.clone()
        moved = feed._moved(x)
        x.zero_()
        assert torch.equal(moved.cpu(), wanted)
