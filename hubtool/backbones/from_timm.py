"""timm: models, and their weights through our strict loader."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from timm.models import _builder, get_pretrained_cfg
from timm.models._manipulate import adapt_input_conv, group_with_matcher
from timm.models._pretrained import filter_pretrained_cfg
from torch import Tensor, nn

from hubtool.backbones import classifiers, layout, modules, timm_table, weights
from hubtool.backbones.modules import unfilled
from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError, UsageError
from hubtool.records.backbone import BackboneEntry, Preprocess

_BUILDING = threading.Lock()
_NOT_EXPORTED = {
    *(
        "tag",
        "label_offset",
        "label_names",
        "label_descriptions",
        "license",
        "num_classes",
        "custom_load",
        "state_dict",
    ),
    *("test_input_size", "test_crop_pct", "test_pool_size", "min_input_size", "pool_size"),
}


def build(
    entry: BackboneEntry,
    directory: Path | None,
    *,
    pretrained: bool,
    preprocess: Preprocess,
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The model with its original head. Weights are adapted by timm's own functions and loaded by our strict loader."""
    has_config = directory is not None and (directory / "config.json").is_file()
    saved_args: dict[str, Any] = {}
    source_cfg: dict[str, Any] | None = None
    if has_config and directory is not None:
        source_cfg, _, saved_args = timm_table.directory_config(directory)
    args = dict(saved_args) | _input_args(entry, preprocess, saved_args)
    if source_cfg is not None and "num_classes" in source_cfg:
        args["num_classes"] = int(source_cfg["num_classes"])
    if drop_path:
        args["drop_path_rate"] = drop_path
    name = _name(entry)
    if not pretrained:
        return create(name, args, seed=seed, source_cfg=source_cfg)
    if directory is None:
        raise NotFoundError("E-BACKBONE-FILES", f"{entry.ref} is not here", do=f"`hubtool pull {entry.ref}`")
    state = weights.load_directory(directory, what=entry.ref)
    return _create_with(name, args, state, saved_args, source_cfg, seed=seed)


def _name(entry: BackboneEntry) -> str:
    """The name timm builds from: with its tag where the reference has one, for its metadata differs by tag."""
    _, _, name = entry.ref.partition(":")
    name = name.partition("@")[0]
    is_tagged = entry.ref.startswith("timm:") and name.partition(".")[0] == entry.architecture
    return name if is_tagged else entry.architecture


def _input_args(entry: BackboneEntry, preprocess: Preprocess, saved_args: Mapping[str, Any]) -> dict[str, Any]:
    """``in_chans`` and ``img_size`` where they differ from what the weights were made for."""
    args: dict[str, Any] = {}
    if preprocess.in_chans != saved_args.get("in_chans", entry.preprocess.in_chans):
        args["in_chans"] = preprocess.in_chans
    cfg = get_pretrained_cfg(_name(entry)) or get_pretrained_cfg(entry.architecture)
    is_fixed = bool(cfg is not None and cfg.fixed_input_size) or "img_size" in saved_args
    built_for = saved_args.get("img_size") or (cfg.input_size[-2:] if cfg is not None else entry.preprocess.img_size)
    if is_fixed and tuple(_pair(built_for)) != tuple(preprocess.img_size):
        args["img_size"] = tuple(preprocess.img_size)
    return args


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def create(
    name: str,
    args: Mapping[str, Any],
    *,
    seed: int = 0,
    source_cfg: Mapping[str, Any] | None = None,
    is_filled: bool = True,
) -> nn.Module:
    """A model with seeded random weights; the global generator is left as it was.

    Without ``is_filled`` its tensors hold anything: for a caller that loads every one of them.
    """
    overlay = {k: v for k, v in (source_cfg or {}).items() if k not in ("file", "source", "architecture", "tag")}
    try:
        with torch.random.fork_rng(devices=[]), nullcontext() if is_filled else unfilled():
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=False, pretrained_cfg_overlay=overlay or None, **args)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise _cannot_build(name, args, error) from error
    return cast("nn.Module", model)


def _cannot_build(name: str, args: Mapping[str, Any], error: Exception) -> HubtoolError:
    asked = ", ".join(f"{key}={value}" for key, value in args.items())
    return UsageError("E-BACKBONE-ARGS", f"timm cannot build {name} with {asked or 'its defaults'}: {error}")


def _create_with(
    name: str,
    args: Mapping[str, Any],
    state: dict[str, Tensor],
    saved_args: Mapping[str, Any],
    source_cfg: Mapping[str, Any] | None,
    *,
    seed: int,
) -> nn.Module:
    overlay = {k: v for k, v in (source_cfg or {}).items() if k not in ("file", "source", "architecture", "tag")}
    overlay |= {"state_dict": state, "custom_load": False}
    if saved_args:
        args = dict(args) | {"pretrained_model_args": dict(saved_args)}
    try:
        with torch.random.fork_rng(devices=[]), _strictly():
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args)
    except HubtoolError:
        raise
    except (TypeError, AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise IntegrityError("E-WEIGHTS-MISMATCH", f"timm cannot fit the weights to {name}: {error}") from error
    model.pretrained_cfg.pop("state_dict", None)
    return cast("nn.Module", model)


@contextmanager
def _strictly() -> Iterator[None]:
    """While it holds, timm's ``load_pretrained`` ends in our strict loader.

    timm filters and adapts a checkpoint inside ``create_model`` (the filter of a family is known only there) and may
    then load with ``strict=False``. Its last call, ``model.load_state_dict``, is taken over on that one instance.
    """
    original = _builder.load_pretrained

    def load_pretrained(model: nn.Module, *args: Any, **kwargs: Any) -> None:
        heads = classifiers.classifier_paths(model, "timm")

        def strict(state: Mapping[str, Tensor], **_: object) -> Any:
            own = model.state_dict()
            keep = {k: v for k, v in state.items() if k in own or not _is_leftover(k, own, model)}
            weights.load_strict(model, keep, heads)
            return torch.nn.modules.module._IncompatibleKeys([], [])

        model.load_state_dict = strict
        try:
            original(model, *args, **kwargs)
        finally:
            del model.__dict__["load_state_dict"]

    with _BUILDING:
        _builder.load_pretrained = load_pretrained
        try:
            yield
        finally:
            _builder.load_pretrained = original


def _is_leftover(key: str, own: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Keys of a file that carry no weights of the model: counters, and buffers that are computed and not kept."""
    if key.endswith(("num_batches_tracked", "total_ops", "total_params")):
        return True
    return key in dict(model.named_buffers())


def config(model: nn.Module, preprocess: Preprocess, num_classes: int) -> dict[str, Any]:
    """config.json in timm's form, from which unmodified timm and transformers build this model.

    ``model_args`` never holds ``num_classes``: with it transformers raises TypeError (timm's own ``save_for_hf`` writes it).
    """
    cfg = {
        key: value
        for key, value in filter_pretrained_cfg(dict(model.pretrained_cfg), remove_source=True).items()
        if key not in _NOT_EXPORTED
    }
    made_with: dict[str, Any] = dict(getattr(model, "_model_args", {}))
    args = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in made_with.items()
        if key not in ("num_classes", "pretrained_model_args", "cache_dir") and not key.endswith("drop_rate")
        and not key.endswith("drop_path_rate")
    }  # fmt: skip
    pool = getattr(model, "hubtool_global_pool", None)
    if pool is not None:
        args["global_pool"] = pool
    cfg |= {
        "custom_load": False,
        "input_size": [preprocess.in_chans, *preprocess.img_size],
        "fixed_input_size": bool(cfg.get("fixed_input_size", False)),
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_pct,
        "crop_mode": preprocess.crop_mode,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": num_classes,
    }
    value: dict[str, Any] = {
        "architecture": str(cfg.pop("architecture")),
        "num_classes": num_classes,
        "num_features": int(getattr(model, "num_features", 0)),
        "pretrained_cfg": cfg,
    }
    value |= {"model_args": args} if args else {}
    if pool is not None and "fc_norm" not in args and not _builds(value, model):
        args["fc_norm"] = False  # timm's ViT would move its last norm behind the pooling it is built with
    return value


def load_directory(directory: Path) -> nn.Module:
    """The model of a directory in timm's layout, every tensor accounted for."""
    cfg, architecture, model_args = timm_table.directory_config(directory)
    args = dict(model_args) | {"num_classes": int(cfg.get("num_classes", 1000))}
    place = layout.head_place(directory)
    model = create(architecture, args, source_cfg=cfg, is_filled=False)
    if place is not None:
        modules.put(model, place, nn.Identity())
    weights.load_strict(model, weights.load_directory(directory, what=directory.name), ())
    return model.eval()


def adapt_channels(in_chans: int, weight: Tensor) -> Tensor:
    """A first convolution's weight for another number of channels, as timm does it (the sum over colours is kept)."""
    return cast("Tensor", adapt_input_conv(in_chans, weight.clone()))


def coarse_groups(model: nn.Module, names: list[str]) -> tuple[list[list[str]], set[str]] | None:
    """timm's coarse groups of parameter names in order, and the names that no rule claims (neck and head).

    None where the model has no ``group_matcher``, or none that gives groups.
    """
    if not hasattr(model, "group_matcher"):
        return None
    nothing = "\0"
    try:
        matcher = model.group_matcher(coarse=True)
        numbers = group_with_matcher(((n, n) for n in [*names, nothing]), matcher, reverse=True)
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError, AssertionError):
        return None
    last = numbers.pop(nothing)
    rest = {name for name, number in numbers.items() if number == last}
    groups = [[n for n in names if numbers[n] == number] for number in sorted(set(numbers.values()) - {last})]
    return (groups, rest) if len(groups) >= 2 else None


def is_resolution_changing(model: nn.Module) -> bool | None:
    """Whether timm's feature_info lists several reductions; None where it has none."""
    info = getattr(model, "feature_info", None)
    if isinstance(info, list) and info and all(isinstance(row, dict) and "reduction" in row for row in info):
        return len({str(row["reduction"]) for row in info}) > 1
    return None


def untraced() -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """What timm asks torch.fx not to look into: modules and functions."""
    return tuple(get_notrace_modules()), tuple(f for f in get_notrace_functions() if callable(f))


def resample_positions(positions_1ND: Tensor, num_tokens: int, img_size: tuple[int, int]) -> Tensor:
    """Position embeddings for another grid; extra tokens (class, distillation) stay as they are."""
    height, width = img_size
    for extra in (1, 2, 0, 5):
        old, new = positions_1ND.shape[1] - extra, num_tokens - extra
        side = math.isqrt(old) if old > 0 else 0
        rows = round(math.sqrt(new * height / width)) if new > 0 else 0
        if side and side * side == old and rows and rows * (new // rows) == new:
            grid = [rows, new // rows]
            return cast("Tensor", resample_abs_pos_embed(positions_1ND, grid, [side, side], num_prefix_tokens=extra))
    return positions_1ND


def _builds(value: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether the config builds a backbone with the model's tensors, the classifier aside."""
    heads = classifiers.classifier_paths(model, "timm")
    args = {key: tuple(v) if isinstance(v, list) else v for key, v in value.get("model_args", {}).items()}
    made = create(value["architecture"], args | {"num_classes": 1}, is_filled=False)
    names = {name for name in made.state_dict() if not modules.is_under(name, heads)}
    return names == {name for name in model.state_dict() if not modules.is_under(name, heads)}


def fits(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether the model of a config has exactly these tensors, by name."""
    args = {key: tuple(v) if isinstance(v, list) else v for key, v in config.get("model_args", {}).items()}
    made = create(config["architecture"], args | {"num_classes": config["num_classes"]}, is_filled=False)
    return set(made.state_dict()) == set(state)


def create_from(name: str, args: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module | None:
    """A model holding a foreign state, by timm's own filter for the family; None where that does not fit."""
    try:
        model = _create_with(name, args, dict(state), {}, {"num_classes": args["num_classes"]}, seed=0)
    except HubtoolError:
        return None
    return model.eval()


def plain(directory: Path) -> nn.Module:
    """What anybody's timm makes of a directory, in eval mode. For comparing logits."""
    return cast("nn.Module", timm.create_model(f"local-dir:{directory}", pretrained=True).eval())
