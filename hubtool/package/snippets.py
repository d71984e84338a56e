"""Usage snippets: short programs that a reader copies; each was run on the package when it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from hubtool.records.backbone import Library
from hubtool.records.package import Layout
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.tasks import TaskName

REPO = "OWNER/NAME"
PICTURE = "picture.jpg"

_TIMM = """\
import timm
from PIL import Image

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("picture.jpg").convert("RGB")).unsqueeze(0))
"""
_TIMM_CLASSES = 'print(model.pretrained_cfg["label_names"][logits.argmax().item()])\n'
_TIMM_OUTPUTS = {
    "multilabel": 'print(dict(zip(model.pretrained_cfg["label_names"], logits.sigmoid()[0].tolist())))\n',
    "regression": 'print(dict(zip(model.pretrained_cfg["label_names"], logits[0].tolist())))\n',
}

_TRANSFORMERS = """\
from transformers import pipeline

classify = pipeline("image-classification", model="OWNER/NAME")
print(classify("picture.jpg")[0]["label"])
"""

# Pillow's name of a picture with so many channels.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

_HUBTOOL = """\
import hubtool

prediction, = hubtool.predict("OWNER/NAME", ["picture.jpg"])
print(prediction.scores[0][0])
"""


# A head that timm does not have, on timm's headless backbone: ten lines without hubtool.
_OWN_HEAD = """\
import json
import timm
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

body = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
head = {k.removeprefix("layer."): v for k, v in load_file(hf_hub_download("OWNER/NAME", "head.safetensors")).items()}
classes = json.load(open(hf_hub_download("OWNER/NAME", "config.json")))["hubtool"]["classes"]
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(body))
x = body(transform(Image.open("picture.jpg").convert("RGB")).unsqueeze(0))
"""
# torchvision's own layout: torchvision and safetensors are all it takes.
_TORCHVISION = """\
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import models
from torchvision.transforms import InterpolationMode, v2

folder = Path("OWNER/NAME")  # hf download OWNER/NAME --local-dir OWNER/NAME
own = json.loads((folder / "config.json").read_text())["hubtool"]
model = models.get_model(own["architecture"], weights=None, **own["model_args"]).eval()
"""
_OTHER_CHANNELS = """\
first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
first.weight = torch.nn.Parameter(first.weight.new_empty(first.out_channels, {in_chans}, *first.kernel_size))
"""
_WITHOUT_CLASSIFIER = """\
parent, _, name = own["head"]["place"].rpartition(".")
setattr(model.get_submodule(parent), name, torch.nn.Identity())
"""
_TORCHVISION_LOAD = """\
model.load_state_dict(load_file(folder / "model.safetensors"))
"""
# MNASNet asks the weights for their version, which safetensors do not hold; that of a new model's weights is the right one.
_MNASNET_LOAD = """\
weights = load_file(folder / "model.safetensors")
versioned = model.state_dict()
assert weights.keys() == versioned.keys()
versioned.update(weights)
model.load_state_dict(versioned)
"""
_TORCHVISION_FORWARD = """\
p = own["preprocess"]
transform = v2.Compose([
    v2.Resize(int(p["img_size"][0] / p["crop_pct"]), interpolation=InterpolationMode(p["interpolation"])),
    v2.CenterCrop(p["img_size"]), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(p["mean"], p["std"]),
])
x = model(transform(Image.open("picture.jpg").convert("RGB")).unsqueeze(0))
"""
_HEAD_BESIDE = """\
F = torch.nn.functional
head = {k.removeprefix("layer."): v for k, v in load_file(folder / "head.safetensors").items()}
"""
_FROM_OWN = 'classes = own["classes"]\n'

# A head that transformers does not have, in the place of the classifier or behind it.
_TRANSFORMERS_OWN_HEAD = """\
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = Path("OWNER/NAME")  # hf download OWNER/NAME --local-dir OWNER/NAME
own = json.loads((folder / "config.json").read_text())["hubtool"]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
"""
_TRANSFORMERS_FORWARD = """\
pixels = AutoImageProcessor.from_pretrained(folder)(Image.open("picture.jpg").convert("RGB"), return_tensors="pt")
x = model(**pixels).logits
"""
_FORWARD = {
    "mlp": """\
x = F.gelu(F.linear(x, head["fc1.weight"], head["fc1.bias"]))
logits = F.linear(x, head["fc2.weight"], head["fc2.bias"])
""",
    "norm_linear": """\
x = F.layer_norm(x, x.shape[-1:], head["norm.weight"], head["norm.bias"])
logits = F.linear(x, head["fc.weight"], head["fc.bias"])
""",
    "cosine": """\
logits = head["scale"] * F.linear(F.normalize(x, dim=-1), F.normalize(head["weight"], dim=-1))
""",
}


def snippets_for(layout: Layout, resolved: ResolvedRecipe) -> dict[str, str]:
    """Library → program, for those that load this layout as it is."""
    task, mode, library = resolved.task, _MODES[resolved.preprocess.in_chans], resolved.backbone.library
    programs: dict[str, str] = {}
    if layout == "timm":
        programs["timm"] = _TIMM + _TIMM_OUTPUTS.get(task, _TIMM_CLASSES)
    if layout == "torchvision":
        programs["torchvision"] = _torchvision(resolved)
    if layout == "hubtool":
        programs[library] = _OWN_HEADS[library](resolved)
    if layout in ("timm", "transformers") and task in ("classification", "binary") and mode == "RGB":
        programs["transformers"] = _TRANSFORMERS
    answers = {"multilabel": "called", "regression": "scores"}
    programs["hubtool"] = _HUBTOOL.replace("scores[0][0]", answers.get(task, "scores[0][0]"))
    if task == "regression":
        programs = {name: re.sub(r"(?<!\.)\blogits\b", "outputs", code) for name, code in programs.items()}
    return {name: code.replace('"RGB"', f'"{mode}"') for name, code in programs.items()}


def _torchvision(resolved: ResolvedRecipe) -> str:
    """A linear head; binary travels as two rows of it."""
    task = "classification" if resolved.task == "binary" else resolved.task
    code = _TORCHVISION + _channels(resolved) + _load(resolved) + _TORCHVISION_FORWARD
    return code + "logits = x\n" + _FROM_OWN + _own_answer(task)


def _timm_own_head(resolved: ResolvedRecipe) -> str:
    return _OWN_HEAD + _FORWARD[resolved.head.type] + _own_answer(resolved.task)


def _torchvision_own_head(resolved: ResolvedRecipe) -> str:
    code = _TORCHVISION + _channels(resolved) + _place(resolved) + _load(resolved) + _TORCHVISION_FORWARD + _HEAD_BESIDE
    return code + _FORWARD[resolved.head.type] + _FROM_OWN + _own_answer(resolved.task)


def _transformers_own_head(resolved: ResolvedRecipe) -> str:
    code = _TRANSFORMERS_OWN_HEAD + _place(resolved) + _TRANSFORMERS_FORWARD + _HEAD_BESIDE
    return code + _FORWARD[resolved.head.type] + _FROM_OWN + _own_answer(resolved.task)


_OWN_HEADS: dict[Library, Callable[[ResolvedRecipe], str]] = {
    "timm": _timm_own_head,
    "torchvision": _torchvision_own_head,
    "transformers": _transformers_own_head,
}


def _channels(resolved: ResolvedRecipe) -> str:
    in_chans = resolved.preprocess.in_chans
    return _OTHER_CHANNELS.format(in_chans=in_chans) if in_chans != 3 else ""


def _load(resolved: ResolvedRecipe) -> str:
    return _MNASNET_LOAD if resolved.backbone.architecture.startswith("mnasnet") else _TORCHVISION_LOAD


def _place(resolved: ResolvedRecipe) -> str:
    return _WITHOUT_CLASSIFIER if resolved.head.mode == "replace" else ""


def _own_answer(task: TaskName) -> str:
    if task == "classification":
        return "print(classes[logits.argmax().item()])\n"
    if task == "binary":
        return "print(classes[int(logits.item() > 0)])\n"
    values = "logits.sigmoid()" if task == "multilabel" else "logits"
    return f"print(dict(zip(classes, {values}[0].tolist())))\n"


def for_package(code: str, library: str, package: str, picture: str) -> str:
    """The program as it runs on a directory: the repository and the picture replaced by local paths."""
    package, picture = (json.dumps(path, ensure_ascii=False)[1:-1] for path in (package, picture))  # between quotes
    target = f"local-dir:{package}" if library == "timm" else package
    code = code.replace(f"hf-hub:{REPO}", target).replace(f'hf_hub_download("{REPO}", ', f'"{package}/" + (')
    return code.replace(REPO, package).replace(PICTURE, picture)
