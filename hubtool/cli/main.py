"""The command group and the error edge: the one place where an error becomes a line and an exit code.

A command's module is imported when the command is called or the list is shown; it imports its job when it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from hubtool import __version__
from hubtool.core.errors import HubtoolError, InterruptedRun, from_os_error

# command → (module of hubtool.cli, its line in the list); the attribute there has the command's name.
# The lines stand here so that `hubtool --help` imports no command.
COMMANDS = {
    "demo": ("demo", "the whole line offline, in about a minute"),
    "search": ("backbones", "find a backbone by name, licence, size; offline"),
    "pull": ("backbones", "fetch a pretrained backbone and verify every byte"),
    "show": ("backbones", "the layers of a model: shapes, parameters, FLOPs, what trains"),
    "convert": ("backbones", "a pickled checkpoint to safetensors, none of its code run"),
    "registry": ("backbones", "backbones and published models by name"),
    "recipe": ("train", "the recipes: list, copy, check, show"),
    "finetune": ("train", "train a recipe on a folder of pictures; start and resume"),
    "evaluate": ("train", "metrics of a model on a folder of pictures"),
    "predict": ("train", "classes of pictures, best first"),
    "runs": ("runs", "the runs on this machine: list, show, compare, prune"),
    "logs": ("runs", "where a run's logs lie; open or export them"),
    "pack": ("share", "make a directory ready to push"),
    "push": ("share", "send a run or package to a hub, as one commit"),
    "card": ("share", "print a model card"),
    "verify": ("share", "every byte, and every number from its evidence"),
    "lint": ("share", "what a model repository lacks for others to use it"),
    "reproduce": ("share", "train a published model again, compare claim by claim"),
    "login": ("hubs", "keep a token for one hub"),
    "logout": ("hubs", "forget it"),
    "whoami": ("hubs", "who a hub takes you for"),
    "cache": ("hubs", "what is kept to save time: list, prune"),
    "serve": ("serve", "start a hub for the official clients and git"),
    "hub": ("serve", "look after a hub: users, tokens, fsck, gc, backup"),
    "doctor": ("demo", "what this machine has, and what would not work"),
}

EPILOG = """\b
Start here:
  hubtool demo                                   the whole line offline, in about a minute
  hubtool pull bundled:test_resnet.fractal       a backbone
  hubtool finetune linear-probe --data flowers   a folder with one folder per class
  hubtool push runs/… me/flowers                 to a hub; `--hub local` stays on this machine

\b
Exit codes:
  0 done · 2 usage or recipe · 3 data · 4 not found or no right · 5 integrity · 6 refused for security
  7 conflict or drift · 8 storage · 9 NaN or Inf · 10 not reproduced · 75 try again later · 130/143 signals
"""


# How often a thread of OpenMP looks for work before it sleeps. libgomp's default, 300,000, is meant for a machine of its own:
# beside other programs it makes small steps several times slower, and alone it gains nothing that can be measured
# (`python -m benchmarks crowded`). With 1,000, which it takes where it knows of more threads than processors, they wake late.
SPIN_COUNT = 10_000


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is asked for; ``ls`` is an alias of ``list`` (in every group)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"hubtool.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `hubtool {near[0]}`?" if near else "`hubtool --help` lists the commands"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hubtool")
def hubtool() -> None:
    """From a pretrained backbone to a shared model that somebody else can reproduce."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if "OMP_WAIT_POLICY" not in os.environ:  # which libgomp would not look at any more
        os.environ.setdefault(
            "GOMP_SPINCOUNT", str(SPIN_COUNT)
        )  # read when torch is loaded, here and in worker processes
    ended: list[int] = []
    if args is None:
        atexit.register(_leave, ended)  # the first to be registered is the last to be called
    words = list(sys.argv[1:] if args is None else args)
    code = run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    ended.append(code)
    sys.exit(code)


def _leave(ended: list[int]) -> None:
    """Leave without taking torch's modules and libraries down one by one, which takes more than a second.

    Threads are joined by now, and the exit handlers called that were registered after the start; an older one of an
    environment that wraps the interpreter (coverage, a debugger) is not. After an exception nobody caught, Python goes on alone.
    """
    if ended and "torch" in sys.modules:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended[0])


def run(words: list[str]) -> int:
    """Run one command line; returns its exit code. Every error ends here."""
    try:
        result = hubtool.main(args=words, prog_name="hubtool", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _usage(error, words)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except HubtoolError as error:
        return _fail(error, words)
    except BrokenPipeError:
        # The reader of our output went away (`hubtool … | head`): not an error, and nothing more can be said.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        return 141
    except OSError as error:
        return _fail(from_os_error(error), words)
    except Exception as error:  # the edge: whatever nobody foresaw is a bug of ours, told in one line
        if _is_debug():
            raise
        bug = HubtoolError(
            "E-BUG",
            f"{type(error).__name__}: {error}",
            do="this is a bug in hubtool; HUBTOOL_DEBUG=1 shows where",
        )
        return _fail(bug, words)


def _usage(error: click.ClickException, words: list[str]) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "hubtool"
    wrapped = HubtoolError("E-USAGE", error.format_message().rstrip("."), do=f"see `{command} --help`")
    _fail(wrapped, words)
    return 2


def _fail(error: HubtoolError, words: list[str]) -> int:
    if _is_debug():
        import traceback

        traceback.print_exc()
    if "--json" in words and not error.is_told:
        import json

        click.echo(json.dumps(error.as_dict(), ensure_ascii=False, separators=(",", ":")))
    click.echo(error.line(), err=True)
    if error.hint:
        click.echo("hint: " + " ".join(error.hint.split()), err=True)
    return error.process_exit_code if isinstance(error, InterruptedRun) else error.exit_code


def _is_debug() -> bool:
    from hubtool.core.settings import read_settings

    return read_settings().is_debug
