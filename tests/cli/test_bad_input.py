"""Bad input on the real command line: one line, the right exit code, no traceback, nothing half-written.

One row for each way of being wrong. A row prepares real files in a directory of its own, and the command runs twice there:
as a person calls it, and with ``--json``. What a row does not make wrong is right.
"""

# ruff: noqa: E501 (a table: one row, one line)

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hubtool.cli.main import run as command
from hubtool.core.locks import hold
from hubtool.core.settings import BUNDLED
from hubtool.data.images import write_png

RECIPE = """\
schema: hubtool/recipe/v1
backbone: bundled:test_resnet.fractal
head: {mode: replace, type: linear}
freeze: all
data: {val_fraction: 0.25}
train:
  epochs: 1
  batch_size: 16
  optimizer: {name: adamw, lr: 1e-2}
run: {card: {license: mit}}
"""
TOKEN = "hf_" + "aB3dE5gH7j" * 4
FINETUNE = ("finetune", "r.yaml", "--data", "data", "--workers", "0")


@dataclass(frozen=True)
class World:
    """What a row finds: ``r.yaml`` and ``data/`` in ``here``; a run and a package where it asks for them."""

    here: Path
    home: Path
    finished: Path

    @property
    def data(self) -> Path:
        return self.here / "data"

    @property
    def run(self) -> Path:
        """A copy of the finished run, made when first asked for."""
        return self._copy("run")

    @property
    def package(self) -> Path:
        return self._copy("package")

    def _copy(self, name: str) -> Path:
        if not (self.here / name).exists():
            shutil.copytree(self.finished / name, self.here / name)
        return self.here / name

    def first(self) -> Path:
        return sorted(self.data.rglob("*.png"))[0]

    def recipe(self, text: str | bytes) -> None:
        (self.here / "r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    def change(self, was: str, now: str) -> None:
        assert was in RECIPE
        self.recipe(RECIPE.replace(was, now))

    def table(self, text: str) -> None:
        (self.data / "t.csv").write_text(text)

    def backbone(self) -> Path:
        """A copy of the bundled backbone, as a directory of one's own."""
        target = self.here / "own"
        if not target.exists():
            shutil.copytree(BUNDLED / "backbones" / "test_resnet.fractal", target)
        self.change("bundled:test_resnet.fractal", "local:own")
        return target

    def unfinish(self) -> Path:
        """The run, killed after its last checkpoint."""
        (self.run / "result.json").unlink()
        return self.run


Prepare = Callable[[World], Any]


@dataclass(frozen=True)
class Row:
    """``says``: what the line contains; ``told``: the command's report stands on stdout as well (verify)."""

    id: str
    words: tuple[str, ...]
    exit_code: int
    code: str
    says: tuple[str, ...] = ()
    prepare: Prepare = field(default=lambda _: None)
    told: bool = False
    env: tuple[tuple[str, str], ...] = ()
    changes: tuple[str, ...] = ()
    during: Callable[[World], contextlib.AbstractContextManager[None]] | None = None


def _make_data(root: Path) -> None:
    with np.load(BUNDLED / "digits" / "digits.npz") as arrays:
        images_NHW, labels_N = arrays["images"], arrays["labels"]
    for name in ("0", "1", "2"):
        (root / name).mkdir(parents=True)
        for number in np.flatnonzero(labels_N == int(name))[:14]:
            write_png(root / name / f"{number:04d}.png", images_NHW[number])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run of one epoch and its package, for every row."""
    place = tmp_path_factory.mktemp("finished")
    _make_data(place / "data")
    (place / "r.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBTOOL_HOME", str(place / "home"))
        patch.chdir(place)
        assert command([*FINETUNE, "--run", "run", "--quiet"]) == 0
        assert command(["pack", "run", "--out", "package", "--quiet"]) == 0
    yield place


@pytest.fixture
def world(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    here = tmp_path / "here"
    here.mkdir()
    shutil.copytree(finished / "data", here / "data")
    (here / "r.yaml").write_text(RECIPE)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    return World(here, tmp_path / "home", finished)


def _files(*roots: Path) -> dict[str, str]:
    """Every file and directory and what is in it, apart from locks and what HUBTOOL_HOME keeps as caches."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.name == ".lock" or path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
    return found


# What the rows do to the files.


def _weights(world: World, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = world.backbone() / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _raw_weights(world: World, header: dict[str, Any] | bytes, body: bytes = b"", *, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (world.backbone() / "model.safetensors").write_bytes(size + text + body)


def _first_weight(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.dim() == 4)


def _with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first_weight(tensors)].view(-1)[3] = float("nan")


def _misshape(tensors: dict[str, torch.Tensor]) -> None:
    name = _first_weight(tensors)
    tensors[name] = tensors[name][:1].contiguous()


def _pickle_only(world: World) -> None:
    directory = world.backbone()
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def _remote_code(world: World) -> None:
    path = world.backbone() / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "code.Model"}}))


def _bomb(world: World) -> None:
    Image.new("1", (10_000, 10_000)).save(world.first())


def _truncated(world: World) -> None:
    first = world.first()
    Image.effect_noise((64, 64), 60).convert("RGB").save(first.with_suffix(".jpg"))
    data = first.with_suffix(".jpg").read_bytes()
    first.with_suffix(".jpg").write_bytes(data[: len(data) // 2])
    first.unlink()


def _checkpoints(world: World) -> list[Path]:
    return sorted(p for p in (world.unfinish() / "checkpoints").iterdir() if p.is_dir())


def _all_checkpoints_bad(world: World) -> None:
    for path in _checkpoints(world):
        for file in path.glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-1])


def _record(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _edit(path: Path, was: str, now: str) -> None:
    text = path.read_text()
    assert re.search(was, text), (was, text[:400])
    path.write_text(re.sub(was, now, text, count=1))


def _locked(path: Callable[[World], Path]) -> Callable[[World], contextlib.AbstractContextManager[None]]:
    return lambda world: hold(path(world) / ".lock", "the run")


def _table(world: World, text: str) -> None:
    world.change("{val_fraction: 0.25}", "{labels: t.csv}")
    world.table(text)


def _row(id: str, exit_code: int, code: str, *says: str, **rest: Any) -> Row:
    return Row(id, rest.pop("words", FINETUNE), exit_code, code, says, **rest)


def _recipe(id: str, exit_code: int, code: str, was: str, now: str, *says: str) -> Row:
    return _row(id, exit_code, code, *says, prepare=lambda w: w.change(was, now))


def _override(id: str, exit_code: int, code: str, override: str, *says: str) -> Row:
    return _row(id, exit_code, code, *says, words=(*FINETUNE, override))


def _reference(id: str, exit_code: int, code: str, ref: str, *says: str, prepare: Prepare = lambda _: None) -> Row:
    return _row(id, exit_code, code, *says, words=("pull", ref), prepare=prepare)


def _verify(id: str, exit_code: int, code: str, *says: str, prepare: Prepare) -> Row:
    return _row(id, exit_code, code, *says, words=("verify", "package"), prepare=prepare, told=True)


def _push(id: str, exit_code: int, code: str, *says: str, prepare: Prepare = lambda w: w.package, **rest: Any) -> Row:
    words = rest.pop("words", ("push", "package", "me/digits", "--hub", "local", "--dry-run"))
    return _row(id, exit_code, code, *says, words=words, prepare=prepare, **rest)


RECIPES = [
    _row("missing", 2, "E-RECIPE-404", "'x.yaml' not found", words=("finetune", "x.yaml", "--data", "data")),
    _row(
        "misspelt shipped",
        2,
        "E-RECIPE-404",
        "did you mean linear-probe?",
        words=("finetune", "linear-prob", "--data", "data"),
    ),
    _row("directory", 2, "E-RECIPE-404", words=("finetune", "data", "--data", "data")),
    _row("empty", 2, "E-RECIPE-EMPTY", "r.yaml", prepare=lambda w: w.recipe("")),
    _row("only a comment", 2, "E-RECIPE-EMPTY", prepare=lambda w: w.recipe("# nothing\n")),
    _row("not UTF-8", 2, "E-RECIPE-UTF8", "byte 2", "UTF-8", prepare=lambda w: w.recipe(b"a:\xff\n")),
    _row("syntax", 2, "E-RECIPE-SYNTAX", "line 2, column", prepare=lambda w: w.recipe("a: [1\nb: 2\n")),
    _row("tab", 2, "E-RECIPE-SYNTAX", "line 2", prepare=lambda w: w.recipe("train:\n\tepochs: 2\n")),
    _row("list", 2, "E-RECIPE-SHAPE", prepare=lambda w: w.recipe("- a\n")),
    _row(
        "key twice",
        2,
        "E-RECIPE-DUP",
        "'lr'",
        "lines 2 and 3",
        prepare=lambda w: w.recipe("train: {optimizer: {\n  lr: 1,\n  lr: 2}}\n"),
    ),
    _row("alias", 2, "E-RECIPE-ALIAS", "line 1", prepare=lambda w: w.recipe("a: &x 1\nb: *x\n")),
    _row("tag", 6, "E-SEC-YAMLTAG", "line 1", prepare=lambda w: w.recipe("a: !!python/object/apply:os.system [ls]\n")),
    _row("deep", 2, "E-RECIPE-DEPTH", prepare=lambda w: w.recipe("a: " + "[" * 200 + "]" * 200)),
    _row("a megabyte", 2, "E-RECIPE-SIZE", prepare=lambda w: w.recipe("# " + "x" * 2_000_000)),
    _recipe("no backbone", 2, "E-RECIPE-MISSING", "backbone: bundled:test_resnet.fractal\n", "", "backbone"),
    _recipe("misspelt key", 2, "E-RECIPE-KEY", "lr: 1e-2", "learing_rate: 1e-2", "'lr'", "line 9"),
    _recipe("word for number", 2, "E-RECIPE-VALUE", "epochs: 1", 'epochs: "ten"', "expected an integer", "line 7"),
    _recipe("comma for point", 2, "E-RECIPE-VALUE", "lr: 1e-2", 'lr: "1,5"', "expected a number"),
    _recipe("negative lr", 2, "E-RECIPE-VALUE", "lr: 1e-2", "lr: -1", "> 0"),
    _recipe("zero lr", 2, "E-RECIPE-VALUE", "lr: 1e-2", "lr: 0", "> 0"),
    _recipe("NaN lr", 2, "E-RECIPE-VALUE", "lr: 1e-2", "lr: .nan", "train.optimizer.lr"),
    _recipe("infinite lr", 2, "E-RECIPE-VALUE", "lr: 1e-2", "lr: .inf", "train.optimizer.lr"),
    _recipe("batch 0", 2, "E-RECIPE-VALUE", "batch_size: 16", "batch_size: 0", "≥ 1"),
    _recipe("epochs 0", 2, "E-RECIPE-VALUE", "epochs: 1", "epochs: 0", "≥ 1"),
    _recipe("batch and accumulation", 2, "E-RECIPE-VALUE", "batch_size: 16", "grad_accum_steps: 5", "does not divide"),
    _recipe("freezes nothing", 2, "E-FREEZE-NOMATCH", "freeze: all", "freeze: {match: ['layer99.*']}", "layer99.*"),
    _recipe("freezes no such part", 2, "E-FREEZE-NOMATCH", "freeze: all", "freeze: {through: stage9}", "stage9"),
    _recipe("a regex", 2, "E-FREEZE-PATTERN", "freeze: all", "freeze: {match: ['(a+)+$']}", "line 4"),
    _recipe("two kinds of freeze", 2, "E-RECIPE-VALUE", "freeze: all", "freeze: {through: stage1, blocks: 2}"),
    _recipe(
        "past the last epoch",
        2,
        "E-RECIPE-VALUE",
        "freeze: all",
        "freeze: all\nunfreeze: [{at_epoch: 1, through: none}]",
        "past the last",
        "line 5",
    ),
    _row(
        "contradictory order",
        2,
        "E-RECIPE-VALUE",
        "does not come after",
        "line 5",
        prepare=lambda w: w.recipe(
            RECIPE.replace(
                "freeze: all", "freeze: all\nunfreeze: [{at_epoch: 3, through: none}, {at_epoch: 2, through: none}]"
            ).replace("epochs: 1", "epochs: 9")
        ),
    ),
    _recipe("unknown head", 2, "E-RECIPE-VALUE", "type: linear", "type: lineal", "mlp"),
    _recipe(
        "unknown optimizer", 2, "E-OPTIMIZER", "name: adamw", "name: adamq", "train.optimizer.name", "did you mean"
    ),
    _recipe("unknown schedule", 2, "E-RECIPE-VALUE", "epochs: 1", "schedule: {name: cosin}", "cosine"),
    _recipe("unknown task", 2, "E-RECIPE-VALUE", "head: {", "task: segmentation\nhead: {", "classification"),
    _recipe("unknown metric", 2, "E-SELECT", "epochs: 1", "select: {metric: val/acuracy, mode: max}", "accuracy"),
    _recipe("table above the data", 6, "E-PATH-INVALID", "{val_fraction: 0.25}", "{labels: ../t.csv}", "line 5"),
    _recipe("a secret", 6, "E-SEC-SECRET", "epochs: 1", f"epochs: 1  # {TOKEN}", "line 7"),
    _recipe("newer schema", 2, "E-RECIPE-SCHEMA", "recipe/v1", "recipe/v9", "newer hubtool"),
    _recipe(
        "foreign schema", 2, "E-RECIPE-SCHEMA", "hubtool/recipe/v1", "theirs/v1", "write schema: hubtool/recipe/v1"
    ),
    _recipe("unknown licence", 2, "E-LICENSE", "license: mit", "license: nosuch", "nosuch", "run.card.license"),
    _recipe("misspelt licence", 2, "E-LICENSE", "license: mit", "license: apache2.0", "did you mean apache-2.0"),
    _recipe("unknown sink", 2, "E-SINK-404", "run: {", "run: {log: {sinks: [nosuch]}, ", "nosuch", "csv"),
    _override("no equals sign", 2, "E-OVERRIDE", "train.epochs", "PATH.TO.KEY=VALUE"),
    _override("override of an unknown key", 2, "E-RECIPE-KEY", "train.epoch=3", "epochs", "on the command line"),
    _override(
        "override of another type",
        2,
        "E-RECIPE-VALUE",
        "train.epochs=many",
        "expected an integer",
        "on the command line",
    ),
    _override("override with a comma", 2, "E-RECIPE-VALUE", "train.optimizer.lr=1,5", "expected a number"),
    _override(
        "override with an alias", 2, "E-RECIPE-ALIAS", "train.optimizer={name: &x adamw, lr: *x}", "write the value out"
    ),
    _override("override with a tag", 6, "E-SEC-YAMLTAG", "train.optimizer={name: !!python/name:os.system x}"),
    _override("override with a secret", 6, "E-SEC-SECRET", f"run.card.title={TOKEN}", "command line"),
]

DATA = [
    _row("missing", 3, "E-DATA-404", "nowhere", words=("finetune", "r.yaml", "--data", "nowhere")),
    _row("a file", 3, "E-DATA-NOTDIR", words=("finetune", "r.yaml", "--data", "r.yaml")),
    _row("empty", 3, "E-DATA-EMPTY", prepare=lambda w: (shutil.rmtree(w.data), w.data.mkdir())),
    _row("empty class", 3, "E-DATA-EMPTYCLASS", "dogs", prepare=lambda w: (w.data / "dogs").mkdir()),
    _row("no classes", 3, "E-DATA-LAYOUT", "class folder", prepare=lambda w: (shutil.copytree(w.data / "0", w.here / "d"), shutil.rmtree(w.data), (w.here / "d").rename(w.data))),
    _row("one class", 3, "E-DATA-CLASSES", prepare=lambda w: (shutil.rmtree(w.data / "1"), shutil.rmtree(w.data / "2"))),
    _row("truncated", 3, "E-DATA-DECODE", "1 of 42 files", "0/0000.jpg", "--skip-bad 1", prepare=_truncated),
    _row("zero bytes", 3, "E-DATA-DECODE", "1 of 42 files", "empty", prepare=lambda w: w.first().write_bytes(b"")),
    _row("no picture inside", 3, "E-DATA-DECODE", "0/0000.png", prepare=lambda w: w.first().write_text("hello")),
    _row("more bad than allowed", 3, "E-DATA-DECODE", "2 of 42", words=(*FINETUNE, "--skip-bad", "1"), prepare=lambda w: [p.write_bytes(b"") for p in sorted(w.data.rglob("*.png"))[:2]]),
    _row("bomb", 3, "E-DATA-BOMB", "10000", prepare=_bomb),
    _row("link out of the data", 6, "E-PATH-LINK", prepare=lambda w: (w.data / "0" / "x.png").symlink_to(w.here / "r.yaml")),
    _row("folder linked out of the data", 6, "E-PATH-LINK", prepare=lambda w: (w.data / "z").symlink_to(w.home.parent, target_is_directory=True)),
    _row("link loop", 6, "E-PATH-LINK", prepare=lambda w: (w.data / "0" / "loop").symlink_to(w.data, target_is_directory=True)),
    _row("FIFO", 6, "E-PATH-SPECIAL", prepare=lambda w: os.mkfifo(w.data / "0" / "x.png")),
    _row("empty split", 3, "E-DATA-EMPTYSPLIT", "val", prepare=lambda w: (w.data.rename(w.here / "d"), (w.here / "d").rename(w.here / "e"), w.data.mkdir(), (w.here / "e").rename(w.data / "train"), (w.data / "val").mkdir())),
    _row("one picture of each class", 3, "E-DATA-NOVAL", "two or more", prepare=lambda w: [p.unlink() for c in "012" for p in sorted((w.data / c).iterdir())[1:]]),
    _row("no such table", 3, "E-DATA-TABLE", "t.csv", prepare=lambda w: w.change("{val_fraction: 0.25}", "{labels: t.csv}")),
    _row("table of nothing", 3, "E-DATA-TABLE", "no rows", prepare=lambda w: _table(w, "")),
    _row("table with only a header", 3, "E-DATA-TABLE", "no rows", prepare=lambda w: _table(w, "file_name,label\n")),
    _row("table without labels", 3, "E-DATA-TABLE", "'label' is missing", prepare=lambda w: _table(w, "file_name,class\n0/0000.png,a\n")),
    _row("file of the table missing", 3, "E-DATA-TABLE", "0/no.png", "line 2", prepare=lambda w: _table(w, "file_name,label\n0/no.png,a\n")),
    _row("row twice", 3, "E-DATA-TABLE", "lines 2 and 3", prepare=lambda w: _table(w, "file_name,label\n0/0000.png,a\n0/0000.png,b\n")),
    _row("table leaves the data", 6, "E-PATH-INVALID", "line 2", prepare=lambda w: _table(w, "file_name,label\n../x.png,a\n")),
    _row("unknown split", 3, "E-DATA-TABLE", "'tset'", "line 2", prepare=lambda w: _table(w, "file_name,label,split\n0/0000.png,a,tset\n")),
    _row("empty label", 3, "E-DATA-TABLE", "line 2", prepare=lambda w: _table(w, "file_name,label\n0/0000.png,\n")),
    _row("classes of another model", 3, "E-DATA-LABEL", "9", words=("evaluate", "run", "--data", "data"), prepare=lambda w: (w.run, (w.data / "2").rename(w.data / "9"))),
    _row("evaluate without data", 3, "E-DATA-404", words=("evaluate", "run", "--data", "nowhere"), prepare=lambda w: w.run),
    _row("evaluate without the split", 3, "E-DATA-SPLIT", "tset", words=("evaluate", "run", "--data", "data", "--split", "tset"), prepare=lambda w: w.run),
]  # fmt: skip

PLACES = [
    _row("run is the data", 2, "E-RUN-PLACE", "--run", words=(*FINETUNE, "--run", "data")),
    _row("run in the data", 2, "E-RUN-PLACE", words=(*FINETUNE, "--run", "data/run")),
    _row("data in the run", 2, "E-RUN-PLACE", words=(*FINETUNE, "--run", ".")),
    _row("run is a file", 2, "E-RUN-PLACE", "a file", words=(*FINETUNE, "--run", "r.yaml")),
    _row("run below a file", 2, "E-RUN-PLACE", "a file", words=(*FINETUNE, "--run", "r.yaml/run")),
    _row("run in a package", 2, "E-RUN-PLACE", "package", words=(*FINETUNE, "--run", "package/run"), prepare=lambda w: w.package),
    _row("run among other files", 2, "E-RUN-PLACE", words=(*FINETUNE, "--run", "other"), prepare=lambda w: ((w.here / "other").mkdir(), (w.here / "other" / "thesis.tex").touch())),
    _row("name too long", 8, "E-DISK-NAME", "shorter", words=(*FINETUNE, "--run", "x" * 300)),
    _row("package onto a file", 2, "E-PACK-OUT", words=("pack", "run", "--out", "r.yaml"), prepare=lambda w: w.run),
    _row("package onto the data", 2, "E-PACK-OUT", words=("pack", "run", "--out", "data"), prepare=lambda w: w.run),
    _row("package onto its run", 2, "E-PACK-OUT", words=("pack", "run", "--out", "run"), prepare=lambda w: w.run),
    _row("evaluation onto the data", 2, "E-OUT", words=("evaluate", "run", "--data", "data", "--out", "data"), prepare=lambda w: w.run),
    _row("evaluation in the data", 2, "E-OUT", words=("evaluate", "run", "--data", "data", "--out", "data/out"), prepare=lambda w: w.run),
    _row("evaluation onto a file", 2, "E-OUT", words=("evaluate", "run", "--data", "data", "--out", "r.yaml"), prepare=lambda w: w.run),
]  # fmt: skip

REFERENCES = [
    _reference("misspelt", 4, "E-REF-404", "timm:resnet5O", "resnet50"),
    _reference("misspelt, torchvision", 4, "E-REF-404", "torchvision:resnet5O", "resnet50"),
    _reference("misspelt, bundled", 4, "E-REF-404", "bundled:test_resnet", "bundled:test_resnet.fractal"),
    _reference("unknown source", 2, "E-REF-SOURCE", "foo:x", "timm"),
    _reference("misspelt source", 2, "E-REF-SOURCE", "tim:resnet18", "did you mean timm:resnet18?"),
    _reference("above", 6, "E-REF-INVALID", "hf:org/../../x"),
    _reference("two slashes", 6, "E-REF-INVALID", "hf:a//b"),
    _reference("too long", 6, "E-REF-INVALID", "hf:a/" + "b" * 97),
    _reference(".git", 6, "E-REF-INVALID", "hf:a/b.git"),
    _reference("look-alike", 6, "E-REF-INVALID", "hf:g\u043e\u043egle/vit"),
    _reference("no revision behind @", 2, "E-REF-INVALID", "hf:a/b@", "revision"),
    _reference("option as revision", 6, "E-REF-INVALID", "hf:a/b@--upload-pack"),
    _reference("no such directory", 4, "E-REF-404", "local:nowhere", "nowhere"),
    _reference("a file", 2, "E-REF-INVALID", "local:r.yaml", "directory"),
    _reference("no weights", 4, "E-REF-WEIGHTS", "local:data", "model.safetensors"),
    _reference("config is no JSON", 5, "E-CONFIG", "local:own", "config.json", prepare=lambda w: (w.backbone() / "config.json").write_text("{")),
    _reference("pickle only", 6, "E-SEC-PICKLE", "local:own", prepare=_pickle_only),
    _reference("remote code", 6, "E-SEC-REMOTE-CODE", "local:own", "own", prepare=_remote_code),
    _row("recipe with a misspelt backbone", 4, "E-REF-404", "resnet50", words=(*FINETUNE, "backbone=timm:resnet5O")),
    _row("recipe without a source", 4, "E-REF-404", "did you mean", words=(*FINETUNE, "backbone=resnet5O")),
    _row("offline and not here", 4, "E-OFFLINE", words=("pull", "hf:nobody/nothing"), env=(("HF_HUB_OFFLINE", "1"),)),
]  # fmt: skip

WEIGHTS = [
    _row("empty", 5, "E-WEIGHTS-HEADER", "empty", "model.safetensors", prepare=lambda w: (w.backbone() / "model.safetensors").write_bytes(b"")),
    _row("header larger than the file", 5, "E-WEIGHTS-HEADER", prepare=lambda w: _raw_weights(w, b"{}", length=1 << 40)),
    _row("header no JSON", 5, "E-WEIGHTS-HEADER", prepare=lambda w: _raw_weights(w, b"{oops")),
    _row("truncated", 5, "E-WEIGHTS-DAMAGED", prepare=lambda w: (p := w.backbone() / "model.safetensors").write_bytes(p.read_bytes()[:-10])),
    _row("trailing bytes", 5, "E-WEIGHTS-DAMAGED", prepare=lambda w: (p := w.backbone() / "model.safetensors").write_bytes(p.read_bytes() + b"x")),
    _row("hole", 5, "E-WEIGHTS-DAMAGED", prepare=lambda w: _raw_weights(w, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8)),
    _row("overlap", 5, "E-WEIGHTS-DAMAGED", prepare=lambda w: _raw_weights(w, {n: {"dtype": "F32", "shape": [2], "data_offsets": [4 * i, 4 * i + 8]} for i, n in enumerate("ab")}, b"\0" * 12)),
    _row("4-bit floats", 5, "E-WEIGHTS-DTYPE", "float32", prepare=lambda w: _raw_weights(w, {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0")),
    _row("NaN", 9, "E-WEIGHTS-NAN", "[", prepare=lambda w: _weights(w, _with_nan)),
    _row("missing layer", 5, "E-WEIGHTS-MISMATCH", "missing", " of ", prepare=lambda w: _weights(w, lambda t: t.pop(_first_weight(t)))),
    _row("unexpected layer", 5, "E-WEIGHTS-MISMATCH", "unexpected", prepare=lambda w: _weights(w, lambda t: t.update(strange=torch.ones(2)))),
    _row("misshaped layer", 5, "E-WEIGHTS-MISMATCH", "shape", prepare=lambda w: _weights(w, _misshape)),
    _row("no weights", 4, "E-REF-WEIGHTS", "model.safetensors", prepare=lambda w: (w.backbone() / "model.safetensors").unlink()),
    _row("index leaves the directory", 6, "E-PATH-INVALID", "../m.safetensors", prepare=lambda w: ((d := w.backbone()) / "model.safetensors").rename(d.parent / "m.safetensors") and (d / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../m.safetensors"}}))),
    _row("shard missing", 5, "E-WEIGHTS-SHARD", "model-1-of-2", prepare=lambda w: ((d := w.backbone()) / "model.safetensors").unlink() or (d / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1-of-2.safetensors"}}))),
]  # fmt: skip

RUN = (*FINETUNE, "--run", "run")
RUNS = [
    _row("all checkpoints bad", 5, "E-CKPT-NONE", "--new", words=RUN, prepare=_all_checkpoints_bad),
    _row("recipe drifted", 7, "E-DRIFT", "train.seed: 0 → 7", "--new", words=(*RUN, "train.seed=7"), prepare=lambda w: w.unfinish()),
    _row("recipe of a finished run drifted", 7, "E-DRIFT", "train.seed: 0 → 7", words=(*RUN, "train.seed=7"), prepare=lambda w: w.run),
    _row("data drifted", 7, "E-DRIFT", "data.digest", "1 gone", words=RUN, prepare=lambda w: (w.unfinish(), sorted((w.data / "0").iterdir())[-1].unlink())),
    _row("second process", 7, "E-LOCKED", f"pid {os.getpid()}", words=RUN, prepare=lambda w: w.unfinish(), during=_locked(lambda w: w.here / "run")),
    _row("newer record", 5, "E-RECORD", "resolved.json", words=RUN, prepare=lambda w: _record(w.unfinish() / "resolved.json", schema="hubtool/resolved/v9")),
    _row("record cut off", 5, "E-RECORD", "resolved.json", words=RUN, prepare=lambda w: (p := w.unfinish() / "resolved.json").write_bytes(p.read_bytes()[:50])),
    _row("evaluate an unfinished run", 4, "E-RUN-UNFINISHED", words=("evaluate", "run", "--data", "data"), prepare=lambda w: w.unfinish()),
    _row("evaluate other weights", 5, "E-RUN-WEIGHTS", words=("evaluate", "run", "--data", "data"), prepare=lambda w: _record(w.run / "result.json", weights_digest="0" * 64)),
    _row("nothing of that name", 4, "E-TARGET-404", words=("evaluate", "nowhere", "--data", "data")),
    _row("a directory that is no run", 4, "E-TARGET-404", words=("evaluate", "data", "--data", "data")),
    _row("predict without a picture", 3, "E-DATA-404", "nowhere", words=("predict", "run", "nowhere.png"), prepare=lambda w: w.run),
    _row("predict what is no picture", 3, "E-DATA-DECODE", "r.yaml", words=("predict", "run", "r.yaml"), prepare=lambda w: w.run),
    _row("runs of nowhere", 4, "E-RUN-404", words=("runs", "show", "nowhere")),
    _row("logs of nowhere", 4, "E-RUN-404", words=("logs", "nowhere")),
    _row("pack nothing", 4, "E-RUN-404", words=("pack", "nowhere")),
    _row("pack an unfinished run", 4, "E-RUN-UNFINISHED", words=("pack", "run"), prepare=lambda w: w.unfinish()),
    _row("pack with an unknown licence", 2, "E-LICENSE", "run.card.license", words=("pack", "run"), prepare=lambda w: _edit(w.run / "options.json", '"license": ?"mit"', '"license":"nosuch"')),
    _row("pack without evidence", 4, "E-EVIDENCE-404", "evidence/", words=("pack", "run"), prepare=lambda w: [p.unlink() for p in (w.run / "evidence").glob("*.safetensors")]),
    _row("pack changed evidence", 5, "E-EVIDENCE", "evidence/", words=("pack", "run"), prepare=lambda w: [_flip(p) for p in (w.run / "evidence").glob("*.safetensors")]),
    _row("pack a secret", 6, "E-SEC-SECRET", "hf_a", words=("pack", "run"), prepare=lambda w: (p := w.run / "recipe.yaml").write_text(p.read_text() + f"# {TOKEN}\n")),
]  # fmt: skip

PACKAGES = [
    _verify("link", 5, "E-VERIFY", "not listed", prepare=lambda w: (w.package / "x").symlink_to("README.md")),
    _verify("link that leaves", 5, "E-VERIFY", "leaves the directory", prepare=lambda w: (w.package / "x").symlink_to(w.here / "r.yaml")),
    _verify("FIFO", 5, "E-VERIFY", prepare=lambda w: os.mkfifo(w.package / "x")),
    _verify("not on the manifest", 5, "E-VERIFY", "strange.txt", prepare=lambda w: (w.package / "strange.txt").touch()),
    _verify("file of the manifest missing", 5, "E-VERIFY", "environment.json", prepare=lambda w: (w.package / "environment.json").unlink()),
    _verify("bytes differ", 5, "E-VERIFY", "model.safetensors", prepare=lambda w: _flip(w.package / "model.safetensors")),
    _verify("manifest cut off", 5, "E-VERIFY", "hubtool.json", prepare=lambda w: (p := w.package / "hubtool.json").write_bytes(p.read_bytes()[:50])),
    _verify("card missing", 5, "E-VERIFY", "README.md", prepare=lambda w: (w.package / "README.md").unlink()),
    _verify("front matter cut off", 5, "E-VERIFY", "README.md", prepare=lambda w: (w.package / "README.md").write_text("---\na: [\n---\n")),
    _verify("not UTF-8", 5, "E-VERIFY", "README.md", prepare=lambda w: (w.package / "README.md").write_bytes(b"\xff\xfe")),
    _row("not a package", 4, "E-TARGET-404", words=("verify", "data")),
    _row("a backbone", 2, "E-TARGET", "hubtool pull", words=("verify", "bundled:test_resnet.fractal")),
    _push("link", 5, "E-PACKAGE", "not listed", prepare=lambda w: (w.package / "x").symlink_to("README.md")),
    _push("link that leaves", 6, "E-PATH-LINK", "leaves the directory", prepare=lambda w: (w.package / "x").symlink_to(w.here / "r.yaml")),
    _push("FIFO", 6, "E-PATH-SPECIAL", prepare=lambda w: os.mkfifo(w.package / "x")),
    _push("not on the manifest", 5, "E-PACKAGE", "strange.txt", prepare=lambda w: (w.package / "strange.txt").touch()),
    _push("file of the manifest missing", 5, "E-PACKAGE", "environment.json", prepare=lambda w: (w.package / "environment.json").unlink()),
    _push("bytes differ", 5, "E-PACKAGE", "model.safetensors", prepare=lambda w: _flip(w.package / "model.safetensors")),
    _push("a secret", 6, "E-SEC-SECRET", "hf_a", "recipe.yaml:", prepare=lambda w: (p := w.package / "recipe.yaml").write_text(p.read_text() + f"# {TOKEN}\n")),
    _push("metric of the card changed", 5, "E-CARD-MISMATCH", prepare=lambda w: _edit(w.package / "README.md", r"(value: )[0-9.]+", r"\g<1>0.987")),
    _push("licence taken out of the card", 5, "E-CARD-MISMATCH", "license", prepare=lambda w: _edit(w.package / "README.md", r"license: mit\n", "")),
    _push("name invalid", 6, "E-REF-INVALID", words=("push", "package", "me/../x", "--hub", "local", "--dry-run")),
    _push("name without an owner", 6, "E-REF-INVALID", "OWNER/NAME", words=("push", "package", "digits", "--hub", "local", "--dry-run")),
    _push("nothing to push", 4, "E-TARGET-404", words=("push", "nowhere", "me/x", "--hub", "local", "--dry-run")),
    _push("directory that is no run", 4, "E-RUN-404", words=("push", "data", "me/x", "--hub", "local", "--dry-run")),
    _push("unknown hub", 2, "E-HUB-URL", words=("push", "package", "me/x", "--hub", "nosuch", "--dry-run")),
    _push("hub not reachable", 75, "E-HUB-UNREACHABLE", "tried", words=("push", "package", "me/x", "--hub", "http://127.0.0.1:9", "--dry-run")),
    _push("bytes differ, not only looked at", 5, "E-PACKAGE", "model.safetensors", words=("push", "package", "me/x", "--hub", "local", "--yes"), changes=("README.md", "hubtool.json"), prepare=lambda w: _flip(w.package / "model.safetensors")),
]  # fmt: skip

GROUPS = {
    "recipe": RECIPES,
    "data": DATA,
    "place": PLACES,
    "reference": REFERENCES,
    "weights": WEIGHTS,
    "run": RUNS,
    "package": PACKAGES,
}
ROWS = [pytest.param(row, id=f"{group}: {row.id}") for group, rows in GROUPS.items() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_one_line_and_leaves_nothing(
    row: Row, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row.prepare(world)
    for name, value in row.env:
        monkeypatch.setenv(name, value)
    before = _files(world.here, world.home / "runs")
    with row.during(world) if row.during else contextlib.nullcontext():
        plain = command(list(row.words))
        out, err = capsys.readouterr()
        as_json = command([*row.words, "--json"])
        json_out, json_err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "hint: "))]
    assert len(lines) == 1, (plain, err, out)
    line = lines[0]
    assert line.startswith(f"error[{row.code}] "), line
    assert (plain, as_json) == (row.exit_code, row.exit_code), (line, json_err)
    for part in row.says:
        assert part in err.partition(line)[1] + err.partition(line)[2], err
    for text in (err, json_err, out, json_out):
        assert "Traceback" not in text
        assert TOKEN not in text
    assert bool(out) is row.told, out
    document = json.loads(json_out)
    assert json_out.count("\n") == 1
    if not row.told:
        assert line.startswith(f"error[{document['error']['code']}] ")
        assert document["error"]["exit_code"] == row.exit_code
    after = _files(world.here, world.home / "runs")
    assert after.keys() == before.keys()
    assert {Path(path).name for path in after if after[path] != before[path]} <= set(row.changes)
