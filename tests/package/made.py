"""A finished run made by hand: every file as the records define it, numbers that hang together, no training."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy

from hubtool.core.digests import canonical_json, sha256_bytes, sha256_file
from hubtool.package import licenses
from hubtool.package.build import About, pack
from hubtool.package.facts import GOLDEN_NAME
from hubtool.package.tensors import packed_weights
from hubtool.records.backbone import BackboneEntry, FileDigest, LayerRow, LayerTable, Origin, Preprocess
from hubtool.records.claims import Verdict, judge
from hubtool.records.dataset import DataManifest, Sample
from hubtool.records.environment import Environment, Numerics
from hubtool.records.evidence import Golden, Predictions
from hubtool.records.log import Event
from hubtool.records.metrics import claims_of, compute
from hubtool.records.package import PackageManifest
from hubtool.records.recipe_file import parse_recipe
from hubtool.records.reports import Reproduction
from hubtool.records.resolve import ResolvedRecipe, resolve
from hubtool.records.run import Result, Selected

CLASSES = ("cat", "dog", "ox|en", "<b>yak</b>", "emu", "bee", "ant")
PREDICTIONS = "evidence/predictions-val.safetensors"
RECIPE = """\
schema: hubtool/recipe/v1
backbone: timm:resnet18.a1_in1k
freeze: {through: stage3}
train: {epochs: 3, batch_size: 16, optimizer: {name: sgd, lr: 0.05}}
"""

NUMERICS = Numerics(
    device="cpu",
    cpu_capability="AVX2",
    num_threads=2,
    libraries={"torch": "2.15.0", "timm": "1.0.31", "torchvision": "0.29.2"},
)


def backbone_entry(license: str | None = "apache-2.0") -> BackboneEntry:
    return BackboneEntry(
        ref="timm:resnet18.a1_in1k",
        library="timm",
        architecture="resnet18",
        origin=Origin(
            repo_id="timm/resnet18.a1_in1k",
            revision="491b427b45c94c7fb0e78b5474cc919aff584bbf",
            directory="/home/someone/.cache/x",
            hub="http://10.0.0.7:8080",
            files=(FileDigest(path="model.safetensors", size_bytes=46807446, sha256="a" * 64),),
        ),
        license=license,
        num_params=11_700_000,
        num_features=512,
        num_classes=1000,
        preprocess=Preprocess(img_size=(224, 224)),
        digests_from="published",
    )


def make_run(run: Path, *, seed: int = 0, num_val: int = 60) -> Path:
    """Write a whole finished run below ``run``."""
    for name in ("evidence", "logs/tensorboard", "plots"):
        (run / name).mkdir(parents=True)
    recipe = parse_recipe(RECIPE.encode(), "recipe.yaml")
    resolved = resolve(recipe, backbone_entry())
    data = _data(seed, num_val)
    predictions = _predictions(data, seed)
    predictions.write(run / PREDICTIONS)
    metrics = compute("classification", predictions.logits_NK, predictions.targets)
    (run / "recipe.yaml").write_text(RECIPE)
    resolved.write(run / "resolved.json")
    data.write(run / "data.json")
    Environment(
        numerics=NUMERICS,
        os="Linux 6.1",
        machine="x86_64",
        python="3.11.2",
        hubtool="0.1.0",
        num_cpus=2,
        memory_bytes=8 << 30,
    ).write(run / "environment.json")
    _log(run, metrics)
    _plots(run)
    _result(resolved, data, metrics, run).write(run / "result.json")
    return run


def _data(seed: int, num_val: int) -> DataManifest:
    rng = np.random.default_rng(seed)

    def split(name: str, num: int) -> tuple[Sample, ...]:
        samples = [
            Sample(
                path=f"{CLASSES[i % len(CLASSES)]}/secret-name-{i}.png",
                sha256=sha256_bytes(f"{seed}/{name}/{i}".encode()),
                size_bytes=int(rng.integers(500, 9000)),
                target=i % len(CLASSES),
            )
            for i in range(num)
        ]
        return tuple(sorted(samples, key=lambda s: s.sha256))

    return DataManifest(
        classes=CLASSES, splits={"train": split("train", 140), "val": split("val", num_val)}, conversions={"grey": 4}
    )


def _predictions(data: DataManifest, seed: int) -> Predictions:
    rng = np.random.default_rng(seed + 1)
    samples = data.splits["val"]
    targets = np.asarray([s.target for s in samples], dtype=np.int64)
    logits = rng.normal(size=(len(samples), len(CLASSES))).astype(np.float32)
    logits[np.arange(len(samples)), targets] += 3
    return Predictions(split="val", samples=tuple(s.sha256 for s in samples), targets=targets, logits_NK=logits)


def _log(run: Path, metrics: dict[str, float]) -> None:
    lines = []

    def add(step: int, epoch: int, tag: str, value: float, split: str = "train") -> None:
        event = Event(global_step=step, epoch=epoch, split=split, tag=tag, value=value)
        lines.append(canonical_json(event.model_dump(mode="json", exclude_none=True)) + b"\n")

    for epoch, scale in enumerate((2.0, 1.0, 1.25)):
        for step in range(9 * epoch + 1, 9 * epoch + 10):
            add(step, epoch, "loss", 2.0 / step)
            add(step, epoch, "lr", 0.05 / step)
        add(9 * epoch + 9, epoch, "epoch_loss", 2.0 / (epoch + 1))
        add(9 * epoch + 9, epoch, "wall_epoch_s", 1.5)
        for tag, value in metrics.items():
            add(9 * epoch + 9, epoch, tag, value * (scale if tag == "loss" else 1 / scale), "val")
    picture = run / "logs" / "first-batch.png"
    picture.write_bytes(png())
    event = Event(
        global_step=1, epoch=0, kind="image", tag="batch", path="logs/first-batch.png", sha256=sha256_file(picture)
    )
    lines.append(canonical_json(event.model_dump(mode="json", exclude_none=True)) + b"\n")
    (run / "logs" / "metrics.jsonl").write_bytes(b"".join(lines))
    (run / "logs" / "tensorboard" / "events.out.tfevents.1763000000.secrethost.4711.0").write_bytes(
        record(b"scalar loss 0.5") + record(b"image " + png()) + record(b"scalar top1 0.9")
    )


def record(data: bytes) -> bytes:
    """A framed record of an event file; the checksums are of no interest here."""
    return struct.pack("<Q", len(data)) + b"crc1" + data + b"crc2"


def png(seed: int = 0) -> bytes:
    """A real PNG of 2x2 grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([seed % 256, 7]) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _plots(run: Path) -> None:
    for name in ("curves", "confusion_matrix", "predictions"):
        (run / "plots" / f"{name}.png").write_bytes(png(len(name)))
        (run / "plots" / f"{name}.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")


def _result(resolved: ResolvedRecipe, data: DataManifest, metrics: dict[str, float], run: Path) -> Result:
    predictions = Predictions.read(run / PREDICTIONS)
    return Result(
        claims=claims_of(
            "classification", predictions, evidence=PREDICTIONS, evidence_sha256=sha256_file(run / PREDICTIONS)
        ),
        recipe_digest=resolved.digest(),
        data_digest=data.digest(),
        backbone_digest=resolved.backbone.digest(),
        weights_digest=_weights_digest(run),
        selected=Selected(
            checkpoint="e002-s000018-val_loss=0.5", epoch=2, global_step=18, metric="val/loss", value=metrics["loss"]
        ),
        is_frozen_equal=True,
        num_params=11_180_103,
        num_trainable=8_397_319,
        numerics=NUMERICS,
        wall_s=83.4,
    )


def reproduction(package: Path, **changes: object) -> Reproduction:
    """Somebody's record about the package: everything came out again, unless ``changes`` of the verdict say otherwise."""
    result = Result.read(package / "result.json")
    verdict = Verdict(
        state="exact",
        claims=tuple(judge(claim, claim.value) for claim in result.claims),
        weights_equal=True,
        claimed_numerics=result.numerics,
        measured_numerics=result.numerics,
    ).model_copy(update=changes)
    return Reproduction(
        repo="me/zoo",
        commit="c" * 40,
        hubtool="0.1.0",
        recipe_digest=result.recipe_digest,
        data_digest=result.data_digest,
        backbone_digest=result.backbone_digest,
        claimed_weights_digest=result.weights_digest,
        measured_weights_digest=result.weights_digest if verdict.weights_equal else "0" * 64,
        verdict=verdict,
    )


def add_reproduction(package: Path, record: Reproduction) -> None:
    (package / "reproductions").mkdir(exist_ok=True)
    record.write(package / "reproductions" / f"{record.id}.json")


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    weights = {"conv1.weight": (4, 3, 3, 3), "fc.bias": (len(CLASSES),), "fc.weight": (len(CLASSES), 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}


def _weights_digest(run: Path) -> str:
    (run / "model.safetensors").write_bytes(safetensors.numpy.save(tensors()))
    digest = packed_weights(run).weights_digest
    (run / "model.safetensors").unlink()
    return digest


def write_model(directory: Path) -> str:
    """What the job's export does, for a model of three tensors."""
    (directory / "model.safetensors").write_bytes(safetensors.numpy.save(tensors(), metadata={"format": "pt"}))
    p = ResolvedRecipe.read(directory / "resolved.json").preprocess
    config = {
        "architecture": "resnet18",
        "num_classes": len(CLASSES),
        "label_names": list(CLASSES),
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "mean": list(p.mean),
            "std": list(p.std),
            "crop_pct": p.crop_pct,
            "crop_mode": p.crop_mode,
            "interpolation": p.interpolation,
        },
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    logits = np.random.default_rng(3).normal(size=(8, len(CLASSES))).astype(np.float32)
    golden = Golden(input_seed=1, input_shape=(3, 224, 224), tensor_logits_BK=logits, picture_logits_BK=logits)
    golden.write(directory / GOLDEN_NAME)
    return "timm"


LAYERS = LayerTable(
    rows=(
        LayerRow(
            part="stem",
            output_shape=(64, 56, 56),
            num_params=11_180_103 - 3591,
            flops=1,
            is_trainable=False,
            norm_mode="eval",
            is_before_frontier=True,
        ),
        LayerRow(
            part="head",
            output_shape=(7,),
            num_params=3591,
            flops=1,
            is_trainable=True,
            norm_mode="none",
            is_before_frontier=False,
        ),
    ),
    num_params=11_180_103,
    num_trainable=8_397_319,
    frontier="after stage3",
)


def make_package(run: Path, target: Path, **changes: object) -> PackageManifest:
    """Pack a run made by ``make_run``."""
    about = About(backbone=backbone_entry(), license=licenses.License(id="apache-2.0"), layers=LAYERS)
    options: dict = {
        "about": about,
        "write_model": write_model,
        "run_snippets": lambda _directory, programs: dict.fromkeys(programs, ("1.0", "dog\n")),
    }
    return pack(run, target, **(options | changes))
