from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubtool.core.errors import IntegrityError
from hubtool.tracking import media

_CODE = """
import numpy as np
from hubtool.tracking.media import _histogram
source = np.random.default_rng(0)
print([vars(_histogram(source.normal(size=(size, 300)).astype(np.float32))) for size in (40, 200, 1000)])
"""


def test_a_histogram_is_the_same_with_any_number_of_threads() -> None:
    """A run that goes on in a process with other threads has to log the same bytes."""
    found = set()
    for num_threads in ("1", "2"):
        environ = os.environ | {"OMP_NUM_THREADS": num_threads, "OPENBLAS_NUM_THREADS": num_threads}
        found.add(subprocess.run([sys.executable, "-c", _CODE], env=environ, capture_output=True, check=True).stdout)
    assert len(found) == 1


def test_the_histograms_of_one_file_are_parsed_once_and_each_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed once for each tensor, the log of a large network would take longer than a training."""
    num_parsed = 0
    loads = media.json.loads

    def counted(data: bytes) -> Any:
        nonlocal num_parsed
        num_parsed += 1
        return loads(data)

    monkeypatch.setattr(media.json, "loads", counted)
    moment = media.Moment(run_dir=tmp_path, global_step=1, epoch=1)
    events = media.write_histograms(moment, {f"weights/{k}": np.arange(5.0) + k for k in range(20)})
    assert [media.read_histogram(tmp_path, event).min for event in events] == sorted(range(20), key=str)
    assert num_parsed == 1
    (tmp_path / str(events[0].path)).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="was changed"):
        media.read_histogram(tmp_path, events[0])
