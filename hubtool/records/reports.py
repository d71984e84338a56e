"""What the jobs return and the command line prints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import BackboneEntry, FileDigest, Sha256
from hubtool.records.claims import Verdict
from hubtool.records.run import Result
from hubtool.records.runs import Measured
from hubtool.records.seed_bands import Seeds
from hubtool.records.strict import Record
from hubtool.records.tasks import TaskName


class PullReport(Record):
    """``is_new`` False: it was here already, nothing was fetched."""

    entry: BackboneEntry
    directory: str | None
    is_new: bool


class SearchReport(Record):
    """``rows`` are what was asked for, ``num_found`` how many there are without the limit."""

    rows: tuple[BackboneEntry, ...]
    num_found: int


class FinetuneReport(Record):
    """``status`` finished (now), or already (a finished run was found). ``seeds`` is evidence/seeds.json where there
    is one: the claims' tolerance is its band. Paths are of this machine."""

    run: str
    status: Literal["finished", "already"]
    result: Result
    seeds: Seeds | None = None


class PackReport(Record):
    package: str
    layout: str
    weights_digest: str
    num_files: int
    size_bytes: int


class PushPlan(Record):
    """What a push would do. ``shares`` lists what of the user's data goes out, in words."""

    endpoint: str
    repo_id: str
    revision: str
    parent: str | None
    is_new_repo: bool
    is_private: bool
    adds: tuple[FileDigest, ...]
    unchanged: tuple[str, ...]
    deletes: tuple[str, ...]
    shares: tuple[str, ...]


class PushReport(Record):
    """``commit`` is None for a dry run; ``url`` is the page of the repository."""

    plan: PushPlan
    commit: str | None
    url: str
    is_new_commit: bool


class CheckFinding(Record):
    """One thing that ``verify`` looked at."""

    name: str
    is_ok: bool
    detail: str = ""

    @classmethod
    def wrong(cls, name: str, detail: str) -> CheckFinding:
        return cls(name=name, is_ok=False, detail=detail)


class VerifyReport(Record):
    target: str
    is_ok: bool
    findings: tuple[CheckFinding, ...]


class LintFinding(Record):
    """One rule of ``lint``: ``points`` of the score hang on it, ``mend`` is what to do exactly."""

    name: str
    is_ok: bool
    points: int
    detail: str = ""
    mend: str = ""


class LintReport(Record):
    """``score`` is the sum of the points of the rules that are kept, of 100."""

    target: str
    score: int
    findings: tuple[LintFinding, ...]


class ReproduceReport(Record):
    """``report`` is the file written; ``run`` the new run; ``published`` the commit that added the record to the repository."""

    repo: str
    commit: str
    verdict: Verdict
    run: str | None
    report: str
    published: str | None = None


REPRODUCTION_SCHEMA: Literal["hubtool/reproduction/v1"] = "hubtool/reproduction/v1"


class Reproduction(Record):
    """One attempt to reproduce a repository at a commit, as it is written to reproductions/<id>.json.

    ``measured_weights_digest`` is None when nothing was trained; the verdict has the claims and the Numerics of both sides.
    """

    schema_: Annotated[Literal["hubtool/reproduction/v1"], Field(alias="schema")] = REPRODUCTION_SCHEMA
    repo: str
    commit: str
    hubtool: str
    recipe_digest: Sha256
    data_digest: Sha256
    backbone_digest: Sha256
    claimed_weights_digest: Sha256
    measured_weights_digest: Sha256 | None
    verdict: Verdict

    @property
    def id(self) -> str:
        """The first 16 digits of its digest: the same attempt with the same outcome has one name."""
        return self.digest()[:16]


class ConvertReport(Record):
    """``weights_digest`` is over the tensors, ``sha256`` over the file."""

    path: str
    sha256: str
    num_tensors: int
    weights_digest: str


class Prediction(Record):
    """``scores`` are (class, probability), best first; of a regression (output, value in the target's unit).

    ``called`` is what the picture is said to be: its class, or each label at or above the threshold, which may be none; empty for
    a regression.
    """

    path: str
    task: TaskName
    scores: tuple[tuple[str, float], ...]
    called: tuple[str, ...]


class Suspicion(Record):
    """A label that is likely wrong. ``confidence`` is the model's probability of what it suggests; of a multilabel both name
    a label and whether it applies. ``path`` is the picture's file where it is known."""

    sha256: Sha256
    path: str | None
    given: str
    suggested: str
    confidence: float


class Twin(Record):
    """A picture that stands more than once, byte for byte: under ``paths`` of what was evaluated, and in the ``splits`` that
    the model was trained and chosen on. ``given`` are its labels, more than one where they contradict each other.
    ``beside`` are other splits of the evaluated directory that have it too."""

    sha256: Sha256
    paths: tuple[str, ...]
    given: tuple[str, ...]
    splits: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


class Lookalike(Record):
    """A picture of what was evaluated that is likely ``like`` under another encoding, size or EXIF; the bytes differ.

    ``of``: ``like`` stands in the evaluated directory, or in the data that the model was trained and chosen on. ``distance``
    is the share of the difference hash's bits that differ.
    """

    sha256: Sha256
    path: str
    like: str
    like_sha256: Sha256
    of: Literal["evaluated", "model"]
    split: str
    distance: float


class Lookalikes(Record):
    """``pairs`` has each picture's likeliest one in each split. ``limit`` is the largest distance that counts, ``compared``
    the splits that were looked through, ``unknown`` why the model's own data was not, or not wholly; ``num_even`` counts
    pictures of too few features to be told apart."""

    pairs: tuple[Lookalike, ...]
    limit: float
    compared: tuple[str, ...]
    unknown: str = ""
    num_even: int = 0


EVALUATION_SCHEMA: Literal["hubtool/evaluation/v1"] = "hubtool/evaluation/v1"


class Evaluation(Record):
    """evaluation.json beside predictions.safetensors and plots/: a model measured on data, every number with its 95 % interval.

    ``files`` are the other files of the directory. It names pictures of this machine; nothing of it is published.
    """

    schema_: Annotated[Literal["hubtool/evaluation/v1"], Field(alias="schema")] = EVALUATION_SCHEMA
    target: str
    weights_digest: Sha256
    data_digest: Sha256
    split: str
    num_samples: int
    classes: tuple[str, ...]
    threshold: float | None
    metrics: dict[str, Measured]
    suspicions: tuple[Suspicion, ...]
    twins: tuple[Twin, ...]
    lookalikes: Lookalikes | None = None
    files: tuple[FileDigest, ...]


class EvaluateReport(Record):
    """``evidence`` is the directory that was asked for, ``evaluation`` what its evaluation.json says."""

    target: str
    split: str
    num_samples: int
    metrics: dict[str, float]
    evidence: str | None = None
    evaluation: Evaluation | None = None


class DemoReport(Record):
    backbone: str
    run: str
    package: str
    repo: str
    commit: str
    hub_root: str
    metrics: dict[str, float]
    reproduce: dict[str, str]
    wall_s: float


class ResumeProof(Record):
    """``--prove-resume``: killed at these steps of ``num_steps``, the run ended with these weights, as the unbroken one did."""

    num_steps: int
    killed_at: tuple[int, ...]
    weights_digest: str
