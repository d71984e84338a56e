"""transformers' Trainer on the same model, with evaluation and a checkpoint in every epoch, lasting workers, no reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks._peer_job import Job, Net, Report, datasets, read_job


class Classifier(torch.nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.register_state_dict_post_hook(_contiguous)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits_BK = self.net(pixel_values)
        if labels is None:
            return {"logits": logits_BK}
        return {"loss": torch.nn.functional.cross_entropy(logits_BK, labels), "logits": logits_BK}


def _contiguous(_module: torch.nn.Module, state: dict[str, Any], *_: Any) -> None:
    """The Trainer's checkpoints refuse channels_last weights."""
    state.update({name: value.contiguous() for name, value in state.items()})


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack([x for x, _ in rows]), "labels": torch.tensor([label for _, label in rows])}


def train(job: Job) -> None:
    report, net = Report(), Net(job)

    class Marks(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            report.mark()

    train_data, val_data = datasets(job, net)
    trainer = Trainer(
        model=Classifier(net),
        args=TrainingArguments(
            output_dir=job.out,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.batch_size,
            num_train_epochs=job.epochs,
            learning_rate=job.lr,
            weight_decay=0.01,
            lr_scheduler_type="cosine",
            bf16=job.precision == "bf16",
            use_cpu=job.device == "cpu",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            max_grad_norm=0.0,
            dataloader_num_workers=job.num_workers,
            dataloader_persistent_workers=job.num_workers > 0,
            dataloader_pin_memory=job.device != "cpu",
        ),
        data_collator=collate,
        train_dataset=train_data,
        eval_dataset=val_data,
        compute_metrics=lambda found: {"top1": float((found.predictions.argmax(1) == found.label_ids).mean())},
        callbacks=[Marks()],
    )
    trainer.train()
    report.mark()
    top1 = next(row["eval_top1"] for row in reversed(trainer.state.log_history) if "eval_top1" in row)
    report.print(top1=top1, checkpoint=next(Path(job.out).glob("checkpoint-*")))


if __name__ == "__main__":
    train(read_job())
