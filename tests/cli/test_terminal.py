"""What a person sees while a job works: a live line at a terminal, plain lines in a log, nothing with -q; a cell in a notebook."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hubtool.cli.terminal import TerminalReporter
from hubtool.cli.text import Rows, amount, clock

JOB = """
import sys, time
from hubtool.cli.output import Output

out = Output(sys.argv[1])
out.reporter.say("told")
with out.reporter.task("training", total=12, unit="step") as bar:
    state = {"epoch": 0}
    bar.note(lambda: f"epoch {state['epoch']}/3 loss 0.123 top1 0.912 best 0.934 12345 images/s")
    with out.reporter.task("frozen part, once", total=3, unit="picture") as inner:
        for _ in range(3):
            inner.advance()
            time.sleep(0.11)
    for epoch in range(1, 4):
        state["epoch"] = epoch
        for _ in range(4):
            bar.advance()
            time.sleep(0.04)
        bar.row({"epoch": str(epoch), "val/loss": "0.3333", "": "best" if epoch == 2 else ""})
out.reporter.warn("watch out")
out.result({"a": 1}, ids=["the-id"], human=lambda: "the result")
"""


def at_a_terminal(mode: str, *, columns: int = 80) -> str:
    """Everything that reaches the screen, colours taken out; a line that is drawn anew follows its carriage return."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"}
        os.execv(sys.executable, [sys.executable, "-c", JOB, mode])
    data = b""
    while chunk := _read(fd):
        data += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode()).replace("\r\n", "\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux: the other end is closed
        return b""


def in_a_pipe(mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", JOB, mode], capture_output=True, text=True, check=True)


def test_one_live_line_and_rows_above_it() -> None:
    text = at_a_terminal("human")
    drawn = [line for part in text.split("\n") for line in part.split("\r") if line]
    assert max(map(len, drawn)) <= 79
    assert any(line.startswith("frozen part, once") and "/3 pictures" in line for line in drawn)
    assert any(
        re.fullmatch(r"\d+/12  0:0\d  epoch [123]/3 loss 0.123 top1 0.912 best 0.934 12345 images/s", line)
        for line in drawn
    ), drawn
    rows = [line for line in drawn if re.match(r"(epoch  val|    [123]  )", line)]
    assert rows == [
        "epoch  val/loss",
        "    1    0.3333",
        "    2    0.3333  best",
        "    3    0.3333",
    ]
    assert drawn[-2:] == ["warning: watch out", "the result"]


def test_a_wide_terminal_has_a_bar() -> None:
    assert re.search(r"training  ━+─+  \d+/12 steps  0:0\d left  epoch 2/3", at_a_terminal("human", columns=130))


def test_in_a_log_rows_are_plain_lines() -> None:
    done = in_a_pipe("human")
    assert done.stdout == "the result\n"
    lines = done.stderr.splitlines()
    assert lines[:5] == ["told", "epoch  val/loss", "    1    0.3333", "    2    0.3333  best", "    3    0.3333"]
    assert re.fullmatch(r"training: 12 steps in \d\.\d s", lines[5])
    assert lines[6:] == ["warning: watch out"]


def test_a_machine_is_told_now_and_then() -> None:
    done = in_a_pipe("json")
    assert done.stdout == '{"a":1}\n'
    assert [line for line in done.stderr.splitlines() if "epoch" in line] == ["epoch 1 · val/loss 0.3333"]


def test_quiet_is_the_result_and_warnings() -> None:
    done = in_a_pipe("ids")
    assert (done.stdout, done.stderr) == ("the-id\n", "warning: watch out\n")
    assert [line for line in at_a_terminal("ids").splitlines() if line] == ["warning: watch out", "the-id"]


def test_a_step_costs_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter(is_quiet=False).task("training", 20_000, "step") as task:
        task.note(lambda: "never drawn")
        began = time.perf_counter()
        for _ in range(20_000):
            task.advance()
        assert (time.perf_counter() - began) / 20_000 < 20e-6


def test_the_header_stands_again_where_the_columns_change() -> None:
    rows = Rows()
    assert rows.lines({"epoch": "1", "loss": "0.5"}) == ["epoch  loss", "    1   0.5"]
    assert rows.lines({"epoch": "2", "loss": "0.4"}) == ["    2   0.4"]
    assert rows.lines({"step": "3"}) == ["step", "   3"]


def test_amounts_and_times() -> None:
    assert amount(1, None, "picture") == "1 picture"
    assert amount(2, None, "pictures") == "2 pictures"
    assert amount(1, 5, "step") == "1/5 steps"
    assert amount(1_500_000, 3_000_000, "B") == "1.5 MB/3.0 MB"
    assert amount(7, None, "") == "7"
    assert (clock(7.2), clock(3723)) == ("0:07", "1:02:03")


NOTEBOOK = """
import time
import hubtool

with hubtool.progress().task("training", total=6, unit="step") as bar:
    for epoch in (1, 2):
        for _ in range(3):
            bar.advance()
            time.sleep(0.1)
        bar.row({"epoch": str(epoch), "val/loss": "<0.3>"})
"""


def test_in_a_notebook_one_output_is_written_again(tmp_path: Path) -> None:
    """In a real kernel, as Jupyter runs it."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(NOTEBOOK), nbformat.v4.new_code_cell("hubtool.pull.__wrapped__.__name__")]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        book, timeout=60, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    [output] = book.cells[0].outputs
    assert output["output_type"] == "display_data"
    *rows, last = output["data"]["text/plain"].splitlines()
    assert rows == ["epoch  val/loss", "    1     <0.3>", "    2     <0.3>"]
    assert re.fullmatch(r"training: 6 steps in 0\.\d s", last)
    assert "&lt;0.3&gt;" in output["data"]["text/html"]
    assert book.cells[1].outputs[0]["data"]["text/plain"] == "'pull'"


def test_outside_a_notebook_the_verbs_are_silent_functions() -> None:
    import hubtool

    assert not hasattr(hubtool.finetune, "__wrapped__")
    assert isinstance(hubtool.progress(), TerminalReporter)
