"""config.json and the processor's file against resolved.json and data.json: what a library reads is what was trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubtool.core.errors import IntegrityError
from hubtool.package.facts import Facts
from hubtool.records.backbone import PROCESSOR_NAME
from hubtool.records.reports import CheckFinding

Findings = Iterator[CheckFinding]


def classes(facts: Facts) -> Findings:
    """Class names: each library reads them from a place of its own in config.json; there is one, and all say data.json's."""
    config = _config(facts)
    cfg, own = (config[key] if isinstance(config.get(key), dict) else {} for key in ("pretrained_cfg", "hubtool"))
    places: dict[str, object] = {
        "label_names": config.get("label_names"),
        "pretrained_cfg.label_names": cfg.get("label_names"),
        "hubtool.classes": own.get("classes"),
    }
    if places["hubtool.classes"] is None:  # else transformers loads the headless backbone alone
        if isinstance(by_number := config.get("id2label"), dict):
            places["id2label"] = [by_number.get(str(i)) for i in range(len(by_number))]
        if isinstance(numbers := config.get("label2id"), dict):
            places["label2id"] = sorted(numbers, key=lambda name: str(numbers[name]).zfill(9))
    found = {place: names for place, names in places.items() if names is not None}
    if not found:
        yield CheckFinding.wrong("config.json", "the class names are missing")
    for place, names in found.items():
        if not isinstance(names, list) or tuple(names) != facts.data.classes:
            yield CheckFinding.wrong("config.json", f"{place} does not name the classes of data.json")
    if len(set(facts.data.classes)) != len(facts.data.classes):
        yield CheckFinding.wrong("data.json", "a class name stands twice")


# What timm reads in a pretrained_cfg to take the weights from another place, or by other code.
_ELSEWHERE = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


def architecture(facts: Facts) -> Findings:
    """config.json builds the network that was trained, for these outputs, and takes its weights from the package."""
    config, backbone = _config(facts), facts.resolved.backbone
    cfg = config.get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    for key in _ELSEWHERE:
        if cfg.get(key):
            yield CheckFinding.wrong("config.json", f"pretrained_cfg.{key} names other weights than the package's")
    if facts.layout != "timm":
        return
    if backbone.library == "timm" and config.get("architecture") != backbone.architecture:
        yield CheckFinding.wrong(
            "config.json",
            f"the architecture is {config.get('architecture')}, resolved.json says {backbone.architecture}",
        )
    for number in (config.get("num_classes"), cfg.get("num_classes", config.get("num_classes"))):
        if number != facts.num_classes:
            yield CheckFinding.wrong("config.json", f"num_classes is {number}, data.json has {facts.num_classes}")
            return


def preprocessing(facts: Facts) -> Findings:
    """config.json, or the processor's, tells its reader the preprocessing of resolved.json."""
    config = _config(facts)
    if "auto_map" in config or "custom_pipelines" in config:
        yield CheckFinding.wrong("config.json", "asks its reader to run code of the repository")
    p = facts.resolved.preprocess
    own = config.get("hubtool")
    if isinstance(own, dict) and own.get("preprocess", p.to_dict()) != p.to_dict():
        yield CheckFinding.wrong("config.json", "hubtool.preprocess is not that of resolved.json")
    if (facts.directory / PROCESSOR_NAME).is_file():
        yield from _processor(facts)
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, dict):
        return
    wanted = {
        "input_size": [p.in_chans, *p.img_size],
        "mean": list(p.mean),
        "std": list(p.std),
        "crop_pct": p.crop_pct,
        "crop_mode": p.crop_mode,
        "interpolation": p.interpolation,
    }
    for key, value in wanted.items():
        if cfg.get(key) != value:
            yield CheckFinding.wrong(
                "config.json", f"pretrained_cfg.{key} is {cfg.get(key)}, resolved.json says {value}"
            )


def _processor(facts: Facts) -> Findings:
    config, p = _json_of(facts.directory / PROCESSOR_NAME), facts.resolved.preprocess
    size = config.get("crop_size", config.get("size"))
    wanted = (
        ("image_mean", config.get("image_mean"), list(p.mean)),
        ("image_std", config.get("image_std"), list(p.std)),
        ("the input", size, {"height": p.img_size[0], "width": p.img_size[1]}),
    )
    for name, now, then in wanted:
        if now != then:
            yield CheckFinding.wrong(PROCESSOR_NAME, f"{name} is {now}, resolved.json says {then}")


def _config(facts: Facts) -> dict[str, Any]:
    return _json_of(facts.directory / "config.json")


def _json_of(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise IntegrityError("E-CONFIG", f"cannot be read: {error}", where=path.name) from error
    if not isinstance(config, dict):
        raise IntegrityError("E-CONFIG", "no mapping of keys", where=path.name)
    return config
