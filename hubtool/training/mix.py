"""mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) inside a micro-batch, drawn at its address. B pictures, K outputs."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from torch import Tensor

from hubtool.core.seeds import Address
from hubtool.training.order import MicroBatch

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """Each picture is blended with its mirror in the batch (the last with the first).

    Where both are asked for, each micro-batch draws one of them.
    """

    mixup: float
    cutmix: float
    seed: int
    img_size: tuple[int, int]

    @property
    def is_on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def pictures(self, x_BCHW: Tensor, batch: MicroBatch) -> Tensor:
        share, box = self._draw(batch)
        other = x_BCHW.flip(0)
        if box is None:
            return x_BCHW * share + other * (1 - share)
        top, bottom, left, right = box
        mixed = x_BCHW.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed

    def targets(self, soft_BK: Tensor, batch: MicroBatch) -> Tensor:
        share, _ = self._draw(batch)
        return soft_BK * share + soft_BK.flip(0) * (1 - share)

    def _draw(self, batch: MicroBatch) -> tuple[float, Box | None]:
        """The share of the picture itself, and the box that comes from the other one (cutmix)."""
        address = Address(purpose="mixup", step=batch.global_step, index=batch.index)
        draw = random.Random(address.seed(self.seed))
        is_cutmix = self.cutmix > 0 and (self.mixup == 0 or draw.random() < 0.5)
        alpha = self.cutmix if is_cutmix else self.mixup
        share = draw.betavariate(alpha, alpha)
        if not is_cutmix:
            return share, None
        height, width = self.img_size
        cut_h, cut_w = (round(side * math.sqrt(1 - share)) for side in (height, width))
        y, x = draw.randrange(height), draw.randrange(width)
        top, bottom = max(0, y - cut_h // 2), min(height, y - cut_h // 2 + cut_h)
        left, right = max(0, x - cut_w // 2), min(width, x - cut_w // 2 + cut_w)
        return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)
