"""A trained model as the files other people load: model.safetensors and config.json, compared by logits; golden logits.

Shape legend: B batch, K outputs, D inputs of the classifier.

A linear head on a timm architecture becomes timm's own layout, which unmodified timm and transformers load. A linear
layer after the old classifier is folded into it in float64; a binary head becomes two rows, [0; w]. Other heads:
model.safetensors and config.json hold the headless backbone, head.safetensors the head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hubtool.backbones import classifiers, heads_io, layout, weights
from hubtool.core.errors import IntegrityError, UsageError
from hubtool.core.files import write_json
from hubtool.core.seeds import Address
from hubtool.records.evidence import Golden
from hubtool.records.package import Layout
from hubtool.records.resolve import ResolvedRecipe

_NUM_GOLDEN = 8
_RTOL = 1e-4


def export(
    model: nn.Module,
    resolved: ResolvedRecipe,
    classes: tuple[str, ...],
    directory: Path,
    *,
    num_base_classes: int,
) -> Layout:
    """Write the model into ``directory`` (which exists) and load it again as others would.

    ``num_base_classes``: outputs of the backbone's own classifier, which an appended head reads.
    Raises UsageError when classes and outputs do not fit, IntegrityError when what was written gives other logits.
    """
    was_training = model.training
    model.eval()
    try:
        match resolved.backbone.library:
            case "timm":
                made = _export_timm(model, resolved, classes, directory, num_base_classes)
            case "torchvision":
                from hubtool.backbones import from_torchvision

                made = from_torchvision.export(model, resolved, classes, directory, num_base_classes)
            case "transformers":
                from hubtool.backbones import from_transformers

                made = from_transformers.export(model, resolved, classes, directory, num_base_classes)
        _compare(model, resolved, directory, made)
    finally:
        model.train(was_training)
    return made


def _export_timm(
    model: nn.Module, resolved: ResolvedRecipe, classes: tuple[str, ...], directory: Path, num_base_classes: int
) -> Layout:
    from hubtool.backbones import from_timm

    state, head_state = heads_io.split(model, resolved, "timm")
    _check_classes(resolved, classes, heads_io.num_outputs(model, "timm"))
    is_linear = not head_state
    num_classes = len(classes) if is_linear else (num_base_classes if resolved.head.mode == "append" else 0)
    named = {
        "architecture": resolved.backbone.architecture
    }  # timm may know the model by a newer name, or by a sibling's
    config = from_timm.config(model, resolved.preprocess, num_classes) | named
    if is_linear:
        config["label_names"] = list(classes)
    else:
        head = heads_io.spec(model, resolved, "timm")
        if resolved.head.mode == "replace" and not from_timm.fits(config, state):
            # What timm builds for num_classes 0 lacks layers before the classifier: the head's place is named instead.
            config = from_timm.config(model, resolved.preprocess, 1) | named
            head["place"] = classifiers.classifier_paths(model, "timm")[0]
        config["hubtool"] = {"classes": list(classes), "head": head, "library": "timm"}
        weights.save(head_state, directory / heads_io.HEAD_NAME)
    weights.save(state, directory / weights.WEIGHTS_NAME)
    write_json(directory / layout.CONFIG_NAME, config)
    return "timm" if is_linear else "hubtool"


def _check_classes(resolved: ResolvedRecipe, classes: tuple[str, ...], num_outputs: int) -> None:
    expected = 2 if resolved.task == "binary" else num_outputs
    if len(classes) != expected:
        raise UsageError(
            "E-HEAD-CLASSES", f"the head has {num_outputs} outputs, the data {len(classes)}: {', '.join(classes[:5])}"
        )


def load_package(directory: Path) -> nn.Module:
    """The packaged model in eval mode, x_BCHW → logits_BK, as its config.json says. Raises IntegrityError, NotFoundError."""
    config = layout.read_config(directory)
    own = config.get("hubtool")
    library = (
        own.get("library", "timm")
        if isinstance(own, dict)
        else ("timm" if "architecture" in config else "transformers")
    )
    match library:
        case "timm":
            from hubtool.backbones import from_timm

            body = from_timm.load_directory(directory)
        case "torchvision":
            from hubtool.backbones import from_torchvision

            body = from_torchvision.load_directory(directory)
        case _:
            from hubtool.backbones import from_transformers

            body = from_transformers.load_directory(directory)
    if isinstance(own, dict) and "head" in own:
        body = heads_io.compose(body, own["head"], directory)
    return body.eval()


def golden_input(input_seed: int, input_shape: tuple[int, int, int]) -> Tensor:
    """x_BCHW that anyone can make again: 8 tensors of normal numbers from the address ``golden``."""
    generator = torch.Generator().manual_seed(Address(purpose="golden").seed(input_seed))
    return torch.randn((_NUM_GOLDEN, *input_shape), generator=generator)


def golden(directory: Path, *, pictures_BCHW: Tensor, input_seed: int, input_shape: tuple[int, int, int]) -> Golden:
    """Logits of the package as it lies there, on 8 seeded tensors and on the given pictures (already preprocessed)."""
    model = load_package(directory)
    with torch.no_grad():
        tensor_logits = model(golden_input(input_seed, input_shape)).float().numpy()
        picture_logits = model(pictures_BCHW).float().numpy()
    return Golden(
        input_seed=input_seed,
        input_shape=input_shape,
        tensor_logits_BK=np.ascontiguousarray(tensor_logits),
        picture_logits_BK=np.ascontiguousarray(picture_logits),
    )


def check_golden(directory: Path, expected: Golden, *, pictures_BCHW: Tensor, rtol: float = _RTOL) -> float:
    """The largest deviation of the package from its golden logits, relative to their largest size; 0.0 is bit for bit.

    Raises IntegrityError above ``rtol``.
    """
    found = golden(
        directory, pictures_BCHW=pictures_BCHW, input_seed=expected.input_seed, input_shape=expected.input_shape
    )
    worst = 0.0
    for now, then in (
        (found.tensor_logits_BK, expected.tensor_logits_BK),
        (found.picture_logits_BK, expected.picture_logits_BK),
    ):
        if now.shape != then.shape:
            raise IntegrityError(
                "E-GOLDEN", f"golden logits have the shape {then.shape}, the package gives {now.shape}"
            )
        scale = float(np.abs(then).max()) or 1.0
        worst = max(worst, float(np.abs(now - then).max()) / scale)
    if not worst <= rtol:
        raise IntegrityError("E-GOLDEN", f"the package is {worst:.2g} off its golden logits, allowed is {rtol:.2g}")
    return worst


def _compare(model: nn.Module, resolved: ResolvedRecipe, directory: Path, made: Layout) -> None:
    """The written files against the model in memory, and plain timm and transformers against the files."""
    from hubtool.backbones import from_transformers

    preprocess = resolved.preprocess
    x_BCHW = golden_input(resolved.train.seed, (preprocess.in_chans, *preprocess.img_size))[:2]
    x_BCHW = x_BCHW.to(next(model.parameters()).dtype)
    device = next(model.parameters()).device
    with torch.no_grad():
        inside = _logits(model(x_BCHW.to(device))).float().cpu()
        written = load_package(directory)(x_BCHW.float())
        if resolved.task == "binary":
            inside = torch.cat([torch.zeros_like(inside), inside], dim=1)
        _expect(inside, written, _RTOL, "the written files")
        if made == "timm":
            _expect(written, _plain_timm(directory)(x_BCHW.float()), 0.0, "unmodified timm")
        if made in ("timm", "transformers") and from_transformers.is_here():
            plain: Any = from_transformers.plain(directory)
            _expect(written, plain(x_BCHW.float()).logits, 0.0, "unmodified transformers")


def _logits(output: Any) -> Tensor:
    return cast("Tensor", getattr(output, "logits", output))


def _expect(wanted: Tensor, got: Tensor, rtol: float, who: str) -> None:
    same_shape = wanted.shape == got.shape
    if rtol == 0.0 and same_shape and torch.equal(wanted, got):
        return
    scale = max(float(wanted.abs().max()), 1e-6)
    off = float((wanted - got).abs().max()) / scale if same_shape else float("inf")
    if not off <= rtol:
        raise IntegrityError(
            "E-EXPORT", f"{who} would give other logits ({off:.2g} off)", do="please report this backbone"
        )


def _plain_timm(directory: Path) -> nn.Module:
    from hubtool.backbones import from_timm

    return from_timm.plain(directory)


def base_outputs(model: nn.Module, library: str) -> int:
    """How many outputs a model's classifier has; 0 without one. For ``num_base_classes``."""
    paths = classifiers.classifier_paths(model, cast("Any", library))
    layer = model.get_submodule(paths[0]) if paths else None
    return int(getattr(layer, "out_features", getattr(layer, "out_channels", 0)))
