"""Lightning's Trainer on the same model: mixed precision by its plugin, its default checkpoint of every epoch, no logger."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks._peer_job import Job, Net, Report, loaders, read_job


class Module(lightning.LightningModule):
    def __init__(self, job: Job, net: Net, report: Report, num_steps: int) -> None:
        super().__init__()
        self.job, self.net, self.report, self.num_steps = job, net, report, num_steps
        self.num_right = self.num_seen = 0
        self.top1 = 0.0

    def on_train_epoch_start(self) -> None:
        self.report.mark()

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        x_BCHW, target_B = batch
        return torch.nn.functional.cross_entropy(self.net(x_BCHW), target_B)

    def on_validation_epoch_start(self) -> None:
        self.num_right = self.num_seen = 0

    def validation_step(self, batch: Any, _index: int) -> None:
        x_BCHW, target_B = batch
        self.num_right += int((self.net(x_BCHW).argmax(1) == target_B).sum())
        self.num_seen += len(target_B)

    def on_validation_epoch_end(self) -> None:
        self.top1 = self.num_right / self.num_seen

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.net.learning(), lr=self.job.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(job: Job) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    report, net = Report(), Net(job)
    train_loader, val_loader = loaders(job, net)
    module = Module(job, net, report, job.epochs * len(train_loader))
    trainer = lightning.Trainer(
        max_epochs=job.epochs,
        accelerator="cpu",
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
        default_root_dir=job.out,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train_loader, val_loader)
    report.mark()
    report.print(top1=module.top1, checkpoint=next(Path(job.out).rglob("*.ckpt")))


if __name__ == "__main__":
    train(read_job())
