"""hubtool predict: the classes of pictures, by a run, a package, a repository or a backbone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import DataError, UsageError
from hubtool.core.files import make_dirs
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import parse_repo_ref
from hubtool.core.settings import read_settings
from hubtool.data.pool import default_workers
from hubtool.jobs.target import Loaded, find_target, load
from hubtool.records import metrics
from hubtool.records.dataset import Sample
from hubtool.records.evidence import Predictions
from hubtool.records.reports import Prediction

if TYPE_CHECKING:
    from hubtool.data.kept import Kept

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that is loaded, and the run or package directory it came from (None: a backbone)."""

    loaded: Loaded
    directory: Path | None


def predict(
    target: str,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    device: Device = "auto",
    num_workers: int | None = None,
    hub: str | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Prediction, ...]:
    """The ``top`` classes of each picture with their probabilities, best first; every output of a regression.

    ``images`` are files or folders (all pictures below). For a binary model the class that its threshold chooses stands
    first. Raises UsageError (2), DataError (3) for a picture that is missing or damaged, NotFoundError (4) for the target.
    """
    if top < 1:
        raise UsageError("E-OPTION", f"--top {top} is no number of classes", do="give 1 or more")
    samples = _samples([Path(image) for image in images], reporter)
    with opened(target, hub=hub, reporter=reporter) as model:
        found = run_model(
            model.loaded,
            Path(),
            samples,
            split="data",
            micro_size=min(model.loaded.micro_size, len(samples)),
            device=device,
            num_workers=num_workers,
            reporter=reporter,
        )
        return tuple(_predictions(model.loaded, samples, found, top))


@contextmanager
def opened(target: str, *, hub: str | None = None, reporter: Reporter = SILENT) -> Iterator[Opened]:
    """The model of a TARGET for the block; a repository is fetched and verified into a directory that is removed after it."""
    found = find_target(target)
    if found.kind != "repository":
        yield Opened(loaded=load(target, reporter=reporter), directory=found.path)
        return
    from hubtool.hub.fetch import fetch_package
    from hubtool.jobs.endpoint import reading

    ref = parse_repo_ref(target)
    scratch = read_settings().home / "scratch"
    make_dirs(scratch)
    with tempfile.TemporaryDirectory(dir=scratch) as temp, reading(hub, repo=ref.repo_id, reporter=reporter) as client:
        package = fetch_package(client, ref.repo_id, ref.revision, Path(temp) / "package")
        yield Opened(loaded=load(target, package=package.directory, reporter=reporter), directory=package.directory)


def run_model(
    loaded: Loaded,
    root: Path,
    samples: tuple[Sample, ...],
    *,
    split: str,
    micro_size: int,
    device: Device,
    num_workers: int | None,
    reporter: Reporter,
    kept: Kept | None = None,
) -> Predictions:
    """Logits of ``samples`` below ``root``, at the precision that the model's claims were measured with."""
    from hubtool.data.loader import ImageLoader

    loader = ImageLoader(
        root,
        samples,
        preprocess=loaded.preprocess,
        policy="none",
        seed=0,
        num_workers=default_workers() if num_workers is None else num_workers,
        kept=kept,
    )
    try:
        from hubtool.training.evaluate import predict as infer
        from hubtool.training.numerics import set_numerics

        chosen, _ = set_numerics(device)
        with reporter.task("predicting", len(samples), "pictures") as bar:
            model: Any = loaded.model.to(chosen)
            return infer(
                model,
                loader,
                samples,
                split=split,
                micro_size=micro_size,
                device=chosen,
                precision=loaded.precision,
                advance=bar.advance,
            )
    finally:
        loader.close()


def _samples(images: list[Path], reporter: Reporter) -> tuple[Sample, ...]:
    """Every picture by its content; the target is of no meaning."""
    from hubtool.data.images import read_picture
    from hubtool.data.scan import check_name, pictures_below

    paths: list[Path] = []
    for image in images:
        path = image.expanduser()
        paths += [path / name for name in pictures_below(path, reporter)] if path.is_dir() else [path]
    samples = []
    for path in paths:
        check_name(str(path))
        data = read_picture(path)
        samples.append(Sample(path=str(path), sha256=sha256_bytes(data), size_bytes=len(data), target=0))
    if not samples:
        raise DataError("E-DATA-EMPTY", "no pictures given", do="name files or folders")
    return tuple(samples)


def _predictions(loaded: Loaded, samples: tuple[Sample, ...], found: Predictions, top: int) -> Iterator[Prediction]:
    shares_NK = metrics.probabilities(loaded.task, found.logits_NK)
    first = metrics.predicted_classes(loaded.task, found.logits_NK, threshold=loaded.threshold)
    limit = metrics.THRESHOLD if loaded.threshold is None else loaded.threshold
    for sample, shares_K, chosen in zip(samples, shares_NK, first, strict=True):
        called: list[int] = [] if loaded.task == "regression" else [int(chosen)]
        order = np.argsort(-shares_K, kind="stable")
        if loaded.task == "regression":
            order = np.arange(len(shares_K))
        elif loaded.task == "binary":
            order = np.array([chosen, 1 - chosen])[:top]
        else:
            called = [k for k in order if shares_K[k] >= limit] if loaded.task == "multilabel" else called
            order = order[:top]
        scores = tuple((loaded.classes[k], float(shares_K[k])) for k in order)
        yield Prediction(
            path=str(sample.path), task=loaded.task, scores=scores, called=tuple(loaded.classes[k] for k in called)
        )
