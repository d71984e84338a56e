from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hubtool.core.errors import StorageError
from hubtool.data.images import decode, write_png


def test_pixels_come_back(tmp_path: Path) -> None:
    pixels_HW = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_png(tmp_path / "a.png", pixels_HW)
    image, _ = decode((tmp_path / "a.png").read_bytes(), 1)
    assert (np.asarray(image) == pixels_HW).all()
    with pytest.raises(StorageError):
        write_png(tmp_path / "none" / "a.png", pixels_HW)
