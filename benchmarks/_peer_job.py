"""The half of a peer's script that is the same for all of them: the job, the model frozen as asked, the loaders, the report.

B pictures, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Job:
    """``trained``: head | layer4 | all. ``augment``: none (the fixed view of evaluation) | light (a fresh draw each time)."""

    data: str
    backbone: str
    out: str
    num_classes: int
    trained: str
    precision: str
    epochs: int
    augment: str
    lr: float
    batch_size: int
    num_workers: int
    device: str


def read_job() -> Job:
    """The job; on a GPU with TF32 off, for fp32 is to be the same precision on all sides."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return Job(**json.loads(sys.argv[1]))


class Net(nn.Module):
    """A timm model, channels last where it is convolutional, whose frozen modules stay in eval mode whoever calls train().

    ``is_tuned`` False: its tensors lie as they come, as in a tutorial.
    """

    def __init__(self, job: Job, *, is_tuned: bool = True) -> None:
        super().__init__()
        import timm

        self.model = timm.create_model(f"local-dir:{job.backbone}", pretrained=True, num_classes=job.num_classes)
        has_convs = any(isinstance(module, nn.Conv2d) and module.groups == 1 for module in self.convs())
        self.is_tuned = is_tuned
        self.is_convolutional = is_tuned and has_convs
        if self.is_convolutional:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model = self.model.to(job.device)
        self.frozen = self._freeze(job.trained)

    def convs(self) -> list[nn.Module]:
        """Convolutions other than a transformer's patch embedding."""
        return [m for name, m in self.model.named_modules() if isinstance(m, nn.Conv2d) and "patch_embed" not in name]

    def _freeze(self, trained: str) -> list[nn.Module]:
        from timm.utils.model import freeze

        head: nn.Module = self.model.get_classifier()
        learning = {"head": [head], "layer4": [head, getattr(self.model, "layer4", head)], "all": [self.model]}[trained]
        if trained == "all":
            return []
        kept = [child for child in self.model.children() if child not in learning]
        names = [name for name, child in self.model.named_children() if child in kept]
        freeze(self.model, names, include_bn_running_stats=False)
        for name, parameter in self.model.named_parameters():
            if name.partition(".")[0] in names or "." not in name:  # class token and position embedding
                parameter.requires_grad_(False)
        return kept

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self.is_convolutional:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        logits_BK: torch.Tensor = self.model(x_BCHW)
        return logits_BK

    def learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def datasets(job: Job, net: Net) -> tuple[Any, Any]:
    """Training and validation pictures: timm's transforms for this model on torchvision's class folders."""
    from timm.data import create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    config = resolve_data_config({}, model=net.model)
    fixed = create_transform(**config, is_training=False)
    drawn = create_transform(
        input_size=config["input_size"],
        is_training=True,
        scale=(0.35, 1.0),
        color_jitter=None,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    root = Path(job.data)
    train = ImageFolder(str(root / "train"), transform=fixed if job.augment == "none" else drawn)
    return train, ImageFolder(str(root / "val"), transform=fixed)


def loaders(job: Job, net: Net) -> tuple[Any, Any]:
    """DataLoaders as timm and Lightning advise: worker processes that live on between the epochs, for a GPU pinned memory."""
    from torch.utils.data import DataLoader

    workers: dict[str, Any] = {
        "num_workers": job.num_workers,
        "persistent_workers": job.num_workers > 0,
        "pin_memory": job.device != "cpu",
    }
    train, val = datasets(job, net)
    return (
        DataLoader(train, batch_size=job.batch_size, shuffle=True, **workers),
        DataLoader(val, batch_size=job.batch_size, **workers),
    )


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


class Report:
    """Marks the start of each epoch and the end of the last, and prints what was reached as the last line of stdout."""

    def __init__(self) -> None:
        self.marks_s: list[float] = []

    def mark(self) -> None:
        self.marks_s.append(time.monotonic())

    def print(self, *, top1: float, checkpoint: Path) -> None:
        epochs_s = [after - before for before, after in itertools.pairwise(self.marks_s)]
        print(json.dumps({"top1": top1, "epochs_s": epochs_s, "checkpoint_bytes": size_of(checkpoint)}))
