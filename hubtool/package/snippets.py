"""Usage snippets: short programs that a reader copies; each was run on the package when it was made."""

from __future__ import annotations

from hubtool.records.package import Layout
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

_HUBTOOL = """\
import hubtool

prediction, = hubtool.predict("OWNER/NAME", ["picture.jpg"])
print(prediction.scores[0][0])
"""


def snippets_for(layout: Layout, task: TaskName) -> dict[str, str]:
    """Library → program, for those that load this layout as it is."""
    programs: dict[str, str] = {}
    if layout == "timm":
        programs["timm"] = _TIMM + (_TIMM_OUTPUTS if task in ("regression", "multilabel") else _TIMM_CLASSES)
    if layout in ("timm", "transformers") and task in ("classification", "binary"):
        programs["transformers"] = _TRANSFORMERS
    programs["hubtool"] = _HUBTOOL
    return programs


def for_package(code: str, library: str, package: str, picture: str) -> str:
    """The program as it runs on a directory: the repository and the picture replaced by local paths."""
    target = f"local-dir:{package}" if library == "timm" else package
    code = code.replace(f"hf-hub:{REPO}", target).replace(REPO, package)
    return code.replace(PICTURE, picture)
