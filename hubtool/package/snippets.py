"""Usage snippets: short programs that a reader copies; each was run on the package when it was made."""

from __future__ import annotations

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
_TIMM_OUTPUTS = "print(logits.tolist())\n"

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
    task, mode = resolved.task, _MODES[resolved.preprocess.in_chans]
    programs: dict[str, str] = {}
    if layout == "timm":
        programs["timm"] = _TIMM + (_TIMM_OUTPUTS if task in ("regression", "multilabel") else _TIMM_CLASSES)
    if layout == "hubtool" and resolved.backbone.library == "timm" and resolved.head.type in _FORWARD:
        programs["timm"] = _OWN_HEAD + _FORWARD[resolved.head.type] + _own_answer(task)
    if layout in ("timm", "transformers") and task in ("classification", "binary") and mode == "RGB":
        programs["transformers"] = _TRANSFORMERS
    is_one = task in ("classification", "binary")
    programs["hubtool"] = _HUBTOOL if is_one else _HUBTOOL.replace(".scores[0][0]", ".scores")
    return {library: code.replace('"RGB"', f'"{mode}"') for library, code in programs.items()}


def _own_answer(task: TaskName) -> str:
    if task == "classification":
        return "print(classes[logits.argmax().item()])\n"
    if task == "binary":
        return "print(classes[int(logits.item() > 0)])\n"
    return "print(dict(zip(classes, logits[0].tolist())))\n"


def for_package(code: str, library: str, package: str, picture: str) -> str:
    """The program as it runs on a directory: the repository and the picture replaced by local paths."""
    target = f"local-dir:{package}" if library == "timm" else package
    code = code.replace(f"hf-hub:{REPO}", target).replace(f'hf_hub_download("{REPO}", ', f'"{package}/" + (')
    return code.replace(REPO, package).replace(PICTURE, picture)
