"""What timm knows offline of its models: where the weights are, licence, input, and config.json as it reads it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
from timm.models import get_pretrained_cfg, is_model
from timm.models._hub import load_model_config_from_path
from timm.models._pretrained import PretrainedCfg

from hubtool.core.errors import IntegrityError, NotFoundError
from hubtool.records.backbone import BackboneEntry, Origin, Preprocess


def find_cfg(name: str) -> Any:
    """timm's own entry for ``architecture`` or ``architecture.tag``; raises NotFoundError with the nearest names."""
    architecture, _, tag = name.partition(".")
    if is_model(architecture):
        try:
            return get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:  # an unknown tag, or an architecture without any weights
            if not tag:
                return PretrainedCfg(architecture=architecture)
    if is_model(architecture):
        tags = [n for n in timm.list_pretrained() if n.partition(".")[0] == architecture]
        near = difflib.get_close_matches(name, tags, n=3, cutoff=0.0)
        wanted = f"{architecture} has no weights {tag!a}"
    else:
        known = timm.list_models()
        near = [f"timm:{n}" for n in difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)]
        near = [n.removeprefix("timm:") for n in near]
        wanted = f"timm has no architecture {architecture!a}"
    do = f"did you mean {' or '.join(f'timm:{n}' for n in near[:3])}?" if near else "`hubtool search` lists them"
    raise NotFoundError("E-REF-404", wanted, where=f"timm:{name}", do=do)


def locate(name: str) -> Origin:
    """Where timm says the weights are: a hub repository, else a URL, else nowhere (architectures without weights)."""
    cfg = find_cfg(name)
    if cfg.hf_hub_id:
        return Origin(repo_id=_repo_id(cfg))
    if cfg.url:
        return Origin(url=cfg.url if isinstance(cfg.url, str) else cfg.url[0])
    return Origin()


def _repo_id(cfg: Any) -> str:
    """``timm/`` alone stands for ``timm/ARCHITECTURE.TAG``."""
    repo_id = str(cfg.hf_hub_id)
    return f"{repo_id}{cfg.architecture}.{cfg.tag}" if repo_id.endswith("/") else repo_id


def weights_file(name: str) -> str | None:
    """The file inside the repository when it has another name than ``model.safetensors``."""
    return cast("str | None", find_cfg(name).hf_hub_filename)


def describe(ref: str, name: str, origin: Origin, directory: Path | None) -> BackboneEntry:
    """Metadata from timm's table, or from the directory's own config.json when there is one."""
    if directory is not None and (directory / "config.json").is_file():
        return describe_directory(ref, origin, directory)
    cfg = find_cfg(name)
    architecture = name.partition(".")[0]
    return _entry(ref, origin, architecture, cfg.to_dict(), {})


def describe_directory(ref: str, origin: Origin, directory: Path) -> BackboneEntry:
    cfg, architecture, model_args = directory_config(directory)
    return _entry(ref, origin, architecture, cfg, model_args)


def directory_config(directory: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """config.json as timm reads it, plus what timm knows of the architecture. Raises IntegrityError, NotFoundError."""
    try:
        cfg, architecture, model_args = load_model_config_from_path(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("E-CONFIG", f"no timm config: {error}", where="config.json") from error
    if not is_model(architecture):
        find_cfg(architecture)
    known = get_pretrained_cfg(architecture)
    full = (known.to_dict() if known is not None else {}) | cfg
    return full, architecture, model_args


def _entry(
    ref: str, origin: Origin, architecture: str, cfg: Mapping[str, Any], model_args: Mapping[str, Any]
) -> BackboneEntry:
    license_ = cfg.get("license")
    return BackboneEntry(
        ref=ref,
        library="timm",
        architecture=architecture,
        origin=origin,
        license=None if license_ in (None, "unknown", "other") else str(license_),
        num_classes=int(cfg.get("num_classes", 1000)),
        num_features=cfg.get("num_features"),
        preprocess=_preprocess(cfg),
    )


def _preprocess(cfg: Mapping[str, Any]) -> Preprocess:
    channels, height, width = cfg.get("input_size", (3, 224, 224))
    return Preprocess(
        img_size=(int(height), int(width)),
        in_chans=int(channels),
        crop_pct=min(1.0, float(cfg.get("crop_pct") or 0.875)),
        crop_mode=cfg.get("crop_mode") or "center",
        interpolation=cfg.get("interpolation") or "bicubic",
        mean=tuple(float(v) for v in cfg.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(float(v) for v in cfg.get("std", (0.229, 0.224, 0.225))),
    )
