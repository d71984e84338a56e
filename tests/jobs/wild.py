"""Fourteen model repositories in the shapes that stand on hubs, each written by the library that people push with."""

from __future__ import annotations

import hashlib
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


def onnx_export(folder: Path) -> None:
    """An export for onnxruntime: the graph with its weights, the config and processor of the model it was made from."""
    from transformers import ViTImageProcessor

    _vit().config.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model_quantized.onnx"):
        (folder / "onnx" / name).write_bytes(ONNX)
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: google/vit-base-patch16-224\n---\nFor the web.\n")


def onnx_pointer(folder: Path) -> None:
    """One ONNX file out of a clone without git-lfs."""
    text = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(ONNX).hexdigest()}\nsize {len(ONNX)}\n"
    )
    (folder / "detector.onnx").write_text(text)


def adapter(folder: Path) -> None:
    """What PeftModel.push_to_hub sends after an image classification: config, weights, the Hub's card template."""
    from huggingface_hub import ModelCard, ModelCardData
    from transformers import ViTImageProcessor

    _adapter_config(folder, "google/vit-base-patch16-224-in21k")
    save_file(_adapter_weights(), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    card = ModelCard.from_template(ModelCardData())
    card.data["library_name"] = "peft"
    card.data["base_model"] = "google/vit-base-patch16-224-in21k"
    card.save(folder / "README.md")


def adapter_of_a_directory(folder: Path) -> None:
    """An older PEFT on a checkpoint of one's own: pickled weights, a base model that is a directory, no card."""
    _adapter_config(folder, "/content/drive/MyDrive/vit/checkpoint-500")
    torch.save(_adapter_weights(), folder / "adapter_model.bin")


def _adapter_config(folder: Path, base: str) -> None:
    """adapter_config.json as PeftConfig.save_pretrained writes it: sorted, what was not given as null."""
    config = {
        "auto_mapping": None, "base_model_name_or_path": base, "bias": "none", "inference_mode": True, "lora_alpha": 16,
        "lora_dropout": 0.1, "modules_to_save": ["classifier"], "peft_type": "LORA", "r": 4, "revision": None,
        "target_modules": ["query", "value"], "task_type": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def _adapter_weights() -> dict[str, torch.Tensor]:
    attention = "base_model.model.vit.encoder.layer.0.attention.attention.query"
    return {f"{attention}.lora_A.weight": torch.zeros(4, 16), f"{attention}.lora_B.weight": torch.zeros(16, 4)}


# ModelProto: ir_version 8, producer_name "pytorch", a doc_string of 2000 bytes in the place of a graph.
ONNX = b"\x08\x08\x12\x07pytorch\x32\xd0\x0f" + b"w" * 2000

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
    "ONNX export": onnx_export,
    "ONNX pointer": onnx_pointer,
    "adapter": adapter,
    "adapter of a directory": adapter_of_a_directory,
}
