"""What a finished training shows of itself: plots of the predictions, the first batch, histograms of the trained weights and
their gradients; and on request the model's graph and the features of val.

No verb: a run's end and ``logs --add`` call it. Files lie in ``plots`` and ``logs/media``, the journal points to them by sha256.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubtool.core.errors import UsageError
from hubtool.core.progress import Reporter
from hubtool.data.images import open_rgb
from hubtool.records.evidence import Array, Predictions
from hubtool.records.log import Event
from hubtool.tracking import gallery, media, plots
from hubtool.tracking.media import Moment

if TYPE_CHECKING:
    from hubtool.records.rundir import RunDir
    from hubtool.training.order import MicroBatch
    from hubtool.training.session import Session

Extra = Literal["graph", "embedding"]
_NUM_LEARNT = (
    8  # pictures behind the histograms of gradients: a whole micro-batch through the whole model takes seconds
)


def show_end(
    place: RunDir, session: Session, claimed: Predictions, *, data_dir: Path, threshold: float | None = None
) -> None:
    """Write the plots, and one event for each after the last step; durable when it returns. A few seconds.

    Pictures of the data stand in ``predictions``, ``top_losses`` and ``first_batch`` only; a package leaves those out.
    """
    if not place.options().is_shown:
        return
    work, position, resolved = session.work, session.state.position, session.resolved
    samples = session.data.splits[claimed.split]
    plots.curves(work.journal.replay(), place.plots / "curves.png")
    end = Moment(run_dir=place.path, global_step=position.global_step, epoch=position.epoch, split=claimed.split)
    trained = {name for phase in session.phases for name in phase.trainable}
    weights = {n: p.detach().float().cpu().numpy() for n, p in work.model.named_parameters() if n in trained}
    batch = work.plan.step(0)[0]
    x_BCHW = next(iter(session.loaders["train"].load([batch.addresses])))
    at_end = Moment(run_dir=place.path, global_step=end.global_step, epoch=end.epoch)
    events = (
        *gallery.after_training(
            end,
            task=resolved.task,
            classes=session.data.classes,
            predictions=claimed,
            threshold=threshold,
            picture=lambda sample: open_rgb(data_dir / str(samples[sample].path), resolved.preprocess.in_chans),
        ),
        *gallery.weights(at_end, weights),
        *gallery.weights(at_end, _gradients(session, batch, x_BCHW), kind="gradients"),
        *gallery.first_batch(
            at_end,
            x_BCHW.numpy(),
            mean=resolved.preprocess.mean,
            std=resolved.preprocess.std,
        ),
    )
    for event in events:
        work.journal.append(event)
        work.sink.write(event)
    work.journal.commit()


def _gradients(session: Session, batch: MicroBatch, x_BCHW: Any) -> dict[str, Array]:
    """Of the loss of a micro-batch's first pictures at the selected weights, in eval mode: nothing of the model moves."""
    from hubtool.training.feed import autocast

    work, model = session.work, session.work.model
    modes = {module: module.training for module in model.modules()}
    model.eval()
    model.zero_grad(set_to_none=True)
    with autocast(work.device, work.train.precision):
        logits_BK = model(x_BCHW[:_NUM_LEARNT].to(work.device))
    targets = work.targets[list(batch.samples[:_NUM_LEARNT])]
    work.loss(getattr(logits_BK, "logits", logits_BK), targets).backward()
    found = {n: p.grad.float().cpu().numpy() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    for module, mode in modes.items():
        module.training = mode
    return found


def extra(what: Extra, place: RunDir, moment: Moment, *, reporter: Reporter) -> tuple[Event, ...]:
    """The model's graph, or val's features before the head with thumbnails: seconds, so only when it is asked for.

    Raises UsageError for a model whose head cannot be cut off, DataError where the pictures have moved or changed.
    """
    from hubtool.jobs.target import build_selected

    model = build_selected(place, reporter=reporter)
    if what == "graph":
        return (_graph(place, model, moment),)
    return _embedding(place, model, moment, reporter)


def _graph(place: RunDir, model: Any, moment: Moment) -> Event:
    import torch

    from hubtool.tracking.tensorboard import model_graph

    preprocess = place.resolved().preprocess
    x_BCHW = torch.zeros((1, preprocess.in_chans, *preprocess.img_size))
    return media.write_data(moment, "graph", "graph", model_graph(model, x_BCHW), "pb")


def _embedding(place: RunDir, model: Any, moment: Moment, reporter: Reporter) -> tuple[Event, ...]:
    import numpy as np
    import torch

    from hubtool.backbones import frontier
    from hubtool.backbones.parts import find_parts
    from hubtool.core.seeds import Address
    from hubtool.data.loader import ImageLoader
    from hubtool.jobs.target import label_of
    from hubtool.records.backbone import Phase
    from hubtool.tracking.plots_pictures import MAX_THUMBNAILS

    resolved, data, root = place.resolved(), place.data(), Path(place.options().data_dir)
    samples = data.splits["val"][:MAX_THUMBNAILS]
    head = find_parts(model, resolved.backbone.library).parts[-1]
    resting = tuple(name for name, _ in model.named_modules() if name)
    phase = Phase(first_epoch=0, num_epochs=1, trainable=dict.fromkeys(head.parameters, 1.0), eval_modules=resting)
    size = resolved.train.batch_size // resolved.train.grad_accum_steps
    x_BCHW = torch.zeros((1, resolved.preprocess.in_chans, *resolved.preprocess.img_size))
    cut = frontier.cut(model, phase, x_BCHW)
    if isinstance(cut, frontier.Uncut):
        raise UsageError("E-LOG-EMBEDDING", f"the head cannot be cut off: {cut.reason}", where=str(place.path))
    loader = ImageLoader(root, samples, preprocess=resolved.preprocess, policy="none", seed=0, num_workers=0)
    batches = [range(first, min(first + size, len(samples))) for first in range(0, len(samples), size)]
    addresses = ([Address(purpose="plain", index=index) for index in batch] for batch in batches)
    try:
        with reporter.task("features of val", len(samples), "picture") as bar:
            rows = []
            for x in loader.load(addresses):
                rows.append(cut.prefix(x)[0].flatten(1).float().numpy())
                bar.advance(len(x))
    finally:
        loader.close()
    return gallery.embedding(
        moment,
        features_ND=np.concatenate(rows),
        labels=[label_of(sample, data.classes) for sample in samples],
        picture=lambda number: open_rgb(root / str(samples[number].path), resolved.preprocess.in_chans),
    )
