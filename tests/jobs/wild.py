"""Ten model repositories in the shapes that stand on hubs, each written by the library that people push with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hubtool.core.digests import sha256_file


class Canary:
    """Whoever unpickles it makes the file that the environment names."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['WILD_CANARY']}",)


class WholeModel(torch.nn.Module):
    """A model of somebody's own, pickled whole; a canary rides along."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)
        self.notes = Canary()


@cache
def _resnet() -> torch.nn.Module:
    import timm

    return timm.create_model("test_resnet", num_classes=3)


@cache
def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, num_labels=3
    )
    return ViTForImageClassification(config)


def timm_push(folder: Path) -> None:
    """What timm.models.push_to_hf_hub writes before it uploads: both weights, config, card."""
    from timm.models import save_for_hf
    from timm.models._hub import generate_readme

    save_for_hf(_resnet(), str(folder), safe_serialization="both")
    (folder / "README.md").write_text(generate_readme({}, "me/flowers"))


def timm_old(folder: Path) -> None:
    """timm.models.save_for_hf as it is by default, with class names, and no card."""
    from timm.models import save_for_hf

    save_for_hf(_resnet(), str(folder), model_config={"label_names": ["rose", "tulip", "daisy"]})


def transformers_push(folder: Path) -> None:
    """A Trainer's push: model, processor, pickled arguments, the card that it writes by itself."""
    from transformers import ViTImageProcessor
    from transformers.modelcard import TrainingSummary

    _vit().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    torch.save(
        {"arguments": Canary()}, folder / "training_args.bin"
    )  # its own class needs accelerate, and is a pickle too
    summary = TrainingSummary(
        model_name="flowers", license="apache-2.0", finetuned_from="google/vit-base-patch16-224-in21k",
        hyperparameters={"learning_rate": 5e-5}, eval_results={"Loss": 0.5}, eval_lines=[],
    )  # fmt: skip
    (folder / "README.md").write_text(summary.to_model_card())


def state_dict(folder: Path) -> None:
    torch.save(_resnet().state_dict(), folder / "model.pth")


def whole_model(folder: Path) -> None:
    torch.save(WholeModel(), folder / "best.pt")
    (folder / "README.md").write_text("# my model\n\nbest accuracy so far\n")


def fastai_export(folder: Path) -> None:
    """What push_to_hub_fastai sends: the learner pickled whole, a pyproject.toml, a card of placeholders."""
    torch.save({"model": WholeModel(), "dls": Canary()}, folder / "model.pkl")
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools", "fastai=2.7"]\n')
    (folder / "README.md").write_text(
        "---\ntags:\n- fastai\n---\n\n# Amazing!\n\n🥳 Congratulations on hosting your fastai model on the Hub!\n\n"
        "# Model card\n\n## Model description\nMore information needed\n\n## Intended uses & limitations\n"
        "More information needed\n\n## Training and evaluation data\nMore information needed\n"
    )


def hub_mixin(folder: Path) -> None:
    """A class of one's own with PyTorchModelHubMixin: the weights are safe, nobody knows the class."""
    from huggingface_hub import PyTorchModelHubMixin

    class Net(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(width, 2)

    Net().save_pretrained(folder, config={"width": 4})


def one_sentence(folder: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 4)}, folder / "model.safetensors")
    (folder / "README.md").write_text("A model for flowers.\n")


def lfs_pointers(folder: Path) -> None:
    """A clone without git-lfs, uploaded again: the weights are three lines of text."""
    _vit().save_pretrained(folder)
    weights = folder / "model.safetensors"
    size, digest = weights.stat().st_size, sha256_file(weights)
    weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model for flowers.\n")


def remote_code(folder: Path) -> None:
    """A model whose reader is asked to run a file of the repository."""
    _vit().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling.Mine"}, "id2label": {"0": "rose", "1": "tulip", "2": "daisy"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"import os\nos.system('touch {os.environ['WILD_CANARY']}')\n")


SHAPES: dict[str, Callable[[Path], None]] = {
    "timm push": timm_push,
    "timm without a card": timm_old,
    "transformers push": transformers_push,
    "bare state_dict": state_dict,
    "pickled model": whole_model,
    "fastai export": fastai_export,
    "PyTorchModelHubMixin": hub_mixin,
    "one sentence": one_sentence,
    "LFS pointers": lfs_pointers,
    "remote code": remote_code,
}
