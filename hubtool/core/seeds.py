"""Randomness has an address: every draw is seeded by (seed, purpose, epoch or step, index).

No generator state is ever saved, so a resumed run, another worker count or a cache cannot shift a draw.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a draw stands.

    ``purpose`` names what is drawn (``order``, ``augment``, ``dropout``, ``mixup``, ``head``, …),
    ``step`` is the epoch, the view or the global step, whichever the purpose counts in,
    ``index`` is a sample of the split, or a micro-batch for draws inside modules.
    """

    purpose: str
    step: int = 0
    index: int = 0

    def seed(self, seed: int) -> int:
        """A 63-bit seed, independent between addresses (sha256 of the parts)."""
        text = f"{seed}/{self.purpose}/{self.step}/{self.index}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
