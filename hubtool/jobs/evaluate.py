"""hubtool evaluate: the metrics of a run, a package or a repository on a directory of labelled pictures."""

from __future__ import annotations

from pathlib import Path

from hubtool.core.errors import UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.jobs.predict import Device, default_workers, opened, run_model
from hubtool.jobs.target import find_target
from hubtool.records import metrics
from hubtool.records.reports import EvaluateReport
from hubtool.records.rundir import RunDir

_PREFERRED = ("test", "val", "data", "train")


def evaluate(
    target: str,
    *,
    data: str | Path,
    split: str | None = None,
    device: Device = "auto",
    num_workers: int | None = None,
    hub: str | None = None,
    reporter: Reporter = SILENT,
) -> EvaluateReport:
    """Measure on ``split``, by default the first there is of test, val and the whole directory.

    The classes are the model's; the table of labels is the one of its recipe where the directory has it. For binary the
    threshold is the one that was chosen on the model's own validation split.
    """
    if find_target(target).kind == "backbone":
        raise UsageError(
            "E-TARGET-BACKBONE", f"{target!a} is a backbone and knows no classes of yours", do="finetune it first"
        )
    from hubtool.data.kept import Kept
    from hubtool.data.splits import index_for_evaluation

    data = Path(data).expanduser()
    workers = default_workers() if num_workers is None else num_workers
    with opened(target, hub=hub, reporter=reporter) as model, Kept(model.loaded.preprocess) as kept:
        loaded = model.loaded
        assert model.directory is not None
        table = RunDir(model.directory).resolved().data.labels
        manifest = index_for_evaluation(
            data,
            classes=loaded.classes,
            task=loaded.task,
            labels=table if (data / table).is_file() else "folders",
            in_chans=loaded.preprocess.in_chans,
            num_workers=workers,
            reporter=reporter,
            prefer=(split,) if split else _PREFERRED,
            kept=kept,
        )
        ((chosen, samples),) = manifest.splits.items()
        found = run_model(
            loaded,
            data,
            samples,
            split=chosen,
            micro_size=loaded.micro_size,  # as its claims were measured: another shape would change the last bits
            device=device,
            num_workers=workers,
            reporter=reporter,
            kept=kept,
        )
    measured = metrics.compute(loaded.task, found.logits_NK, found.targets, threshold=loaded.threshold)
    return EvaluateReport(target=target, split=chosen, num_samples=len(samples), metrics=measured)
