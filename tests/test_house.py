"""The plan of the house (DESIGN.md section 4), read from the source: floors, strangers, gates, cycles, light start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hubtool"
FLOORS = {
    "core": 1,
    "records": 2,
    "backbones": 3,
    "data": 3,
    "training": 3,
    "tracking": 3,
    "package": 3,
    "hub": 3,
    "server": 3,
    "jobs": 4,
    "cli": 5,
}
# Library → the rooms (``room/``) and files (``room/file``) that may import it.
GATES = {
    "click": ("cli/",),
    "rich": ("cli/",),
    "pydantic": ("records/",),
    "yaml": ("records/",),
    "torch": (
        "backbones/",
        "training/",
        "data/transforms",
        "data/loader",
        "data/targets",
        "tracking/tensorboard",
        "jobs/",
    ),
    "numpy": (
        "records/evidence",
        "records/metrics",
        "records/label_errors",
        *(f"{room}/" for room, floor in FLOORS.items() if floor >= 3),
    ),
    "PIL": ("data/images", "data/policies", "tracking/"),
    "timm": ("backbones/", "training/optim"),
    "torchvision": ("backbones/",),
    "transformers": ("backbones/",),
    "safetensors": ("backbones/", "training/checkpoint", "training/cache", "records/evidence"),
    "huggingface_hub": ("hub/",),
    "matplotlib": ("tracking/plots",),
    "jinja2": ("package/card", "server/pages"),
    "starlette": ("server/",),
    "uvicorn": ("server/",),
    "lz4": ("server/",),
    "markdown_it": ("server/",),
    "nh3": ("server/",),
    "wandb": ("tracking/",),
    "tensorboard": ("tracking/",),
}
# The edge of the command line, the edge of the server, foreign code on a sink's thread, tracing foreign models.
BROAD_EXCEPT = ("cli/main", "server/app", "tracking/lane", "backbones/trace", "backbones/unpickle_child")


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.module, node.lineno))
            if node.module.startswith("hubtool"):
                found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append((f"<relative in {_module(path)}>", node.lineno))
    return found


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "hubtool" and len(parts) > 1 and parts[1] in FLOORS else None


def test_every_file_stands_in_a_room() -> None:
    strays = [
        str(path.relative_to(ROOT))
        for path in _sources()
        if path.parent != PACKAGE and path.relative_to(PACKAGE).parts[0] not in FLOORS
    ]
    assert strays == []


def test_the_plan_names_every_file() -> None:
    """DESIGN.md section 4 is the plan of the house: a file that it does not name is a file that nobody would look for."""
    plan = (
        (ROOT / "DESIGN.md")
        .read_text(encoding="utf-8")
        .partition("## 4. The house")[2]
        .partition("### Central types")[0]
    )
    words = set(re.findall(r"[a-z_0-9]+", plan))
    verbs = set(re.findall(r"[a-z_]+", (ROOT / "DESIGN.md").read_text(encoding="utf-8").partition("### Commands")[2]))
    unnamed = []
    for path in _sources():
        parts = path.relative_to(PACKAGE).parts
        if (
            len(parts) == 2
            and path.stem != "__init__"
            and path.stem not in (words | verbs if parts[0] == "jobs" else words)
        ):
            unnamed.append("/".join(parts))
    assert unnamed == []


def test_imports_go_down_and_rooms_on_one_floor_are_strangers() -> None:
    wrong = []
    for path in _sources():
        room = _room(_module(path))
        if room is None:
            continue
        for name, line in _imports(path):
            other = _room(name)
            if other is not None and other != room and FLOORS[other] >= FLOORS[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


def test_the_ground_floor_needs_only_the_standard_library() -> None:
    known = set(sys.stdlib_module_names) | {"hubtool"}
    wrong = [
        f"{path.name}:{line} {name}"
        for path in (PACKAGE / "core").glob("*.py")
        for name, line in _imports(path)
        if name.split(".")[0] not in known
    ]
    assert wrong == []


def test_each_library_enters_through_its_gate() -> None:
    wrong = []
    for path in _sources():
        place = path.relative_to(PACKAGE).with_suffix("").as_posix()
        for name, line in _imports(path):
            gates = GATES.get(name.split(".")[0])
            if gates is not None and not any(place == gate or place.startswith(gate) for gate in gates):
                wrong.append(f"{place}.py:{line} imports {name}")
    assert wrong == []


def test_no_import_cycles() -> None:
    graph = {_module(path): {name for name, _ in _imports(path) if name.startswith("hubtool")} for path in _sources()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for name in graph.get(module, ()):
            if name in graph and name != module:
                visit(name, (*trail, module))
        done.add(module)

    for module in graph:
        if module != "hubtool":
            visit(module, ())


def test_a_broad_except_stands_only_in_the_named_places() -> None:
    wrong = []
    for path in _sources():
        place = path.relative_to(PACKAGE).with_suffix("").as_posix()
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ExceptHandler) and place not in BROAD_EXCEPT:
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"bare"}
                cleans_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if names & {"bare", "Exception", "BaseException"} and not cleans_up:
                    wrong.append(f"{place}.py:{node.lineno}")
    assert wrong == []


def test_the_environment_has_one_reader() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _sources()
        if path.relative_to(PACKAGE).as_posix() != "core/settings.py"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "getenv"
    ]
    assert wrong == []


def test_nothing_is_pickled() -> None:
    """But for the child process that turns other people's pickles into safetensors."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _sources()
        if path.name != "unpickle_child.py"
        for name, line in _imports(path)
        if name.split(".")[0] in ("pickle", "dill", "shelve", "joblib", "cloudpickle")
    ]
    assert wrong == []


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_starts_light(words: list[str]) -> None:
    """Of all libraries only click is imported to print help."""
    code = (
        "import sys\nfrom hubtool.cli.main import main\n"
        f"sys.argv = ['hubtool', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch','numpy','pydantic','yaml','rich','jinja2','PIL','timm','torchvision','transformers','safetensors',"
        "'huggingface_hub','matplotlib','starlette','uvicorn','wandb','tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_keep_their_size() -> None:
    """Files of some 400 lines ask for a better shape; past 520 the test insists."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in _sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 520
    }
    assert long == {}
