"""The tuned timm-style loop: timm model and transforms, timm.utils.freeze, channels_last, autocast, two lasting workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks._peer_job import Job, Net, Report, loaders, read_job


def train(job: Job, net: Net) -> None:
    report = Report()
    train_loader, val_loader = loaders(job, net)
    optimizer = torch.optim.AdamW(net.learning(), lr=job.lr, weight_decay=0.01, fused=net.is_tuned)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=job.epochs * len(train_loader))
    saved, top1 = Path(job.out) / "last.pth.tar", 0.0
    for epoch in range(job.epochs):
        report.mark()
        net.train()
        for x_BCHW, target_B in moved(job, train_loader):
            with autocast(job):
                loss = torch.nn.functional.cross_entropy(net(x_BCHW), target_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        top1 = validate(job, net, val_loader)
        # what timm.utils.CheckpointSaver writes
        torch.save({"epoch": epoch, "state_dict": net.model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    report.mark()
    report.print(top1=top1, checkpoint=saved)


def autocast(job: Job) -> Any:
    return torch.autocast(job.device, torch.bfloat16) if job.precision == "bf16" else contextlib.nullcontext()


def moved(job: Job, batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield [tensor.to(job.device, non_blocking=True) for tensor in batch]


@torch.inference_mode()
def validate(job: Job, net: Net, loader: Any) -> float:
    net.eval()
    num_right = torch.zeros((), dtype=torch.long, device=job.device)
    for x_BCHW, target_B in moved(job, loader):
        with autocast(job):
            logits_BK = net(x_BCHW)
        num_right += (logits_BK.argmax(1) == target_B).sum()
    return int(num_right) / len(loader.dataset)


if __name__ == "__main__":
    job = read_job()
    train(job, Net(job))
