"""Wall time of a whole run with W&B online at an address that never answers, and at a closed one, beside one without W&B.

python -m benchmarks wandb_dead [--rounds 5] [--epochs 20]

Each run is the command as one types it, in a process of its own, on the bundled digits; the three kinds take turns, so that
a busy moment of the machine strikes all of them. One run to warm up, then three a round.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
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
        wall_s: dict[str, list[float]] = {kind: [] for kind in addresses}
        for number in range(chosen.rounds):
            for kind, address in addresses.items():
                wall_s[kind].append(_run(place, f"{kind}-{number}", address))
                print(f"round {number + 1}, {kind}: {wall_s[kind][-1]:.2f} s", flush=True)
    _print(wall_s)
    return 0


def _silent() -> socket.socket:
    """It takes connections and says nothing."""
    return socket.create_server(("127.0.0.1", 0))


def _prepare(place: Path, epochs: int) -> None:
    from hubtool.jobs.demo import write_digits

    write_digits(place / "digits")
    (place / "recipe.yaml").write_text(_RECIPE.format(epochs=epochs))


def _run(place: Path, name: str, address: str | None) -> float:
    """Seconds of one command. Raises CalledProcessError where it fails, AssertionError where W&B was not tried."""
    command = [sys.executable, "-m", "hubtool", "finetune", "recipe.yaml", "--data", "digits", "--run", f"runs/{name}"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environ |= {"HUBTOOL_HOME": str(place / "home"), "HF_HOME": str(place / "hf")}
    if address is not None:
        environ |= {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        command.append("run.log.wandb.mode=online")
    started = time.perf_counter()
    done = subprocess.run([*command, "--no-cache"], cwd=place, env=environ, capture_output=True, text=True, check=True)
    wall_s = time.perf_counter() - started
    assert (address is None) != ("does not answer" in done.stderr), done.stderr
    return wall_s


def _print(wall_s: dict[str, list[float]]) -> None:
    plain_s = statistics.median(wall_s["without W&B"])
    print(f"\n{'W&B':15} {'median':>9} {'fastest':>9} {'slowest':>9} {'longer by':>10}")
    for kind, values in wall_s.items():
        median_s = statistics.median(values)
        more = f"{100 * (median_s / plain_s - 1):+.1f} %"
        print(f"{kind:15} {median_s:7.2f} s {min(values):7.2f} s {max(values):7.2f} s {more:>10}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
