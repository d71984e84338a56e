"""``python -m benchmarks``: every command is listed with what it does, and takes its arguments."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import commands, main


def test_every_command_is_listed_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"build_catalogue", "pretrain_fractals", "probe_digits"} <= set(commands())
    assert all(len(summary) > 20 for summary in commands().values())
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in commands())


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "probe_digits" in capsys.readouterr().err


def test_arguments_reach_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["probe_digits", "--help"])
    assert caught.value.code == 0
    assert "--seeds" in capsys.readouterr().out
