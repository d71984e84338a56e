"""The README does what it says: its tour and its Python block are run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)
    assert found, language
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def _environ(place: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB", "HUBTOOL"))}
    user = place / "user"  # a home directory in which nothing may appear
    user.mkdir(exist_ok=True)
    return {
        **keep,
        "PATH": path,
        "HUBTOOL_HOME": str(place / "home"),
        "HOME": str(user),
        "XDG_CACHE_HOME": str(user / "cache"),
    }


def _run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    cwd = place / "work"
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        command, cwd=cwd, env=_environ(place), capture_output=True, text=True, check=False, timeout=600
    )


def test_the_tour_runs_as_written(place: Path) -> None:
    done = _run(["bash", "-euo", "pipefail", "-c", _block("sh")], place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reproduced: exact" in done.stdout
    assert "finished before, nothing to do" in done.stdout
    assert "nothing was sent" in done.stdout
    assert "Traceback" not in done.stderr
    written = [str(p.relative_to(place)) for p in (place / "user").rglob("*") if p.is_file()]
    assert written == [], "files outside HUBTOOL_HOME and the working directory"


def test_the_python_block_runs_as_written(place: Path) -> None:
    done = _run([sys.executable, "-c", _block("python")], place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val/top1" in done.stdout
    assert done.stdout.strip().endswith("True")


def test_every_command_the_readme_names_exists() -> None:
    from hubtool.cli.main import COMMANDS

    named = set(re.findall(r"\bhubtool ([a-z]+)\b", README)) - {"is", "on"}
    assert named <= set(COMMANDS), named - set(COMMANDS)
