"""torchvision: its 80 classification builders and their weights, and the layout their fine-tunes travel in.

A fine-tune whose tensors fit a timm architecture one to one, with the same logits, is packed as a timm model. All others:
config.json with a ``hubtool`` section (architecture, model_args, classes, preprocess) and model.safetensors under
torchvision's own names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model_builder, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from hubtool.backbones import classifiers, heads_io, layout, modules, timm_twin, weights
from hubtool.backbones.modules import unfilled
from hubtool.core.errors import IntegrityError, NotFoundError, UsageError
from hubtool.core.files import write_json
from hubtool.core.settings import TORCHVISION_URL, read_settings
from hubtool.records.backbone import BackboneEntry, Origin, Preprocess
from hubtool.records.package import Layout
from hubtool.records.resolve import ResolvedRecipe

_WITH_AUXILIARY = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_SWAG_LICENSE = "cc-by-nc-4.0"


def names() -> list[str]:
    """Every classification builder."""
    return list(list_models(module=models))


def _weights(name: str, revision: str | None) -> Any:
    """The member of the weights enumeration, the default one without a revision; NotFoundError with the nearest names."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        do = f"did you mean {' or '.join(f'torchvision:{n}' for n in near)}?" if near else "`hubtool search` lists them"
        raise NotFoundError("E-REF-404", f"torchvision has no architecture {name!a}", do=do)
    known = get_model_weights(name)
    wanted = "DEFAULT" if revision is None else revision
    if wanted not in known.__members__:
        do = "there are: " + ", ".join(f"torchvision:{name}@{member.name}" for member in known)
        raise NotFoundError("E-REF-404", f"{name} has no weights {revision!a}", do=do)
    return known[wanted]


def locate(name: str, revision: str | None) -> Origin:
    """The URL of the weights, on the mirror that the settings name."""
    url = str(_weights(name, revision).url)
    return Origin(url=url.replace(TORCHVISION_URL, read_settings().torchvision_url), revision=None)


def describe(ref: str, name: str, revision: str | None, origin: Origin) -> BackboneEntry:
    """From torchvision's own table.

    It states a licence for the SWAG weights alone (their text is CC BY-NC 4.0); the others are under its own BSD licence,
    as timm lists the same files.
    """
    chosen = _weights(name, revision)
    meta, transforms = chosen.meta, chosen.transforms()
    height, width = _pair(transforms.crop_size)
    resize = _pair(transforms.resize_size)[0]
    return BackboneEntry(
        ref=f"torchvision:{name}@{chosen.name}",
        library="torchvision",
        architecture=name,
        origin=origin,
        license=_SWAG_LICENSE if "SWAG" in chosen.name else "bsd-3-clause",
        num_params=int(meta["num_params"]),
        num_classes=len(meta.get("categories") or range(1000)),
        preprocess=Preprocess(
            img_size=(height, width),
            crop_pct=min(1.0, height / resize),
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        ),
    )


def _pair(size: Any) -> tuple[int, int]:
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]), int(values[-1])


def describe_directory(ref: str, origin: Origin, directory: Path) -> BackboneEntry:
    """A directory in the layout that ``export`` writes."""
    own = _own_config(directory)
    return BackboneEntry(
        ref=ref,
        library="torchvision",
        architecture=str(own["architecture"]),
        origin=origin,
        num_classes=int(own["model_args"].get("num_classes", 1000)),
        preprocess=Preprocess.model_validate_json(_json(own["preprocess"])),
    )


def _own_config(directory: Path) -> dict[str, Any]:
    own = layout.read_config(directory).get("hubtool")
    if (
        not isinstance(own, dict)
        or own.get("architecture") not in names()
        or not isinstance(own.get("model_args"), dict)
    ):
        raise IntegrityError("E-CONFIG", "the hubtool section names no torchvision architecture", where="config.json")
    if "preprocess" not in own:
        raise IntegrityError("E-CONFIG", "the hubtool section has no preprocess", where="config.json")
    return own


def _json(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


def build(
    entry: BackboneEntry,
    directory: Path | None,
    *,
    pretrained: bool,
    preprocess: Preprocess,
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The model with its original head; auxiliary classifiers are left out (they exist for training from scratch)."""
    is_own = directory is not None and (directory / layout.CONFIG_NAME).is_file()
    saved: dict[str, Any] = dict(_own_config(directory)["model_args"]) if is_own and directory is not None else {}
    args = saved | _size_args(entry.architecture, preprocess)
    if pretrained and entry.architecture in _WITH_AUXILIARY and not is_own:
        args["transform_input"] = preprocess.in_chans == 3
    if drop_path:
        args["stochastic_depth_prob"] = drop_path
    model = create(entry.architecture, args, seed=seed)
    in_chans = preprocess.in_chans
    if not pretrained:
        if in_chans != 3:
            widen(model, in_chans, None)
        return model
    if directory is None:
        raise NotFoundError("E-BACKBONE-FILES", f"{entry.ref} is not here", do=f"`hubtool pull {entry.ref}`")
    state = weights.load_directory(directory, what=entry.ref)
    state = _resample(model, state, preprocess)
    if in_chans != 3:
        widen(model, in_chans, state)
    place = layout.head_place(directory)
    heads = () if place is None else (place,)
    weights.load_strict(model, state, heads, ignore=lambda key: key.startswith(_AUXILIARY) or _is_counter(key))
    return model


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _size_args(architecture: str, preprocess: Preprocess) -> dict[str, Any]:
    """Only the transformers with absolute positions and MaxViT are built for one size."""
    if architecture.startswith("vit_"):
        return {"image_size": _square(architecture, preprocess)}
    if architecture.startswith("maxvit"):
        return {"input_size": tuple(preprocess.img_size)}
    return {}


def _square(architecture: str, preprocess: Preprocess) -> int:
    height, width = preprocess.img_size
    if height != width:
        raise UsageError("E-BACKBONE-SIZE", f"{architecture} takes square pictures, not {height}x{width}")
    return height


def create(name: str, args: Mapping[str, Any], *, seed: int = 0, is_filled: bool = True) -> nn.Module:
    """A model with seeded random weights; the global generator is left as it was. ``is_filled`` as for timm."""
    given = dict(args)
    if name in _WITH_AUXILIARY:
        given |= {"aux_logits": False, "init_weights": is_filled}
    try:
        with torch.random.fork_rng(devices=[]), nullcontext() if is_filled else unfilled():
            torch.manual_seed(seed)
            model = cast("nn.Module", get_model_builder(name)(weights=None, **given))
    except (TypeError, ValueError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in given.items())
        raise UsageError(
            "E-BACKBONE-ARGS", f"torchvision cannot build {name} with {asked or 'its defaults'}: {error}"
        ) from error
    model.hubtool_args = dict(args)
    model.hubtool_name = name
    return model


def _resample(model: nn.Module, state: dict[str, Tensor], preprocess: Preprocess) -> dict[str, Tensor]:
    """Position embeddings of another size, by torchvision's own function."""
    key = "encoder.pos_embedding"
    own = model.state_dict().get(key)
    if own is None or key not in state or state[key].shape == own.shape:
        return state
    patch = int(model.patch_size)
    return dict(interpolate_embeddings(preprocess.img_size[0], patch, dict(state)))


def widen(model: nn.Module, in_chans: int, state: dict[str, Tensor] | None) -> None:
    """Another number of channels for the first convolution; its weights adapted by timm's function."""
    from hubtool.backbones import from_timm

    path, old = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    new = nn.Conv2d(in_chans, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    key = f"{path}.weight"
    adapted = from_timm.adapt_channels(in_chans, (state or {}).get(key, old.weight.detach()))
    with torch.no_grad():
        new.weight.copy_(adapted)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    if state is not None:
        state[key] = adapted
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).register_module(name, new)
    model.hubtool_in_chans = in_chans


def export(
    model: nn.Module,
    resolved: ResolvedRecipe,
    classes: tuple[str, ...],
    directory: Path,
    num_base_classes: int,
) -> Layout:
    """As a timm model where that is lossless, else in the layout of this file."""
    state, head_state = heads_io.split(model, resolved, "torchvision")
    if not head_state:
        twin = _timm_twin(model, resolved.preprocess, state, len(classes))
        if twin is not None:
            timm_twin.write(twin, resolved.preprocess, classes, directory)
            return "timm"
    num_classes = num_base_classes if head_state else len(classes)
    args = {k: list(v) if isinstance(v, tuple) else v for k, v in model.hubtool_args.items()}
    args |= {"aux_logits": False, "init_weights": False} if model.hubtool_name in _WITH_AUXILIARY else {}
    own: dict[str, Any] = {
        "library": "torchvision",
        "architecture": resolved.backbone.architecture,
        "model_args": args | {"num_classes": num_classes},
        "classes": list(classes),
        "preprocess": resolved.preprocess.to_dict(),
    }
    if head_state:
        own["head"] = heads_io.spec(model, resolved, "torchvision")
        if resolved.head.mode == "replace":
            own["head"]["place"] = classifiers.classifier_paths(model, "torchvision")[0]
        weights.save(head_state, directory / heads_io.HEAD_NAME)
    weights.save(state, directory / weights.WEIGHTS_NAME)
    write_json(directory / layout.CONFIG_NAME, {"hubtool": own})
    return "hubtool" if head_state else "torchvision"


def _timm_twin(
    model: nn.Module, preprocess: Preprocess, state: dict[str, Tensor], num_classes: int
) -> nn.Module | None:
    """The same model as timm builds it, where that is lossless."""
    name = str(model.hubtool_name)
    if timm_twin.name_of(name) is None or getattr(model, "transform_input", False):
        return None
    original = create(name, {**model.hubtool_args, "num_classes": num_classes}, is_filled=False).eval()
    if preprocess.in_chans != 3:
        widen(original, preprocess.in_chans, None)
    original.load_state_dict(state)
    return timm_twin.find(original, name, preprocess, num_classes)


def load_directory(directory: Path) -> nn.Module:
    """The model of a directory in this file's layout, every tensor accounted for; its classifier removed for a head of ours."""
    own = _own_config(directory)
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in own["model_args"].items()}
    model = create(str(own["architecture"]), args, is_filled=False)
    in_chans = int(own["preprocess"].get("in_chans", 3))
    if in_chans != 3:
        widen(model, in_chans, None)
    place = layout.head_place(directory)
    if place is not None:
        modules.put(model, place, nn.Identity())
    weights.load_strict(model, weights.load_directory(directory, what=directory.name), ())
    return model.eval()
