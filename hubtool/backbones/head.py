"""The head that training starts from: in the classifier's place (replace), or after the old classifier (append).

Shape legend: B batch, D features, K outputs. The new layer stands where the library keeps its classifier, so that the
names of everything else stay the backbone's own. A model with several classifiers gets one new layer for each; the
model combines their outputs as before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hubtool.backbones import classifiers, modules, parts
from hubtool.backbones.head_layers import LAYERS, Appended, LinearHead, PerPixel
from hubtool.core.errors import UsageError
from hubtool.core.seeds import Address
from hubtool.records.backbone import Library
from hubtool.records.recipe import Head

_INIT_STD = 0.01


def attach(model: nn.Module, head: Head, *, num_outputs: int, seed: int, library: Library) -> nn.Module:
    """Put the recipe's head on ``model`` and return it (the same object).

    New tensors are drawn from the address ``head``; nothing outside the head changes. The head's dropout is exactly
    ``head.drop_rate``: dropout that the architecture has there is set to zero.
    Raises UsageError where the architecture has no place for it.
    """
    _prepare(model, head, num_outputs, library)
    paths = classifiers.classifier_paths(model, library)
    if not paths:
        raise UsageError(
            "E-HEAD-NONE", f"{type(model).__name__} is an encoder without a place for a classifier",
            do="choose a model of the same family that classifies",
        )  # fmt: skip
    has_none = getattr(model, "hubtool_is_headless", False)
    if head.mode == "append" and (has_none or any(isinstance(model.get_submodule(p), nn.Identity) for p in paths)):
        raise UsageError("E-HEAD-APPEND", "the backbone has no classifier to append to", do="head.mode: replace")
    if len(paths) > 1 and head.type != "linear":
        raise UsageError(
            "E-HEAD-MULTI", f"{type(model).__name__} combines {len(paths)} classifiers, which only linear heads can replace",
            do="head.type: linear",
        )  # fmt: skip
    for number, path in enumerate(paths):
        old = model.get_submodule(path)
        if library == "torchvision" and isinstance(old, nn.Conv2d) and head.type != "linear":
            raise UsageError(
                "E-HEAD-PLACE", f"the classifier of {type(model).__name__} is a convolution before its pooling",
                do="head.type: linear",
            )  # fmt: skip
        new = _new_layer(model, old, path, head, num_outputs)
        _draw(new, Address(purpose="head", index=number).seed(seed))
        modules.put(model, path, Appended(old, new) if head.mode == "append" else new)
    _quiet_dropout(model, library)
    _tell(model, num_outputs, library)
    return model


def _prepare(model: nn.Module, head: Head, num_outputs: int, library: Library) -> None:
    """Another pooling, and a first classifier for models that come without one."""
    if library != "timm":
        if head.global_pool != "default":
            raise UsageError("E-HEAD-POOL", f"{library} models have one pooling", do="head.global_pool: default")
        return
    is_headless = getattr(model, "num_classes", 1) == 0
    if head.global_pool == "default" and not is_headless:
        return
    reset = getattr(model, "reset_classifier", None)
    if reset is None:
        raise UsageError("E-HEAD-NONE", f"{type(model).__name__} is an encoder that classifies nothing")
    if is_headless and head.mode == "append":
        raise UsageError("E-HEAD-APPEND", "the backbone has no classifier to append to", do="head.mode: replace")
    num_classes = num_outputs if is_headless or head.mode == "replace" else int(model.num_classes)
    _reset(model, reset, num_classes, head)


def _reset(model: nn.Module, reset: Callable[..., None], num_classes: int, head: Head) -> None:
    before = dict(model.state_dict())
    try:
        if head.global_pool == "default":
            reset(num_classes)
        else:
            reset(num_classes, head.global_pool)
    except (TypeError, AssertionError, ValueError, RuntimeError, KeyError) as error:
        do = "head.global_pool: default" if head.global_pool != "default" else "choose another backbone"
        raise UsageError(
            "E-HEAD-POOL", f"{type(model).__name__} cannot have global_pool {head.global_pool}: {error}", do=do
        ) from error
    if head.mode == "append":
        model.load_state_dict(before)
    if head.global_pool != "default":
        model.hubtool_global_pool = head.global_pool


def _new_layer(model: nn.Module, old: nn.Module, path: str, head: Head, num_outputs: int) -> nn.Module:
    if isinstance(old, nn.Conv2d | nn.Linear):
        is_conv = isinstance(old, nn.Conv2d)
        width_in, width_out = (old.in_channels, old.out_channels) if is_conv else (old.in_features, old.out_features)
        width = width_out if head.mode == "append" else width_in
        if head.type == "linear":  # without a bias where the architecture has none: the package has its shape
            layer: nn.Module = LinearHead(width, num_outputs, head.drop_rate, bias=old.bias is not None)
        else:
            layer = LAYERS[head.type](width, num_outputs, head.drop_rate)
        return PerPixel(layer) if is_conv else layer
    raise UsageError("E-HEAD-PLACE", f"the classifier of {type(model).__name__} ({path}) is a {type(old).__name__}")


def _draw(layer: nn.Module, seed: int) -> None:
    """Weights from a normal distribution cut at two deviations, biases zero; norms stay one and zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim >= 2 and not parameter.is_meta:
                std = _INIT_STD if not name.endswith("fc1.weight") else parameter.shape[1] ** -0.5
                values = torch.empty(parameter.shape).normal_(generator=generator).clamp_(-2, 2)
                parameter.copy_(values * std)


def _quiet_dropout(model: nn.Module, library: Library) -> None:
    own = classifiers.head_modules(model, library)
    for path in parts.find_parts(model, library).parts[-1].modules:
        module = model.get_submodule(path)
        is_new = any(path == head or path.startswith(f"{head}.") for head in own)
        if isinstance(module, nn.Dropout) and not is_new:
            module.p = 0.0
    if library == "timm":
        for owner in model.modules():
            if isinstance(getattr(owner, "drop_rate", None), float) and any(
                owner is model.get_submodule(path.rpartition(".")[0]) for path in own
            ):
                owner.drop_rate = 0.0


def _tell(model: nn.Module, num_outputs: int, library: Library) -> None:
    """Attributes by which the library knows how many classes there are."""
    if library == "transformers":
        config = model.config
        config.num_labels = num_outputs
        model.num_labels = num_outputs
        return
    for path in ("", *{p.rpartition(".")[0] for p in classifiers.classifier_paths(model, library)}):
        owner = model.get_submodule(path)
        if isinstance(getattr(owner, "num_classes", None), int):
            owner.num_classes = num_outputs
