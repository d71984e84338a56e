"""What is shown after training: every plot is written and logged, and every kind of event reaches TensorBoard and W&B."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hubtool.core.errors import HubtoolError, IntegrityError
from hubtool.records.evidence import Predictions
from hubtool.records.log import Event
from hubtool.records.recipe import Log, Wandb
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.tasks import TaskName
from hubtool.tracking import gallery, media
from hubtool.tracking.journal import Journal
from hubtool.tracking.sinks import rebuild
from hubtool.tracking.tensorboard import model_graph
from tracking.written import wandb_records

CLASSES = ("ant", "bee", "cat", "dog")
NUMBER_PLOTS = {"confusion_matrix", "reliability", "per_class", "roc", "precision_recall"}


def predictions(task: TaskName, num: int = 40) -> tuple[Predictions, tuple[str, ...]]:
    generator = np.random.default_rng(3)
    samples = tuple(f"{i:064x}" for i in range(num))
    if task == "binary":
        targets = np.arange(num) % 2
        logits_NK = generator.normal(size=(num, 1)) + (2 * targets - 1)[:, None]
        return Predictions(split="val", samples=samples, targets=targets, logits_NK=logits_NK), ("no", "yes")
    if task == "classification":
        targets = np.arange(num) % 4
        logits_NK = generator.normal(size=(num, 4)) + 2 * np.eye(4)[targets]
        return Predictions(split="val", samples=samples, targets=targets, logits_NK=logits_NK), CLASSES
    truth = (generator.random((num, 4)) > 0.5).astype(np.float32)
    logits_NK = generator.normal(size=(num, 4)) + 2 * truth - 1
    return Predictions(split="val", samples=samples, targets=truth, logits_NK=logits_NK), CLASSES


def picture(sample: int) -> Image.Image:
    return Image.new("RGB", (12, 10), (sample * 5 % 256, 90, 200))


def moment_in(run_dir: Path) -> media.Moment:
    return media.Moment(run_dir=run_dir, global_step=30, epoch=3, split="val")


@pytest.fixture
def moment(run_dir: Path) -> media.Moment:
    return moment_in(run_dir)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Event, ...]]:
    """A run with every plot of a classification, and their events; not to be changed."""
    run_dir = tmp_path_factory.mktemp("shown")
    found, classes = predictions("classification")
    given: dict[str, Any] = {"task": "classification", "classes": classes, "predictions": found}
    return run_dir, gallery.after_training(moment_in(run_dir), picture=picture, **given)


@pytest.fixture
def copy(shown: tuple[Path, tuple[Event, ...]], run_dir: Path) -> tuple[Path, tuple[Event, ...]]:
    """The same in a directory of the test's own."""
    shutil.copytree(shown[0], run_dir, dirs_exist_ok=True)
    return run_dir, shown[1]


def reader(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "logs/tensorboard"), size_guidance={"tensors": 0, "images": 0})
    found.Reload()
    return found


def journal(run_dir: Path, events: tuple[Event, ...]) -> None:
    log = Journal(run_dir / "logs/metrics.jsonl")
    for event in events:
        log.append(event)
    log.close()


def check_plots(run_dir: Path, events: tuple[Event, ...], names: set[str]) -> None:
    assert {event.tag for event in events if event.kind == "figure"} == names
    plots = run_dir / "plots"
    assert {path.stem for path in plots.glob("*.png")} == names
    assert {path.stem for path in plots.glob("*.svg")} == names - {"predictions", "top_losses"}  # photographs
    assert len({(e.kind, e.split, e.global_step, e.tag) for e in events}) == len(events)
    for event in events:
        media.read_bytes(run_dir, event)


def test_a_classification_has_its_plots_in_png_and_svg(shown: tuple[Path, tuple[Event, ...]]) -> None:
    check_plots(*shown, NUMBER_PLOTS | {"predictions", "top_losses"})


@pytest.mark.parametrize(
    ("task", "names"),
    [("multilabel", {"per_class", "roc", "precision_recall"}), ("regression", {"calibration"})],
)
def test_each_task_has_its_own_plots(moment: media.Moment, task: TaskName, names: set[str]) -> None:
    found, classes = predictions(task)
    events = gallery.number_plots(moment, task=task, classes=classes, predictions=found)
    check_plots(moment.run_dir, events, names)
    assert gallery.picture_plots(moment, task=task, classes=classes, predictions=found, picture=picture) == ()


def test_the_same_predictions_give_the_same_bytes(shown: tuple[Path, tuple[Event, ...]], moment: media.Moment) -> None:
    found, classes = predictions("classification")
    assert gallery.number_plots(moment, task="classification", classes=classes, predictions=found) == shown[1][:-2]
    for path in (moment.run_dir / "plots").glob("*.svg"):
        assert path.read_bytes() == (shown[0] / "plots" / path.name).read_bytes()


def test_number_plots_hold_no_picture_and_no_file_name(shown: tuple[Path, tuple[Event, ...]]) -> None:
    samples = predictions("classification")[0].samples
    for name in NUMBER_PLOTS:
        text = (shown[0] / "plots" / f"{name}.svg").read_text()
        assert samples[0] not in text
        assert "data:image" not in text, name


def test_every_kind_of_event_reaches_tensorboard(
    copy: tuple[Path, tuple[Event, ...]], resolved: ResolvedRecipe
) -> None:
    run_dir, shown = copy
    moment = moment_in(run_dir)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    features_ND = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    vertices = np.random.default_rng(0).normal(size=(1, 20, 3)).astype(np.float32)
    weights = {"fc.weight": model[1].weight.detach().numpy(), "empty": np.zeros(0)}
    labels = [CLASSES[i % 4] for i in range(40)]
    events = (
        *shown,
        *gallery.embedding(moment, features_ND=features_ND, labels=labels, picture=picture),
        *gallery.first_batch(moment, np.zeros((6, 3, 8, 8), np.float32), mean=(0.5,) * 3, std=(0.2,) * 3),
        *gallery.weights(moment, weights),
        media.write_text(moment, "notes", "**bold**"),
        media.write_mesh(moment, "cloud", vertices_BNC=vertices, colors_BNC=np.full((1, 20, 3), 200)),
        media.write_data(moment, "graph", "model", model_graph(model, torch.zeros(1, 3, 2, 2)), "pb"),
    )
    journal(run_dir, events)
    rebuild(run_dir, names=("tensorboard",), log=Log(), resolved=resolved)
    tags = reader(run_dir).Tags()
    assert set(tags["images"]) == {
        f"{tag}/val" for tag in (NUMBER_PLOTS | {"predictions", "top_losses", "first_batch"})
    }
    assert tags["histograms"] == ["weights/fc.weight/val"]
    assert tags["graph"]
    assert {f"pr_curve/{name}/val" for name in CLASSES} <= set(tags["tensors"])
    assert "notes/val/text_summary" in tags["tensors"]
    assert "cloud/val_VERTEX" in tags["tensors"]
    assert "cloud/val_COLOR" in tags["tensors"]
    [histogram] = reader(run_dir).Histograms("weights/fc.weight/val")
    assert histogram.step == 30
    assert histogram.histogram_value.num == 48
    assert sum(histogram.histogram_value.bucket) == 48


def test_the_projector_finds_features_labels_and_thumbnails(moment: media.Moment, resolved: ResolvedRecipe) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    features_ND = np.arange(12, dtype=np.float32).reshape(4, 3)
    events = gallery.embedding(moment, features_ND=features_ND, labels=["a", "b\tc", "", "d"], picture=picture)
    journal(moment.run_dir, events)
    for _ in range(2):
        rebuild(moment.run_dir, names=("tensorboard",), log=Log(), resolved=resolved)
    directory = moment.run_dir / "logs/tensorboard"
    config = text_format.Parse((directory / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [entry] = config.embeddings
    rows = (directory / entry.tensor_path).read_text().splitlines()
    assert [[float(v) for v in row.split("\t")] for row in rows] == features_ND.tolist()
    assert (directory / entry.metadata_path).read_text().splitlines() == ["a", "b c", "-", "d"]
    with Image.open(directory / entry.sprite.image_path) as sprite:
        assert sprite.size == (64, 64)
    assert list(entry.sprite.single_image_dim) == [32, 32]


def test_pr_curve_counts_are_those_of_each_threshold(moment: media.Moment) -> None:
    found, classes = predictions("binary")
    events = gallery.number_plots(moment, task="binary", classes=classes, predictions=found)
    [event] = [event for event in events if event.kind == "pr_curve"]
    table = media.read_arrays(moment.run_dir, event)
    scores = 1 / (1 + np.exp(-found.logits_NK[:, 0]))
    for i in (0, 40, 63, 126):
        called = scores >= np.linspace(0, 1, 127)[i]
        assert table["true_positives"][i] == (called & (found.targets == 1)).sum()
        assert table["false_negatives"][i] == (~called & (found.targets == 1)).sum()
        assert table["false_positives"][i] == (called & (found.targets == 0)).sum()


@pytest.mark.parametrize("has_images", [False, True])
def test_pictures_go_to_wandb_only_when_they_may(
    copy: tuple[Path, tuple[Event, ...]], resolved: ResolvedRecipe, has_images: bool
) -> None:
    run_dir, shown = copy
    moment = moment_in(run_dir)
    journal(run_dir, (*shown, *media.write_histograms(moment, {"weights/fc": np.arange(9.0)})))
    log = Log(tensorboard=False, wandb=Wandb(mode="offline", images=has_images))
    rebuild(moment.run_dir, names=("wandb",), log=log, resolved=resolved)
    rows = [r["history"]["item"] for r in wandb_records(moment.run_dir) if r["type"] == "history"]
    keys = {key for row in rows for key in row}
    assert any(key.startswith("weights/fc/val") for key in keys)
    assert any(key.startswith("predictions/val") for key in keys) == has_images
    pictures = list((moment.run_dir / "logs/wandb").rglob("*.png"))
    assert bool(pictures) == has_images


@pytest.mark.parametrize("damage", ["changed", "missing", "outside"])
def test_a_file_that_is_not_what_was_logged_is_not_shown(moment: media.Moment, damage: str) -> None:
    event = media.write_text(moment, "notes", "true")
    path = moment.run_dir / str(event.path)
    if damage == "changed":
        path.write_text("false")
    elif damage == "missing":
        path.unlink()
    else:
        event = event.model_copy(update={"path": "../../etc/passwd"})
    with pytest.raises(IntegrityError):
        media.read_bytes(moment.run_dir, event)


def test_what_cannot_be_shown_is_refused_when_it_is_logged(moment: media.Moment) -> None:
    with pytest.raises(HubtoolError, match="PNG"):
        media.write_png(moment, "x", b"GIF89a")
    with pytest.raises(HubtoolError, match="shape"):
        media.write_mesh(moment, "x", vertices_BNC=np.zeros((5, 3)))


def test_tags_that_no_file_system_takes_have_files_of_their_own(moment: media.Moment) -> None:
    tags = ("a/b", "a b", "../../up", "a" * 300, "ü")
    events = [media.write_text(moment, tag, tag) for tag in tags]
    assert len({event.path for event in events}) == len(tags)
    assert [media.read_bytes(moment.run_dir, event).decode() for event in events] == list(tags)
    assert {path.parent for path in moment.run_dir.rglob("*.md")} == {moment.run_dir / "logs/media"}
