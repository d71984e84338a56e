"""Pickled weights → safetensors, in a child process that can do nothing else.

The child reads with ``weights_only`` (tensors and plain containers, no code), has no network and starts no process: an
audit hook refuses both, and writing anywhere but to its output; memory, time and file size are limited. This process
only ever reads the safetensors that comes out, and checks it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hubtool.backbones import weights
from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError, SecurityError, UsageError, from_os_error
from hubtool.core.files import make_dirs
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import PACKAGE

_TIME_LIMIT_S = 900
_EXTRA_MEMORY_BYTES = 24 << 30
_ERRORS: dict[str, type[HubtoolError]] = {"usage": UsageError, "integrity": IntegrityError, "security": SecurityError}


def convert(path: Path, target: Path, *, reporter: Reporter = SILENT) -> None:
    """Write the tensors of a pickle to ``target``, a safetensors file.

    Raises SecurityError for a pickle that holds more than tensors (a whole model: its class is named, nothing of it runs),
    UsageError for one without tensors, IntegrityError for a damaged file.
    """
    if not path.is_file():
        raise NotFoundError("E-WEIGHTS-404", "no such file", where=str(path))
    make_dirs(target.parent)
    with tempfile.TemporaryDirectory(prefix=".tmp-hubtool-", dir=target.parent) as scratch:
        out = Path(scratch) / "out.safetensors"
        said = _run_child(path, out)
        if "error" in said:
            kind = _ERRORS.get(str(said["error"]), IntegrityError)
            raise kind(str(said["code"]), str(said["what"]), where=path.name, do=str(said.get("do", "")))
        if said.get("note"):
            reporter.say(str(said["note"]))
        weights.save(weights.load(out), target)


def _run_child(path: Path, out: Path) -> dict[str, object]:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(PACKAGE.parent),
        "OMP_NUM_THREADS": "1",
        "HOME": str(out.parent),
        "TMPDIR": str(out.parent),
    }
    command = [sys.executable, "-m", "hubtool.backbones.unpickle_child", str(path.absolute()), str(out.absolute())]
    try:
        done = subprocess.run(
            [*command, str(_EXTRA_MEMORY_BYTES + 4 * path.stat().st_size)],
            capture_output=True,
            timeout=_TIME_LIMIT_S,
            env=environment,
            cwd=out.parent,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise IntegrityError(
            "E-PICKLE-TIME", f"reading it took more than {_TIME_LIMIT_S} s", where=path.name
        ) from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    try:
        said = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise IntegrityError(
            "E-PICKLE-CHILD", f"the child process ended with {done.returncode} and no answer", where=path.name
        ) from error
    return said if isinstance(said, dict) else {}
