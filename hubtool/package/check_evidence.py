"""The part of verify that recomputes: digests, claims, log, weights, each from its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from hubtool.core.digests import sha256_file, tensors_digest
from hubtool.package.check_config import architecture, classes, preprocessing
from hubtool.package.check_recipe import recipe
from hubtool.package.facts import GOLDEN_NAME, LAYERS_NAME, WEIGHTS_NAME, Facts, read_events
from hubtool.package.front import EVAL_NAME, eval_results
from hubtool.package.privacy import LOG_NAME
from hubtool.package.snippets import snippets_for
from hubtool.package.tensors import WEIGHTS_FILES, opened, packed_weights
from hubtool.records.claims import Claim
from hubtool.records.evidence import Golden, Predictions
from hubtool.records.metrics import SAMPLE_SHARES, choose_threshold, claims_of, compute
from hubtool.records.package import PackedWeights
from hubtool.records.reports import CheckFinding
from hubtool.records.seed_bands import SEEDS_NAME, banded
from hubtool.records.tasks import TaskName

Findings = Iterator[CheckFinding]


def digests(facts: Facts) -> Findings:
    """The result belongs to this recipe, this data, this backbone, this machine."""
    result = facts.result
    pairs = (
        ("resolved.json", facts.resolved.digest(), result.recipe_digest, "recipe"),
        ("data.json", facts.data.digest(), result.data_digest, "data"),
        ("resolved.json", facts.resolved.backbone.digest(), result.backbone_digest, "backbone"),
    )
    for name, now, then, what in pairs:
        if now != then:
            yield CheckFinding.wrong(name, f"the {what} digest is {now[:16]}…, result.json says {then[:16]}…")
    if facts.environment.numerics != result.numerics:
        yield CheckFinding.wrong("environment.json", "the numerics are not those of result.json")
    if facts.backbone.origin.files != facts.resolved.backbone.files:
        yield CheckFinding.wrong("evidence/backbone.json", "the backbone's files are not those of resolved.json")
    if facts.resolved.backbone.ref != facts.backbone.ref:
        yield CheckFinding.wrong(
            "evidence/backbone.json", f"the backbone is {facts.backbone.ref}, not {facts.resolved.backbone.ref}"
        )
    if len(facts.data.skipped) != result.num_skipped:
        yield CheckFinding.wrong(
            "data.json", f"{len(facts.data.skipped)} files left out, result.json says {result.num_skipped}"
        )
    trained = {sample.sha256 for sample in facts.data.splits.get("train", ())}
    others = (samples for split, samples in facts.data.splits.items() if split != "train")
    num_leaked = sum(sample.sha256 in trained for samples in others for sample in samples)
    if num_leaked != facts.data.num_leaked:
        yield CheckFinding.wrong(
            "data.json", f"{facts.data.num_leaked} pictures stand in train and elsewhere, its lists give {num_leaked}"
        )
    layers = facts.layers
    if layers is not None:
        counts = [(layers.num_params, result.num_params)]
        if not result.drift:
            counts.append((layers.num_trainable, result.num_trainable))
        if any(now != then for now, then in counts) or sum(row.num_params for row in layers.rows) != layers.num_params:
            yield CheckFinding.wrong(
                LAYERS_NAME, "the numbers of parameters are not those of its rows and of result.json"
            )


def claims(facts: Facts) -> Findings:
    """Every claim again from the predictions; every prediction's picture and target from data.json."""
    if not facts.result.claims:
        yield CheckFinding.wrong("result.json", "no claim is made")
    for path in dict.fromkeys(claim.evidence for claim in facts.result.claims):
        yield from _claims_of_file(facts, path)
    split = "test" if facts.data.splits.get("test") else "val"
    for claim in facts.result.claims:
        if claim.split != split:
            yield CheckFinding.wrong("result.json", f"{claim.name}: claims come from the {split} split")
    if facts.seeds is not None:
        own, claimed = facts.seeds.runs[0], {claim.metric: claim.value for claim in facts.result.claims}
        if own.seed != facts.resolved.train.seed or own.metrics != claimed or facts.seeds.split != split:
            yield CheckFinding.wrong(SEEDS_NAME, "its first run is not the one that is claimed")
        if len({run.seed for run in facts.seeds.runs}) < len(facts.seeds.runs):
            yield CheckFinding.wrong(SEEDS_NAME, "a seed stands there twice")


def _claims_of_file(facts: Facts, path: str) -> Findings:
    file = facts.directory / path
    predictions = facts.predictions[path]
    digest = sha256_file(file)
    made = [claim for claim in facts.result.claims if claim.evidence == path]
    if any(claim.evidence_sha256 != digest for claim in made):
        yield CheckFinding.wrong(path, f"sha256 is {digest[:16]}…, the claims say {made[0].evidence_sha256[:16]}…")
    yield from _match_data(facts, predictions, path)
    if not np.isfinite(predictions.logits_NK).all():
        yield CheckFinding.wrong(path, "a logit is NaN or infinite")
        return
    if facts.task.name == "binary" and predictions.split == "val":
        threshold = choose_threshold(predictions.logits_NK, predictions.targets)
        if not math.isclose(
            threshold, -1.0 if facts.result.threshold is None else facts.result.threshold, rel_tol=1e-9, abs_tol=1e-12
        ):
            yield CheckFinding.wrong(
                "result.json", f"the threshold is {facts.result.threshold}, the evidence gives {threshold}"
            )
    elif facts.task.name != "binary" and facts.result.threshold is not None:
        yield CheckFinding.wrong("result.json", f"{facts.task.name} has no threshold")
    yield from _selected_again(facts, predictions)
    again = {c.metric: c for c in _again(facts, predictions, path, digest)}
    for claim in made:
        measured = again.get(claim.metric)
        if measured is None:
            yield CheckFinding.wrong("result.json", f"{claim.name}: the evidence gives no such metric")
        elif (
            measured.value != claim.value or measured.num_samples != claim.num_samples or measured.split != claim.split
        ):
            yield CheckFinding.wrong(
                "result.json", f"{claim.name} is claimed {claim.value}, the evidence gives {measured.value}"
            )
        elif claim.tolerance != measured.tolerance:
            yield CheckFinding.wrong(
                "result.json", f"{claim.name}: tolerance {claim.tolerance}, by its rule {measured.tolerance}"
            )
    missing = sorted(set(again) - {claim.metric for claim in made})
    if missing:
        yield CheckFinding.wrong("result.json", f"not claimed though the evidence gives it: {', '.join(missing)}")


def _selected_again(facts: Facts, predictions: Predictions) -> Findings:
    """What the log says of the packed checkpoint, and the value it was selected by, are what the evidence gives, nearly: with
    drift nothing is asked.

    Both are of one definition, at the threshold 0.5; the last bits may differ where the frozen part was not computed anew,
    and a picture on a class boundary moves a share by its one part, and a mean over classes by more, the fewer its class has."""
    selected = facts.result.selected
    split, _, metric = selected.metric.partition("/")
    if split != predictions.split or facts.result.drift:
        return
    values = compute(facts.task.name, predictions.logits_NK, predictions.targets)
    share = 2 / len(predictions.samples)
    mean = max(share, 2 / _smallest(facts.task.name, predictions))

    def is_near(name: str, told: float) -> bool:
        slack = share if name in SAMPLE_SHARES | {"loss"} else mean
        return name in values and math.isclose(values[name], told, rel_tol=1e-2, abs_tol=slack)

    if not is_near(metric, selected.value):
        yield CheckFinding.wrong(
            "result.json", f"selected by {metric} {selected.value}, the evidence gives {values.get(metric)}"
        )
    for event in read_events(facts.directory / LOG_NAME):
        is_packed = (event.kind, event.split, event.global_step) == ("scalar", split, selected.global_step)
        if is_packed and event.tag in values and event.value is not None and not is_near(event.tag, event.value):
            yield CheckFinding.wrong(
                LOG_NAME,
                f"{split}/{event.tag} of the packed epoch is {event.value}, the evidence gives {values[event.tag]}",
            )


def _smallest(task: TaskName, predictions: Predictions) -> float:
    """The number of classes that occur times the pictures of the smallest one; of numbers, that of all pictures."""
    if task == "regression":
        return len(predictions.samples)
    counts = np.bincount(predictions.targets) if predictions.targets.ndim == 1 else predictions.targets.sum(axis=0)
    found = counts[counts > 0]
    return float(len(found) * found.min()) if len(found) else 1.0


def _again(facts: Facts, predictions: Predictions, path: str, digest: str) -> tuple[Claim, ...]:
    claims = claims_of(
        facts.task.name, predictions, evidence=path, evidence_sha256=digest, threshold=facts.result.threshold
    )
    return banded(claims, facts.seeds)


def _match_data(facts: Facts, predictions: Predictions, path: str) -> Findings:
    samples = facts.data.splits.get(predictions.split)
    if samples is None:
        yield CheckFinding.wrong(path, f"data.json has no split {predictions.split!r}")
        return
    if tuple(s.sha256 for s in samples) != predictions.samples:
        yield CheckFinding.wrong(path, f"its pictures are not those of the {predictions.split} split in data.json")
        return
    targets = np.asarray([s.target for s in samples], dtype=predictions.targets.dtype)
    if targets.shape != predictions.targets.shape or not np.array_equal(targets, predictions.targets):
        yield CheckFinding.wrong(path, f"its targets are not those of the {predictions.split} split in data.json")


def log(facts: Facts) -> Findings:
    """The packed epoch is the best by the log; no step stands twice."""
    events = read_events(facts.directory / LOG_NAME)
    seen: set[tuple[str, str, int, str]] = set()
    for event in events:
        key = (event.kind, event.split, event.global_step, event.tag)
        if key in seen:
            yield CheckFinding.wrong(LOG_NAME, f"{event.split}/{event.tag} stands twice at step {event.global_step}")
            return
        seen.add(key)
    selected, select = facts.result.selected, facts.resolved.train.select
    split, _, tag = select.metric.partition("/")
    at = ("scalar", split, selected.global_step)
    epochs = {event.epoch + 1 for event in events if (event.kind, event.split, event.global_step) == at}
    named = f"e{selected.epoch:03d}-s{selected.global_step:06d}-"
    if epochs != {selected.epoch} or not selected.checkpoint.startswith(named):
        yield CheckFinding.wrong(
            "result.json", f"epoch {selected.epoch} at step {selected.global_step} is not the log's and the name's"
        )
    if selected.metric != select.metric:
        yield CheckFinding.wrong("result.json", f"selected by {selected.metric}, the recipe says {select.metric}")
    values = {
        e.global_step: e.value
        for e in events
        if (e.kind, e.split, e.tag) == ("scalar", split, tag) and e.value is not None
    }
    if values.get(selected.global_step) != selected.value:
        logged = values.get(selected.global_step)
        yield CheckFinding.wrong(
            LOG_NAME, f"{select.metric} at step {selected.global_step} is {logged}, result.json says {selected.value}"
        )
    elif selected.value != (min if select.mode == "min" else max)(values.values()):
        yield CheckFinding.wrong(
            "result.json", f"the log has a better {select.metric} than the packed {selected.value}"
        )


def weights(facts: Facts) -> Findings:
    """The tensors are those that were packed, by name; none holds NaN or Inf."""
    packed = PackedWeights.read(facts.directory / WEIGHTS_NAME)
    now = packed_weights(facts.directory)
    for name in sorted(packed.tensors.keys() | now.tensors.keys()):
        if packed.tensors.get(name) != now.tensors.get(name):
            what = (
                "is missing"
                if name not in now.tensors
                else "was not packed"
                if name not in packed.tensors
                else "was changed"
            )
            yield CheckFinding.wrong("model.safetensors", f"the tensor {name} {what}")
    if packed.tensors == now.tensors and packed.weights_digest != now.weights_digest:
        yield CheckFinding.wrong(WEIGHTS_NAME, "the digest over all tensors is not that of the files")
    if not _is_trained(facts, packed):
        trained = facts.result.weights_digest
        yield CheckFinding.wrong(
            WEIGHTS_NAME, f"packed were {packed.weights_digest[:16]}…, result.json says {trained[:16]}…"
        )
    for file_name in WEIGHTS_FILES:
        if (facts.directory / file_name).is_file():
            with opened(facts.directory / file_name) as tensors:
                for name, dtype, _, view in tensors:
                    if not _is_finite(dtype, view):
                        yield CheckFinding.wrong(file_name, f"the tensor {name} holds NaN or Inf")


def _is_trained(facts: Facts, packed: PackedWeights) -> bool:
    """Whether the packed tensors are those of the result, where packing loses nothing; True where it cannot be told.

    A linear head in place of a 1x1 convolution was trained under ``.layer``, in two dimensions."""
    head, wanted = facts.resolved.head, facts.result.weights_digest
    is_kept = facts.layout == "timm" and facts.resolved.backbone.library == "timm" and facts.task.name != "binary"
    if not is_kept or (head.mode, head.type) != ("replace", "linear") or packed.weights_digest == wanted:
        return True
    with opened(facts.directory / WEIGHTS_FILES[0]) as tensors:
        for name, _, shape, _ in tensors:
            path = name.removesuffix(".weight")
            if path != name and shape[:1] + shape[2:] == (len(facts.data.classes), 1, 1):
                layer = {f"{path}.weight": f"{path}.layer.weight", f"{path}.bias": f"{path}.layer.bias"}
                renamed = [(layer.get(t[0], t[0]), t[1], t[2][:2] if t[0] in layer else t[2], t[3]) for t in tensors]
                if tensors_digest(renamed) == wanted:
                    return True
    return False


def _is_finite(dtype: str, view: memoryview) -> bool:
    if dtype == "bfloat16":
        return bool(((np.frombuffer(view, "<u2") & 0x7F80) != 0x7F80).all())
    if dtype.startswith("float"):
        return bool(np.isfinite(np.frombuffer(view, f"<f{int(dtype[5:]) // 8}")).all())
    return True


def golden(facts: Facts) -> Findings:
    """The golden logits have an output for each class, and were measured on inputs of the model's shape."""
    found = Golden.read(facts.directory / GOLDEN_NAME)
    shape = found.tensor_logits_BK.shape
    if len(shape) != 2 or found.picture_logits_BK.shape[-1:] != shape[-1:]:
        yield CheckFinding.wrong(GOLDEN_NAME, "the golden logits have no common number of outputs")
    elif shape[1] != len(facts.data.classes):
        yield CheckFinding.wrong(GOLDEN_NAME, f"{shape[1]} outputs, data.json has {len(facts.data.classes)} classes")
    if not (np.isfinite(found.tensor_logits_BK).all() and np.isfinite(found.picture_logits_BK).all()):
        yield CheckFinding.wrong(GOLDEN_NAME, "a golden logit is NaN or infinite")
    if found.input_shape != (facts.resolved.preprocess.in_chans, *facts.resolved.preprocess.img_size):
        yield CheckFinding.wrong(GOLDEN_NAME, f"the input is {found.input_shape}, not that of resolved.json")


def snippets(facts: Facts) -> Findings:
    """The programs of the card are those of this layout: what was run is what is shown."""
    programs = snippets_for(facts.layout, facts.resolved)
    for snippet in facts.snippets:
        if programs.get(snippet.library) != snippet.code:
            yield CheckFinding.wrong("evidence/snippets.json", f"the {snippet.library} program is none of hubtool's")


def hub_results(facts: Facts) -> Findings:
    """The results in the Hub's newer form are those of the claims, and are there for a data set of the Hub alone."""
    wanted = eval_results(facts)
    path = facts.directory / EVAL_NAME
    if (path.read_text(encoding="utf-8") if path.is_file() else None) != wanted:
        yield CheckFinding.wrong(
            EVAL_NAME,
            "is not what the claims give" if wanted else "there is no data set of the Hub that it could be of",
        )


CHECKS: dict[str, Callable[[Facts], Findings]] = {
    "digests": digests,
    "recipe": recipe,
    "claims from evidence": claims,
    "log": log,
    "architecture": architecture,
    "class names": classes,
    "preprocessing": preprocessing,
    "weights": weights,
    "golden shapes": golden,
    "snippets": snippets,
    "results for the hub": hub_results,
}
