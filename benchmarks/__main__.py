"""``python -m benchmarks [NAME [ARGUMENT ...]]``: list the commands, or run one."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks


def main() -> int:
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name[0] != "_")
    if len(sys.argv) < 2:
        for name in names:
            summary = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip().splitlines()
            print(f"{name:20} {summary[0] if summary else ''}")
        print("\nrun one: python -m benchmarks NAME")
        return 0
    name, *arguments = sys.argv[1:]
    if name not in names:
        print(f"no command {name!r}; known: {', '.join(names)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"benchmarks.{name}").main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
