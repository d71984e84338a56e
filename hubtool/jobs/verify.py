"""hubtool verify: every file, every number of the card, the golden logits; with data the model is evaluated again."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from hubtool.core.errors import HubtoolError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import parse_repo_ref
from hubtool.data.pool import default_workers
from hubtool.package import check
from hubtool.package.facts import GOLDEN_NAME
from hubtool.package.matching import match
from hubtool.records.claims import judge
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.evidence import Golden, Predictions
from hubtool.records.metrics import claims_of
from hubtool.records.reports import CheckFinding, VerifyReport
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result


def verify(
    target: str | Path, *, data: str | Path | None = None, hub: str | None = None, reporter: Reporter = SILENT
) -> VerifyReport:
    """Check a package, a repository (fetched to a temporary place) or a run (packed there).

    With ``data`` the packaged model is evaluated on the claimed split again, found in that directory by content.
    What is wrong is a finding; raises NotFoundError where there is nothing to check, IntegrityError where a fetched file differs.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtool-")))
        directory = _package_of(str(target), folder, hub, reporter)
        findings = check_package(directory)
        if data is not None:
            findings += _evaluated_again(directory, Path(data).expanduser(), reporter)
    return VerifyReport(target=str(target), is_ok=all(f.is_ok for f in findings), findings=findings)


def _package_of(text: str, folder: Path, hub: str | None, reporter: Reporter) -> Path:
    from hubtool.hub.fetch import fetch_package
    from hubtool.jobs import endpoint
    from hubtool.jobs.pack import pack
    from hubtool.jobs.target import find_target

    found = find_target(text)
    if found.kind == "backbone":
        raise UsageError("E-TARGET", f"{text!a} is a backbone", do=f"hubtool pull {text} checks every byte of it")
    if found.path is not None and found.kind == "package":
        return found.path
    if found.path is not None:
        return Path(pack(found.path, out=folder / "package", reporter=reporter).package)
    ref = parse_repo_ref(text)
    with endpoint.reading(hub, repo=ref.repo_id, reporter=reporter) as opened:
        return fetch_package(opened, ref.repo_id, ref.revision, folder / "package").directory


def check_package(directory: Path) -> tuple[CheckFinding, ...]:
    """Every check of the room package, and the golden logits through the published load path."""
    findings = check.verify(directory)
    is_loadable = all(f.is_ok for f in findings if f.name in ("model.safetensors", "config.json", "no pickle, no code"))
    return (*findings, _golden(directory)) if is_loadable else findings


def _golden(directory: Path) -> CheckFinding:
    from hubtool.backbones import export
    from hubtool.jobs.pack import golden_pictures

    try:
        golden = Golden.read(directory / GOLDEN_NAME)
        preprocess = ResolvedRecipe.read(directory / "resolved.json").preprocess
        shape = (preprocess.in_chans, *preprocess.img_size)
        if golden.input_shape != shape:
            return CheckFinding(name=GOLDEN_NAME, is_ok=False, detail=f"the input is {golden.input_shape}, not {shape}")
        off = export.check_golden(directory, golden, pictures_BCHW=golden_pictures(golden.input_seed, preprocess))
    except HubtoolError as error:
        return CheckFinding(name="golden logits", is_ok=False, detail=str(error))
    detail = "bit for bit" if off == 0 else f"{off:.1e} off"
    return CheckFinding(name="golden logits", is_ok=True, detail=detail)


def _evaluated_again(directory: Path, data: Path, reporter: Reporter) -> tuple[CheckFinding, ...]:
    """A finding for each claim: what the packaged weights give on the claimed split now."""
    from hubtool.data.splits import index_for_evaluation

    try:
        result, resolved = Result.read(directory / "result.json"), ResolvedRecipe.read(directory / "resolved.json")
        published = DataManifest.read(directory / "data.json")
        split = result.claims[0].split if result.claims else "val"
        here = index_for_evaluation(
            data,
            classes=published.classes,
            task=resolved.task,
            labels=resolved.data.labels,
            in_chans=resolved.preprocess.in_chans,
            num_workers=default_workers(),
            reporter=reporter,
        )
        matched = match(published, here, (split,))
        if matched.data is None:
            return tuple(CheckFinding(name="data", is_ok=False, detail=problem) for problem in matched.problems)
        for note in matched.notes:
            reporter.say(note)
        predictions = predict_package(directory, data, matched.data.splits[split], split, reporter=reporter)
    except HubtoolError as error:
        return (CheckFinding(name="evaluated again", is_ok=False, detail=str(error)),)
    return compare_claims(result, resolved, predictions)


def compare_claims(result: Result, resolved: ResolvedRecipe, predictions: Predictions) -> tuple[CheckFinding, ...]:
    """Each claim against what ``predictions`` give."""
    again = {
        claim.name: claim.value
        for claim in claims_of(
            resolved.task, predictions, evidence="-", evidence_sha256="0" * 64, threshold=result.threshold
        )
    }
    findings = []
    for claim in result.claims:
        verdict = judge(claim, again.get(claim.name), "the data do not define it")
        detail = f"claimed {claim.value:.6f}, measured {again.get(claim.name, float('nan')):.6f}: {verdict.state}"
        is_ok = verdict.state in ("exact", "within tolerance")
        findings.append(CheckFinding(name=f"evaluated again: {claim.name}", is_ok=is_ok, detail=detail))
    return tuple(findings)


def predict_package(
    directory: Path, data: Path, samples: tuple[Sample, ...], split: str, *, reporter: Reporter = SILENT
) -> Predictions:
    """The logits of the packaged model on ``samples`` below ``data``, by its published preprocessing."""
    from hubtool.backbones.export import load_package
    from hubtool.data.loader import ImageLoader
    from hubtool.training import numerics
    from hubtool.training.evaluate import predict

    resolved = ResolvedRecipe.read(directory / "resolved.json")
    device, _ = numerics.set_numerics("auto")
    loader = ImageLoader(
        data, samples, preprocess=resolved.preprocess, policy="none", seed=0, num_workers=default_workers()
    )
    try:
        with reporter.task("evaluate", total=len(samples), unit="picture") as bar:
            return predict(
                load_package(directory).to(device),
                loader,
                samples,
                split=split,
                micro_size=resolved.train.batch_size // resolved.train.grad_accum_steps,
                device=device,
                precision=resolved.train.precision,
                advance=bar.advance,
            )
    finally:
        loader.close()


__all__ = ["check_package", "compare_claims", "predict_package", "verify"]
