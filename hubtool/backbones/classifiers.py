"""Where each library keeps the classifier of a model, told by the model alone."""

from __future__ import annotations

from torch import nn

from hubtool.backbones import modules
from hubtool.backbones.head_layers import Appended, is_ours
from hubtool.core.errors import UsageError
from hubtool.records.backbone import Library

_OF_TORCHVISION: dict[str, str] = {
    "AlexNet": "classifier.6",
    "ConvNeXt": "classifier.2",
    "DenseNet": "classifier",
    "EfficientNet": "classifier.1",
    "GoogLeNet": "fc",
    "Inception3": "fc",
    "MNASNet": "classifier.1",
    "MaxVit": "classifier.5",
    "MobileNetV2": "classifier.1",
    "MobileNetV3": "classifier.3",
    "RegNet": "fc",
    "ResNet": "fc",
    "ShuffleNetV2": "fc",
    "SqueezeNet": "classifier.1",
    "SwinTransformer": "head",
    "VGG": "classifier.6",
    "VisionTransformer": "heads.head",
}


def head_modules(model: nn.Module, library: Library) -> tuple[str, ...]:
    """The module paths of the classifier(s), or of the new layer(s) in ``append`` mode."""
    paths = classifier_paths(model, library)
    return tuple(f"{p}.new" if isinstance(model.get_submodule(p), Appended) else p for p in paths)


def classifier_paths(model: nn.Module, library: Library) -> tuple[str, ...]:
    """Where the library keeps the classifier(s). Several: their outputs are combined by the model. None: an encoder."""
    match library:
        case "timm":
            return _of_timm(model)
        case "torchvision":
            return _of_torchvision(model)
        case "transformers":
            return _of_transformers(model)


def _of_timm(model: nn.Module) -> tuple[str, ...]:
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier")
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return tuple(name for name in names if modules.has(model, name))


def _of_torchvision(model: nn.Module) -> tuple[str, ...]:
    path = _OF_TORCHVISION.get(type(model).__name__)
    if path is None:
        raise UsageError("E-HEAD-PLACE", f"{type(model).__name__} is no classification model of torchvision")
    return (path,)


def _of_transformers(model: nn.Module) -> tuple[str, ...]:
    """Layers outside the base model whose outputs are the classes, and heads of ours."""
    base = str(getattr(model, "base_model_prefix", ""))
    num_labels = int(model.config.num_labels)
    found: list[str] = []
    for path, module in model.named_modules():
        if not path or path == base or path.startswith(f"{base}.") or any(path.startswith(f"{f}.") for f in found):
            continue
        width = getattr(module, "out_features", getattr(module, "out_channels", None))
        if (
            isinstance(module, Appended)
            or is_ours(module)
            or (width == num_labels and isinstance(module, nn.Linear | nn.Conv2d))
        ):
            found.append(path)
    return tuple(found)
