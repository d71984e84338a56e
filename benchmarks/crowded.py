"""A linear probe of small pictures on a machine that others use too: OpenMP's threads that sleep soon, against gcc's default.

    python -m benchmarks crowded [--rounds 3] [--beside 4]        about four minutes

`hubtool` sets GOMP_SPINCOUNT; libgomp's default (300,000) spins on through the time in which the other half of the pair could
have worked. Both are measured alone and beside processes that do nothing but compute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hubtool.cli.main import SPIN_COUNT

DEFAULT = 300_000
BUSY = "while True: pass"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks crowded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=int, default=2 * (os.cpu_count() or 1), help="busy processes (%(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        _draw(work / "digits")
        for num_busy in (0, options.beside):
            walls_s: dict[int, list[float]] = {DEFAULT: [], SPIN_COUNT: []}
            with _busy(num_busy):
                for _ in range(options.rounds):
                    for count, found in walls_s.items():
                        found.append(_wall_s(work, count))
            medians = {count: statistics.median(found) for count, found in walls_s.items()}
            print(
                f"beside {num_busy} busy processes: spin count {DEFAULT} {medians[DEFAULT]:.1f} s, {SPIN_COUNT} "
                f"{medians[SPIN_COUNT]:.1f} s, {medians[DEFAULT] / medians[SPIN_COUNT]:.2f}x (medians of {options.rounds})",
                flush=True,
            )
    return 0


def _draw(root: Path) -> None:
    import numpy as np

    from hubtool.core.settings import BUNDLED
    from hubtool.data.images import write_png

    with np.load(BUNDLED / "digits" / "digits.npz") as arrays:
        for number, (image_HW, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
            write_png(root / str(label) / f"{number}.png", image_HW)


@contextlib.contextmanager
def _busy(num: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _wall_s(work: Path, spin_count: int) -> float:
    """From start to exit, in a run and a home of its own."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        environment = os.environ | {"HUBTOOL_HOME": f"{place}/home", "GOMP_SPINCOUNT": str(spin_count)}
        words = ["finetune", "linear-probe", "--data", str(work / "digits"), "--run", f"{place}/run", "--json"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "hubtool", *words, "train.epochs=30"],
            env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wall_s = time.perf_counter() - began
        assert json.loads(done.stdout)["status"] == "finished"
        return wall_s
