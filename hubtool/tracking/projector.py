"""TensorBoard's embedding projector: plain files beside the event file. N points, D numbers each."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.core.files import make_dirs, write_bytes, write_text

Array = np.ndarray[Any, np.dtype[Any]]
CONFIG_NAME = "projector_config.pbtxt"
FOLDER = "projector"


class Projector:
    """Writes ``projector_config.pbtxt`` and the files it names; starts empty."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: list[str] = []
        shutil.rmtree(directory / FOLDER, ignore_errors=True)
        (directory / CONFIG_NAME).unlink(missing_ok=True)

    def add(self, tag: str, global_step: int, arrays: dict[str, Array]) -> None:
        """``features`` (N, D), ``labels`` (N,) text; for thumbnails ``sprite`` (PNG bytes), ``thumbnail`` (height, width)."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{tag}-{global_step:06d}")
        folder = self._directory / FOLDER / name
        make_dirs(folder)
        features_ND = arrays["features"]
        write_text(folder / "features.tsv", "".join("\t".join(f"{v:.6g}" for v in row) + "\n" for row in features_ND))
        write_text(folder / "labels.tsv", "".join(f"{_one_line(label)}\n" for label in arrays["labels"]))
        entry = [
            f'tensor_name: "{name}"',
            f'tensor_path: "{FOLDER}/{name}/features.tsv"',
            f'metadata_path: "{FOLDER}/{name}/labels.tsv"',
        ]
        if "sprite" in arrays:
            write_bytes(folder / "sprite.png", arrays["sprite"].tobytes())
            height, width = (int(v) for v in arrays["thumbnail"])
            size = f"single_image_dim: {width} single_image_dim: {height}"
            entry.append(f'sprite {{ image_path: "{FOLDER}/{name}/sprite.png" {size} }}')
        self._entries.append("embeddings { " + " ".join(entry) + " }\n")
        write_text(self._directory / CONFIG_NAME, "".join(self._entries))


def _one_line(label: object) -> str:
    return " ".join(str(label).split()) or "-"
