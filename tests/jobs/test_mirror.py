"""A machine dies with its disk: the same command goes on from the mirror and ends as the run that nothing happened to."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data.made import Heard

from hubtool.core.digests import sha256_file
from hubtool.core.errors import ConflictError, IntegrityError, SecurityError, StorageError, UsageError
from hubtool.core.files import publish_dir, write_chunks
from hubtool.core.ids import RepoId
from hubtool.hub import mirror as repositories
from hubtool.hub.client import Hub
from hubtool.jobs import endpoint
from hubtool.jobs.finetune import finetune
from hubtool.jobs.mirror import place_of
from hubtool.records.backbone import FileDigest
from hubtool.records.rundir import RunDir
from hubtool.records.state import MIRROR, MirrorManifest
from hubtool.training import mirror as copying
from hubtool.training.checkpoint import Checkpoints
from hubtool.training.mirror import DirectoryPlace, Place
from jobs.killing import assert_same, numbers
from jobs.nursery import Nursery
from jobs.test_cached_backbones import save_backbone
from jobs.test_finetune import call, nursery, shared, unbroken

__all__ = ["nursery", "shared", "unbroken"]
pytestmark = pytest.mark.usefixtures("blank_plots")


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
    told = Heard()
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


def _go(order: dict[str, Any], told: Heard) -> Any:
    given = {**order, "run": Path(order["run"]), "data": Path(order["data"]), "reporter": told}
    return finetune(given.pop("recipe"), **given)


@pytest.fixture(scope="module")
def finished(shared: Path, nursery: Nursery) -> Path:
    """A directory with a finished run and its mirror."""
    order = call(shared, shared / "finished" / "run", "train.epochs=1", mirror=str(shared / "finished" / "mirror"))
    assert nursery.run(order) == 0
    return shared / "finished"


@pytest.fixture
def mirrored(shared: Path, finished: Path, tmp_path: Path) -> tuple[dict[str, Any], RunDir, Path]:
    """A finished run and its mirror in a directory, for the test alone."""
    run, mirror = RunDir(tmp_path / "run"), tmp_path / "mirror"
    for name in ("run", "mirror"):
        shutil.copytree(finished / name, tmp_path / name)
    return call(shared, run.path, "train.epochs=1", mirror=str(mirror)), run, mirror


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
        _go(other, Heard())
    assert caught.value.code == "E-MIRROR-OTHER"
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="twin"):
        _go({**order, "new": True}, Heard())
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
    told = Heard()
    _go({**order, "mirror": str(old)}, told)
    assert not [line for line in told.said if line.startswith("taken up")]
    newest = DirectoryPlace(old).newest()
    assert newest is not None and newest.global_step == manifest.global_step


def test_a_directory_that_holds_something_else_is_left_alone(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "thesis.tex").write_text("mine")
    order = call(shared, tmp_path / "run", "train.epochs=1", mirror=str(tmp_path / "drive"))
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        _go(order, Heard())
    assert [path.name for path in (tmp_path / "drive").iterdir()] == ["thesis.tex"]


def test_a_damaged_mirror_is_not_taken_up(mirrored: tuple[dict[str, Any], RunDir, Path]) -> None:
    order, run, mirror = mirrored
    (weights,) = mirror.glob(f"*/checkpoints/{run.result().selected.checkpoint}/trainable.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shutil.rmtree(run.path)
    with pytest.raises(Exception, match=r"trainable\.safetensors has not the digest"):
        _go(order, Heard())
    assert not run.is_begun


@pytest.mark.parametrize("kind", ["directory", "repository"])
def test_a_mirror_that_stands_further_or_is_of_another_run_is_never_replaced(
    kind: str, tmp_path: Path, home: Path
) -> None:
    place = place_of(places(tmp_path)[kind], hub="local")
    place.send(*snapshot(tmp_path / "a", 10))
    place.send(*snapshot(tmp_path / "b", 50))
    with pytest.raises(ConflictError, match=r"stands further \(e001-s000050\) than this run \(e001-s000020\)"):
        place.send(*snapshot(tmp_path / "c", 20))
    for other in ({"recipe_digest": "other"}, {"data_digest": "other"}):
        with pytest.raises(ConflictError, match="another run"):
            place.send(*snapshot(tmp_path / f"d-{next(iter(other))}", 60, **other))
    (tmp_path / "back").mkdir()
    assert place.fetch(tmp_path / "back").global_step == 50
    place.send(*snapshot(tmp_path / "e", 50))
    place.send(*snapshot(tmp_path / "f", 60))
    newest = place.newest()
    assert newest is not None and newest.global_step == 60


@pytest.mark.parametrize("is_begun", [True, False])
def test_with_drift_another_runs_mirror_is_taken_up_by_an_empty_run_and_never_sent_over(
    is_begun: bool, mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path
) -> None:
    order, _, mirror = mirrored
    before = {path: path.read_bytes() for path in mirror.rglob("*") if path.is_file()}
    other = {**order, "run": str(tmp_path / "other"), "overrides": ["train.epochs=2", "train.seed=6"]}
    if is_begun:
        _go({**other, "mirror": None, "overrides": ["train.epochs=1", "train.seed=6"]}, Heard())
        (tmp_path / "other" / "result.json").unlink()
    told = Heard()
    _go({**other, "allow_drift": True}, told)
    assert bool([line for line in told.said if line.startswith("taken up")]) is not is_begun
    assert len([line for line in told.warned if "nothing is copied" in line and "another run" in line]) == 1
    assert {path: path.read_bytes() for path in mirror.rglob("*") if path.is_file()} == before


def test_a_mirror_that_becomes_another_runs_while_it_is_fetched_is_not_taken_up(
    mirrored: tuple[dict[str, Any], RunDir, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, run, _ = mirrored

    class Changes(DirectoryPlace):
        def fetch(self, directory: Path) -> MirrorManifest:
            return super().fetch(directory).model_copy(update={"data_digest": "other"})

    monkeypatch.setattr("hubtool.jobs.mirror.place_of", lambda text, *, hub: Changes(Path(text)))
    shutil.rmtree(run.path)
    with pytest.raises(ConflictError, match="another run"):
        _go(order, Heard())
    assert not run.is_begun


def test_a_taking_up_that_is_broken_off_anywhere_is_done_again(
    mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first write, at the second, and so on."""
    order, run, mirror = mirrored
    final = numbers(run)
    place, writes = DirectoryPlace(mirror), itertools.count()
    shutil.rmtree(run.path)
    run.path.mkdir()
    for limit in itertools.count():
        fetched = run.path / ".tmp-hubtool-fetched"
        fetched.mkdir()
        manifest, writes = place.fetch(fetched), itertools.count()

        def full(real: Any, last: int = limit, count: Iterator[int] = writes) -> Any:
            def write(*args: Any, **options: Any) -> Any:
                if next(count) >= last:
                    raise StorageError("E-DISK-FULL", "no space")
                return real(*args, **options)

            return write

        with monkeypatch.context() as patch:
            patch.setattr(copying, "write_chunks", full(write_chunks))
            patch.setattr(copying, "publish_dir", full(publish_dir))
            try:
                copying.restore(fetched, manifest, run)
                break
            except StorageError:
                assert copying.is_ahead(manifest, run)
        shutil.rmtree(fetched)
        if limit == 3:  # the command itself takes it up from here
            _go(order, told := Heard())
            assert [line for line in told.said if line.startswith("taken up")]
            assert numbers(run) == final
            shutil.rmtree(run.path)
            run.path.mkdir()
    assert limit >= 6
    assert not copying.is_ahead(manifest, run)


def test_what_a_killed_removal_leaves_is_no_stranger(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path / "mirror")
    place.send(*snapshot(tmp_path / "a", 20))
    (tmp_path / "mirror" / "e001-s000010-val_loss=0.5000" / "checkpoints").mkdir(parents=True)
    newest = place.newest()
    assert newest is not None and newest.global_step == 20
    place.send(*snapshot(tmp_path / "b", 30))
    assert [path.name for path in (tmp_path / "mirror").iterdir() if path.name[0] != "."] == ["e001-s000030"]


def test_a_runs_own_checkpoints_are_no_mirror(mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path) -> None:
    _, run, _ = mirrored
    place, before = DirectoryPlace(run.checkpoints), sorted(run.checkpoints.rglob("*"))
    with pytest.raises(ConflictError, match="no mirror"):
        place.send(*snapshot(tmp_path / "a", 99))
    assert [path for path in sorted(run.checkpoints.rglob("*")) if path.name != ".lock"] == before


def test_a_repository_is_made_on_loopback_only(tmp_path: Path, home: Path) -> None:
    class Far(Hub):
        is_on_loopback = False

    with endpoint.writing("local") as hub:
        far = Far(**{field.name: getattr(hub, field.name) for field in dataclasses.fields(hub)})
        with pytest.raises(UsageError, match=r"write \./me/flowers for a directory"):
            repositories.newest(far, RepoId("me/flowers"))
        with pytest.raises(UsageError):
            repositories.send(far, RepoId("me/flowers"), *snapshot(tmp_path / "a", 10))
        assert not hub.api().repo_exists("me/flowers")
        hub.api().create_repo("me/flowers", private=True)
        repositories.send(far, RepoId("me/flowers"), *snapshot(tmp_path / "b", 10))
        assert repositories.newest(far, RepoId("me/flowers")) is not None


def snapshot(directory: Path, step: int, **digests: str) -> tuple[Path, MirrorManifest]:
    """What a run sends at ``step``, as small as it can be."""
    name = f"e001-s{step:06d}"
    path = directory / "checkpoints" / name / "state.json"
    path.parent.mkdir(parents=True)
    path.write_text(str(step))
    file = FileDigest(
        path=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_file(path)
    )
    given = {"recipe_digest": "r", "data_digest": "d"} | digests
    manifest = MirrorManifest(checkpoint=name, epoch=1, global_step=step, files=(file,), **given)
    (directory / MIRROR).write_bytes(manifest.to_json() + b"\n")
    return directory, manifest


def copied(run: RunDir, place: Place, *, is_stopping: bool = False) -> list[str]:
    """Offer the run's newest checkpoint to a place; what was warned of."""
    told = Heard()
    found = Checkpoints(run.checkpoints, is_writer=False).newest_valid()
    assert found is not None
    mirror = copying.Mirror(place, run, is_stopping=lambda: is_stopping, reporter=told)
    mirror.offer(found[1])
    mirror.close()
    return told.warned


def test_the_directory_of_a_local_backbone_stays_here_and_its_run_is_taken_up(
    shared: Path, tmp_path: Path, home: Path
) -> None:
    run, mirror = RunDir(tmp_path / "run"), tmp_path / "mirror"
    nets = save_backbone("test_resnet", tmp_path / "nets")
    order = call(shared, run.path, f"backbone=local:{nets}", "train.epochs=1", mirror=str(mirror))
    _go(order, Heard())
    content = {path.name: path.read_bytes() for path in mirror.rglob("*") if path.is_file()}
    assert b"# on the command line: backbone=local:nets" in content["recipe.yaml"]
    assert [name for name, data in content.items() if str(tmp_path).encode() in data and name != ".lock"] == []
    before = numbers(run)
    shutil.rmtree(run.path)
    _go(order, told := Heard())
    assert [line for line in told.said if line.startswith("taken up")]
    assert numbers(run) == before


def test_an_offer_that_fails_leaves_no_copy(mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path) -> None:
    _, run, _ = mirrored
    (run.path / "environment.json").unlink()
    (warned,) = copied(run, DirectoryPlace(tmp_path / "second"))
    assert "nothing is copied" in warned
    assert not list(run.path.glob(".tmp-hubtool-*"))


def test_a_run_that_was_asked_to_stop_does_not_wait_for_a_slow_mirror(
    mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place answers after 30 s, or when the test is over."""
    over = threading.Event()

    class Slow(DirectoryPlace):
        def send(self, directory: Path, manifest: MirrorManifest) -> None:
            over.wait(30)

    monkeypatch.setattr(copying, "_PATIENCE_STOPPED_S", 0.1)
    warned = copied(mirrored[1], Slow(tmp_path / "second"), is_stopping=True)
    over.set()
    assert [line for line in warned if "took too long" in line]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mirror_that_ends_says_so(mirrored: tuple[dict[str, Any], RunDir, Path], tmp_path: Path) -> None:
    class Broken(DirectoryPlace):
        def send(self, directory: Path, manifest: MirrorManifest) -> None:
            raise ValueError("a fault of ours")

    (warned,) = copied(mirrored[1], Broken(tmp_path / "second"))
    assert "has ended, nothing more is copied: ValueError: a fault of ours" in warned


def test_a_hub_that_is_away_never_stops_training(
    shared: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning at the start, one for all the checkpoints that could not be copied."""
    monkeypatch.setattr("hubtool.hub.translate._MAX_WAIT_S", 0.01)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        told = Heard()
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

    class Mounts(Heard):
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
    _go({**order, "run": str(tmp_path / "again"), "mirror": "me/again", "hub": "local"}, Heard())
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
