"""A machine dies with its disk: the same command goes on from the mirror and ends as the run that nothing happened to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hubtool.core.errors import ConflictError, IntegrityError, SecurityError, UsageError
from hubtool.core.ids import RepoId
from hubtool.core.progress import SilentReporter
from hubtool.hub import mirror as repositories
from hubtool.jobs import endpoint
from hubtool.jobs.finetune import finetune
from hubtool.jobs.mirror import place_of
from hubtool.records.rundir import RunDir
from hubtool.records.state import MIRROR, MirrorManifest
from hubtool.training.mirror import DirectoryPlace, Place
from jobs.killing import assert_same, numbers
from jobs.nursery import Nursery
from jobs.test_finetune import call, nursery, shared, unbroken

__all__ = ["nursery", "shared", "unbroken"]


class Told(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def places(tmp_path: Path) -> dict[str, str]:
    return {"directory": str(tmp_path / "drive" / "mirror"), "repository": "me/flowers-mirror"}


@pytest.mark.parametrize("kind", ["directory", "repository"])
def test_a_run_whose_disk_is_lost_goes_on_from_its_mirror(
    kind: str, shared: Path, nursery: Nursery, unbroken: tuple[RunDir, float], tmp_path: Path, home: Path
) -> None:
    run, mirror = RunDir(tmp_path / "run"), places(tmp_path)[kind]
    place = place_of(mirror, hub="local")
    order = call(shared, run.path, "run.save_every=1", mirror=mirror, hub="local")
    pid = nursery.start(order, environ={"HUBTOOL_HOME": str(home)})
    taken_from = _wait_for(place, nursery, pid)
    shutil.rmtree(run.path)
    told = Told()
    _go(order, told)
    line = next(line for line in told.said if line.startswith("taken up from the mirror"))
    assert taken_from.global_step >= 1
    assert f"s{taken_from.global_step:06d}" in line
    assert_same(run, unbroken[0])
    last = place.newest()
    assert last is not None and last.global_step == numbers(run)[-1]["global_step"]
    assert told.warned == []


def _wait_for(place: Place, nursery: Nursery, pid: int) -> MirrorManifest:
    """Kill it as soon as something is in the mirror that is not the end; then say what is there."""
    deadline = time.monotonic() + 120
    while place.newest() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    found = place.newest()
    assert found is not None
    return found


def _go(order: dict[str, Any], told: Told) -> Any:
    given = {**order, "run": Path(order["run"]), "data": Path(order["data"]), "reporter": told}
    return finetune(given.pop("recipe"), **given)


@pytest.fixture
def mirrored(shared: Path, nursery: Nursery, tmp_path: Path) -> tuple[dict[str, Any], RunDir, Path]:
    """A finished run and its mirror in a directory."""
    run, mirror = RunDir(tmp_path / "run"), tmp_path / "mirror"
    order = call(shared, run.path, "train.epochs=1", mirror=str(mirror))
    assert nursery.run(order) == 0
    return order, run, mirror


def test_a_mirror_holds_one_whole_checkpoint_and_names_nothing_of_the_machine(
    mirrored: tuple[dict[str, Any], RunDir, Path], shared: Path
) -> None:
    _, run, mirror = mirrored
    (snapshot,) = [path for path in mirror.iterdir() if not path.name.startswith(".")]
    manifest = MirrorManifest.read(snapshot / MIRROR)
    files = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()} - {MIRROR}
    assert {file.path for file in manifest.files} == files
    content = b"".join(path.read_bytes() for path in snapshot.rglob("*") if path.is_file())
    assert b"000.png" in (run.path / "data.json").read_bytes()
    assert b"000.png" not in content
    assert str(shared).encode() not in content


def test_a_mirror_of_another_run_is_neither_taken_up_nor_overwritten(
    mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path
) -> None:
    order, _, mirror = mirrored
    before = {path: path.read_bytes() for path in mirror.rglob("*") if path.is_file()}
    other = {**order, "run": str(tmp_path / "other"), "overrides": [*order["overrides"], "train.seed=6"]}
    with pytest.raises(ConflictError) as caught:
        _go(other, Told())
    assert caught.value.code == "E-MIRROR-OTHER"
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="twin"):
        _go({**order, "new": True}, Told())
    assert {path: path.read_bytes() for path in mirror.rglob("*") if path.is_file()} == before


def test_a_run_that_stands_further_than_its_mirror_is_not_set_back(
    mirrored: tuple[dict[str, Any], RunDir, Path], shared: Path, nursery: Nursery, tmp_path: Path
) -> None:
    """The mirror was lost and an older copy of it put back."""
    order, run, mirror = mirrored
    old = tmp_path / "old"
    shutil.copytree(mirror, old)
    (snapshot,) = [path for path in old.iterdir() if not path.name.startswith(".")]
    manifest = MirrorManifest.read(snapshot / MIRROR)
    manifest.model_copy(update={"global_step": 1, "epoch": 0}).write(snapshot / MIRROR)
    run.path.joinpath("result.json").unlink()
    told = Told()
    _go({**order, "mirror": str(old)}, told)
    assert not [line for line in told.said if line.startswith("taken up")]
    newest = DirectoryPlace(old).newest()
    assert newest is not None and newest.global_step == manifest.global_step


def test_a_directory_that_holds_something_else_is_left_alone(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "thesis.tex").write_text("mine")
    order = call(shared, tmp_path / "run", "train.epochs=1", mirror=str(tmp_path / "drive"))
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        _go(order, Told())
    assert [path.name for path in (tmp_path / "drive").iterdir()] == ["thesis.tex"]


def test_a_damaged_mirror_is_not_taken_up(mirrored: tuple[dict[str, Any], RunDir, Path]) -> None:
    order, run, mirror = mirrored
    (weights,) = mirror.glob(f"*/checkpoints/{run.result().selected.checkpoint}/trainable.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shutil.rmtree(run.path)
    with pytest.raises(Exception, match=r"trainable\.safetensors has not the digest"):
        _go(order, Told())
    assert not run.is_begun


def test_a_hub_that_is_away_never_stops_training(shared: Path, tmp_path: Path, home: Path) -> None:
    """One warning at the start, one for all the checkpoints that could not be copied."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        told = Told()
        order = call(shared, tmp_path / "run", "train.epochs=2", mirror="me/flowers", hub=url)
        assert _go(order, told).status == "finished"
    assert [line.partition(f"me/flowers on {url}")[0] for line in told.warned if "mirror" in line] == [
        "the mirror ",
        "nothing is copied to the mirror ",
    ]


def test_a_place_that_comes_back_gets_the_next_checkpoint(
    shared: Path, unbroken: tuple[RunDir, float], tmp_path: Path
) -> None:
    """It stands in the way as a file until the first warning."""
    drive = tmp_path / "drive"
    drive.write_text("not mounted")

    class Mounts(Told):
        def warn(self, text: str) -> None:
            super().warn(text)
            drive.unlink(missing_ok=True)

    told = Mounts()
    order = call(shared, tmp_path / "run", mirror=str(drive / "mirror"))
    _go(order, told)
    assert len([line for line in told.warned if line.startswith("nothing is copied")]) == 1
    assert DirectoryPlace(drive / "mirror").newest() is not None


def test_a_repository_is_private_and_no_package_is_overwritten(mirrored: Any, tmp_path: Path, home: Path) -> None:
    order, _, _ = mirrored
    _go({**order, "run": str(tmp_path / "again"), "mirror": "me/again", "hub": "local"}, Told())
    with endpoint.writing("local") as hub:
        assert hub.api().model_info("me/again").private
        hub.api().create_repo("me/models")
        hub.api().upload_file(path_or_fileobj=b"mine", path_in_repo="model.bin", repo_id="me/models")
        with pytest.raises(ConflictError, match=r"model\.bin"):
            repositories.newest(hub, RepoId("me/models"))


@pytest.mark.parametrize(
    ("text", "is_directory"), [("backup", True), ("./me/flowers", True), ("/a/b/c", True), ("me/flowers", False)]
)
def test_which_place_is_meant(text: str, is_directory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(place_of(text, hub=None), DirectoryPlace) is is_directory
    if not is_directory:
        (tmp_path / text).mkdir(parents=True)
        assert isinstance(place_of(text, hub=None), DirectoryPlace)
        with pytest.raises(SecurityError):
            place_of("me/flowers.git", hub=None)


def test_a_manifest_that_leads_out_of_the_run_is_refused() -> None:
    good = MirrorManifest(
        checkpoint="e1", epoch=1, global_step=1, recipe_digest="a", data_digest="b", files=()
    ).to_json()
    for path in ("../x", "checkpoints/../x", "result.json", "checkpoints/e1/../../x", "logs/../../x"):
        file = f'{{"path":"{path}","size_bytes":1,"sha256":"{"a" * 64}"}}'.encode()
        with pytest.raises(IntegrityError):
            MirrorManifest.from_json(good.replace(b'"files":[]', b'"files":[' + file + b"]"), MIRROR)
