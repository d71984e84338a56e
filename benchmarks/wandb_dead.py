"""Wall and CPU time of a whole run with W&B online at an address that never answers, and at a closed one, beside one without W&B.

python -m benchmarks wandb_dead [--rounds 5] [--epochs 20]

Each run is the command as one types it, in a process of its own, on the bundled digits; the three kinds take turns, so that
a busy moment of the machine strikes all of them. One run to warm up, then three a round. Wall time holds for a machine that
does nothing else; CPU time (the command's and that of its processes) shows what W&B computes also where others compute.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_RECIPE = """\
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
freeze: {{through: stage3}}
data: {{img_size: 32}}
train: {{epochs: {epochs}, batch_size: 64, optimizer: {{name: adamw, lr: 2e-3}}}}
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks wandb_dead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hubtool-wandb-") as folder, _silent() as silent, _silent() as gone:
        place = Path(folder)
        port, closed = silent.getsockname()[1], gone.getsockname()[1]
        gone.close()
        addresses = {
            "without W&B": None,
            "never answers": f"http://127.0.0.1:{port}",
            "closed": f"http://127.0.0.1:{closed}",
        }
        _prepare(place, chosen.epochs)
        _run(place, "warm-up", None)
        spent: dict[str, list[Spent]] = {kind: [] for kind in addresses}
        for number in range(chosen.rounds):
            for kind, address in addresses.items():
                one = _run(place, f"{kind}-{number}", address)
                spent[kind].append(one)
                print(f"round {number + 1}, {kind}: {one.wall_s:.2f} s, CPU {one.cpu_s:.2f} s", flush=True)
    _print(spent)
    return 0


def _silent() -> socket.socket:
    """It takes connections and says nothing."""
    return socket.create_server(("127.0.0.1", 0))


def _prepare(place: Path, epochs: int) -> None:
    from hubtool.jobs.demo import write_digits

    write_digits(place / "digits")
    (place / "recipe.yaml").write_text(_RECIPE.format(epochs=epochs))


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one command took."""

    wall_s: float
    cpu_s: float


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(place: Path, name: str, address: str | None) -> Spent:
    """Seconds of one command. Raises CalledProcessError where it fails, AssertionError where W&B was not tried."""
    command = [sys.executable, "-m", "hubtool", "finetune", "recipe.yaml", "--data", "digits", "--run", f"runs/{name}"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environ |= {"HUBTOOL_HOME": str(place / "home"), "HF_HOME": str(place / "hf")}
    if address is not None:
        environ |= {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        command.append("run.log.wandb.mode=online")
    started, used_s = time.perf_counter(), _cpu_s()
    done = subprocess.run([*command, "--no-cache"], cwd=place, env=environ, capture_output=True, text=True, check=True)
    spent = Spent(wall_s=time.perf_counter() - started, cpu_s=_cpu_s() - used_s)
    assert (address is None) != ("does not answer" in done.stderr), done.stderr
    return spent


def _print(spent: dict[str, list[Spent]]) -> None:
    plain = spent["without W&B"]
    plain_s, plain_cpu_s = statistics.median(s.wall_s for s in plain), statistics.median(s.cpu_s for s in plain)
    print(f"\n{'W&B':15} {'median':>9} {'fastest':>9} {'slowest':>9} {'longer by':>10} {'CPU':>9} {'more':>8}")
    for kind, values in spent.items():
        walls_s = [s.wall_s for s in values]
        median_s, cpu_s = statistics.median(walls_s), statistics.median(s.cpu_s for s in values)
        more = f"{100 * (median_s / plain_s - 1):+.1f} %"
        print(
            f"{kind:15} {median_s:7.2f} s {min(walls_s):7.2f} s {max(walls_s):7.2f} s {more:>10} "
            f"{cpu_s:7.2f} s {cpu_s - plain_cpu_s:+6.2f} s"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
