"""hubtool reproduce: train a published model again, from what was published alone, and compare it claim by claim."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import hubtool
from hubtool.core.errors import IntegrityError, NotFoundError, UsageError
from hubtool.core.files import make_dirs
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import RepoRef, parse_repo_ref
from hubtool.data.pool import default_workers
from hubtool.jobs.verify import check_package, compare_claims, predict_package
from hubtool.package import build, card
from hubtool.package.facts import WEIGHTS_NAME
from hubtool.package.matching import Match, match
from hubtool.package.tensors import packed_weights
from hubtool.records import reproductions
from hubtool.records.claims import Claim, Verdict, judge, overall
from hubtool.records.dataset import DataManifest
from hubtool.records.environment import Environment, Numerics, differences
from hubtool.records.package import MANIFEST_NAME, PackedWeights
from hubtool.records.recipe import Log, Run
from hubtool.records.reports import PullReport, ReproduceReport, Reproduction
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result, RunOptions
from hubtool.records.rundir import RunDir

if TYPE_CHECKING:
    from hubtool.hub.client import Hub
    from hubtool.hub.fetch import Snapshot


def reproduce(
    repo: str,
    *,
    data: str | Path,
    hub: str | None = None,
    out: str | Path | None = None,
    publish: bool = False,
    reporter: Reporter = SILENT,
) -> ReproduceReport:
    """Fetch OWNER/NAME[@REV] into ``out``, verify it, train again on ``data``, evaluate the packaged weights, compare.

    ``out`` is ``runs/reproduce-OWNER-NAME`` unless named; what an earlier attempt fetched there is fetched again, a
    training that was stopped goes on. The report is written whatever comes out; the caller looks at ``verdict.state``.
    ``publish`` adds it to the repository as one commit, which also makes the card count it, where one may write there.
    Raises IntegrityError (5) for a file that is not what its manifest says, DataError (3) for damaged pictures.
    """
    from hubtool.hub.fetch import fetch_package
    from hubtool.jobs import endpoint

    ref, data_dir = parse_repo_ref(repo), Path(data).expanduser()
    place = _place(Path(out).expanduser() if out is not None else _default_place(ref), data_dir)
    with endpoint.reading(hub, repo=ref.repo_id, reporter=reporter) as opened:
        reporter.say(f"fetching {ref} from {opened.endpoint}")
        fetched = fetch_package(opened, ref.repo_id, ref.revision, place / "package")
    attempt = Attempt(package=fetched.directory, data_dir=data_dir, reporter=reporter)
    verdict = _attempt(attempt, place / f"run-{fetched.commit[:8]}")
    claimed = attempt.claimed
    record = Reproduction(
        repo=str(ref.repo_id),
        commit=fetched.commit,
        hubtool=hubtool.__version__,
        recipe_digest=claimed.recipe_digest,
        data_digest=claimed.data_digest,
        backbone_digest=claimed.backbone_digest,
        claimed_weights_digest=claimed.weights_digest,
        measured_weights_digest=attempt.measured.weights_digest if attempt.measured else None,
        verdict=verdict,
    )
    path = place / reproductions.path_of(record.id)
    make_dirs(path.parent)
    record.write(path)
    published = _publish(attempt, record, hub) if publish else None
    return ReproduceReport(
        repo=str(ref.repo_id),
        commit=fetched.commit,
        verdict=verdict,
        run=str(attempt.run) if attempt.run else None,
        report=str(path),
        published=published,
    )


def _publish(attempt: Attempt, record: Reproduction, hub: str | None) -> str | None:
    """The commit that added the record to the repository, and counts it in its card; None, and said, where one may not
    write there."""
    from hubtool.hub.attach import attach
    from hubtool.jobs import endpoint

    name, reporter = reproductions.path_of(record.id), attempt.reporter
    title = f"Reproduction of {record.commit[:8]}: {record.verdict.state}"
    make_dirs((attempt.package / name).parent)
    record.write(attempt.package / name)
    with endpoint.reading(hub, repo=record.repo, reporter=reporter) as opened:
        reporter.say(f"destination: {name} in {record.repo} on {opened.endpoint}")
        try:
            return attach(
                opened,
                record.repo,
                name,
                record.to_json() + b"\n",
                title=title,
                along=lambda head: _card_that_counts(attempt, opened, head),
            )
        except NotFoundError as error:
            reporter.warn(f"not published ({error.what}); send the file to the owner of {record.repo}")
            return None


def _card_that_counts(attempt: Attempt, hub: Hub, head: Snapshot) -> dict[str, bytes]:
    """The card of ``head`` with every record counted; none where another package or a card of another hand stands there."""
    from hubtool.hub.fetch import fetch_files
    from hubtool.hub.push import read_standing

    directory, mine = attempt.package, build.read_manifest(attempt.package)
    if MANIFEST_NAME not in head.files:
        return {}
    there = build.read_manifest(fetch_files(hub, head, [MANIFEST_NAME])[MANIFEST_NAME].parent)
    text, records = read_standing(hub, head)
    if text is None or not build.is_same_package(mine, there):
        attempt.reporter.warn("another package stands there now: its card does not count this")
        return {}
    build.keep_beside(directory, records)
    try:
        card.refuse_edited(text, directory, mine.layout)
    except IntegrityError as error:
        attempt.reporter.warn(f"its card is left as it is: {error.what}")
        return {}
    counted = reproductions.counted(directory, attempt.claimed)
    renewed = card.render(
        directory, layout=mine.layout, repo=card.repo_of(text), person=card.person_text(text), counted=counted
    )
    return {card.FILE_NAME: renewed.encode()}


@dataclass
class Attempt:
    """What is known so far: ``findings`` contradict the package, ``missing`` keeps claims from being checked."""

    package: Path
    data_dir: Path
    reporter: Reporter
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    run: Path | None = None
    measured: Result | None = None

    @property
    def claimed(self) -> Result:
        return Result.read(self.package / "result.json")

    @property
    def resolved(self) -> ResolvedRecipe:
        return ResolvedRecipe.read(self.package / "resolved.json")

    @property
    def published_data(self) -> DataManifest:
        return DataManifest.read(self.package / "data.json")


def _attempt(attempt: Attempt, run_dir: Path) -> Verdict:
    """Step by step; a step that finds a contradiction, or something missing, ends it."""
    attempt.findings += [f"{f.name}: {f.detail}" for f in check_package(attempt.package) if not f.is_ok]
    if attempt.findings:
        return _verdict(attempt, "the package contradicts itself")
    matched = _match(attempt)
    if matched.data is None:
        attempt.missing += matched.problems
        return _verdict(attempt, "the data are not the published ones")
    for note in matched.notes:
        attempt.reporter.say(note)
    backbone = _backbone(attempt)
    if backbone is None:
        return _verdict(attempt, "the backbone is not to be had")
    _evaluate_packaged(attempt, matched.data)
    _train(attempt, matched.data, backbone, run_dir)
    return _verdict(attempt, "nothing was measured")


def _match(attempt: Attempt) -> Match:
    """The directory's pictures, read as the recipe says, against data.json."""
    from hubtool.data.splits import index_data

    resolved, published = attempt.resolved, attempt.published_data
    here = index_data(
        attempt.data_dir,
        task=resolved.task,
        labels=resolved.data.labels,
        val_fraction=resolved.data.val_fraction,
        in_chans=resolved.preprocess.in_chans,
        skip_bad=len(published.skipped),
        num_workers=default_workers(),
        reporter=attempt.reporter,
    )
    return match(published, here)


def _backbone(attempt: Attempt) -> PullReport | None:
    """The pinned backbone, its files compared with those of resolved.json; None where it cannot be had."""
    from hubtool.jobs.pull import backbone_of

    pinned = attempt.resolved.backbone
    if pinned.ref.startswith("local:"):
        attempt.missing.append(f"backbone: {pinned.ref} was a directory of its author's and is published nowhere")
        return None
    try:
        report = backbone_of(pinned.ref, pretrained=pinned.pretrained, reporter=attempt.reporter)
    except NotFoundError as error:
        attempt.missing.append(f"backbone: {error}")
        return None
    mine = sorted((f.path, f.sha256) for f in report.entry.origin.files)
    if mine != sorted((f.path, f.sha256) for f in pinned.files):
        attempt.missing.append(f"backbone: the files of {pinned.ref} are not those it was trained from")
        return None
    return report


def _evaluate_packaged(attempt: Attempt, data: DataManifest) -> None:
    """The weights that were published have to give the published numbers; training again says nothing about them."""
    claimed = attempt.claimed
    split = claimed.claims[0].split
    predictions = predict_package(
        attempt.package, attempt.data_dir, data.splits[split], split, reporter=attempt.reporter
    )
    for finding in compare_claims(claimed, attempt.resolved, predictions):
        if not finding.is_ok:
            attempt.findings.append(f"packaged weights, {finding.name}: {finding.detail}")


def _train(attempt: Attempt, data: DataManifest, backbone: PullReport, run_dir: Path) -> None:
    """The same training in a directory of its own, on as many threads as it was, and the exported weights compared."""
    from hubtool.jobs.pack import write_model
    from hubtool.jobs.run import Inputs, train
    from hubtool.jobs.target import build_selected
    from hubtool.training import numerics

    claimed = attempt.claimed
    device = _device(claimed.numerics)
    numerics.set_numerics(device, num_threads=_num_threads(claimed.numerics))
    options = RunOptions(
        data_dir=str(attempt.data_dir.absolute()),
        backbone=attempt.resolved.backbone.ref,
        device=device,
        num_workers=default_workers(),
        use_cache=False,  # rows that the first training kept here are what is to be measured again
        run=Run(log=Log(tensorboard=False), keep_checkpoints=1),
    )
    inputs = Inputs(
        recipe=(attempt.package / "recipe.yaml").read_bytes(),
        resolved=attempt.resolved,
        backbone=backbone,
        data=data,
        options=options,
    )
    place = RunDir(_unfinished(run_dir))
    with place.held():
        attempt.measured = train(place, inputs, reporter=attempt.reporter)
    attempt.run = place.path
    if attempt.measured.weights_digest != claimed.weights_digest:
        return
    with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
        model = build_selected(place, reporter=attempt.reporter)
        write_model(place, Path(folder), model, backbone.entry.num_classes or 0)
        if packed_weights(Path(folder)).tensors != PackedWeights.read(attempt.package / WEIGHTS_NAME).tensors:
            attempt.findings.append("packaged weights: they are not those that the training gives")


def _device(claimed: Numerics) -> Literal["auto", "cpu", "cuda", "mps"]:
    """The kind of device it was trained on, where there is one here."""
    import torch

    kind = claimed.device.partition(" ")[0]
    if kind == "cuda" and torch.cuda.is_available():
        return "cuda"
    if kind == "mps" and torch.backends.mps.is_available():
        return "mps"
    return "cpu" if kind == "cpu" else "auto"


def _num_threads(claimed: Numerics) -> int | None:
    return claimed.num_threads if claimed.num_threads <= 4 * (os.cpu_count() or 1) else None


def _unfinished(run_dir: Path) -> Path:
    """The directory of a training that was stopped, or a new one: a finished one is never taken for a new measurement."""
    number = 1
    path = run_dir
    while RunDir(path).is_finished:
        number += 1
        path = run_dir.with_name(f"{run_dir.name}-{number}")
    return path


def _verdict(attempt: Attempt, reason: str) -> Verdict:
    """Claim by claim; a contradiction anywhere is ``not reproduced``, whatever the numbers say."""
    from hubtool.training import numerics

    claimed, measured = attempt.claimed, attempt.measured
    now = measured.numerics if measured else numerics.set_numerics("auto")[1]
    values = {claim.name: claim.value for claim in measured.claims} if measured else {}
    if measured is not None:
        attempt.findings += _otherwise(claimed, measured)
    why = "; ".join([*attempt.findings, *attempt.missing]) or reason
    verdicts = tuple(judge(claim, values.get(claim.name), why) for claim in claimed.claims)
    differ = differences(claimed.numerics, now)
    weights_equal = measured is not None and measured.weights_digest == claimed.weights_digest
    findings = [*attempt.findings, *attempt.missing, *_unclaimed(claimed.claims, measured)]
    if measured is not None and claimed.initial_digest not in (None, measured.initial_digest):
        findings.append("the weights before training differ: another library, or processor, draws others from the seed")
    if measured is not None and not weights_equal and not differ:
        random = dict.fromkeys([*claimed.nondeterministic, *measured.nondeterministic])
        findings.append(
            f"the weights of two trainings differ: there is no deterministic kernel of {', '.join(random)}"
            if random
            else "on equal numerics the weights should be equal and are not: recipe, seed, code or processor differ"
        )
    state = overall(verdicts, weights_equal=weights_equal, numerics_differ=differ)
    if attempt.findings:
        state = "not reproduced"
    elif state == "exact" and findings:
        state = "within tolerance"
    return Verdict(
        state=state,
        claims=verdicts,
        weights_equal=weights_equal,
        numerics_differ=differ,
        findings=tuple(findings),
        claimed_numerics=Environment.read(attempt.package / "environment.json").numerics,
        measured_numerics=now,
    )


def _otherwise(claimed: Result, measured: Result) -> list[str]:
    """What the card says beside the claims and the training contradicts.

    Epoch and threshold follow the weights: they are asked for where those are equal."""
    names = ["is_frozen_equal", "num_params", "num_trainable"]
    names += ["selected.epoch", "threshold"] if claimed.weights_digest == measured.weights_digest else []
    was, now = ({name: attrgetter(name)(result) for name in names} for result in (claimed, measured))
    return [
        f"result.json: {name} is said {was[name]}, measured {now[name]}" for name in names if was[name] != now[name]
    ]


def _unclaimed(claims: tuple[Claim, ...], measured: Result | None) -> list[str]:
    known = {claim.name for claim in claims}
    more = [claim.name for claim in measured.claims if claim.name not in known] if measured else []
    return [f"not claimed though it was measured: {', '.join(more)}"] if more else []


def _default_place(ref: RepoRef) -> Path:
    return Path("runs") / f"reproduce-{ref.repo_id.owner}-{ref.repo_id.name}"


def _place(place: Path, data_dir: Path) -> Path:
    """The directory, made. Raises UsageError where it lies in the data."""
    real = place.resolve()
    if real.is_relative_to(data_dir.resolve()):
        raise UsageError(
            "E-RUN-PLACE", "the reproduction would lie in the data", where=str(place), do="choose another --out"
        )
    make_dirs(place)
    return place
