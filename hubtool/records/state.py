"""Where a training stands: state.json of a checkpoint, and its manifest."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hubtool.core.errors import ConflictError
from hubtool.records.backbone import FileDigest
from hubtool.records.environment import Difference, Numerics
from hubtool.records.strict import Record

SCHEMA: Literal["hubtool/state/v1"] = "hubtool/state/v1"


class Best(Record):
    """The best checkpoint so far by ``train.select``; ``epoch`` counts finished epochs."""

    checkpoint: str
    epoch: int
    global_step: int
    value: float


class Position(Record):
    """``epoch`` counts epochs that are finished and evaluated, ``global_step`` optimizer steps.

    ``loss_sum`` and ``num_seen`` are the running mean of the epoch under way; ``reference`` and ``num_bad_epochs`` are early
    stopping's. ``scalars`` is the part of the optimizer's and the gradient scaler's state that is no tensor. ``value`` is the
    selecting metric where the epoch has just been evaluated. ``drift`` is what ``--allow-drift`` has let pass,
    ``nondeterministic`` the operations that ran without a deterministic kernel.
    """

    schema_: Annotated[Literal["hubtool/state/v1"], Field(alias="schema")] = SCHEMA
    global_step: int = 0
    epoch: int = 0
    metric: str = ""
    value: float | None = None
    loss_sum: float = 0.0
    num_seen: int = 0
    best: Best | None = None
    reference: float | None = None
    num_bad_epochs: int = 0
    scalars: dict[str, float | int | bool | str | None] = {}
    journal_size_bytes: int = 0
    sink_ids: dict[str, str] = {}
    recipe_digest: str = ""
    data_digest: str = ""
    backbone_digest: str = ""
    numerics: Numerics | None = None
    drift: tuple[Difference, ...] = ()
    nondeterministic: tuple[str, ...] = ()
    wall_s: float = 0.0

    @property
    def is_best(self) -> bool:
        """Whether the epoch that has just ended is the best one so far."""
        return self.best is not None and self.best.epoch == self.epoch

    @property
    def checkpoint_name(self) -> str:
        name = f"e{self.epoch:03d}-s{self.global_step:06d}"
        return name if self.value is None else f"{name}-{self.metric.replace('/', '_')}={self.value:.4f}"

    @property
    def order(self) -> tuple[int, int]:
        return self.global_step, self.epoch


class CheckpointManifest(Record):
    files: tuple[FileDigest, ...]


MIRROR = "MIRROR.json"
MIRROR_SCHEMA: Literal["hubtool/mirror/v1"] = "hubtool/mirror/v1"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,120}"
_MIRRORED = re.compile(
    rf"recipe\.yaml|resolved\.json|environment\.json|data\.json|logs/metrics\.jsonl|checkpoints/{_NAME}/{_NAME}"
)


class MirrorManifest(Record):
    """MIRROR.json: what the second place of a run holds; ``files`` are all of it but this one.

    The manifest may come from a hub: names are those of a run, and lead nowhere else.
    """

    schema_: Annotated[Literal["hubtool/mirror/v1"], Field(alias="schema")] = MIRROR_SCHEMA
    checkpoint: Annotated[str, Field(pattern=rf"^{_NAME}$")]
    epoch: int
    global_step: int
    recipe_digest: str
    data_digest: str
    files: tuple[FileDigest, ...]

    @property
    def order(self) -> tuple[int, int]:
        return self.global_step, self.epoch

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: tuple[FileDigest, ...]) -> tuple[FileDigest, ...]:
        strange = [file.path for file in files if not _MIRRORED.fullmatch(file.path)]
        if strange:
            raise ValueError(f"no file of a run: {strange[0]!a}")
        return files

    def refuse_other(
        self, recipe_digest: str, data_digest: str, where: str, *, do: str = "name another --mirror"
    ) -> None:
        """Raises ConflictError where the mirror is of another recipe or of other data."""
        pairs = {"recipe": (self.recipe_digest, recipe_digest), "data": (self.data_digest, data_digest)}
        other = [f"{name}.digest: {was[:12]} → {now[:12]}" for name, (was, now) in pairs.items() if was != now]
        if other:
            raise ConflictError(
                "E-MIRROR-OTHER", f"the mirror is of another run: {'; '.join(other)}", where=where, do=do
            )

    def refuse_replacing(self, new: MirrorManifest, where: str) -> None:
        """Raises ConflictError where ``new`` must not take the place of this one: another run's, or one that stands further."""
        self.refuse_other(new.recipe_digest, new.data_digest, where)
        if self.order > new.order:
            raise ConflictError(
                "E-MIRROR-AHEAD",
                f"the mirror stands further ({self.checkpoint}) than this run ({new.checkpoint})",
                where=where,
                do="let this run get past it, or stop it and start the command again to go on from there",
            )
