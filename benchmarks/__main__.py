"""``python -m benchmarks [NAME [ARGUMENT ...]]``: list the commands, or run one."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path


def commands() -> dict[str, str]:
    """Name → what it does, read from the files without importing what they import."""
    paths = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("_"))
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in paths}


def main(arguments: list[str]) -> int:
    known = commands()
    if not arguments:
        for name, summary in known.items():
            print(f"{name:20} {summary}")
        print("\nrun one: python -m benchmarks NAME")
        return 0
    name, *rest = arguments
    if name not in known:
        print(f"no command {name!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"benchmarks.{name}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
