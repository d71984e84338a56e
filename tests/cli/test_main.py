"""The error edge, the help, and the list of commands and options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hubtool.cli import main as cli
from hubtool.cli.main import COMMANDS, hubtool, run

FROZEN = Path(__file__).with_name("options.json")


def _commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            found |= _commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


ALL = _commands(hubtool)


def test_commands_and_options_are_frozen() -> None:
    """A new knob is a decision: it changes options.json in the same commit, and DESIGN.md section 3."""
    now = {
        name: sorted(
            option if isinstance(p, click.Option) else str(p.human_readable_name)
            for p in command.params
            for option in (p.opts if isinstance(p, click.Option) else [""])
        )
        for name, command in ALL.items()
    }
    assert now == json.loads(FROZEN.read_text())


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_and_the_two_machine_modes(name: str) -> None:
    command = ALL[name]
    assert command.help
    options = {option for p in command.params for option in p.opts}
    assert {"--json", "--quiet"} <= options
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.name == "device", f"{name} {parameter.opts}"


@pytest.mark.parametrize("words", [[name] for name in COMMANDS])
def test_help_of_each_command_exits_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    assert "Usage: hubtool" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["finetun"], "did you mean `hubtool finetune`?"),
        (["finetune"], "Missing argument 'RECIPE'"),
        (["pull", "--nope", "x"], "No such option"),
        (["search", "--max-params", "many"], "is no number of parameters"),
        (["recipe", "cp"], "Missing argument"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error[E-USAGE] ")
    assert part in captured.err
    assert captured.err.count("\n") == 1


def test_an_error_is_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "check", "nope", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "E-RECIPE-404"
    assert captured.err.startswith("error[E-RECIPE-404]")


def test_the_list_fits_on_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()[: len(COMMANDS)]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert max(map(len, lines)) <= 80


def test_ls_is_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "ls", "-q"]) == 0
    assert "linear-probe" in capsys.readouterr().out.split()


def test_a_bug_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli.hubtool, "main", broken)
    assert run(["recipe", "list"]) == 1
    assert capsys.readouterr().err.startswith("error[E-BUG] ZeroDivisionError: division by zero – this is a bug")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m hubtool recipe schema | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


_LEAVING = """
import atexit, sys, types
sys.modules["torch"] = types.ModuleType("torch")  # as if a command had needed it
class Late:
    def __del__(self):
        sys.stderr.write("taken down\\n")
late = Late()
from hubtool.cli import main
run = main.run
def and_register(words):
    atexit.register(lambda: print("exit handlers run"))  # as libraries do when they are imported
    return run(words)
main.run = and_register
sys.argv[1:] = WORDS
main.main()
"""


@pytest.mark.parametrize(("words", "code"), [(["recipe", "list", "-q"], 0), (["nothing"], 2)])
def test_after_training_a_process_leaves_at_once_with_its_output_and_code(words: list[str], code: int) -> None:
    program = _LEAVING.replace("WORDS", repr(words))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.endswith("exit handlers run\n")
    assert "taken down" not in done.stderr


@pytest.mark.parametrize(
    ("set_to", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_sleep_soon_unless_the_person_says_otherwise(set_to: dict[str, str], found: str) -> None:
    told = "lambda words: print(os.environ.get('GOMP_SPINCOUNT')) or 0"
    program = f"import os\nfrom hubtool.cli import main\nmain.run = {told}\nmain.main()"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    } | set_to
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == found
