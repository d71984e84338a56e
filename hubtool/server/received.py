"""What git runs when a push has arrived and before any branch moves (git help githooks, pre-receive).

A pointer whose bytes were never sent would be a file that nobody can download, so such a push is refused whole. git
keeps what was received aside meanwhile and drops it when this program says no.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hubtool
from hubtool.core.errors import HubtoolError
from hubtool.core.files import make_dirs, write_text
from hubtool.core.ids import RepoId
from hubtool.server.gitdir import NO_SHA
from hubtool.server.history import pointers
from hubtool.server.objects import ObjectStore
from hubtool.server.repos import Repo
from hubtool.server.xorbs import Xorbs

# What git sets while the received objects wait (git help receive-pack, QUARANTINE ENVIRONMENT).
_QUARANTINE = ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH")
_SCRIPT = '#!/bin/sh\nexec "$HUBTOOL_PYTHON" -P -c "from hubtool.server.received import main; main()"\n'
_MAX_NAMED = 10


def install(root: Path) -> None:
    """Put the hook where ``environment`` points git to. It is the same text on every machine."""
    path = root / "hooks" / "pre-receive"
    make_dirs(path.parent)
    if not path.exists() or path.read_text("utf-8") != _SCRIPT:
        write_text(path, _SCRIPT, mode=0o755)


def environment(root: Path) -> dict[str, str]:
    """What makes ``git receive-pack`` run the hook, and the hook find this very program."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(root / "hooks"),
        "HUBTOOL_PYTHON": sys.executable,
        "PYTHONPATH": str(Path(hubtool.__file__).parents[1]),
    }


def missing(repo: Repo, objects: ObjectStore, heads: list[str], env: dict[str, str]) -> list[str]:
    """The large files that come with ``heads`` and whose bytes this repository was never shown."""
    found = pointers(repo.path, heads, env)
    return [
        f"{path} ({pointer.oid}, {pointer.size_bytes} bytes)"
        for pointer, path in found.items()
        if not repo.has_object(pointer.oid)
        or not objects.has(pointer.oid)
        or objects.size_bytes(pointer.oid) != pointer.size_bytes
    ]


def _say_in_one_line(kind: type[BaseException], _error: object, _trace: object) -> None:
    """A traceback would show the hub's places to whoever pushes."""
    sys.stderr.write(f"error[E-HUB-INTERNAL] the hub could not look through the push ({kind.__name__})\n")


def main() -> None:
    """The hook: lines ``OLD NEW REF`` on standard input; ends with 1 to refuse them all."""
    sys.excepthook = _say_in_one_line
    wanted = [(new, ref) for _, new, ref in map(str.split, sys.stdin) if new != NO_SHA]
    for _, ref in wanted:
        if not ref.startswith(("refs/heads/", "refs/tags/")):
            sys.exit(f"error[E-HUB-REF] {ref} is no branch and no tag; this hub keeps those alone")
    path = Path.cwd()  # git starts it in the repository: ROOT/repos/KIND/OWNER/NAME.git
    kind, root = path.parents[1].name, path.parents[3]
    repo = Repo(kind, RepoId(f"{path.parent.name}/{path.name.removesuffix('.git')}"), path)
    env = {key: os.environ[key] for key in _QUARANTINE if key in os.environ}
    try:
        absent = missing(repo, ObjectStore(root, Xorbs(root)), [head for head, _ in wanted], env)
    except HubtoolError as error:
        sys.exit(f"error[{error.code}] {error.what}")
    if absent:
        lines = [f"error[E-HUB-OBJECT] {len(absent)} large files came as pointers, without their bytes:"]
        lines += [f"  {text}" for text in absent[:_MAX_NAMED]]
        lines += ["hint: send them first: git lfs push --all origin"]
        sys.exit("\n".join(lines))
