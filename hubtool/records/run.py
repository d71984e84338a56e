"""A run as it is written down: its options, and its result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubtool.records.backbone import Sha256
from hubtool.records.claims import Claim
from hubtool.records.environment import Difference, Numerics
from hubtool.records.recipe import Run
from hubtool.records.strict import Record

RESULT_SCHEMA: Literal["hubtool/result/v1"] = "hubtool/result/v1"


class RunOptions(Record):
    """What changes no number; never digested, never packaged (it names paths of this machine).

    ``backbone`` is the reference as it was named: the resolved recipe has no path of a ``local:`` one. ``is_shown`` False
    leaves the plots out.
    """

    data_dir: str
    backbone: str = ""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    num_workers: int | None = None
    skip_bad: int = 0
    cache_limit_bytes: int | None = None
    use_cache: bool = True
    cache_root: str | None = None
    allow_drift: bool = False
    mirror: str | None = None
    is_shown: bool = True
    run: Run = Run()


class Selected(Record):
    """The checkpoint whose weights are claimed and packed. ``epoch`` counts finished epochs."""

    checkpoint: str
    epoch: int
    global_step: int
    metric: str
    value: float


class Result(Record):
    """What came out. ``weights_digest`` is over the selected weights of the whole model, head included.

    ``initial_digest``: of the model before training, over its tensors' digests: the new head's and all random weights are
    drawn from the seed. ``is_frozen_equal``: every tensor and buffer that no phase trained is the backbone's, bit for bit.
    ``drift``: what ``--allow-drift`` let differ at a resume. ``nondeterministic``: operations that ran without a deterministic
    kernel, by torch's names; where there is one, equal Numerics do not give equal weights.
    ``wall_s`` is the training time over all sessions.
    """

    schema_: Annotated[Literal["hubtool/result/v1"], Field(alias="schema")] = RESULT_SCHEMA
    claims: tuple[Claim, ...]
    recipe_digest: Sha256
    data_digest: Sha256
    backbone_digest: Sha256
    weights_digest: Sha256
    initial_digest: Sha256 | None = None
    selected: Selected
    is_frozen_equal: bool
    num_params: int
    num_trainable: int
    num_skipped: int = 0
    numerics: Numerics
    drift: tuple[Difference, ...] = ()
    nondeterministic: tuple[str, ...] = ()
    wall_s: float
    threshold: float | None = None
