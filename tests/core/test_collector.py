from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from hubtool.core.collector import uncollected

_IMPORT = """
import gc, sys
from hubtool.backbones import sources
from hubtool.core.refs import parse_backbone_ref
collected = 0
def count(phase, _):
    global collected
    collected += phase == "stop"
gc.callbacks.append(count)
sources.locate(parse_backbone_ref("timm:resnet18.a1_in1k"))
num_found, is_imported = collected, "timm" in sys.modules
print(num_found, is_imported, gc.isenabled())
"""


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_it_was_afterwards(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(ValueError), uncollected():
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()


def test_a_library_is_imported_without_a_collection() -> None:
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", _IMPORT], capture_output=True, check=True, text=True)
    num_collected, *flags = found.stdout.split()
    assert flags == ["True", "True"]
    assert int(num_collected) <= 1  # when it comes back
