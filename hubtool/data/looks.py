"""How a picture looks, in 81 bytes: 9 x 9 grey levels. By them a picture is found again under another encoding, size or EXIF.

Works by the methods of a Pillow picture and imports neither Pillow nor numpy: a worker does it beside its decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubtool.data.images import Picture

SIDE = 9
SIZE_BYTES = SIDE * SIDE
_BOX = 4  # PIL.Image.Resampling: each level is the mean of its area, whatever the size was


def look(image: Picture) -> bytes:
    """The grey levels of a decoded picture, upright as its EXIF says, row by row."""
    return image.convert("L").resize((SIDE, SIDE), _BOX).tobytes()


class Looks:
    """Takes the looks of pictures, by sha256, from the pass that checks them."""

    def __init__(self) -> None:
        self.of: dict[str, bytes] = {}

    def add(self, sha256: str, slot: memoryview) -> None:
        """A worker writes the look at the end of its slot."""
        self.of[sha256] = bytes(slot[-SIZE_BYTES:])
