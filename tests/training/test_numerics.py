from __future__ import annotations

import platform

import pytest
import torch

from hubtool.core.errors import UsageError
from hubtool.training.numerics import choose_device, environment, is_slow, set_numerics


def test_what_decides_the_last_bits_is_set_and_said() -> None:
    device, found = set_numerics("cpu")
    assert device.type == found.device == "cpu"
    assert found.num_threads == torch.get_num_threads()
    assert found.libraries["torch"] == torch.__version__.partition("+")[0] or found.libraries["torch"]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled()


def test_a_resumed_run_gets_its_number_of_threads_back() -> None:
    before = torch.get_num_threads()
    try:
        assert set_numerics("cpu", num_threads=before + 1)[1].num_threads == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no device 'cuda'") as caught:
        choose_device("cuda")
    assert "cpu" in caught.value.do


def test_the_environment_names_no_host_and_no_path() -> None:
    import platform
    from pathlib import Path

    text = environment(set_numerics("cpu")[1]).to_json().decode()
    assert platform.node() not in text
    assert f"{Path.home()}/" not in text


def test_a_precision_without_instructions_is_known() -> None:
    assert not is_slow("cpu", "fp32")
    assert not is_slow("cuda", "bf16")
    if platform.machine() == "x86_64" and "AVX2" in torch.backends.cpu.get_cpu_capability():
        assert is_slow("cpu", "bf16")
