"""A model of a thousand weights, pictures drawn in memory, and one run of the loop on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hubtool.core.progress import SILENT
from hubtool.core.seeds import Address
from hubtool.records.backbone import Phase
from hubtool.records.dataset import Sample
from hubtool.records.log import Event
from hubtool.records.recipe import Train
from hubtool.records.state import Position
from hubtool.tracking.journal import Journal
from hubtool.training.checkpoint import Checkpoints, TrainState, read_state
from hubtool.training.feed import Features, Feed, LiveFeed, Mix, Whole
from hubtool.training.loop import Work, fit, is_over, restore, trained_names
from hubtool.training.losses import make_loss
from hubtool.training.mix import Mixer
from hubtool.training.order import Plan
from hubtool.training.processes import Alone
from hubtool.training.signals import Stop

CPU = torch.device("cpu")
NUM_CLASSES = 3


class TinyNet(nn.Module):
    """stem (conv, BatchNorm) → body (conv, BatchNorm, dropout) → fc; the root is in train mode where dropout is to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.tail(self.stem(x_BCHW))

    def tail(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.body(x_BCHW).mean((2, 3)))


def make_model(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet()


class StemCut:
    """The stem is frozen."""

    key = "stem"
    description = "after stem"

    def __init__(self, model: TinyNet) -> None:
        self.model = model
        self.num_rows = 0

    def prefix(self, x_BCHW: Tensor) -> Features:
        self.num_rows += len(x_BCHW)
        return (self.model.stem(x_BCHW),)

    def suffix(self, features: Features, *, training: bool) -> Tensor:
        self.model.body.train(training)
        self.model.fc.train(training)
        return self.model.tail(features[0])


def freeze_stem(model: TinyNet, *, first_epoch: int = 0, num_epochs: int = 100) -> Phase:
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    model.train()
    model.stem.eval()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    stem = tuple(f"stem{suffix}" for suffix in ("", ".0", ".1", ".2"))
    return Phase(first_epoch=first_epoch, num_epochs=num_epochs, trainable=dict.fromkeys(names, 1.0), eval_modules=stem)


class DrawnLoader:
    """The picture of a sample is drawn from its number and carries its class; the augmentation from its address."""

    def __init__(self, num_samples: int, seed: int = 0, size: int = 9) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.size = size
        self.num_loaded = 0

    def load(self, batches: Iterable[Sequence[Address]]) -> Iterator[Tensor]:
        for batch in batches:
            self.num_loaded += len(batch)
            yield torch.stack([self._draw(address) for address in batch])

    def _draw(self, address: Address) -> Tensor:
        picture = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(address.index))
        picture[address.index % NUM_CLASSES] += 0.8
        if address.purpose == "augment":
            noise = torch.Generator().manual_seed(address.seed(self.seed))
            picture = picture + 0.1 * torch.rand(picture.shape, generator=noise)
        return picture

    def close(self) -> None:
        pass


def make_samples(num: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(path=f"{i:03d}.png", sha256=f"{i:064x}", size_bytes=1, target=i % NUM_CLASSES) for i in range(num)
    )


class Deaf:
    def write(self, event: Event) -> None:
        pass


@dataclass
class Run:
    """One run directory; ``go`` starts it, or resumes it as a job does."""

    directory: Path
    train: Train
    num_train: int = 22
    num_val: int = 7
    policy: str = "light"
    views: int = 0
    is_cut: bool = True
    save_every: int | None = None
    save_every_s: float | None = None
    stop: Stop = field(default_factory=Stop)
    loader: Any = None
    val_loader: Any = None
    model: TinyNet = field(default_factory=make_model)

    def feed(self, cut: Any, mix: Mix | None, loader: Any) -> Feed:
        micro = self.train.batch_size // self.train.grad_accum_steps
        return LiveFeed(loader, cut, micro_size=micro, device=CPU, precision=self.train.precision, mix=mix)

    def go(self, sink: Any = None) -> TrainState:
        checkpoints = Checkpoints(self.directory / "checkpoints")
        journal = Journal(self.directory / "metrics.jsonl")
        found = checkpoints.newest_valid()
        state = read_state(found[0]) if found else TrainState(position=Position(), tensors={}, optimizer={})
        checkpoints.remove_after(state.position)
        journal.cut_back(state.position.journal_size_bytes)
        samples = make_samples(self.num_train)
        targets = torch.tensor([int(s.target) for s in samples])  # type: ignore[arg-type]
        plan = Plan(
            num_samples=self.num_train,
            batch_size=self.train.batch_size,
            grad_accum_steps=self.train.grad_accum_steps,
            seed=self.train.seed,
            policy=self.policy,
            views=self.views,
        )
        mixer = Mixer(mixup=self.train.mixup, cutmix=self.train.cutmix, seed=self.train.seed, img_size=(9, 9))
        work = Work(
            model=self.model,
            train=self.train,
            task="classification",
            plan=plan,
            mixer=mixer,
            loss=make_loss(self.train, "classification", targets, NUM_CLASSES),
            targets=targets,
            samples=samples,
            val_samples=make_samples(self.num_val),
            device=CPU,
            group=Alone(),
            checkpoints=checkpoints,
            save_every_steps=self.save_every,
            save_every_s=self.save_every_s,
            journal=journal,
            sink=sink or Deaf(),
            stop=self.stop,
            reporter=SILENT,
        )
        phase = freeze_stem(self.model, num_epochs=self.train.epochs)
        restore(self.model, state.tensors)
        cut: Any = StemCut(self.model) if self.is_cut else Whole(self.model, "asked not to")
        loader = self.loader or DrawnLoader(self.num_train, self.train.seed)
        feed = self.feed(cut, mixer.pictures if mixer.is_on else None, loader)
        val_feed = self.feed(cut, None, self.val_loader or DrawnLoader(self.num_val))
        try:
            return fit(phase, trained_names(self.model, [phase]), cut, feed, val_feed, work, state)
        finally:
            checkpoints.close()
            journal.close()

    def events(self) -> list[tuple[Any, ...]]:
        """Every journal line but wall times."""
        journal = Journal(self.directory / "metrics.jsonl")
        rows = [(e.split, e.global_step, e.tag, e.value) for e in journal.replay() if not e.tag.startswith("wall_")]
        journal.close()
        return rows


def is_done(run: Run, state: TrainState) -> bool:
    return is_over(run.train, state.position)
