"""How long `hubtool --help` takes beside a bare click program, in fresh processes, taking turns.

.venv/bin/python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

BARE = "import click\n@click.command()\ndef main():\n    'Nothing.'\nmain(['--help'])"
ROUNDS = 30


def main(_arguments: list[str]) -> int:
    commands = {
        "bare click --help": [sys.executable, "-c", BARE],
        "hubtool --help": [sys.executable, "-m", "hubtool", "--help"],
    }
    wall_ms: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall_ms[name].append(1000 * (time.perf_counter() - started))
    for name, values in wall_ms.items():
        print(f"{name:20} median {statistics.median(values):6.1f} ms   best {min(values):6.1f} ms")
    bare, ours = (statistics.median(values) for values in wall_ms.values())
    print(f"ratio {ours / bare:.2f}")
    return 0
