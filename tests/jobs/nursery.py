"""A process that has imported torch and forks children that finetune: a victim starts in a tenth of a second, not in five.

It computes nothing itself, so that no thread stands in the way of a fork. Reads one JSON line per child
(``{"call": {…arguments of finetune…}, "limit_bytes": N, "environ": {…}}``), answers with its pid, then with its exit status.
A ``bare`` child only trains: what it trains on was read before the fork, once for all of them, and it draws no plots;
those of the others are blank.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# What every child needs: imported once, before the forks.
_IMPORTED = (
    "backbones.export", "backbones.freeze", "backbones.frontier", "backbones.head", "backbones.sources",
    "backbones.from_timm", "backbones.replay", "data.kept", "data.loader", "data.splits", "data.targets", "data.worker",
    "jobs.finetune", "jobs.pull", "jobs.shown", "jobs.target", "tracking.gallery", "tracking.journal", "tracking.sinks",
    "training.session",
)  # fmt: skip


class Nursery:
    """The other end: ``start`` a child, then ``wait`` for it."""

    def __init__(self) -> None:
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._read()

    def start(
        self,
        call: dict[str, Any],
        *,
        limit_bytes: int | None = None,
        environ: dict[str, str] | None = None,
        bare: bool = False,
    ) -> int:
        order = {"call": call, "limit_bytes": limit_bytes, "environ": environ or {}, "bare": bare}
        self._in.write(json.dumps(order) + "\n")
        self._in.flush()
        return int(self._read())

    def wait(self) -> tuple[int, str]:
        """(exit code, or minus the signal; the error's line)."""
        found = json.loads(self._read())
        return found["code"], found["error"]

    def run(
        self,
        call: dict[str, Any],
        *,
        kill_after_s: float | None = None,
        number: int = signal.SIGKILL,
        environ: dict[str, str] | None = None,
    ) -> int:
        pid = self.start(call, environ=environ)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, number)
        return self.wait()[0]

    def close(self) -> None:
        self._in.close()
        self._process.wait(timeout=120)
        self._out.close()

    def _read(self) -> str:
        line = self._out.readline()
        assert line, "the nursery died"
        return line.strip()


def _child(order: dict[str, Any], error_fd: int) -> int:
    from hubtool.core.errors import HubtoolError, InterruptedRun
    from hubtool.jobs.finetune import finetune

    if order["limit_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit_bytes"], order["limit_bytes"]))
    os.environ.update(order["environ"])
    call = order["call"]
    try:
        if order["bare"]:
            _train(call)
        else:
            finetune(call.pop("recipe"), data=Path(call.pop("data")), run=Path(call.pop("run")), **call)
    except InterruptedRun as error:
        os.write(error_fd, error.line().encode())
        return error.process_exit_code
    except HubtoolError as error:
        os.write(error_fd, error.line().encode())
        return error.exit_code
    except BaseException:
        os.write(error_fd, traceback.format_exc()[-4000:].encode())
        raise
    return 0


def _inputs(call: dict[str, Any]) -> Any:
    from hubtool.core.progress import SILENT
    from hubtool.data.splits import index_data
    from hubtool.jobs.pull import pull
    from hubtool.jobs.run import Inputs
    from hubtool.records.recipe_file import load_recipe
    from hubtool.records.resolve import resolve
    from hubtool.records.run import RunOptions

    recipe = load_recipe(Path(call["recipe"]), tuple(call["overrides"]))
    backbone = pull(recipe.backbone.ref)
    options = RunOptions(
        data_dir=call["data"],
        backbone=recipe.backbone.ref,
        device="cpu",
        num_workers=call["num_workers"],
        use_cache=call["use_cache"],
        is_shown=False,
        run=recipe.run,
    )
    data = index_data(
        Path(call["data"]),
        task=recipe.task,
        labels=recipe.data.labels,
        val_fraction=recipe.data.val_fraction,
        in_chans=recipe.data.in_chans,
        num_workers=0,
        reporter=SILENT,
    )
    return Inputs(recipe=b"", resolved=resolve(recipe, backbone.entry), backbone=backbone, data=data, options=options)


_READ: dict[str, Any] = {}


def _read_once(call: dict[str, Any]) -> Any:
    key = json.dumps({name: value for name, value in call.items() if name != "run"}, sort_keys=True)
    if key not in _READ:
        _READ[key] = _inputs(call)
    return _READ[key]


def _train(call: dict[str, Any]) -> None:
    from hubtool.jobs.run import train
    from hubtool.records.rundir import RunDir

    place = RunDir(Path(call["run"]))
    with place.held():
        if not place.is_finished:
            train(place, _read_once(call))


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    import blank  # beside this file, which is run as a program
    import matplotlib.figure
    import tensorboard.summary.writer.event_file_writer
    import timm
    import torch
    import torch.fx

    import hubtool

    for name in _IMPORTED:
        importlib.import_module(f"hubtool.{name}")
    torch.set_num_threads(1)
    assert matplotlib.figure and tensorboard and timm and hubtool
    _answer("ready")
    with blank.plots():
        _serve()


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if order["bare"]:
            _read_once(order["call"])
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_fd)
            code = 1
            try:
                code = _child(order, write_fd)
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write_fd)
        _answer(str(pid))
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read_fd, "rb") as stream:
            os.set_blocking(read_fd, False)
            error = (stream.read() or b"").decode()
        _answer(json.dumps({"code": os.waitstatus_to_exitcode(status), "error": error}))


if __name__ == "__main__":
    main()
