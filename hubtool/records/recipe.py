"""The recipe a person writes. Every key here has an effect; the shape is the contract of DESIGN.md section 3."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from hubtool.core.errors import HubtoolError, SecurityError, UsageError
from hubtool.records.backbone import Interpolation
from hubtool.records.strict import Record
from hubtool.records.tasks import TaskName

SCHEMA: Literal["hubtool/recipe/v1"] = "hubtool/recipe/v1"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Default = Literal["default"]


class BackboneChoice(Record):
    """``backbone: REF`` or ``backbone: {ref: REF, pretrained: false}``."""

    ref: Annotated[str, Field(min_length=1)]
    pretrained: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"ref": value} if isinstance(value, str) else value


class Head(Record):
    """``replace`` puts a new head in the classifier's place; ``append`` a layer after the old classifier."""

    mode: Literal["replace", "append"] = "replace"
    type: Literal["linear", "mlp", "norm_linear", "cosine"] = "linear"
    drop_rate: Share = 0.0
    global_pool: str = "default"


class Freeze(Record):
    """``all`` (everything but the head), ``none``, or exactly one of through, blocks, fraction, match."""

    kind: Literal["all", "none", "through", "blocks", "fraction", "match"]
    part: str = ""
    blocks: int = 0
    fraction: float = 0.0
    patterns: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_grammar(cls, value: Any) -> Any:
        if value in ("all", "none"):
            return {"kind": value}
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(
                "expected all, none, or one of {through: PART}, {blocks: N}, {fraction: F}, {match: [GLOB]}"
            )
        key, argument = next(iter(value.items()))
        if key == "through" and isinstance(argument, str) and argument:
            return {"kind": key, "part": argument}
        if key == "blocks" and type(argument) is int and argument >= 1:
            return {"kind": key, "blocks": argument}
        if key == "fraction" and isinstance(argument, int | float) and 0 < argument < 1:
            return {"kind": key, "fraction": float(argument)}
        if key == "match":
            globs = [argument] if isinstance(argument, str) else argument
            return {"kind": key, "patterns": tuple(_glob(p) for p in globs)}
        wanted = {"through": "a part name", "blocks": "an integer ≥ 1", "fraction": "a number between 0 and 1"}
        if key in wanted:
            raise ValueError(f"{key}: expected {wanted[key]}, got {argument!r}")
        raise ValueError(f"unknown key {key!r}{did_you_mean(key, ['through', 'blocks', 'fraction', 'match'])}")

    @model_serializer
    def _to_grammar(self) -> Any:
        if self.kind in ("all", "none"):
            return self.kind
        value: object = {
            "through": self.part,
            "blocks": self.blocks,
            "fraction": self.fraction,
            "match": list(self.patterns),
        }[self.kind]
        return {self.kind: value}

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        one = {
            "through": {"type": "string"},
            "blocks": {"type": "integer", "minimum": 1},
            "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "match": {"type": "array", "items": {"type": "string"}},
        }
        shapes: list[dict[str, Any]] = [{"enum": ["all", "none"]}]
        for key, schema in one.items():
            shapes.append(
                {"type": "object", "properties": {key: schema}, "required": [key], "additionalProperties": False}
            )
        return {"anyOf": shapes}


def _glob(pattern: object) -> str:
    if not isinstance(pattern, str) or not re.fullmatch(r"[A-Za-z0-9_.*?\[\]!-]{1,200}", pattern):
        raise HubtoolErrorInField(
            UsageError("E-FREEZE-PATTERN", f"{pattern!r} is no glob", do="write names with * and ?, as in 'layer4.*'")
        )
    return pattern


class HubtoolErrorInField(ValueError):
    """Carries one of our errors through pydantic."""

    def __init__(self, error: HubtoolError) -> None:
        super().__init__(str(error))
        self.error = error


class Unfreeze(Record):
    """From epoch ``at_epoch`` (that many epochs are done) only what lies up to ``through`` stays frozen; ``none``: nothing.

    What becomes trainable by it learns with ``lr_scale`` times the learning rate.
    """

    at_epoch: Count
    through: str
    lr_scale: Positive = 1.0


class Augment(Record):
    """``policy`` of the training pictures; ``views`` K: K fixed variants of each, 0: a new draw every epoch."""

    policy: Literal["none", "light", "strong"] = "none"
    views: Annotated[int, Field(ge=0, le=1000)] = 0


class Data(Record):
    """What is read from the data; ``default`` takes the backbone's own preprocessing.

    ``labels``: ``folders``, or the name of a table in the data directory (``.csv`` or ``.jsonl``).
    """

    img_size: Default | Annotated[int, Field(ge=8, le=4096)] = "default"
    in_chans: Annotated[int, Field(ge=1, le=4)] = 3
    crop_pct: Default | Annotated[float, Field(gt=0, le=1)] = "default"
    interpolation: Default | Interpolation = "default"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    labels: Annotated[str, Field(min_length=1)] = "folders"
    augment: Augment = Augment()

    @field_validator("labels")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if value.startswith(("/", "~")) or ".." in value.split("/") or "\\" in value:
            raise HubtoolErrorInField(
                SecurityError("E-PATH-INVALID", f"{value!r} leaves the data directory", do="name a table inside it")
            )
        if value != "folders" and not value.endswith((".csv", ".jsonl")):
            raise ValueError(f"expected folders or a .csv or .jsonl table, got {value!r}")
        return value


class Optimizer(Record):
    """``name``: sgd, adamw or any other of timm.optim; ``momentum`` is SGD's, or the first beta of the Adam family."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    momentum: Share = 0.9


class Schedule(Record):
    """The learning rate as a pure function of the step; warm-up is linear from 0 over ``warmup_epochs``.

    ``step`` divides by ten after each third of the epochs.
    """

    name: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warmup_epochs: NonNegative = 1.0
    min_lr: NonNegative = 0.0


class Select(Record):
    """Which checkpoint is packed: the best by ``metric`` (``SPLIT/METRIC``)."""

    metric: Annotated[str, Field(pattern=r"^val/[a-z0-9_]+$")] = "val/loss"
    mode: Literal["min", "max"] = "min"


class EarlyStop(Record):
    """Stop after ``patience`` epochs without an improvement of ``select.metric`` by more than ``min_delta``."""

    patience: Count | None = None
    min_delta: NonNegative = 0.0


class Train(Record):
    """The mathematics of training. ``batch_size`` is global, computed in ``grad_accum_steps`` micro-batches."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    grad_accum_steps: Count = 1
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    ema: Share = 0.0
    clip_grad_norm: Positive | None = None
    label_smoothing: Share = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    drop_path: Share = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    pos_weight: Literal["none", "balanced"] | Positive = "none"
    select: Select = Select()
    early_stop: EarlyStop = EarlyStop()

    @model_validator(mode="after")
    def _divides(self) -> Train:
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into {self.grad_accum_steps} micro-batches (grad_accum_steps)"
            )
        return self


class Wandb(Record):
    """``disabled`` writes nothing; ``offline`` a directory; ``online`` needs a key and falls back to offline.

    ``images``: pictures and the confusion matrix may go there too; without it only numbers, recipe and digests do.
    """

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    images: bool = False


class Log(Record):
    """Where the log is shown beside ``metrics.jsonl``. ``sinks``: ``csv``, or what another package offers by name."""

    tensorboard: bool = True
    wandb: Wandb = Wandb()
    sinks: tuple[str, ...] = ()


class Card(Record):
    """What only a person knows: the licence of the result, a title, the data set's Hub id or name."""

    license: str | None = None
    title: str | None = None
    dataset: str | None = None


_SAVE_EVERY = r"^(epoch|[1-9][0-9]{0,4}min)$"


class Run(Record):
    """What changes no number, and is not digested.

    ``save_every``: ``epoch``, a number of steps, or minutes as in ``10min``; the end of an epoch is saved in any case.
    ``keep_checkpoints``: the newest, the best by ``train.select``, and of the others those with the next best value.
    """

    keep_checkpoints: Count = 2
    save_every: Count | Annotated[str, Field(pattern=_SAVE_EVERY)] = "epoch"

    @field_validator("save_every", mode="before")
    @classmethod
    def _is_a_span(cls, value: Any) -> Any:
        is_steps = type(value) is int and value >= 1
        if not is_steps and not (isinstance(value, str) and re.fullmatch(_SAVE_EVERY, value)):
            raise ValueError(f"expected epoch, a number of steps, or minutes as in 10min, got {value!r}")
        return value

    @property
    def save_every_steps(self) -> int | None:
        return self.save_every if isinstance(self.save_every, int) else None

    @property
    def save_every_s(self) -> float | None:
        is_minutes = isinstance(self.save_every, str) and self.save_every.endswith("min")
        return 60.0 * int(str(self.save_every)[:-3]) if is_minutes else None

    log: Log = Log()
    card: Card = Card()


class Recipe(Record):
    """The whole recipe; see ``hubtool recipe schema``."""

    schema_: Annotated[Literal["hubtool/recipe/v1"], Field(alias="schema")] = SCHEMA
    backbone: BackboneChoice
    task: TaskName = "classification"
    head: Head = Head()
    freeze: Annotated[Freeze, Field(default_factory=lambda: Freeze.model_validate("all"))]
    unfreeze: tuple[Unfreeze, ...] = ()
    data: Data = Data()
    train: Train = Train()
    run: Run = Run()

    @model_validator(mode="after")
    def _unfreezes_in_order(self) -> Recipe:
        last = 0
        for step in self.unfreeze:
            if step.at_epoch <= last:
                raise ValueError(f"unfreeze: at_epoch {step.at_epoch} does not come after {last}")
            if step.at_epoch >= self.train.epochs:
                raise ValueError(f"unfreeze: at_epoch {step.at_epoch} is past the last of {self.train.epochs} epochs")
            last = step.at_epoch
        return self


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of an error about a word that is not among the known ones."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else (f"; known: {', '.join(known)}" if known else "")
