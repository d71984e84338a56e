"""The sentences and formats of a card: from facts to words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hubtool.package import licenses
from hubtool.package.facts import Facts
from hubtool.package.front import dataset_id, one_line
from hubtool.records import reproductions
from hubtool.records.claims import SHARES
from hubtool.records.recipe import Freeze
from hubtool.records.reports import Reproduction

_TASKS = {
    "classification": "tells {n} classes of pictures apart",
    "binary": "tells two classes of pictures apart",
    "multilabel": "says which of {n} labels a picture has",
    "regression": "estimates {n} from a picture",
}
_HEADS = {
    "linear": "a linear head",
    "mlp": "a head of two layers",
    "norm_linear": "a normalised linear head",
    "cosine": "a cosine head",
}


def md(text: object) -> str:
    """Text from outside, so that it can be no markup, no link, no table cell more."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~!&$])", r"\\\1", one_line(str(text)))
    return re.sub(r"(?i)(https?|ftp|mailto):", r"\1\\:", escaped)


def num(value: float) -> str:
    """Four digits after the point; more where they would all be zeros."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


def count(value: int) -> str:
    return f"{value:,}"


def number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(wall_s: float) -> str:
    if wall_s < 60:
        return f"{wall_s:.1f} s"
    minutes, seconds = divmod(round(wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def triple(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def backbone(facts: Facts) -> str:
    """The backbone with a link where it has a page."""
    pinned = facts.resolved.backbone
    name = f"`{facts.backbone_name}`"
    if pinned.repo_id:
        at = f" at commit `{pinned.revision[:12]}`" if pinned.revision else ""
        return f"[{name}](https://huggingface.co/{pinned.repo_id}){at}"
    return f"{name} (from {md(pinned.url)})" if pinned.url else name


def what(facts: Facts) -> str:
    """Two sentences: what the model does, what it was made of."""
    many: object = facts.num_classes
    if facts.task.name == "regression":
        many = "a number" if facts.num_classes == 1 else f"{facts.num_classes} numbers"
    does = _TASKS[facts.task.name].format(n=many)
    start = "fine-tuned from" if facts.resolved.backbone.pretrained else "trained from random weights in the shape of"
    head = _HEADS[facts.resolved.head.type]
    place = "in the classifier's place" if facts.resolved.head.mode == "replace" else "after the old classifier"
    result = facts.result
    share = 100 * result.num_trainable / result.num_params if result.num_params else 0
    return (
        f"This model {does}. It was {start} {backbone(facts)}, with {head} {place}; {freeze(facts.resolved.freeze)}. "
        f"{count(result.num_trainable)} of its {count(result.num_params)} parameters ({share:.1f} %) were trained."
    )


def freeze(rule: Freeze) -> str:
    kinds = {
        "all": "everything but the head stayed frozen",
        "none": "nothing was frozen",
        "through": f"everything through {md(rule.part)} stayed frozen",
        "blocks": f"the first {rule.blocks} blocks stayed frozen",
        "fraction": f"the first {100 * rule.fraction:g} % of the parameters stayed frozen",
        "match": f"what matches {md(', '.join(rule.patterns))} stayed frozen",
    }
    return kinds[rule.kind]


def dataset(facts: Facts) -> str:
    hub_id = dataset_id(facts)
    if hub_id:
        return f"Data set: [{md(hub_id)}](https://huggingface.co/datasets/{hub_id})."
    name = f"Data set: {md(facts.card.dataset)}. " if facts.card.dataset else ""
    return f"{name}The pictures are not part of this package; data.json lists each by its sha256, size and target."


def data_notes(facts: Facts) -> list[str]:
    data = facts.data
    notes = []
    if facts.resolved.data.labels != "folders":
        what = "Targets" if facts.task.name == "regression" else "Labels"
        notes.append(f"{what}: {md(facts.resolved.data.labels)}.")
    given = "val folder" if facts.resolved.data.labels == "folders" else "val split in the table"
    held = f"{100 * facts.resolved.data.val_fraction:g} % of {'each class' if facts.has_classes else 'the pictures'}"
    notes.append(f"Without a {given}, {held} are held out, chosen by content hash.")
    notes += [f"{count(n)} pictures converted to RGB: {md(rule)}." for rule, n in sorted(data.conversions.items()) if n]
    if data.num_leaked:
        notes.append(f"**{count(data.num_leaked)} pictures stand in train and in another split.**")
    if data.skipped:
        notes.append(f"**{count(len(data.skipped))} damaged files were left out** (`--skip-bad`).")
    return notes


def training(facts: Facts) -> str:
    train, result = facts.resolved.train, facts.result
    selected = result.selected
    was = "equal to the backbone's" if facts.resolved.backbone.pretrained else "as it was drawn"
    frozen = (
        f"After training every frozen tensor was still {was}, bit for bit."
        if result.is_frozen_equal
        else "**Frozen tensors do not equal the backbone's.**"
    )
    return (
        f"{md(train.optimizer.name)}, learning rate {train.optimizer.lr:g} ({train.schedule.name}), batch {train.batch_size}, "
        f"{train.epochs} epochs at most, {train.precision}, seed {train.seed}. Packed: epoch {selected.epoch} "
        f"(step {count(selected.global_step)}), the best by {md(selected.metric)} ({num(selected.value)}). {frozen}"
    )


def environment(facts: Facts) -> str:
    env = facts.environment
    memory = f", {size(env.memory_bytes)} of memory" if env.memory_bytes else ""
    return (
        f"Trained in {duration(facts.result.wall_s)} on {md(env.numerics.device)} ({env.num_cpus} CPU cores{memory}), "
        f"{md(env.os)} on {md(env.machine)}, Python {md(env.python)}, hubtool {md(env.hubtool)}."
    )


_SHARED = (
    ": the micro-batches of a step were shared out; a trained BatchNorm normalised over its micro-batch, "
    "and its running statistics are those of all micro-batches in their order"
)


def numerics(facts: Facts) -> list[tuple[str, str]]:
    """What decides the last bits, then the libraries."""
    value, random = facts.environment.numerics, facts.result.nondeterministic
    rows = [
        ("CPU instructions", value.cpu_capability),
        ("threads", str(value.num_threads)),
        ("processes", f"{value.num_processes}{_SHARED if value.num_processes > 1 else ''}"),
        ("memory format", value.memory_format),
        ("deterministic", f"no, there is no such kernel of {md(', '.join(random))}" if random else "yes"),
    ]
    flags = [("folded", value.is_folded), ("compiled", value.is_compiled), ("TF32", value.tf32)]
    rows += [(name, "yes") for name, is_on in flags if is_on]
    return rows + sorted(value.libraries.items())


def by_threshold(facts: Facts) -> str:
    """Of a binary model: where one class ends, for the figures were measured there and a plain argmax decides elsewhere."""
    threshold = facts.result.threshold
    if facts.task.name != "binary" or threshold is None:
        return ""
    return (
        f"A picture is {md(facts.data.classes[1])} from a probability of {threshold:.4g} on: the threshold with the best balanced "
        f"accuracy on `val`. The results are measured with it and hubtool answers by it; a plain argmax, and the log by epoch, "
        f"decide at 0.5."
    )


_INTENDED = {
    "regression": "It answers with numbers for any picture, in the unit of the targets, also far outside of their range.",
    "multilabel": "It judges each label by itself: a picture can have several, or none.",
}


def intended(facts: Facts) -> str:
    default = "It answers with its classes for any picture, also one that shows none of them."
    does = _INTENDED.get(facts.task.name, default)
    return f"For pictures like those it was trained on, preprocessed as config.json says. {does}"


def limits(facts: Facts) -> list[str]:
    lines = []
    headline = facts.headline
    if (
        headline is not None
        and headline.claim.metric in SHARES
        and headline.low is not None
        and headline.high is not None
    ):
        wide = headline.high - headline.low
        if wide > 0.1:
            lines.append(f"The evaluation is small: the 95 % interval of {headline.title} is {wide:.2f} wide.")
    lines.append(
        "Measured on pictures of the same source as the training pictures; another camera, place or time was not tried."
    )
    for output in facts.outputs:
        if output.r2 is not None and output.r2 < 0:
            lines.append(f"**On {md(output.name)} it is worse than always answering the mean of the split.**")
    for row in facts.splits:
        if row.name == "train" and row.smallest is not None and row.largest and row.largest > 10 * max(1, row.smallest):
            lines.append(
                f"The classes are uneven: {count(row.smallest)} to {count(row.largest)} training pictures each."
            )
    if facts.result.drift:
        fields = ", ".join(md(d.field) for d in facts.result.drift)
        lines.append(f"**The run was resumed although something had changed** (`--allow-drift`): {fields}.")
    if facts.resolved.backbone.pretrained:
        lines.append("What the backbone learnt from its own pretraining data, biases included, is in here too.")
    return lines


def reproduced(facts: Facts) -> str:
    """How often an attempt came to the same, by the records beside the package; empty where nobody tried."""
    records = facts.reproductions
    if not records:
        return ""
    num, many = reproductions.num_reproduced(records), len(records)
    states = ", ".join(f"{number} {state}" for state, number in reproductions.tally(records).items())
    return f"**Reproduced by {num} of {many} {'attempt' if many == 1 else 'attempts'}** ([{states}](#reproduce-it))."


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A row of the card: one reproduction, the numbers those of the headline."""

    id: str
    verdict: str
    claimed: str
    measured: str
    weights: str
    machine: str


def attempts(facts: Facts) -> list[Attempt]:
    return [_attempt(facts, record) for record in facts.reproductions]


def _attempt(facts: Facts, record: Reproduction) -> Attempt:
    headline, verdict = facts.headline, record.verdict
    name = headline.claim.name if headline else ""
    measured = next((one.measured for one in verdict.claims if one.claim.name == name), None)
    trained = "equal" if verdict.weights_equal else "other" if record.measured_weights_digest else "not trained"
    numerics = verdict.measured_numerics
    differ = "equal numerics" if not verdict.numerics_differ else f"torch {numerics.libraries.get('torch', '?')}"
    return Attempt(
        id=record.id,
        verdict=verdict.state,
        claimed=num(headline.claim.value) if headline else "",
        measured="" if measured is None else num(measured),
        weights=trained,
        machine=f"{numerics.device}, {numerics.cpu_capability}, {numerics.num_threads} threads, {differ}",
    )


def license_text(facts: Facts) -> str:
    base = licenses.parse(facts.backbone.license)
    if not facts.resolved.backbone.pretrained:
        return f"{md(facts.license)}, named by the author; no weights of others are in it."
    if base is None:
        return f"{md(facts.license)}, named by the author; the backbone's own licence is not recorded."
    if base == facts.license:
        return f"{md(facts.license)}, carried over from the backbone."
    return f"{md(facts.license)}; the backbone's is {md(base)}."


def citation(facts: Facts, repo: str) -> str:
    key = re.sub(r"[^a-z0-9]+", "-", (repo if repo != "OWNER/NAME" else facts.title).lower()).strip("-")
    title = re.sub(r"[{}\\`<>]", "", one_line(facts.title))
    pinned = facts.resolved.backbone
    base = pinned.repo_id or pinned.url or facts.backbone_name
    made = "Fine-tuned from" if pinned.pretrained else "Trained from random weights in the shape of"
    return (
        f"@misc{{{key},\n  title = {{{title}}},\n  howpublished = {{{repo}}},\n"
        f"  note = {{{made} {base}; weights sha256 {facts.result.weights_digest[:16]}}}\n}}"
    )
