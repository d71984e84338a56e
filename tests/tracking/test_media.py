from __future__ import annotations

import os
import subprocess
import sys

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
