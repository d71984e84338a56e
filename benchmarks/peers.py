"""The same fine-tuning by hubtool, a tutorial's loop, tuned timm, the transformers Trainer, Lightning and fastai, side by side.

    make bench                                                400 + 100 pictures, medians of three; after the other benchmarks
    make bench-full                                           2,000 + 500 pictures, once, with the rows that take long
    .venv/peers/bin/python -m benchmarks peers --quick        tiny sizes: does the program work?
    .venv/peers/bin/python -m benchmarks peers --rows head-bf16,head-fp32 --train 2000 --val 500 --peers timm

Every job is a fresh process timed from start to exit, imports included: hubtool by its command line with everything it does by
default (TensorBoard, plots, evidence, digests), on a backbone that was pulled before and with an empty cache. All have two threads
and two worker processes (``--workers``), the same pictures, transforms, random weights, batch size, optimizer (AdamW, its fused
kernel for hubtool, timm and the Trainer; cosine), precision and number of epochs; all validate and write a checkpoint in every
epoch. Frozen modules stay in eval mode and get no gradient; convolutional models are channels last. With ``--device cuda`` all
compute on a GPU, without TF32. The peers' scripts are ``benchmarks/_peer_*.py``; they take turns, and the table holds medians;
of the peers only the best one of the first round is run again, the figure of another is a single run.

A later-epoch ratio is work avoided, not faster arithmetic: it stands beside the ratio of the whole job. The ratio of the
processor time (user and system, all processes) hardly moves where other work runs on the machine; wall times do. With ``views: 4``
hubtool trains on four fixed draws of each picture, its peers on a fresh draw each time. The peers need a virtual environment
of their own on top of the project's (``make .venv/peers/.installed``): fastai brings uvloop, with which uvicorn would then serve.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._peer_data import draw_photos, make_backbone
from benchmarks._peer_process import measure
from benchmarks._peer_table import Line, Outcome, Row, line, markdown

PEERS = {"timm": "timm", "trainer": "accelerate", "tutorial": "torch", "lightning": "lightning", "fastai": "fastai"}
ROWS = (
    Row(
        name="head-bf16", title="head only, resnet18, 5 epochs, bf16", architecture="resnet18", trained="head",
        precision="bf16", epochs=5, lr=1e-2, goal=10, later_goal_ms=20,
    ),
    Row(
        name="head-fp32", title="head only, resnet18, 5 epochs, fp32", architecture="resnet18", trained="head",
        precision="fp32", epochs=5, lr=1e-2, goal=8, later_goal_ms=20, peers=("timm", "trainer", "tutorial"),
    ),
    Row(
        name="vit-bf16", title="head only, vit_tiny, 5 epochs, bf16", architecture="vit_tiny_patch16_224", trained="head",
        precision="bf16", epochs=5, lr=1e-2, goal=6,
    ),
    Row(
        name="views-bf16", title="head only, resnet18, 20 epochs, bf16, 4 views against fresh draws", architecture="resnet18",
        trained="head", precision="bf16", epochs=20, lr=1e-2, augment="light", views=4, goal=4,
    ),
    Row(
        name="views-fp32", title="head only, resnet18, 20 epochs, fp32, 4 views against fresh draws", architecture="resnet18",
        trained="head", precision="fp32", epochs=20, lr=1e-2, augment="light", views=4, goal=4,
    ),
    Row(
        name="layer4-bf16", title="layer4 and head, resnet18, 2 epochs, bf16", architecture="resnet18", trained="layer4",
        precision="bf16", epochs=2, lr=1e-3, later_goal=5,
    ),
    Row(
        name="layer4-fp32", title="layer4 and head, resnet18, 2 epochs, fp32", architecture="resnet18", trained="layer4",
        precision="fp32", epochs=2, lr=1e-3, later_goal=4,
    ),
    Row(
        name="full-bf16", title="everything, resnet18, 1 epoch, bf16", architecture="resnet18", trained="all",
        precision="bf16", epochs=1, lr=1e-3, goal=1,
    ),
    Row(
        name="full-fp32", title="everything, resnet18, 1 epoch, fp32", architecture="resnet18", trained="all",
        precision="fp32", epochs=1, lr=1e-3, goal=1,
    ),
)  # fmt: skip
THREADS = {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
FREEZE = {"head": "all", "layer4": "{through: stage3}", "all": "none"}


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    rows = _rows(options)
    asked = {row.name: options.peers.split(",") if options.peers else row.peers for row in rows}
    peers = [peer for peer in PEERS if any(peer in found for found in asked.values())]
    for peer in [peer for peer in peers if not importlib.util.find_spec(PEERS[peer])]:
        print(f"{peer} is not installed here and left out", file=sys.stderr)
        peers.remove(peer)
    outcomes: list[Outcome] = []
    num_failed = 0
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        data = work / "photos"
        draw_photos(data, num_train=options.train, num_val=options.val, num_classes=options.classes)
        for architecture in dict.fromkeys(row.architecture for row in rows):
            _pull(make_backbone(work / architecture, architecture), work / "home")
        _warm_up(peers)
        for number in range(options.rounds):
            for row in rows:
                beaten = _beaten(row, outcomes)
                for trainer in ["hubtool", *(peer for peer in peers if peer in asked[row.name] and peer not in beaten)]:
                    try:
                        outcome = run(trainer, row, work, options)
                    except RuntimeError as error:  # the others' figures are still worth having
                        num_failed += 1
                        print(f"round {number + 1}  {row.name:12} {trainer:10} failed: {error}", file=sys.stderr)
                        continue
                    outcomes.append(outcome)
                    print(f"round {number + 1}  {_told(outcome)}", file=sys.stderr, flush=True)
    lines = [each for row in rows if (each := line(row, outcomes)).is_comparison]
    text = markdown(lines)
    if options.json:
        options.json.write_text(json.dumps(document(lines, outcomes, options), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 1 if num_failed else 0


def _rows(options: argparse.Namespace) -> list[Row]:
    """Those that were named; else all but the long ones, and without bf16 where the processor computes it in software."""
    from hubtool.training.numerics import is_slow

    if options.rows:
        return [row for row in ROWS if row.name in options.rows.split(",")]
    rows = [row for row in ROWS if options.long or not row.views]
    slow = [row for row in rows if is_slow(options.device, row.precision)]
    if slow:
        names = ", ".join(row.name for row in slow)
        print(f"left out, this processor has no instructions for bf16: {names}; --rows measures them", file=sys.stderr)
    return [row for row in rows if row not in slow]


def _beaten(row: Row, outcomes: list[Outcome]) -> set[str]:
    """The peers that another peer was faster than in the first round."""
    wall_s = {trainer: found for trainer, found in line(row, outcomes).wall_s.items() if trainer != "hubtool"}
    return set(wall_s) - {min(wall_s, key=wall_s.__getitem__)} if wall_s else set()


def _told(outcome: Outcome) -> str:
    return (
        f"{outcome.row:12} {outcome.trainer:10} {outcome.wall_s:7.1f} s  processor {outcome.cpu_s:7.1f} s  "
        f"top1 {outcome.top1:.2f}  {outcome.anonymous_bytes / 1e6:6.0f} MB"
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default="", help=f"of {','.join(row.name for row in ROWS)}; default: see --long")
    parser.add_argument("--long", action="store_true", help="also the rows of 20 epochs, where no rows are named")
    parser.add_argument("--peers", default="", help=f"of {','.join(PEERS)}; default: each row's own")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train", type=int, default=400, help="training pictures (%(default)s)")
    parser.add_argument("--val", type=int, default=100, help="validation pictures (%(default)s)")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: of timm, trainer, tutorial")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (%(default)s)")
    parser.add_argument("--epochs", type=int, help="instead of each row's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run and every median")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables that are printed")
    parser.add_argument(
        "--quick", action="store_true", help="24 + 12 pictures, 2 epochs: tries the program, measures nothing"
    )
    options = parser.parse_args(arguments)
    known = [row.name for row in ROWS]
    if unknown := [name for name in options.rows.split(",") if name and name not in known]:
        parser.error(f"no row {unknown[0]!r}; known: {', '.join(known)}")
    if unknown := [name for name in options.peers.split(",") if name and name not in PEERS]:
        parser.error(f"no peer {unknown[0]!r}; known: {', '.join(PEERS)}")
    if options.device == "cuda" and (strange := {"lightning", "fastai"} & set(options.peers.split(","))):
        parser.error(f"{', '.join(sorted(strange))} compute on the CPU here")
    if options.quick:
        options.train, options.val, options.classes, options.epochs = 24, 12, 3, 2
    return options


def run(trainer: str, row: Row, work: Path, options: argparse.Namespace) -> Outcome:
    """One job in a fresh process and a fresh directory."""
    epochs = options.epochs or row.epochs
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    shutil.copytree(work / "home", out / "home")
    environment = os.environ | THREADS | {"HUBTOOL_HOME": str(out / "home"), "MPLCONFIGDIR": str(work / "matplotlib")}
    repository = Path(__file__).parents[1]
    if trainer == "hubtool":
        recipe = out / "recipe.yaml"
        recipe.write_text(_recipe(row, work / row.architecture, epochs))
        command = [sys.executable, "-m", "hubtool", "finetune", str(recipe), "--data", str(work / "photos")]
        command += ["--device", options.device, "--workers", str(options.workers), "--run", str(out / "run"), "--json"]
        found = measure(command, environment=environment, directory=repository)
        report = _read_run(out / "run")
    else:
        job = {
            "data": str(work / "photos"), "backbone": str(work / row.architecture), "out": str(out),
            "num_classes": options.classes, "trained": row.trained, "precision": row.precision, "epochs": epochs,
            "augment": row.augment, "lr": row.lr, "batch_size": 32, "num_workers": options.workers,
            "device": options.device,
        }  # fmt: skip
        command = [sys.executable, "-m", f"benchmarks._peer_{trainer}", json.dumps(job)]
        found = measure(command, environment=environment, directory=repository)
        report = json.loads(found.stdout.strip().splitlines()[-1])
    return Outcome(
        row=row.name,
        trainer=trainer,
        wall_s=found.wall_s,
        cpu_s=found.cpu_s,
        later_s=statistics.median(report["epochs_s"][1:]) if len(report["epochs_s"]) > 1 else None,
        top1=report["top1"],
        checkpoint_bytes=report["checkpoint_bytes"],
        above_tensors_bytes=report.get("above_tensors_bytes"),
        anonymous_bytes=found.anonymous_bytes,
    )


def _pull(backbone: Path, home: Path) -> None:
    """The backbone is here before anybody's clock starts; hubtool knows it then, as after the first of its commands."""
    command = [sys.executable, "-m", "hubtool", "pull", f"local:{backbone}", "--quiet"]
    environment = os.environ | THREADS | {"HUBTOOL_HOME": str(home)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=Path(__file__).parents[1])


def _recipe(row: Row, backbone: Path, epochs: int) -> str:
    # All checkpoints are kept, because the time from one to the next is read from them.
    return f"""schema: hubtool/recipe/v1
backbone: local:{backbone}
freeze: {FREEZE[row.trained]}
data: {{augment: {{policy: {row.augment}, views: {row.views}}}}}
train:
  epochs: {epochs}
  batch_size: 32
  optimizer: {{name: adamw, lr: {row.lr}, weight_decay: 0.01}}
  schedule: {{name: cosine, warmup_epochs: 0}}
  precision: {row.precision}
run: {{keep_checkpoints: {epochs}}}
"""


def _read_run(directory: Path) -> dict[str, Any]:
    """What hubtool's run directory says. An epoch lasts from one checkpoint's snapshot to the next: its steps, its validation,
    and the wait for the checkpoint before it to be durable."""
    events = [json.loads(text) for text in (directory / "logs" / "metrics.jsonl").read_text().splitlines()]
    checkpoints = sorted((directory / "checkpoints").iterdir())
    walls = [0.0] + [json.loads((path / "state.json").read_text())["wall_s"] for path in checkpoints]
    last = checkpoints[-1]
    size = sum(file.stat().st_size for file in last.iterdir())
    return {
        "top1": [event["value"] for event in events if event["tag"] == "top1" and event["split"] == "val"][-1],
        "epochs_s": [after - before for before, after in itertools.pairwise(walls)],
        "checkpoint_bytes": size,
        "above_tensors_bytes": size - sum(_tensor_bytes(file) for file in last.glob("*.safetensors")),
    }


def _tensor_bytes(file: Path) -> int:
    with file.open("rb") as stream:
        return file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def _warm_up(peers: list[str]) -> None:
    """Every library is read once, so that no trainer pays for the first reading of torch's files from the disk."""
    modules = ["hubtool.training.session", "hubtool.tracking.sinks", *(f"benchmarks._peer_{peer}" for peer in peers)]
    for module in modules:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", f"import {module}"], check=True, cwd=Path(__file__).parents[1]
        )


def document(lines: list[Line], outcomes: list[Outcome], options: argparse.Namespace) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    names = [
        "torch",
        "timm",
        "torchvision",
        "transformers",
        *(PEERS[p] for p in PEERS if importlib.util.find_spec(PEERS[p])),
    ]
    return {
        "num_train": options.train,
        "num_val": options.val,
        "num_classes": options.classes,
        "rounds": options.rounds,
        "device": options.device,
        "num_workers": options.workers,
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "versions": {name: version(name) for name in dict.fromkeys(names)},
        "rows": [each.as_dict() for each in lines],
        "runs": [vars(outcome) for outcome in outcomes],
    }
