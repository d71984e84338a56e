"""hubtool evaluate: the metrics of a run, a package or a repository on a directory of labelled pictures, with their evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubtool.core.digests import sha256_file
from hubtool.core.errors import UsageError
from hubtool.core.files import publish_dir, safe_walk, write_inside
from hubtool.core.progress import SILENT, Reporter
from hubtool.data.pool import default_workers
from hubtool.jobs import copies
from hubtool.jobs.predict import Device, opened, run_model
from hubtool.jobs.target import Loaded, find_target
from hubtool.records import metrics
from hubtool.records.backbone import FileDigest
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.evidence import Predictions
from hubtool.records.reports import EvaluateReport, Evaluation, Lookalikes, Suspicion, Twin
from hubtool.records.rundir import RunDir

_PREFERRED = ("test", "val", "data", "train")
_FILE = "evaluation.json"


def evaluate(
    target: str,
    *,
    data: str | Path,
    split: str | None = None,
    out: Path | None = None,
    device: Device = "auto",
    num_workers: int | None = None,
    hub: str | None = None,
    reporter: Reporter = SILENT,
) -> EvaluateReport:
    """Measure on ``split``, by default the first there is of test, val and the whole directory.

    The classes are the model's; the table of labels is the one of its recipe where the directory has it. For binary the
    threshold is the one that was chosen on the model's own validation split. ``out`` is a new directory for the evidence:
    predictions, metrics with intervals, likely label errors, duplicates (equal bytes, and what likely is the same picture
    in another file, also in the run's own data where that is here), plots.
    """
    if find_target(target).kind == "backbone":
        raise UsageError(
            "E-TARGET-BACKBONE", f"{target!a} is a backbone and knows no classes of yours", do="finetune it first"
        )
    from hubtool.data.kept import Kept
    from hubtool.data.looks import Looks
    from hubtool.data.splits import index_for_evaluation, other_splits

    data = Path(data).expanduser()
    out = _checked(Path(out).expanduser(), data) if out is not None else None
    workers = default_workers() if num_workers is None else num_workers
    with opened(target, hub=hub, reporter=reporter) as model, Kept(model.loaded.preprocess) as kept:
        loaded = model.loaded
        assert model.directory is not None
        made = RunDir(model.directory)
        table = made.resolved().data.labels
        labels = table if (data / table).is_file() else "folders"
        looks = None if out is None else Looks()
        manifest = index_for_evaluation(
            data,
            classes=loaded.classes,
            task=loaded.task,
            labels=labels,
            in_chans=loaded.preprocess.in_chans,
            num_workers=workers,
            reporter=reporter,
            prefer=(split,) if split else _PREFERRED,
            kept=kept,
            looks=looks,
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
        evaluation = None
        if out is not None and looks is not None:
            elsewhere = copies.look_elsewhere(
                made,
                data,
                chosen,
                other_splits(data, chosen, task=loaded.task, labels=labels, reporter=SILENT),
                in_chans=loaded.preprocess.in_chans,
                num_workers=workers,
                reporter=reporter,
            )
            found_twins = copies.twins(chosen, samples, loaded.classes, made.data(), elsewhere)
            alike = copies.lookalikes(chosen, samples, looks, elsewhere, reporter)
            reporter.say(f"evidence goes to {out}")
            evaluation = _write(out, made, loaded, data, manifest, found, found_twins, alike)
    return EvaluateReport(
        target=target,
        split=chosen,
        num_samples=len(samples),
        metrics=measured,
        evidence=str(out) if out else None,
        evaluation=evaluation,
    )


def _checked(out: Path, data: Path) -> Path:
    """Refused before anything is computed: what would overwrite something, or would be found as pictures next time."""
    if out.resolve().is_relative_to(data.resolve()):
        raise UsageError("E-OUT", "the evidence cannot lie in the data", where=str(out), do="choose another --out")
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if out.exists():
        raise UsageError("E-OUT", "it is there already", where=str(out), do="choose another --out, or remove it")
    return out


def _write(
    out: Path,
    made: RunDir,
    loaded: Loaded,
    data: Path,
    manifest: DataManifest,
    found: Predictions,
    twins: tuple[Twin, ...],
    lookalikes: Lookalikes,
) -> Evaluation:
    """Everything in one rename; ``made`` is the run or package that the model is of."""
    from hubtool.data.images import open_rgb
    from hubtool.tracking import gallery
    from hubtool.tracking.intervals import intervals

    ((split, samples),) = manifest.splits.items()
    task, classes, threshold = loaded.task, loaded.classes, loaded.threshold
    shown: dict[str, Any] = {"task": task, "classes": classes, "predictions": found, "threshold": threshold}
    with publish_dir(out) as temp:
        found.write(temp / "predictions.safetensors")
        gallery.number_figures(temp / "plots", **shown)
        gallery.picture_figures(
            temp / "plots",
            **shown,
            picture=lambda number: open_rgb(data / str(samples[number].path), loaded.preprocess.in_chans),
        )
        evaluation = Evaluation(
            target=loaded.target.name,
            weights_digest=made.result().weights_digest,
            data_digest=manifest.digest(),
            split=split,
            num_samples=len(samples),
            classes=classes,
            threshold=threshold,
            metrics=intervals(task, found, threshold=threshold),
            suspicions=_suspicions(loaded, samples, found),
            twins=twins,
            lookalikes=lookalikes,
            files=tuple(
                FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
                for name, path in sorted(safe_walk(temp))
            ),
        )
        write_inside(temp / _FILE, evaluation.to_json() + b"\n")
    return evaluation


def _suspicions(loaded: Loaded, samples: tuple[Sample, ...], found: Predictions) -> tuple[Suspicion, ...]:
    from hubtool.records.label_errors import suspects

    classes = loaded.classes
    return tuple(
        Suspicion(
            sha256=samples[one.sample].sha256,
            path=samples[one.sample].path,
            given=classes[one.given] if one.output is None else _said(classes[one.output], one.given),
            suggested=classes[one.suggested] if one.output is None else _said(classes[one.output], one.suggested),
            confidence=one.confidence,
        )
        for one in suspects(loaded.task, found.logits_NK, found.targets)
    )


def _said(label: str, applies: int) -> str:
    return label if applies else f"not {label}"
