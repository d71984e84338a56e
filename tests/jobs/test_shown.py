"""What a finished run shows of itself: at its end, and on request with logs --add."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hubtool.cli.main import run
from hubtool.core.errors import NotFoundError
from hubtool.jobs.logs import logs
from hubtool.records.rundir import RunDir
from hubtool.tracking import media
from hubtool.tracking.journal import read_events
from jobs import finished


@pytest.fixture
def place(tmp_path: Path) -> RunDir:
    shutil.copytree(finished.run(), tmp_path / "run")
    return RunDir(tmp_path / "run")


def test_weights_and_gradients_have_histograms() -> None:
    place = RunDir(finished.run())
    tags = {event.tag for event in read_events(place.journal) if event.kind == "histogram"}
    weights = {tag.partition("/")[2] for tag in tags if tag.startswith("weights/")}
    gradients = {tag.partition("/")[2] for tag in tags if tag.startswith("gradients/")}
    assert weights == gradients and "fc.weight" in weights
    assert not any(name.startswith("layer1") for name in weights), "what is frozen does not move"
    event = next(e for e in read_events(place.journal) if e.tag == "gradients/fc.weight")
    assert media.read_histogram(place.path, event).sum_squares > 0


def test_graph_and_embedding_are_logged_on_request_and_once(place: RunDir) -> None:
    for _ in range(2):
        report = logs(place.path, add=("graph", "embedding"))
    kinds = [event.kind for event in read_events(place.journal)]
    assert (kinds.count("graph"), kinds.count("embedding")) == (1, 1)
    event = next(e for e in read_events(place.journal) if e.kind == "embedding")
    arrays = media.read_arrays(place.path, event)
    val = place.data().splits["val"]
    assert list(arrays["labels"]) == [place.data().classes[int(s.target)] for s in val]  # type: ignore[arg-type]
    assert arrays["features"].shape[0] == len(val) and arrays["features"].ndim == 2
    assert np.ptp(arrays["features"], axis=0).max() > 0
    assert "sprite" in arrays
    board = Path(report.directory)
    assert "embedding" in (board / "projector_config.pbtxt").read_text() or list(board.glob("projector/**/*.tsv"))
    assert b"fc" in b"".join(p.read_bytes() for p in board.glob("events.*"))


def test_the_features_are_what_the_head_reads(place: RunDir) -> None:
    """With the head's own weights they give the logits of the evidence."""
    from hubtool.jobs.target import build_selected
    from hubtool.records.evidence import Predictions

    logs(place.path, add=("embedding",))
    event = next(e for e in read_events(place.journal) if e.kind == "embedding")
    features_ND = media.read_arrays(place.path, event)["features"]
    head = build_selected(place).fc
    logits_NK = features_ND @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    expected = Predictions.read(place.path / place.evidence("val")).logits_NK
    np.testing.assert_allclose(logits_NK, expected, rtol=1e-3, atol=1e-3)


def test_an_unfinished_run_has_nothing_to_show(place: RunDir, tmp_path: Path) -> None:
    (place.path / "result.json").unlink()
    with pytest.raises(NotFoundError, match="not finished"):
        logs(place.path, add=("graph",))


def test_the_command(place: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", str(place.path), "--add", "graph", "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(place.path / "logs/tensorboard")
