"""What a finished training shows of itself: plots of the predictions, the first batch, histograms of the trained weights.

No verb: a run's end calls it once. Files lie in ``plots`` and ``logs/media``, the journal points to them by sha256.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.data.images import open_rgb
from hubtool.records.evidence import Predictions
from hubtool.tracking import gallery, plots
from hubtool.tracking.media import Moment

if TYPE_CHECKING:
    from hubtool.records.rundir import RunDir
    from hubtool.training.session import Session


def show_end(
    place: RunDir, session: Session, claimed: Predictions, *, data_dir: Path, threshold: float | None = None
) -> None:
    """Write the plots, and one event for each after the last step; durable when it returns. A few seconds.

    Pictures of the data stand in ``predictions``, ``top_losses`` and ``first_batch`` only; a package leaves those out.
    """
    work, position, resolved = session.work, session.state.position, session.resolved
    samples = session.data.splits[claimed.split]
    plots.curves(work.journal.replay(), place.plots / "curves.png")
    end = Moment(run_dir=place.path, global_step=position.global_step, epoch=position.epoch, split=claimed.split)
    trained = {name for phase in session.phases for name in phase.trainable}
    weights = {n: p.detach().float().cpu().numpy() for n, p in work.model.named_parameters() if n in trained}
    batch = work.plan.step(0)[0]
    x_BCHW = next(iter(session.loaders["train"].load([batch.addresses])))
    events = (
        *gallery.after_training(
            end,
            task=resolved.task,
            classes=session.data.classes,
            predictions=claimed,
            threshold=threshold,
            picture=lambda sample: open_rgb(data_dir / str(samples[sample].path), resolved.preprocess.in_chans),
        ),
        *gallery.weights(Moment(run_dir=place.path, global_step=end.global_step, epoch=end.epoch), weights),
        *gallery.first_batch(
            Moment(run_dir=place.path, global_step=end.global_step, epoch=end.epoch),
            x_BCHW.numpy(),
            mean=resolved.preprocess.mean,
            std=resolved.preprocess.std,
        ),
    )
    for event in events:
        work.journal.append(event)
        work.sink.write(event)
    work.journal.commit()
