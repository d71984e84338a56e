"""fastai's Learner on the same model and loaders: fit_one_cycle, bf16, a saved model in every epoch.

Its own ``to_bf16`` says "CUDA is not available" and does nothing on a CPU, so a callback of four lines stands in.
"""

from __future__ import annotations

from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner  # with fit_one_cycle
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import trainable_params

from benchmarks._peer_job import Job, Net, Report, loaders, read_job


def train(job: Job) -> None:
    report, net = Report(), Net(job)

    class Marks(Callback):
        order = -20

        def before_epoch(self) -> None:
            report.mark()

    class Bf16(Callback):
        order = 10

        def before_batch(self) -> None:
            self.autocast = torch.autocast("cpu", torch.bfloat16)
            self.autocast.__enter__()

        def after_loss(self) -> None:
            self.autocast.__exit__(None, None, None)

    learner = Learner(
        DataLoaders(*loaders(job, net), device="cpu"),
        net,
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
        splitter=trainable_params,
        train_bn=False,
        wd=0.01,
        path=Path(job.out),
        cbs=[Marks(), SaveModelCallback(every_epoch=True, with_opt=True)],
    )
    if job.precision == "bf16":
        learner.add_cb(Bf16())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(job.epochs, job.lr)
    report.mark()
    saved = max((Path(job.out) / "models").glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
    report.print(top1=float(learner.recorder.values[-1][-1]), checkpoint=saved)


if __name__ == "__main__":
    train(read_job())
