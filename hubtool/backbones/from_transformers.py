"""transformers: image classifiers in its own layout. The library is an extra; without it these references say so.

A transformers model returns an object; ours returns its logits, and is otherwise the very class (names, config, files).
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hubtool.backbones import classifiers, heads_io, layout, modules, weights
from hubtool.backbones.modules import is_under
from hubtool.core.errors import IntegrityError, NotFoundError, UsageError
from hubtool.core.files import write_json
from hubtool.records.backbone import PROCESSOR_NAME, BackboneEntry, Origin, Preprocess
from hubtool.records.package import Layout
from hubtool.records.resolve import ResolvedRecipe

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_CONVNEXT_SQUASHED = 384  # from this edge on its processor squashes
_OTHER_HEADS = ("pooler", "lm_head", "decoder", "mask_token", "predictions", "projection", "logit_scale", "text_model")


def is_here() -> bool:
    """Whether it can be imported: it refuses to where another distribution is too old or too new for it."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            "E-EXTRA",
            f"this backbone needs transformers ({why})",
            do="pip install -U 'hubtool[transformers]'",
        ) from error
    return transformers


def _config(directory: Path) -> Any:
    """The configuration, of a model type that classifies images. Raises UsageError, IntegrityError."""
    library = _library()
    value = layout.read_config(directory)
    try:
        with _quiet():
            config = library.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("E-CONFIG", f"no transformers config: {error}", where="config.json") from error
    if type(config) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise UsageError(
            "E-REF-TASK",
            f"transformers has no image classifier of type {value.get('model_type')!a}",
            where=directory.name,
        )
    return config


def describe(ref: str, origin: Origin, directory: Path) -> BackboneEntry:
    """From config.json and preprocessor_config.json."""
    config = _config(directory)
    return BackboneEntry(
        ref=ref,
        library="transformers",
        architecture=str(config.model_type),
        origin=origin,
        num_classes=int(config.num_labels) if _has_classifier(config) else 0,
        preprocess=_preprocess(config, directory),
    )


def _has_classifier(config: Any) -> bool:
    """Whether the checkpoint was saved by a classifier (a bare backbone's config says two labels all the same)."""
    return any("ForImageClassification" in str(name) for name in config.architectures or ())


def _preprocess(config: Any, directory: Path) -> Preprocess:
    path = directory / PROCESSOR_NAME
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError("E-CONFIG", "it is no JSON", where=PROCESSOR_NAME) from error
    value = _processor_defaults(value) | value
    size = value.get("size", value.get("crop_size", getattr(config, "image_size", 224)))
    img_size, crop_pct, is_squashed = _sizes(size, value)
    in_chans = int(getattr(config, "num_channels", 3))
    mean = tuple(float(v) for v in value.get("image_mean") or (0.485, 0.456, 0.406))
    std = tuple(float(v) for v in value.get("image_std") or (0.229, 0.224, 0.225))
    return Preprocess(
        img_size=img_size,
        in_chans=in_chans,
        crop_pct=crop_pct,
        crop_mode="squash" if is_squashed else "center",
        interpolation=_RESAMPLE.get(value.get("resample", 3), "bicubic"),  # type: ignore[arg-type]
        mean=mean if len(mean) == in_chans else (mean[0],) * in_chans,
        std=std if len(std) == in_chans else (std[0],) * in_chans,
    )


def _processor_defaults(value: Mapping[str, Any]) -> dict[str, Any]:
    """What the named processor takes for keys that are not written down; nothing where none is named."""
    keys = ("resample", "image_mean", "image_std", "size", "do_center_crop", "crop_size")
    if not _kind(value) or all(key in value for key in keys[:4]):
        return {}
    name = _kind(value).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    known = getattr(_library(), name, None)
    own = {key: getattr(known, key, None) for key in keys if key not in value}
    return {key: setting for key, setting in own.items() if setting is not None}


def _kind(value: Mapping[str, Any]) -> str:
    return str(value.get("image_processor_type") or value.get("feature_extractor_type") or "")


def _sizes(size: Any, value: Mapping[str, Any]) -> tuple[tuple[int, int], float, bool]:
    """(height, width), crop_pct, whether the picture is squashed to that size instead of cropped."""
    crop = _pair(value["crop_size"]) if value.get("do_center_crop") and value.get("crop_size") is not None else None
    if _is_convnext(value):
        edge = _pair(size)[0]
        is_squashed = edge >= _CONVNEXT_SQUASHED
        return (edge, edge), 1.0 if is_squashed else float(value.get("crop_pct") or 224 / 256), is_squashed
    height, width = _pair(size)
    if crop is not None:
        return crop, min(1.0, crop[0] / height), False
    if isinstance(size, dict) and "shortest_edge" in size:
        return (height, height), float(value.get("crop_pct") or 1.0), False
    return (height, width), 1.0, True


def _is_convnext(value: Mapping[str, Any]) -> bool:
    """Its processor, ResNet's too, crops by ``crop_pct``, whatever form the size has."""
    return _kind(value).startswith("ConvNext")


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        edge: Any = size.get("shortest_edge", 224)
        height: Any = size.get("height", edge)
        width: Any = size.get("width", edge)
        return int(height), int(width)
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]), int(values[-1])


def build(
    entry: BackboneEntry,
    directory: Path | None,
    *,
    pretrained: bool,
    preprocess: Preprocess,
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The classifier of the repository's model type. A checkpoint of the bare backbone gets a new, random classifier."""
    if directory is None:
        raise NotFoundError("E-BACKBONE-FILES", f"{entry.ref} is not here", do=f"`hubtool pull {entry.ref}`")
    config = _config(directory)
    if drop_path:
        if not hasattr(config, "drop_path_rate"):
            raise UsageError("E-BACKBONE-ARGS", f"{config.model_type} has no drop_path", do="train.drop_path: 0")
        config.drop_path_rate = drop_path
    config.num_labels = config.num_labels or 1
    wanted = _resized(config, preprocess)
    if not pretrained:
        return _create(wanted, seed)
    model = _load(config, directory, entry.ref, seed)
    if wanted.to_dict() == config.to_dict():
        return model
    other = _create(wanted, seed)
    own = other.state_dict()
    weights.load_strict(other, {n: _adapt(n, t, own, preprocess) for n, t in model.state_dict().items()}, ())
    other.hubtool_is_headless = model.hubtool_is_headless
    return other


def _resized(config: Any, preprocess: Preprocess) -> Any:
    wanted = copy.deepcopy(config)
    if getattr(config, "image_size", None) is not None:
        height, width = preprocess.img_size
        is_pair = isinstance(config.image_size, list | tuple)
        wanted.image_size = type(config.image_size)((height, width)) if is_pair else height
    if preprocess.in_chans != int(getattr(config, "num_channels", 3)):
        wanted.num_channels = preprocess.in_chans
    return wanted


def _create(config: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        try:
            model = _library().AutoModelForImageClassification.from_config(config, dtype=torch.float32)
        except (ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
            raise UsageError("E-BACKBONE-ARGS", f"transformers cannot build {config.model_type}: {error}") from error
    return _returning_logits(model)


def _returning_logits(model: Any) -> nn.Module:
    """The same object, whose forward gives logits_BK. Its class keeps its name, which save and config show."""
    original = type(model)

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        return cast("Tensor", original.forward(self, pixel_values=pixel_values).logits)

    model.__class__ = type(original.__name__, (original,), {"forward": forward, "__module__": original.__module__})
    return cast("nn.Module", model)


def _load(config: Any, directory: Path, what: str, seed: int) -> Any:
    """Loaded by transformers, which knows the names of older files, and checked by us: only the classifier may be missing,
    only heads of other tasks left over."""
    weights.load_directory(directory, what=what)
    auto = _library().AutoModelForImageClassification
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        try:
            model, info = auto.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise IntegrityError("E-WEIGHTS-MISMATCH", f"transformers cannot load it: {error}", where=what) from error
    _returning_logits(model)
    heads = classifiers.classifier_paths(model, "transformers")
    missing = set(info["missing_keys"])
    wrong = [f"missing {name}" for name in sorted(missing) if not is_under(name, heads)]
    wrong += [f"shape of {row[0]}" for row in sorted(info["mismatched_keys"]) if not is_under(row[0], heads)]
    wrong += [f"unexpected {n}" for n in sorted(info["unexpected_keys"]) if not any(o in n for o in _OTHER_HEADS)]
    if wrong or info.get("error_msgs"):
        raise IntegrityError(
            "E-WEIGHTS-MISMATCH",
            f"the file and the model type do not belong together: {'; '.join(wrong[:20])}",
            where=what,
        )
    model.hubtool_is_headless = any(is_under(name, heads) for name in missing)
    for parameter in model.parameters():  # out of the mapped file: alignment changes the last bit of some kernels
        parameter.data = parameter.data.clone()
    return model


def _adapt(name: str, tensor: Tensor, own: Mapping[str, Tensor], preprocess: Preprocess) -> Tensor:
    """Another number of channels, another grid of positions: by timm's functions."""
    wanted = own.get(name)
    if wanted is None or wanted.shape == tensor.shape:
        return tensor
    from hubtool.backbones import from_timm

    if tensor.ndim == 4 and wanted.shape[1] == preprocess.in_chans and wanted.shape[0] == tensor.shape[0]:
        return from_timm.adapt_channels(preprocess.in_chans, tensor)
    if name.endswith(("position_embeddings", "pos_embed")) and tensor.ndim == 3 and wanted.shape[2] == tensor.shape[2]:
        return from_timm.resample_positions(tensor, int(wanted.shape[1]), preprocess.img_size)
    return tensor


def export(
    model: nn.Module, resolved: ResolvedRecipe, classes: tuple[str, ...], directory: Path, num_base_classes: int
) -> Layout:
    """transformers' own layout; for other heads the classifier's place is named in the ``hubtool`` section."""
    state, head_state = heads_io.split(model, resolved, "transformers")
    value = cast("Any", model).config.to_dict()
    value["architectures"] = [type(model).__name__]
    for name in ("num_labels", "_name_or_path"):  # the latter is a directory of this machine
        value.pop(name, None)
    labels = list(classes)
    if head_state:
        head = heads_io.spec(model, resolved, "transformers")
        if resolved.head.mode == "replace":
            head["place"] = classifiers.classifier_paths(model, "transformers")[0]
        labels = [f"LABEL_{i}" for i in range(num_base_classes if resolved.head.mode == "append" else 1)]
        value["hubtool"] = {"library": "transformers", "classes": list(classes), "head": head}
        weights.save(head_state, directory / heads_io.HEAD_NAME)
    value["id2label"] = {str(i): name for i, name in enumerate(labels)}
    value["label2id"] = {name: i for i, name in enumerate(labels)}
    weights.save(state, directory / weights.WEIGHTS_NAME)
    write_json(directory / layout.CONFIG_NAME, value)
    write_json(directory / PROCESSOR_NAME, _processor(resolved.preprocess))
    return "hubtool" if head_state else "transformers"


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    """The preprocessing as transformers' image processors read it."""
    height, width = preprocess.img_size
    common: dict[str, Any] = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": next(number for number, name in _RESAMPLE.items() if name == preprocess.interpolation),
    }
    if preprocess.crop_mode == "squash":
        return common | {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}
    return common | {
        "image_processor_type": "BitImageProcessor",
        "crop_size": {"height": height, "width": width},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "size": {"shortest_edge": round(min(height, width) / preprocess.crop_pct)},
    }


def load_directory(directory: Path) -> nn.Module:
    """The model of a directory in transformers' layout, every tensor accounted for."""
    config = _config(directory)
    model = _create(config, 0)
    place = layout.head_place(directory)
    state = weights.load_directory(directory, what=directory.name)
    if place is not None and f"{place}.weight" not in state:
        modules.put(model, place, nn.Identity())
    weights.load_strict(model, state, ())
    return model.eval()


def plain(directory: Path) -> nn.Module:
    """What anybody's AutoModelForImageClassification makes of a directory, in eval mode. For comparing logits."""
    from transformers import AutoModelForImageClassification

    with _quiet():
        model: Any = AutoModelForImageClassification.from_pretrained(directory, local_files_only=True)
    for parameter in model.parameters():  # out of the mapped file: alignment changes the last bit of some kernels
        parameter.data = parameter.data.clone()
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on stderr; what matters is compared or raised."""
    from transformers.utils import logging

    was_level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(was_level)
        if had_bar:
            logging.enable_progress_bar()
