"""Every sink holds each step once, whatever happened; none can stop or slow the writer."""

from __future__ import annotations

import gc
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.core.errors import UsageError
from hubtool.records.log import Event
from hubtool.records.recipe import Log, Wandb
from hubtool.records.resolve import ResolvedRecipe
from hubtool.tracking import lane as lane_module
from hubtool.tracking import sinks
from hubtool.tracking.journal import Journal
from hubtool.tracking.lane import Lane
from hubtool.tracking.sinks import open_sinks, rebuild
from hubtool.tracking.tensorboard import _checksum
from tracking.written import (
    RECIPE,
    journal_of,
    resolved_recipe,
    scalar,
    tensorboard_scalars,
    wandb_records,
    wandb_rows,
)  # fmt: skip

EVERYTHING = Log(tensorboard=True, wandb=Wandb(mode="offline", project="flowers", tags=("a",)), sinks=("csv",))
TENSORBOARD = Log(tensorboard=True)


class Listener:
    """A reporter that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def say(self, text: str) -> None:
        raise AssertionError(text)

    task = None


def test_all_sinks_hold_what_the_journal_holds(run_dir: Path, resolved: ResolvedRecipe) -> None:
    journal_of(run_dir, 20)
    listener = Listener()
    fanout = open_sinks(run_dir, log=EVERYTHING, resolved=resolved, reporter=listener)  # type: ignore[arg-type]
    assert (run_dir / "logs/sinks.json").exists()
    for step in range(21, 31):
        fanout.write(scalar(step))
    fanout.write(scalar(30, split="val", value=0.25))
    fanout.close()
    assert listener.warnings == []

    points = tensorboard_scalars(run_dir)
    assert [step for step, _ in points["loss/train"]] == list(range(1, 31))
    assert points["loss/val"][-1] == (30, 0.25)
    rows = wandb_rows(run_dir)
    assert [row["_step"] for row in rows] == list(range(1, 31))
    assert rows[-1]["loss/val"] == 0.25
    assert rows[-1]["loss/train"] == scalar(30).value
    lines = (run_dir / "logs/csv/metrics.csv").read_text().splitlines()
    assert lines[0] == "global_step,epoch,kind,split,tag,value,path,sha256"
    assert lines[-1] == "30,3,scalar,val,loss,0.25,,"
    assert len(lines) == 1 + 20 + 4 + 11


_WRITER = """
import sys
from pathlib import Path
from tracking.written import resolved_recipe, scalar
from tracking.test_sinks import EVERYTHING
from hubtool.tracking.journal import Journal
from hubtool.tracking.sinks import open_sinks
run_dir, first, size_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
journal = Journal(run_dir / "logs/metrics.jsonl")
journal.cut_back(size_bytes)
fanout = open_sinks(run_dir, log=EVERYTHING, resolved=resolved_recipe())
for step in range(first, 100000):
    for event in [scalar(step)] + ([scalar(step, split="val")] if step % 10 == 0 else []):
        journal.append(event)
        fanout.write(event)
    if step % 25 == 0:
        fanout.flush()
        print(step, journal.commit(), flush=True)
        if step == first + 74:
            sys.stdin.read()
"""


def _wait_for(run_dir: Path, pattern: str) -> Path:
    """A file with more than its head: W&B's process writes the rest when it hears that the run is over, which nobody awaits."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := [path for path in run_dir.glob(pattern) if path.stat().st_size > 2000]:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern}")


def test_after_three_kills_each_step_stands_once(run_dir: Path, resolved: ResolvedRecipe) -> None:
    step, size_bytes, run_ids = 0, 0, set()
    for _ in range(3):
        command = [sys.executable, "-c", _WRITER, str(run_dir), str(step + 1), str(size_bytes)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=env) as child:
            assert child.stdout is not None
            # the second checkpoint is resumed from; the third and some more steps are lost by the resume
            step, size_bytes = (int(word) for word in [child.stdout.readline() for _ in range(2)][-1].split())
            child.stdout.readline()
            run_ids |= {_wait_for(run_dir, "logs/wandb/*run-*/run-*.wandb").name}
            _wait_for(run_dir, "logs/tensorboard/events*")
            time.sleep(0.2)
            os.kill(child.pid, signal.SIGKILL)
    assert step == 150
    journal = Journal(run_dir / "logs/metrics.jsonl")
    journal.cut_back(size_bytes)
    fanout = open_sinks(run_dir, log=EVERYTHING, resolved=resolved)
    for event in (scalar(151), scalar(152)):
        journal.append(event)
        fanout.write(event)
    fanout.close()
    journal.close()

    expected = list(range(1, 153))
    points = tensorboard_scalars(run_dir)
    assert [point[0] for point in points["loss/train"]] == expected
    assert [point[0] for point in points["loss/val"]] == list(range(10, 151, 10))
    assert [row["_step"] for row in wandb_rows(run_dir)] == expected
    assert len(list((run_dir / "logs/tensorboard").iterdir())) == 1
    assert len(list((run_dir / "logs/wandb").glob("*run-*"))) <= 2  # the run and the link to the latest
    [name] = run_ids
    assert name == f"run-{fanout.ids['wandb']}.wandb"


def test_the_wandb_file_has_recipe_and_digests_and_nothing_of_the_machine(
    run_dir: Path, resolved: ResolvedRecipe
) -> None:
    journal_of(run_dir, 10)
    rebuild(run_dir, names=("wandb",), log=EVERYTHING, resolved=resolved)
    records = wandb_records(run_dir)
    [run] = [record["run"] for record in records if record["type"] == "run"]
    config = run["config"]["update"]
    assert config["recipe_digest"] == resolved.digest()
    assert config["backbone_digest"] == resolved.backbone.digest()
    assert config["recipe"] == RECIPE
    assert config["resolved"]["train"]["epochs"] == 10
    assert run["project"] == "flowers"
    path = _wait_for(run_dir, "logs/wandb/*run-*/run-*.wandb")
    data = path.read_bytes()
    for secret in (os.uname().nodename, sys.argv[0], str(run_dir.parent), "pytest"):
        assert secret.encode() not in data, secret
    assert {record["type"] for record in records}.isdisjoint(
        {"stats", "output", "output_raw", "environment", "metadata"}
    )


def test_wandb_is_not_told_where_a_backbone_lies(run_dir: Path, resolved: ResolvedRecipe) -> None:
    (run_dir / "recipe.yaml").write_text("schema: hubtool/recipe/v1\nbackbone: local:/home/somebody/secret/net\n")
    pinned = resolved.backbone.model_copy(update={"ref": "local:net"})
    journal_of(run_dir, 10)
    rebuild(run_dir, names=("wandb",), log=EVERYTHING, resolved=resolved.model_copy(update={"backbone": pinned}))
    path = _wait_for(run_dir, "logs/wandb/*run-*/run-*.wandb")
    data = path.read_bytes()
    assert b"local:net" in data
    assert b"somebody" not in data


_IMPORTS = """
import sys
from pathlib import Path
import numpy as np
from hubtool.core.settings import place_caches, read_settings
from hubtool.records.recipe import Log, Wandb
from hubtool.tracking import media
from hubtool.tracking.sinks import rebuild
from tracking.written import resolved_recipe, scalar
run_dir = Path(sys.argv[1])
place_caches(read_settings())
import wandb
launched = wandb.sdk.wandb_run.Run._detect_and_apply_job_inputs
moment = media.Moment(run_dir=run_dir, global_step=1, epoch=1, split="val")
events = [scalar(1), *media.write_histograms(moment, {"weights/fc": np.arange(9.0)})]
log = Log(tensorboard=False, wandb=Wandb(mode="offline"))
rebuild(run_dir, events, names=("wandb",), log=log, resolved=resolved_recipe())
print(*({"pandas", "requests", "wandb.sdk.launch"} & set(sys.modules)))
assert wandb.sdk.wandb_run.Run._detect_and_apply_job_inputs is launched
"""


def test_wandb_imports_nothing_that_a_run_does_not_need(run_dir: Path, tmp_path: Path) -> None:
    """These took longer than the library itself, on a thread that training waits for."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/pandas.py").write_text("raise ImportError('pandas is imported')\n")  # where it is not installed
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env["PYTHONPATH"] = os.pathsep.join((str(tmp_path / "site"), str(Path(__file__).parents[1])))
    command = [sys.executable, "-c", _IMPORTS, str(run_dir)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    [row] = wandb_rows(run_dir)
    assert row["weights/fc/val._type"] == "histogram"


@pytest.mark.parametrize("is_wanted", [False, True])
def test_wandb_reports_errors_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, is_wanted: bool) -> None:
    import wandb as library
    from wandb.analytics.opentelemetry import opentelemetry_proxy

    from hubtool.tracking import wandb

    is_off = threading.Event()
    monkeypatch.setattr(opentelemetry_proxy, "_disabled", is_off)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", str(is_wanted).lower())
    wandb._import_less(library)
    assert is_off.is_set() != is_wanted


def test_wandb_is_left_as_it_was_found(
    run_dir: Path, resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is shared with who trains in a notebook and logs data frames afterwards."""
    import wandb as library

    monkeypatch.setattr(library.util, "pd_available", True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    hook = library.sdk.wandb_run.Run._detect_and_apply_job_inputs
    rebuild(run_dir, [scalar(1)], names=("wandb",), log=EVERYTHING, resolved=resolved)
    assert library.util.pd_available
    assert library.sdk.wandb_run.Run._detect_and_apply_job_inputs is hook


def test_tensorboard_names_no_host_and_has_hparams_in_the_same_run(run_dir: Path, resolved: ResolvedRecipe) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    journal_of(run_dir, 10)
    rebuild(run_dir, names=("tensorboard",), log=EVERYTHING, resolved=resolved)
    [path] = (run_dir / "logs/tensorboard").iterdir()
    assert os.uname().nodename not in path.name
    reader = EventAccumulator(str(path.parent))
    reader.Reload()
    content = reader.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["train.optimizer.lr"].number_value == 1e-3
    assert hparams["backbone.ref"].string_value == "bundled:test_resnet.fractal"
    assert "recipe/text_summary" in reader.Tags()["tensors"]
    assert "custom_scalars__config__" in reader.Tags()["tensors"]


def test_the_id_of_a_run_stays(run_dir: Path, resolved: ResolvedRecipe) -> None:
    first = open_sinks(run_dir, log=TENSORBOARD, resolved=resolved)
    first.close()
    second = open_sinks(run_dir, log=TENSORBOARD, resolved=resolved)
    second.close()
    assert first.ids == second.ids != {}
    third = open_sinks(run_dir, log=TENSORBOARD, resolved=resolved, ids={"tensorboard": "kept"})
    third.close()
    assert third.ids == {"tensorboard": "kept"}


class Broken:
    def __init__(self, place: sinks.Place) -> None:
        self.num_written = 0

    def write(self, event: Event) -> None:
        self.num_written += 1
        if self.num_written == 3:
            raise RuntimeError("no space left\non the service")

    def flush(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sinks.BUILT_IN, "broken", f"{__name__}:Broken")


@pytest.mark.usefixtures("broken")
def test_a_failing_sink_is_dropped_with_one_warning_and_the_others_go_on(
    run_dir: Path, resolved: ResolvedRecipe
) -> None:
    listener = Listener()
    log = Log(sinks=("broken", "csv"), tensorboard=False)
    fanout = open_sinks(run_dir, log=log, resolved=resolved, reporter=listener)  # type: ignore[arg-type]
    for step in range(1, 40):
        fanout.write(scalar(step))
        time.sleep(0.002)
    fanout.close()
    assert listener.warnings == [
        "broken is dropped from this session (RuntimeError: no space left on the service); the log itself is complete"
    ]
    assert len((run_dir / "logs/csv/metrics.csv").read_text().splitlines()) == 40


def test_a_sink_that_cannot_be_opened_is_dropped(run_dir: Path, resolved: ResolvedRecipe) -> None:
    (run_dir / "logs").mkdir()
    (run_dir / "logs/csv").write_text("a file stands in the way")
    listener = Listener()
    log = Log(sinks=("csv",), tensorboard=False)
    fanout = open_sinks(run_dir, log=log, resolved=resolved, reporter=listener)  # type: ignore[arg-type]
    fanout.write(scalar(1))
    fanout.close()
    assert len(listener.warnings) == 1
    assert "FileExistsError" in listener.warnings[0]


class Failing:
    """Raises at its second event."""

    def __init__(self) -> None:
        self.num_written = 0
        self.is_closed = False

    def write(self, event: Event) -> None:
        self.num_written += 1
        if self.num_written == 2:
            raise OSError("no space left")

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True
        raise OSError("no space left either")


def test_a_lost_sink_gives_back_what_it_holds() -> None:
    sink = Failing()
    lane = Lane("failing", build=lambda: sink, backlog=tuple, replay=tuple)
    for step in range(3):
        lane.put(scalar(step))
    lane.end()
    lane.join()
    assert lane.failure == "OSError: no space left"
    lane._thread.join()
    assert sink.is_closed


def test_tensorboard_closes_its_file_where_it_cannot_begin(run_dir: Path, resolved: ResolvedRecipe) -> None:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "environment.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        rebuild(run_dir, names=("tensorboard",), log=EVERYTHING, resolved=resolved)
    gc.collect()  # a file left open is a ResourceWarning, which is an error here


def test_a_lane_that_waits_for_more_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_COLLECT_S", 3600.0)
    gate = threading.Event()
    gate.set()
    sink = Slow(gate)
    lane = Lane("waiting", build=lambda: sink, backlog=tuple, replay=tuple)
    events = [scalar(step) for step in range(3)]
    for event in events:
        time.sleep(0.02)
        lane.put(event)
    lane.end()
    lane.join()
    assert (lane.failure, sink.events, sink.is_closed) == (None, events, True)


class Slow:
    """Takes events as slowly as it is told to; keeps what it got."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.events: list[Event] = []
        self.is_closed = False

    def write(self, event: Event) -> None:
        self.gate.wait()
        self.events.append(event)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


def test_a_hanging_sink_costs_no_step_and_is_dropped() -> None:
    sink = Slow(threading.Event())
    lane = Lane("slow", build=lambda: sink, backlog=tuple, replay=tuple, queue_size=10, hang_s=0.3)
    started = time.monotonic()
    for step in range(1000):
        lane.put(scalar(step))
    assert time.monotonic() - started < 0.2
    lane.end()
    lane.join()
    assert time.monotonic() - started < 2
    assert lane.failure is not None
    assert lane.failure.startswith("it did not answer")
    sink.gate.set()


def test_a_sink_that_fell_behind_is_built_again_from_the_journal() -> None:
    gate, built = threading.Event(), list[Slow]()
    events = [scalar(step) for step in range(100)]

    def build() -> Slow:
        built.append(Slow(gate))
        return built[-1]

    def replay() -> Iterator[Event]:
        return iter(events)

    lane = Lane("slow", build=build, backlog=tuple, replay=replay, queue_size=10, hang_s=5)
    for event in events:
        lane.put(event)
    gate.set()
    lane.end()
    lane.join()
    assert lane.failure is None
    assert len(built) == 2
    assert all(sink.is_closed for sink in built)
    assert len(built[0].events) < 100
    assert built[1].events == events


def test_an_unknown_sink_is_named_with_those_there_are(run_dir: Path, resolved: ResolvedRecipe) -> None:
    with pytest.raises(UsageError) as caught:
        rebuild(run_dir, names=("mlfow",), log=EVERYTHING, resolved=resolved)
    assert "tensorboard, wandb, csv" in caught.value.line()


def test_online_without_a_key_falls_to_offline_with_one_warning(
    run_dir: Path, resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(run_dir / "no-netrc"))
    monkeypatch.setenv("HOME", str(run_dir))
    listener = Listener()
    log = Log(tensorboard=False, wandb=Wandb(mode="online"))
    fanout = open_sinks(run_dir, log=log, resolved=resolved, reporter=listener)  # type: ignore[arg-type]
    fanout.write(scalar(1))
    fanout.close()
    assert len(listener.warnings) == 1
    assert "no key" in listener.warnings[0]
    assert [row["_step"] for row in wandb_rows(run_dir)] == [1]


def test_a_service_that_never_answers_leaves_the_run_offline(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from hubtool.tracking import wandb

    monkeypatch.setattr(wandb, "PROBE_S", 0.3)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        listener = Listener()
        log = Log(tensorboard=False, wandb=Wandb(mode="online"))
        fanout = open_sinks(run_dir, log=log, resolved=resolved_recipe(), reporter=listener)  # type: ignore[arg-type]
        started = time.monotonic()
        for step in range(1, 200):
            fanout.write(scalar(step))
        assert time.monotonic() - started < 0.1
        fanout.close()
    assert listener.warnings == [f"{url} does not answer: the run is written offline (`wandb sync` sends it)"]
    assert [row["_step"] for row in wandb_rows(run_dir)] == list(range(1, 200))


def test_a_closed_address_is_asked_once_and_nothing_is_waited_for(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is closed while the probe asks and listens from then on, so that whoever tried again would be counted."""
    import socket

    import wandb as library

    from hubtool.tracking import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    server.close()
    url, answers, begin, told = f"http://127.0.0.1:{address[1]}", wandb._answers, library.init, {}
    listening: list[socket.socket] = []

    def probed(asked: str) -> bool:
        found = answers(asked)
        listening.append(socket.create_server(address))
        return found

    monkeypatch.setattr(wandb, "_answers", probed)
    monkeypatch.setattr(library, "init", lambda **options: told.update(options) or begin(**options))
    monkeypatch.setenv("WANDB_BASE_URL", url)
    listener = Listener()
    log = Log(tensorboard=False, wandb=Wandb(mode="online"))
    fanout = open_sinks(run_dir, log=log, resolved=resolved_recipe(), reporter=listener)  # type: ignore[arg-type]
    for step in range(1, 200):
        fanout.write(scalar(step))
    fanout.close()
    with listening.pop() as later:
        assert not listening, "asked twice"
        later.setblocking(False)
        with pytest.raises(BlockingIOError):
            later.accept()
    assert told["mode"] == "offline"  # in which the library has no address, no retries and no timeout to wait for
    assert listener.warnings == [f"{url} does not answer: the run is written offline (`wandb sync` sends it)"]
    assert [row["_step"] for row in wandb_rows(run_dir)] == list(range(1, 200))


def test_what_a_service_did_not_take_at_the_end_is_said_and_lies_here(
    run_dir: Path, resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb as library

    from hubtool.tracking import wandb

    settings = wandb._library_settings(library)
    assert (settings.finish_timeout, settings.finish_timeout_raises) == (wandb.FINISH_S, True)
    finish = library.sdk.wandb_run.Run.finish

    def gone(run: object) -> None:
        finish(run)
        raise TimeoutError("Timed out finishing run.")

    monkeypatch.setattr(library.sdk.wandb_run.Run, "finish", gone)
    listener = Listener()
    log = Log(tensorboard=False, wandb=Wandb(mode="offline"))
    fanout = open_sinks(run_dir, log=log, resolved=resolved, reporter=listener)  # type: ignore[arg-type]
    fanout.write(scalar(1))
    fanout.close()
    assert len(listener.warnings) == 1
    assert listener.warnings[0].startswith(
        f"W&B did not take everything within 8 s of the end: it lies in {run_dir}/logs/wandb "
    )
    assert [row["_step"] for row in wandb_rows(run_dir)] == [1]


class NotWandb(http.server.BaseHTTPRequestHandler):
    """Something that speaks HTTP and is no W&B."""

    num_asked = 0

    def do_HEAD(self) -> None:
        NotWandb.num_asked += 1
        self.send_error(404)

    do_GET = do_POST = do_HEAD

    def log_message(self, *_: object) -> None: ...


def test_a_service_that_is_no_wandb_leaves_the_run_offline(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotWandb) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        listener = Listener()
        log = Log(tensorboard=False, wandb=Wandb(mode="online"))
        fanout = open_sinks(run_dir, log=log, resolved=resolved_recipe(), reporter=listener)  # type: ignore[arg-type]
        for step in range(1, 20):
            fanout.write(scalar(step))
        fanout.close()
        server.shutdown()
    assert len(listener.warnings) == 1
    assert listener.warnings[0].startswith("W&B does not take the run (")
    assert NotWandb.num_asked > 1  # the probe, and the library
    assert [row["_step"] for row in wandb_rows(run_dir)] == list(range(1, 20))


def test_another_package_can_bring_a_sink(
    run_dir: Path, resolved: ResolvedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "lines_sink-1.0.dist-info").mkdir(parents=True)
    (site / "lines_sink-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: lines-sink\nVersion: 1.0\n")
    (site / "lines_sink-1.0.dist-info/entry_points.txt").write_text("[hubtool.sinks]\nlines = lines_sink:Lines\n")
    (site / "lines_sink.py").write_text(
        "class Lines:\n"
        "    def __init__(self, place):\n"
        "        place.directory.mkdir(parents=True)\n"
        "        self.stream = (place.directory / 'lines.txt').open('w')\n"
        "        print(place.id, file=self.stream)\n"
        "    def write(self, event): print(event.global_step, event.value, file=self.stream)\n"
        "    def flush(self): self.stream.flush()\n"
        "    def close(self): self.stream.close()\n"
    )
    monkeypatch.syspath_prepend(str(site))
    assert "lines" in sinks.sink_names()
    fanout = open_sinks(run_dir, log=Log(tensorboard=False, sinks=("lines",)), resolved=resolved)
    fanout.write(scalar(1, value=0.5))
    fanout.close()
    assert (run_dir / "logs/lines/lines.txt").read_text() == f"{fanout.ids['lines']}\n1 0.5\n"


@pytest.mark.parametrize("size", [1, 8, 511, 70_000])
def test_a_record_has_the_checksums_that_tensorboard_itself_would_give_it(size: int) -> None:
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    data = random.Random(size).randbytes(size)
    assert _checksum(data) == pywrap_tensorflow.masked_crc32c(data).to_bytes(4, "little")
