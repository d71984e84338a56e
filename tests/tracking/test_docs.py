"""docs/monitoring.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hubtool.cli.main import run
from tracking.written import finished_run

TEXT = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_every_command_and_the_python_block_run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(Path("runs/probe"), seed=1)
    finished_run(Path("runs/last-stage"), seed=2, lr=3e-3)
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["hubtool"] and words[1] in ("runs", "logs")]
    assert len(commands) == 9
    for words in commands:
        if not {"--open", "--add"} & set(words):  # tried in test_logs and, on a real run, in test_shown
            assert run(words) == 0, words
    capsys.readouterr()
    [python] = blocks("python")
    exec(compile(python, "docs/monitoring.md", "exec"), {})
    assert run(["logs", "runs/probe"]) == 0
    assert "(37 events)" in capsys.readouterr().out
    assert list(Path("runs/probe/logs/media").glob("*scan.npz"))


def test_the_recipe_keys_it_names_exist() -> None:
    from hubtool.records.recipe import Recipe

    for snippet in re.findall(r"`run: (\{.*?\})`", TEXT):
        import yaml

        Recipe.model_validate({"backbone": "bundled:x", "run": yaml.safe_load(snippet)}, strict=False)
