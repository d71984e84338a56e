"""Every family of the three libraries through parts, heads, freezing, frontier, one step, package; a row each.

``python -m benchmarks sweep [timm|torchvision|transformers ...] [--only NAME ...] [--write docs/backbones.md]``
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hubtool.backbones import export, freeze, frontier, head, parts, sources, weights
from hubtool.core.errors import HubtoolError
from hubtool.core.refs import parse_backbone_ref
from hubtool.core.settings import BUNDLED
from hubtool.data import transforms
from hubtool.data.images import draw_pictures
from hubtool.package.snippets import for_package, snippets_for
from hubtool.records.backbone import BackboneEntry, Library, Parts, Phase, Preprocess
from hubtool.records.recipe import Freeze, Recipe
from hubtool.records.resolve import ResolvedRecipe, resolve

SIZES = (96, 112, 128, 160, 192)
TOO_LARGE = {"regnet_y_128gf": "2.6 GB of weights, several copies at once"}
CLASSES = ("a", "b", "c")
# The smallest of each family that default tests try: seconds each on one core.
CORE = (
    "timm:test_resnet", "timm:test_vit", "timm:test_efficientnet", "timm:test_convnext", "timm:mobilenetv4_conv_small_050",
    "timm:test_byobnet", "timm:test_nfnet", "timm:mobilenetv3_small_050", "timm:levit_128s", "timm:dla46_c",
    "timm:regnetx_002", "timm:poolformer_s12", "timm:ghostnet_050", "torchvision:resnet18", "torchvision:mobilenet_v2",
    "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1", "torchvision:mnasnet0_5",
)  # fmt: skip


@dataclass
class Row:
    """One model: what held. ``problem`` is empty when everything did."""

    library: str
    family: str
    name: str
    parts: str = ""
    cuts: list[str] = field(default_factory=list)
    layout: str = ""
    problem: str = ""
    wall_s: float = 0.0

    @property
    def is_full(self) -> bool:
        return not self.problem and not any(cut.startswith("uncut") for cut in self.cuts)


def timm_families() -> dict[str, str]:
    """Module of timm → its smallest architecture, by the shipped catalogue's parameter counts."""
    import timm
    from timm.models._registry import _module_to_models

    sizes: dict[str, int] = {}
    for row in json.loads((BUNDLED / "catalogue.json").read_bytes())["rows"]:
        if row[0].startswith("timm:") and row[4]:
            sizes[row[1]] = min(int(row[4]), sizes.get(row[1], 1 << 62))
    known = set(timm.list_models())
    return {
        module: min(sorted(set(names) & known), key=lambda n: sizes.get(n, 1 << 61))
        for module, names in sorted(_module_to_models.items())
        if set(names) & known
    }


def try_one(reference: str, family: str, directory: Path | None = None) -> Row:
    """Everything that is promised of a family, with random weights."""
    started = time.perf_counter()
    ref = parse_backbone_ref(reference)
    row = Row(library=ref.source, family=family, name=ref.name if directory is None else family)
    try:
        entry = sources.describe(ref, sources.locate(ref), directory)
        row.library = entry.library
        _try(entry, directory, row)
    except HubtoolError as error:
        row.problem = error.line()
    except Exception as error:  # noqa: BLE001 (a row of the table, not the end of it)
        row.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    row.wall_s = time.perf_counter() - started
    return row


def _try(entry: BackboneEntry, directory: Path | None, row: Row) -> None:
    model, preprocess = _smallest_input(entry, directory)
    recipe = Recipe.model_validate({"backbone": {"ref": entry.ref, "pretrained": False}})
    resolved = resolve(recipe, entry).model_copy(update={"preprocess": preprocess})
    library = entry.library
    num_base = export.base_outputs(model, library)
    before = {name: weights.state_digest({name: tensor}) for name, tensor in model.state_dict().items()}
    head.attach(model, resolved.head, num_outputs=len(CLASSES), seed=0, library=library)
    found = parts.find_parts(model, library)
    _check_parts(model, found, before)
    row.parts = _shorten(found)
    x_BCHW = torch.randn((4, preprocess.in_chans, *preprocess.img_size), generator=torch.Generator().manual_seed(1))
    middle = found.names()[max(0, len(found.parts) // 2 - 1)]
    for freezing in ("all", {"through": middle}):
        _check_phase(model, resolved, found, freezing, x_BCHW, row)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch)
        row.layout = export.export(model, resolved, CLASSES, package, num_base_classes=num_base)
        shape = (preprocess.in_chans, *preprocess.img_size)
        pictures = x_BCHW[:2]
        golden = export.golden(package, pictures_BCHW=pictures, input_seed=0, input_shape=shape)
        if export.check_golden(package, golden, pictures_BCHW=pictures) != 0.0:
            raise AssertionError("golden logits differ at the second load")
        if row.layout == "torchvision":
            _check_loader(package, resolved)


def _check_loader(package: Path, resolved: ResolvedRecipe) -> None:
    """The card's own loader, which has torchvision and safetensors alone, against the package."""
    picture = draw_pictures(0, 1)[0]
    picture.save(package / "picture.png")
    code = snippets_for("torchvision", resolved)["torchvision"]
    names: dict[str, Any] = {"__name__": "__snippet__"}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(for_package(code, "torchvision", str(package), str(package / "picture.png")), names)
    with torch.no_grad():
        wanted = export.load_package(package)(transforms.preprocess(picture, resolved.preprocess).unsqueeze(0))
    off = float((names["logits"].detach() - wanted).abs().max() / wanted.abs().max())
    if not off <= 1e-4:
        raise AssertionError(f"the card's loader is {off:.1e} off")


def _smallest_input(entry: BackboneEntry, directory: Path | None) -> tuple[nn.Module, Preprocess]:
    """The model at the smallest picture it takes."""
    own = entry.preprocess
    problem: Exception | None = None
    for size in (*(s for s in SIZES if s < own.img_size[0]), None):
        preprocess = own if size is None else own.model_copy(update={"img_size": (size, size)})
        try:
            model = sources.build(entry, directory, pretrained=False, preprocess=preprocess)
            with torch.no_grad():
                output = model(torch.zeros(2, preprocess.in_chans, *preprocess.img_size))
                if output.ndim == 2:
                    return model, preprocess
                raise HubtoolError("E-BACKBONE-OUTPUT", f"it returns a tensor of shape {tuple(output.shape)}")
        except (HubtoolError, RuntimeError, AssertionError, ValueError, AttributeError) as error:
            problem = error
    raise problem or AssertionError("no size works")


def _check_parts(model: nn.Module, found: Parts, before: dict[str, str]) -> None:
    parameters = [name for part in found.parts for name in part.parameters]
    buffers = [name for part in found.parts for name in part.buffers]
    if sorted(parameters) != sorted(n for n, _ in model.named_parameters()) or len(set(parameters)) != len(parameters):
        raise AssertionError("a parameter is in no part or in two")
    if sorted(buffers) != sorted(n for n, _ in model.named_buffers()):
        raise AssertionError("a buffer is in no part or in two")
    new = set(found.parts[-1].parameters) | set(found.parts[-1].buffers)
    for name, tensor in model.state_dict().items():
        if name not in new and before.get(name) != weights.state_digest({name: tensor}):
            raise AssertionError(f"attaching a head changed {name}")
    if len(found.parts) < 3:
        raise AssertionError(f"only the parts {', '.join(found.names())}")


def _check_phase(
    model: nn.Module, resolved: ResolvedRecipe, found: Parts, freezing: object, x_BCHW: torch.Tensor, row: Row
) -> None:
    wanted = resolved.model_copy(update={"freeze": Freeze.model_validate(freezing)})
    phase = freeze.schedule(wanted, found, num_epochs=1)[0]
    cut = frontier.cut(model, phase, x_BCHW)
    if isinstance(cut, frontier.Uncut):
        row.cuts.append(f"uncut: {cut.reason}")
    else:
        row.cuts.append("module" if cut.description.startswith("at the module") else "fx")
        model.eval()
        with torch.no_grad():
            whole = model(x_BCHW)
            if not torch.equal(whole, cut.suffix(cut.prefix(x_BCHW), training=False)):
                raise AssertionError("prefix and suffix are not the model bit for bit")
    _check_step(model, phase, cut, x_BCHW)


def _check_step(model: nn.Module, phase: Phase, cut: frontier.Cut | frontier.Uncut, x_BCHW: torch.Tensor) -> None:
    """One SGD step on the cut model changes what trains and nothing else."""
    freeze.apply(model, phase)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [parameter for name, parameter in model.named_parameters() if name in phase.trainable]
    optimizer = torch.optim.SGD(trained, lr=1e-2)
    torch.manual_seed(0)
    logits = model(x_BCHW) if isinstance(cut, frontier.Uncut) else cut.suffix(cut.prefix(x_BCHW), training=True)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    frozen = {name for name, _ in model.named_parameters() if name not in phase.trainable}
    frozen |= {f"{m}.{b}" for m in phase.eval_modules for b, _ in model.get_submodule(m).named_buffers(recurse=False)}
    after = model.state_dict()
    moved = [name for name in frozen if name in after and not torch.equal(before[name], after[name])]
    if moved:
        raise AssertionError(f"a step changed the frozen {moved[0]}")
    if all(torch.equal(before[name], after[name]) for name in phase.trainable):
        raise AssertionError("a step changed nothing")
    weights.load_strict(model, before, ())


def _shorten(found: Parts) -> str:
    names = [name for name in found.names() if name not in ("stem", "neck", "head")]
    body = f"{names[0]}…{names[-1].lstrip('abcdefghijklmnopqrstuvwxyz')}" if len(names) > 1 else "".join(names)
    return " ".join(
        [n for n in ("stem",) if n in found.names()] + [body] + [n for n in ("neck",) if n in found.names()]
    )


def transformers_families(root: Path) -> dict[str, Path]:
    """Small random checkpoints of eight families, as directories."""
    import transformers as t

    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    square = {"image_size": 64, "patch_size": 16, "num_labels": 5}
    pyramid = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": 5}
    made = {
        "vit": t.ViTForImageClassification(t.ViTConfig(**small, **square)),
        "deit": t.DeiTForImageClassification(t.DeiTConfig(**small, **square)),
        "beit": t.BeitForImageClassification(t.BeitConfig(**small, **square)),
        "dinov2": t.Dinov2ForImageClassification(
            t.Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, **square)
        ),
        "swin": t.SwinForImageClassification(
            t.SwinConfig(
                image_size=64, embed_dim=16, depths=[1, 1, 2], num_heads=[1, 2, 4], window_size=4, num_labels=5
            )
        ),
        "convnext": t.ConvNextForImageClassification(t.ConvNextConfig(image_size=64, **pyramid)),
        "resnet": t.ResNetForImageClassification(t.ResNetConfig(embedding_size=8, layer_type="basic", **pyramid)),
        "mobilenet_v2": t.MobileNetV2ForImageClassification(t.MobileNetV2Config(image_size=96, num_labels=5)),
    }
    found = {}
    for name, model in made.items():
        found[name] = root / name
        model.save_pretrained(found[name])
    return found


def rows_of(library: Library, only: set[str]) -> list[Row]:
    rows: list[Row] = []
    if library == "transformers":
        with tempfile.TemporaryDirectory() as scratch:
            for name, directory in transformers_families(Path(scratch)).items():
                if not only or name in only:
                    rows.append(_told(try_one(f"local:{directory}", name, directory)))
        return rows
    if library == "timm":
        names = timm_families()
    else:
        from hubtool.backbones import from_torchvision

        names = {name: name for name in from_torchvision.names()}
    for family, name in names.items():
        if only and family not in only and name not in only:
            continue
        if name in TOO_LARGE:
            rows.append(_told(Row(library=library, family=family, name=name, problem=f"skipped: {TOO_LARGE[name]}")))
        else:
            rows.append(_told(try_one(f"{library}:{name}", family)))
    return rows


def _told(row: Row) -> Row:
    print(f"{row.wall_s:6.1f} s  {'ok ' if row.is_full else 'NOT'} {row.library}:{row.name}  {row.parts}  "
          f"{'/'.join(row.cuts)}  {row.layout}  {row.problem}", flush=True)  # fmt: skip
    return row


def as_markdown(rows: list[Row]) -> str:
    """The table of docs/backbones.md."""
    lines = [
        "# Backbones that were tried",
        "",
        "Random weights, a new head of three classes, `freeze: all` and freeze through the middle, the frontier's two halves",
        "against the model bit for bit, one training step that moves what trains and nothing else, package written and loaded",
        "again by hubtool, by unmodified timm and transformers where the layout is theirs, and by the card's own loader where it",
        "is torchvision's. Frontier: *fx* is a cut on the traced graph; *module* one at a module boundary, where torch.fx cannot",
        "trace the model (torch.export is not used). Written by `python -m benchmarks sweep --write docs/backbones.md`.",
        "",
    ]
    for library in dict.fromkeys(row.library for row in rows):
        of_it = [row for row in rows if row.library == library]
        lines.append(f"## {library}: {sum(row.is_full for row in of_it)} of {len(of_it)} pass fully")
        lines += ["", "| family | model | parts | frontier (all / middle) | layout | |", "|---|---|---|---|---|---|"]
        for row in of_it:
            cuts = " / ".join(cut.replace("|", "/") for cut in row.cuts)
            state = "passes" if row.is_full else row.problem.replace("|", "/") or "trains uncut"
            lines.append(f"| {row.family} | {row.name} | {row.parts} | {cuts} | {row.layout} | {state} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sweep", description=__doc__)
    parser.add_argument("libraries", nargs="*", default=["timm", "torchvision", "transformers"])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    rows = [row for library in given.libraries for row in rows_of(library, set(given.only))]
    if given.write is not None:
        given.write.write_text(as_markdown(rows), encoding="utf-8")
    print(f"{sum(row.is_full for row in rows)} of {len(rows)} pass fully")
    return 0
