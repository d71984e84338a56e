"""The front matter of a card: metadata by the Hub's specification, as YAML that every reader takes alike.

Specification: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Every string is quoted and every float has
a point, so that YAML 1.1 (PyYAML on the hub's side) and 1.2 (this project's reader) agree.
"""

from __future__ import annotations

import json
from typing import Any

from hubtool.core.errors import SecurityError
from hubtool.core.ids import RepoId
from hubtool.package.facts import Facts


def metadata(facts: Facts, repo: str) -> dict[str, Any]:
    """The front matter as a value; keys in the order in which they are written."""
    backbone = facts.resolved.backbone
    value: dict[str, Any] = {"license": facts.license.id}
    if facts.license.name:
        value |= {"license_name": facts.license.name}
    value["library_name"] = "hubtool" if facts.layout == "torchvision" else facts.layout
    value["pipeline_tag"] = facts.task.pipeline_tag
    value["tags"] = ["hubtool", facts.task.pipeline_tag, f"{facts.task.name}"]
    if backbone.repo_id:
        value |= {"base_model": backbone.repo_id, "base_model_relation": "finetune"}
        if backbone.revision:
            value["base_model_revision"] = backbone.revision
    dataset = dataset_id(facts)
    if dataset:
        value["datasets"] = [dataset]
    value["metrics"] = list(dict.fromkeys(row.hub_id for row in facts.claims if row.hub_id != "loss"))
    if facts.claims:
        value["model-index"] = [{"name": _model_name(facts, repo), "results": _results(facts)}]
    value["hubtool"] = {
        "backbone": facts.backbone_name,
        "backbone_digest": facts.result.backbone_digest,
        "recipe_digest": facts.result.recipe_digest,
        "data_digest": facts.result.data_digest,
        "weights_digest": facts.result.weights_digest,
    }
    return value


def dataset_id(facts: Facts) -> str | None:
    """The data set's id on the Hub, where ``run.card.dataset`` is one."""
    try:
        return str(RepoId(facts.card.dataset)) if facts.card.dataset else None
    except SecurityError:
        return None


EVAL_NAME = ".eval_results/hubtool.yaml"


def eval_results(facts: Facts) -> str | None:
    """The headline in the Hub's newer form, for a data set that has an id there; None for others.

    Specification: https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml.
    """
    dataset, row = dataset_id(facts), facts.headline
    if dataset is None or row is None:
        return None
    claim = row.claim
    notes = f"{row.title} on {claim.num_samples} pictures of the {claim.split} split, by {claim.evidence}"
    return to_yaml([{"dataset": {"id": dataset, "task_id": "default"}, "value": claim.value, "notes": notes}])


def _model_name(facts: Facts, repo: str) -> str:
    return repo.partition("/")[2] if repo != "OWNER/NAME" else one_line(facts.title)


def _results(facts: Facts) -> list[dict[str, Any]]:
    """One result per claimed split."""
    dataset = dataset_id(facts)
    name = dataset or (
        one_line(facts.card.dataset)
        if facts.card.dataset
        else f"a folder of pictures with {facts.task.counted(facts.num_classes)}"
    )
    results = []
    for split in dict.fromkeys(row.claim.split for row in facts.claims):
        rows = [row for row in facts.claims if row.claim.split == split]
        results.append(
            {
                "task": {"type": facts.task.pipeline_tag, "name": facts.task.name},
                "dataset": {
                    "name": name,
                    "type": dataset or "imagefolder",
                    "split": split,
                    "args": {"num_samples": rows[0].claim.num_samples, "data_digest": facts.result.data_digest},
                },
                "metrics": [{"type": r.hub_id, "name": r.title, "value": r.claim.value} for r in rows],
            }
        )
    return results


def one_line(text: str) -> str:
    """Printable, and one line: a title becomes no other YAML, heading or table cell than was meant."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def to_yaml(value: Any, indent: int = 0) -> str:
    """Block style for mappings and lists of mappings; ends with a line feed."""
    pad = "  " * indent
    if isinstance(value, dict):
        return "".join(f"{pad}{key}:{_child(child, indent)}" for key, child in value.items())
    return "".join(f"{pad}- {_item(item, indent)}" for item in value)


def _child(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + to_yaml(value, indent + 1)
    return f" {_scalar(value)}\n"


def _item(value: Any, indent: int) -> str:
    return to_yaml(value, indent + 1).lstrip(" ") if isinstance(value, dict) else f"{_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if value in ([], {}):
        return "[]" if value == [] else "{}"
    if isinstance(value, str):
        plain = value.replace("-", "").replace("_", "")
        return value if plain.isalpha() and plain.isascii() and plain.lower() not in _WORDS else _quoted(value)
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)


_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}


def _quoted(text: str) -> str:
    return json.dumps(one_line(text), ensure_ascii=False)
